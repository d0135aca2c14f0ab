// SPDX-License-Identifier: BSD-3-Clause
// drive.mjs VENV HUSK DIRECTORY [NAME...]: every scenario, or those of these names or front ends, in JupyterLab
// and in Notebook, and some in a JupyterLab whose kernels are on a `husk serve`; a picture of each in DIRECTORY.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";

import { FRONT_ENDS, Notebook, start } from "./front_end.mjs";
import { Gateway } from "./gateway.mjs";
import { overGateway, scenarios } from "./scenarios.mjs";
import { Server } from "./server.mjs";

const [venv, husk, directory, ...wanted] = process.argv.slice(2);
const pictures = path.join(directory, "pictures");
let server; // of the front end that is driven
const browser = await start();
let passed = 0;
let failed = 0;

fs.mkdirSync(pictures, { recursive: true });

async function run(book, name) {
  const [cells, act] = scenarios[name];
  const begun = Date.now();
  let problem = "";
  book.shot = (what) => path.join(pictures, `${book.kind}-${what}.png`);
  try {
    if (cells || !book.shared) {
      await server.stopKernels();
      await book.open(name, cells ?? [""]);
    } else {
      await book.goOn();
    }
    await act(book);
    passed++;
  } catch (error) {
    failed++;
    problem = `  FAILED: ${error.stack}`;
  }
  book.shared = !cells && !problem;
  try {
    await book.picture(book.shot(problem ? `FAILED-${name}` : name));
  } catch (error) {
    problem += `  (no picture: ${error.message})`;
  }
  console.log(`${book.kind} ${name}: ${((Date.now() - begun) / 1000).toFixed(1)} s${problem}`);
}

async function drive(kind, names) {
  const gateway = kind === "gateway" ? await Gateway.start(venv, husk) : undefined;
  try {
    server = await Server.start(venv, husk, path.join(directory, "server"), gateway);
    const book = await Notebook.start(browser, server, kind);
    for (const name of names) await run(book, name);
    await book.page.context().close();
    if (gateway) {
      const [its, seen] = await Promise.all([gateway, server].map(async (s) => (await s.kernels()).map((k) => k.id)));
      assert(its.length && String(its) === String(seen), "the kernels are not the gateway's");
    }
  } finally {
    await server?.stop();
    await gateway?.stop();
  }
}

try {
  for (const kind of Object.keys(FRONT_ENDS)) {
    const names = (kind === "gateway" ? overGateway : Object.keys(scenarios)).filter((name) =>
      !wanted.length || [kind, name, `${kind}/${name}`].some((n) => wanted.includes(n)));
    if (names.length) await drive(kind, names);
  }
} finally {
  await browser.close();
}
console.log(`browser: ${passed} scenarios passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
