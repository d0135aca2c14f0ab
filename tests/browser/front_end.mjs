// SPDX-License-Identifier: BSD-3-Clause
// A notebook in JupyterLab or Notebook, as a person has it: found by what is seen, driven by clicks and keys.

import { chromium } from "playwright-core";

export const PATIENCE = Number(process.env.PATIENCE ?? 60000); // ms; no scenario depends on speed

const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

// What differs between them: addresses, and where the buttons are. The kernels of `gateway` are those of a `husk serve`.
const lab = { address: (name) => `/lab/tree/${name}?reset`, ready: ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook" };
export const FRONT_ENDS = {
  lab,
  gateway: lab,
  notebook: { address: (name) => `/notebooks/${name}`, ready: ".jp-NotebookPanel .jp-Notebook" },
};

export const SLIDER = ".jupyter-widgets .noUi-handle"; // of ipywidgets

export function start() {
  return chromium.launch({ executablePath: "/usr/bin/chromium", args: FLAGS });
}

export class Notebook {
  constructor(page, server, kind) {
    this.page = page;
    this.server = server;
    this.kind = kind;
    this.connected = 0; // connections over which a kernel has told this page about itself
    this.sessions = 0; // of the debugger, that were begun
    this.asked = 0; // ms: when the debugger was asked for something
    this.first = 0; // the cell that a scenario calls its cell 0
    page.setDefaultTimeout(PATIENCE);
    page.on("dialog", (dialog) => dialog.accept()); // leave a page that is not saved
    page.on("websocket", (socket) => {
      socket.on("framesent", ({ payload }) => {
        const text = payload.toString("latin1");
        if (text.includes("debug_request")) this.asked = Date.now();
        if (text.includes('"command":"initialize"')) this.sessions++;
      });
      let told = false; // a restart has a socket of its own, and forgets what was sent before
      socket.on("framereceived", ({ payload }) => {
        if (told || !payload.toString("latin1").includes("kernel_info_reply")) return;
        told = true;
        this.connected++;
      });
    });
  }

  static async start(browser, server, kind) {
    const context = await browser.newContext({ viewport: { width: 1100, height: 700 } });
    return new Notebook(await context.newPage(), server, kind);
  }

  async open(name, cells) {
    this.name = `${this.kind}-${name}.ipynb`;
    this.first = 0;
    await this.server.write(this.name, cells);
    await this.load();
  }

  // An empty cell below all others, for who goes on in the same notebook.
  async goOn() {
    await this.page.keyboard.press("Escape");
    await this.panel.locator(".jp-Cell.jp-mod-active .jp-InputPrompt").click(); // a question has had the focus
    await this.page.keyboard.press("b");
    this.first = Number(await this.panel.locator(".jp-Cell.jp-mod-active").getAttribute("data-windowed-list-index"));
    this.connected = 1;
  }

  // A page shows "idle" before it knows of its kernel.
  async load() {
    this.connected = 0;
    await this.page.goto(this.server.url + FRONT_ENDS[this.kind].address(this.name));
    await this.page.locator(FRONT_ENDS[this.kind].ready).waitFor();
    await this.until(() => this.connected > 0);
    await this.idle();
  }

  // --- what is seen

  get panel() {
    return this.page.locator(FRONT_ENDS[this.kind].ready).first();
  }

  cell(n) {
    return this.panel.locator(`.jp-Cell[data-windowed-list-index="${this.first + n}"]`);
  }

  editor(n) {
    return this.cell(n).locator(".jp-InputArea-editor .cm-content");
  }

  output(n) {
    return this.cell(n).locator(".jp-Cell-outputArea");
  }

  status(value) {
    return this.page.locator(`.jp-Notebook-ExecutionIndicator[data-status="${value}"]`).first();
  }

  idle() {
    return this.status("idle").waitFor({ state: "attached" });
  }

  async shows(n, text) {
    await this.output(n).getByText(text).first().waitFor();
  }

  // The number that stands beside a cell when it has run.
  async number(n) {
    const prompt = this.cell(n).locator(".jp-InputPrompt").first();
    await this.until(async () => /\[\d+\]/.test(await prompt.innerText()));
    return Number((await prompt.innerText()).match(/\d+/)[0]);
  }

  async until(condition) {
    const end = Date.now() + PATIENCE;
    while (!(await condition())) {
      if (Date.now() > end) throw new Error(`not in time: ${condition}`);
      await this.page.waitForTimeout(50);
    }
  }

  // --- what is done

  async type(n, code) {
    await this.editor(n).click();
    await this.page.keyboard.press("Control+a");
    await this.page.keyboard.insertText(code);
  }

  // Types a cell and starts it; the next one is made by the front end.
  async enter(n, code) {
    await this.type(n, code);
    await this.page.keyboard.press("Shift+Enter");
  }

  async run(n, code) {
    await this.enter(n, code);
    return this.number(n);
  }

  command(id) {
    return this.page.locator(`.jp-NotebookPanel-toolbar [data-command="${id}"]`).first().click();
  }

  interrupt() {
    return this.command("notebook:interrupt-kernel");
  }

  async save() {
    await this.command("docmanager:save");
    await this.until(() => this.server.read(this.name)?.cells.some((c) => c.execution_count));
  }

  async menu(...names) {
    await this.page.locator(".lm-MenuBar-item", { hasText: names[0] }).first().click();
    for (const name of names.slice(1)) {
      await this.page.locator(".lm-Menu-item", { hasText: name }).first().click();
    }
  }

  accept() {
    return this.page.locator(".jp-Dialog .jp-mod-accept").first().click();
  }

  // The row of the popup that has this match. A front end gives up after a second; people press the key again.
  async complete(n, word, match) {
    await this.type(n, word);
    const row = this.page.locator(".jp-Completer").getByText(match);
    for (const end = Date.now() + PATIENCE; !(await row.isVisible()) && Date.now() < end; ) {
      await this.page.keyboard.press("Tab");
      await row.waitFor({ timeout: 2000 }).catch(() => {});
    }
    await row.waitFor();
    return row;
  }

  // Drags the slider of a cell's output by this part of its length.
  async slide(n, part) {
    const handle = this.output(n).locator(SLIDER);
    await handle.scrollIntoViewIfNeeded();
    const from = await handle.boundingBox();
    const { width } = await this.output(n).locator(".jupyter-widgets .noUi-target").boundingBox();
    const [x, y] = [from.x + from.width / 2, from.y + from.height / 2];
    await this.page.mouse.move(x, y);
    await this.page.mouse.down();
    await this.page.mouse.move(x + (width * part) / 2, y);
    await this.page.mouse.move(x + width * part, y);
    await this.page.mouse.up();
  }

  // Turns the debugger on and sets a breakpoint. A click is lost, or undone by the next one, while the front end still
  // asks the kernel, several times, whether it has one.
  async debug(n, line) {
    for (const before = this.sessions; this.sessions === before; ) {
      await this.until(() => Date.now() - this.asked > 1000);
      await this.page.locator(".jp-DebuggerBugButton").first().click();
      for (let i = 0; i < 100 && this.sessions === before; i++) await this.page.waitForTimeout(100);
    }
    if (this.kind === "notebook") await this.menu("View", "Debugger Panel"); // JupyterLab opens it by itself
    const gutter = this.cell(n).locator(".cm-gutter.cm-breakpoint-gutter > .cm-gutterElement").nth(line);
    await gutter.click();
    await gutter.locator(".cm-breakpoint-icon").waitFor({ state: "attached" });
  }

  // A console on the kernel of the notebook, or one of its own.
  async console() {
    if (this.kind === "lab") {
      await this.menu("File", "New Console for Notebook");
    } else {
      await this.page.goto(this.server.url + "/consoles/a-console");
      await this.accept(); // of husk as its kernel
    }
    await this.page.locator(".jp-CodeConsole-promptCell .cm-content").waitFor();
  }

  picture(path) {
    return this.page.screenshot({ path });
  }
}
