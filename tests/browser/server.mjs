// SPDX-License-Identifier: BSD-3-Clause
// One Jupyter server with both front ends, husk as its only kernel, and a directory of its own; or with no kernels but
// those of a `husk serve`, its gateway.

import { spawn, execFileSync } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import path from "node:path";

function freePort() {
  return new Promise((resolve) => {
    const server = net.createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

export class Server {
  // venv: with JupyterLab and Notebook; husk: the program; directory: for all that is written;
  // gateway: undefined, or where a `husk serve` is and its token
  static async start(venv, husk, directory, gateway) {
    const server = new Server();
    server.work = path.join(directory, "work");
    const bin = path.join(venv, "bin");
    const settings = path.join(directory, "settings", "@jupyterlab", "apputils-extension");
    fs.rmSync(directory, { recursive: true, force: true });
    fs.mkdirSync(server.work, { recursive: true });
    fs.mkdirSync(settings, { recursive: true });
    fs.writeFileSync(path.join(settings, "notification.jupyterlab-settings"),
      JSON.stringify({ fetchNews: "false", checkForUpdates: false }));
    if (!gateway) {
      execFileSync(husk, ["install", "--prefix", directory, "--name", "husk", "--python", path.join(bin, "python"),
        "--history", "session"]);
    }
    server.port = await freePort();
    server.url = `http://127.0.0.1:${server.port}`;
    const log = fs.openSync(path.join(directory, "server.log"), "w");
    server.process = spawn(path.join(bin, "jupyter"), [
      "lab", "--no-browser", "--allow-root", `--port=${server.port}`, "--ServerApp.port_retries=0",
      "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True", `--ServerApp.root_dir=${server.work}`, "--LabApp.extension_manager=readonly",
      `--LabApp.user_settings_dir=${path.join(directory, "settings")}`,
      `--LabApp.workspaces_dir=${path.join(directory, "workspaces")}`,
      ...(gateway ? [`--gateway-url=${gateway.url}`, `--GatewayClient.auth_token=${gateway.token}`] : [
        "--KernelSpecManager.allowed_kernelspecs=husk", "--KernelSpecManager.ensure_native_kernel=False",
        "--MultiKernelManager.default_kernel_name=husk"]),
    ], {
      stdio: ["ignore", log, log],
      env: {
        ...process.env, HOME: directory, JUPYTER_PATH: path.join(directory, "share", "jupyter"),
        JUPYTER_CONFIG_DIR: path.join(directory, "config"), JUPYTER_RUNTIME_DIR: path.join(directory, "runtime"),
        JUPYTER_DATA_DIR: path.join(directory, "data"), VIRTUAL_ENV: venv,
      },
    });
    for (let i = 0; ; i++) {
      try {
        if ((await fetch(server.url + "/api")).ok) return server;
      } catch (error) {
        if (i > 600 || server.process.exitCode !== null) {
          throw new Error("no server: " + fs.readFileSync(path.join(directory, "server.log"), "utf8"));
        }
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async write(name, cells) {
    const notebook = {
      nbformat: 4, nbformat_minor: 5,
      metadata: { kernelspec: { name: "husk", display_name: "Python 3 (husk)", language: "python" } },
      cells: cells.map((source, i) => ({
        cell_type: "code", id: `c${i}`, metadata: {}, execution_count: null, outputs: [], source,
      })),
    };
    fs.writeFileSync(path.join(this.work, name), JSON.stringify(notebook));
  }

  // A notebook as it is saved; undefined while it is being written.
  read(name) {
    try {
      return JSON.parse(fs.readFileSync(path.join(this.work, name), "utf8"));
    } catch {
      return undefined;
    }
  }

  async kernels() {
    return (await fetch(this.url + "/api/kernels")).json();
  }

  async stopKernels() {
    for (const kernel of await this.kernels()) {
      await fetch(`${this.url}/api/kernels/${kernel.id}`, { method: "DELETE" });
    }
  }

  stop() {
    return new Promise((resolve) => {
      this.process.once("exit", resolve);
      this.process.kill("SIGTERM");
    });
  }
}
