// SPDX-License-Identifier: BSD-3-Clause
// A `husk serve`, whose kernels are those of a Jupyter server that has none.

import { once } from "node:events";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import path from "node:path";

export class Gateway {
  static async start(venv, husk) {
    const gateway = new Gateway();
    gateway.process = spawn(husk, ["serve", "--port=0", "-o", "json", `--python=${path.join(venv, "bin", "python")}`],
      { stdio: ["ignore", "pipe", "inherit"] });
    const [line] = await Promise.race([
      once(createInterface(gateway.process.stdout), "line"),
      once(gateway.process, "exit").then(([code]) => Promise.reject(new Error(`husk serve ended with ${code}`))),
    ]);
    return Object.assign(gateway, JSON.parse(line)); // url, token
  }

  async kernels() {
    const reply = await fetch(this.url + "/api/kernels", { headers: { Authorization: `token ${this.token}` } });
    return reply.json();
  }

  stop() {
    return new Promise((resolve) => {
      this.process.once("exit", resolve);
      this.process.kill("SIGTERM");
    });
  }
}
