// SPDX-License-Identifier: BSD-3-Clause
// drive.mjs VENV HUSK DIRECTORY [NAME...]: every scenario, or those of these names or front ends, in JupyterLab
// and in Notebook; a picture of each in DIRECTORY.

import fs from "node:fs";
import path from "node:path";

import { FRONT_ENDS, Notebook, start } from "./front_end.mjs";
import { scenarios } from "./scenarios.mjs";
import { Server } from "./server.mjs";

const [venv, husk, directory, ...wanted] = process.argv.slice(2);
const pictures = path.join(directory, "pictures");
const server = await Server.start(venv, husk, path.join(directory, "server"));
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

try {
  for (const kind of Object.keys(FRONT_ENDS)) {
    const book = await Notebook.start(browser, server, kind);
    for (const name of Object.keys(scenarios)) {
      const names = [kind, name, `${kind}/${name}`];
      if (!wanted.length || names.some((n) => wanted.includes(n))) await run(book, name);
    }
    await book.page.context().close();
  }
} finally {
  await browser.close();
  await server.stop();
}
console.log(`browser: ${passed} scenarios passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
