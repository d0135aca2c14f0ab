// SPDX-License-Identifier: BSD-3-Clause
// What people do in a notebook, and what they see.

import assert from "node:assert/strict";

import { SLIDER } from "./front_end.mjs";

// {name: [cells, what is done]}; `b` is a Notebook of front_end.mjs. With cells: in a notebook and with a kernel of its
// own. Without: below what the ones before have left.
export const scenarios = {
  text: [null, async (b) => {
    await b.run(0, "import sys\nprint('to stdout')\nprint('to stderr', file=sys.stderr)\n6 * 7");
    await b.shows(0, "to stdout");
    await b.output(0).locator('[data-mime-type="application/vnd.jupyter.stderr"]').getByText("to stderr").waitFor();
    await b.output(0).locator(".jp-OutputArea-executeResult").getByText("42").waitFor();
  }],

  table: [null, async (b) => {
    await b.run(0, "import pandas\npandas.DataFrame({'a': [1, 2], 'b': ['x', 'y']})");
    assert.equal(await b.output(0).locator("table tbody tr").count(), 2);
  }],

  figure: [null, async (b) => {
    await b.run(0, "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.title('a figure');");
    const image = b.output(0).locator("img");
    await image.waitFor();
    assert(await image.evaluate((e) => e.naturalWidth) > 300);
  }],

  "svg-and-json": [null, async (b) => {
    await b.run(0, "from IPython.display import SVG, JSON, display\n" +
      "display(SVG('<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"80\" height=\"40\"><rect width=\"80\" height=\"40\" fill=\"teal\"/></svg>'))\n" +
      "display(JSON({'key': [1, 2]}))");
    await b.output(0).locator('[data-mime-type="image/svg+xml"]').waitFor();
    await b.shows(0, "key");
  }],

  "markdown-and-latex": [null, async (b) => {
    await b.run(0, "from IPython.display import Markdown, Latex, display\ndisplay(Markdown('# A heading'))\ndisplay(Latex('$$\\\\frac{1}{2}$$'))");
    await b.output(0).getByRole("heading", { name: "A heading" }).waitFor();
    await b.output(0).locator("mjx-container").first().waitFor();
  }],

  "html-and-javascript": [null, async (b) => {
    await b.run(0, "from IPython.display import HTML, Javascript, display\ndisplay(HTML('<b id=\"bold\">bold</b>'))\n" +
      "display(Javascript('element.append(\"made \" + (40 + 2))'))");
    await b.output(0).locator("b#bold").waitFor();
    await b.shows(0, "made 42");
  }],

  error: [null, async (b) => {
    await b.run(0, "def f(x):\n    return 1 / x\nf(0)");
    await b.shows(0, "ZeroDivisionError");
    assert(await b.output(0).locator(".ansi-red-fg, [class*=ansi-], .ansi-bold").count() > 0);
    await b.run(1, "print('after')");
    await b.shows(1, "after");
  }],

  "progress-and-clearing": [null, async (b) => {
    await b.run(0, "import sys, time\nfrom IPython.display import clear_output\nprint('gone')\nclear_output(wait=True)\n" +
      "for i in range(101):\n    print(f'\\r{i} %', end='')\n    sys.stdout.flush()");
    await b.shows(0, /^100 %/);
    assert.equal((await b.output(0).innerText()).trim(), "100 %");
  }],

  "a-display-is-updated": [null, async (b) => {
    await b.run(0, "handle = display('before', display_id=True)");
    await b.shows(0, "before");
    await b.run(1, "handle.update('afterwards')");
    await b.shows(0, "afterwards");
  }],

  input: [null, async (b) => {
    await b.enter(0, "name = input('who? ')\nprint('hello', name)");
    const field = b.cell(0).locator(".jp-Stdin-input");
    await field.click();
    await b.page.keyboard.type("world");
    await b.page.keyboard.press("Enter");
    await b.shows(0, "hello world");
  }],

  getpass: [null, async (b) => {
    await b.enter(0, "import getpass\nprint(len(getpass.getpass('secret: ')))");
    const field = b.cell(0).locator(".jp-Stdin-input");
    await field.waitFor();
    assert.equal(await field.getAttribute("type"), "password");
    await field.click();
    await b.page.keyboard.type("12345");
    await b.page.keyboard.press("Enter");
    await b.shows(0, /^5$/m);
    assert(!(await b.cell(0).innerText()).includes("12345"));
  }],

  slider: [null, async (b) => {
    // Messages of widgets go through a subshell, so a cell may overtake them: Python says when it has seen it.
    await b.run(0, "import ipywidgets\ns = ipywidgets.IntSlider(value=3, max=10)\nseen = ipywidgets.Label()\n" +
      "s.observe(lambda change: setattr(seen, 'value', f'Python saw {change.new}'), 'value')\nipywidgets.VBox([s, seen])");
    await b.slide(0, 4 / 10);
    await b.shows(0, /^7$/m);
    await b.shows(0, "Python saw 7");
    await b.run(1, "print('it is', s.value)");
    await b.shows(1, "it is 7");
  }],

  interact: [null, async (b) => {
    await b.run(0, "from ipywidgets import interact\n@interact(x=(0, 10))\ndef f(x=2):\n    print('square', x * x)");
    await b.shows(0, "square 4");
    await b.slide(0, 1 / 10);
    await b.shows(0, "square 9");
  }],

  "a-button-and-an-output": [null, async (b) => {
    await b.run(0, "import ipywidgets\nout = ipywidgets.Output()\nbutton = ipywidgets.Button(description='press')\n" +
      "@button.on_click\ndef pressed(_):\n    with out: print('pressed')\nipywidgets.VBox([button, out])");
    const button = b.output(0).getByRole("button", { name: "press" });
    await button.click();
    await button.click();
    await b.until(async () => (await b.output(0).getByText("pressed").allInnerTexts()).join().split("pressed").length === 3);
  }],

  tqdm: [null, async (b) => {
    await b.run(0, "from tqdm.auto import tqdm\nfor i in tqdm(range(50), desc='work'): pass");
    await b.output(0).locator(".jupyter-widgets").first().waitFor();
    await b.shows(0, "50/50");
  }],

  anywidget: [null, async (b) => {
    await b.run(0, "import anywidget, traitlets\nclass Counter(anywidget.AnyWidget):\n    _esm = '''\n    function render({ model, el }) {\n" +
      "      const button = document.createElement('button');\n      button.textContent = 'count';\n" +
      "      button.onclick = () => { model.set('n', model.get('n') + 1); model.save_changes(); };\n      el.append(button);\n    }\n" +
      "    export default { render };\n    '''\n    n = traitlets.Int(0).tag(sync=True)\nc = Counter()\nc");
    await b.output(0).getByRole("button", { name: "count" }).click();
    await b.run(1, "print('n', c.n)");
    await b.shows(1, "n 1");
  }],

  completion: [null, async (b) => {
    await b.run(0, "import os\nhusk_one = 1\nhusk_two = 2");
    await (await b.complete(1, "hus", "husk_two")).click();
    await b.until(async () => /husk_two/.test(await b.editor(1).innerText()));
  }],

  "completion-while-a-cell-runs": [null, async (b) => {
    await b.run(0, "husk_one = 1\nhusk_two = 2");
    await b.enter(1, "import time\nwhile True: time.sleep(0.01)");
    await b.status("busy").waitFor({ state: "attached" });
    await b.complete(2, "hus", "husk_two");
    await b.page.keyboard.press("Escape");
    await b.interrupt();
    await b.shows(1, "KeyboardInterrupt");
  }],

  inspection: [null, async (b) => {
    await b.run(0, "def documented(first):\n    'What it does.'");
    await b.type(1, "documented");
    await b.page.keyboard.press("Shift+Tab");
    await b.page.locator(".jp-Tooltip").getByText("What it does.").waitFor();
  }],

  pager: [null, async (b) => {
    await b.run(0, "len?");
    await b.page.getByText("Return the number of items in a container").first().waitFor();
  }],

  "interrupt-button": [null, async (b) => {
    await b.enter(0, "import time\nprint('begun')\nwhile True: time.sleep(0.01)");
    await b.shows(0, "begun");
    await b.interrupt();
    await b.shows(0, "KeyboardInterrupt");
    await b.run(1, "print('alive')");
    await b.shows(1, "alive");
  }],

  restart: [null, async (b) => {
    await b.run(0, "x = 1");
    await b.command("notebook:restart-kernel");
    await b.accept();
    await b.until(() => b.connected > 1);
    await b.idle();
    assert.equal(await b.run(1, "'x' in globals()"), 1);
    await b.shows(1, "False");
  }],

  "restart-and-run-all": [["x = globals().get('x', 0) + 1\nprint('x is', x)", "print('then', x)"], async (b) => {
    await b.command("notebook:restart-run-all");
    await b.accept();
    await b.shows(1, "then 1");
    assert.equal(await b.number(0), 1);
  }],

  death: [null, async (b) => {
    await b.run(0, "open('kept', 'w').write('a file')\nx = 1");
    await b.enter(1, "import os\nos._exit(3)");
    await b.shows(1, /the interpreter died in cell \d+/);
    await b.run(2, "print(open('kept').read(), 'x' in globals())");
    await b.shows(2, "a file False");
  }],

  "a-segmentation-fault": [null, async (b) => {
    await b.enter(0, "import ctypes\nctypes.string_at(0)");
    await b.shows(0, /signal 11/);
    await b.run(1, "print('a new one')");
    await b.shows(1, "a new one");
  }],

  "a-breakpoint": [["def f(a, b):\n    c = a + b\n    return c\n\nprint('sum', f(2, 3))", ""], async (b) => {
    await b.debug(0, 2);
    await b.editor(0).click();
    await b.page.keyboard.press("Shift+Enter");
    await b.page.locator(".jp-DebuggerCallstack").getByText(/^f/).first().waitFor();
    const variables = (pattern) => b.until(async () => pattern.test(await b.page.locator(".jp-DebuggerVariables").innerText()));
    await variables(/\ba\s*:?\s*2\b/);
    await b.picture(b.shot("a-breakpoint-hit"));
    await b.page.locator('[data-command="debugger:next"]').click();
    await variables(/\bc\s*:?\s*5\b/);
    await b.page.locator('[data-command="debugger:continue"]').click();
    await b.shows(0, "sum 5");
    await b.run(1, "print('after')");
    await b.shows(1, "after");
  }],

  "interrupt-at-a-breakpoint": [["def f(a):\n    return a\n\nf(1)", ""], async (b) => {
    await b.debug(0, 2);
    await b.editor(0).click();
    await b.page.keyboard.press("Shift+Enter");
    await b.page.locator(".jp-DebuggerCallstack").getByText(/^f/).first().waitFor();
    await b.menu("Kernel", "Interrupt Kernel"); // the banner of the debugger covers the button
    await b.shows(0, "KeyboardInterrupt");
    await b.run(1, "print('after')");
    await b.shows(1, "after");
  }],

  "restart-at-a-breakpoint": [["import os\ndef f(a):\n    return a\n\nf(os)", ""], async (b) => {
    await b.debug(0, 3);
    await b.editor(0).click();
    await b.page.keyboard.press("Shift+Enter");
    await b.page.locator(".jp-DebuggerCallstack").getByText(/^f/).first().waitFor();
    await b.menu("Kernel", "Restart Kernel");
    await b.accept();
    await b.until(() => b.connected > 1);
    await b.idle();
    await b.run(1, "print('a new one')");
    await b.shows(1, "a new one");
  }],

  "a-widget-while-a-cell-runs": [["", ""], async (b) => {
    await b.run(0, "import ipywidgets, time\ns = ipywidgets.IntSlider(value=3, max=10)\ns");
    await b.enter(1, "while s.value == 3: time.sleep(0.01)\nprint('moved to', s.value)");
    await b.status("busy").waitFor({ state: "attached" });
    await b.slide(0, 1 / 10);
    await b.shows(1, "moved to 4");
  }],

  "a-hundred-cells": [Array.from({ length: 100 }, (_, i) => i === 0 ? "n = 0" : `n += 1\nprint('cell ${i}:', n)`), async (b) => {
    await b.menu("Run", "Run All Cells");
    await b.until(async () => b.panel.getByText("cell 99: 99").first().isVisible());
    await b.idle();
  }],

  "an-error-stops-the-rest": [["print('one')", "1 / 0", "print('three')"], async (b) => {
    await b.menu("Run", "Run All Cells");
    await b.shows(1, "ZeroDivisionError");
    await b.idle();
    assert.equal((await b.output(2).innerText()).trim(), "");
  }],

  "long-output": [[""], async (b) => {
    await b.run(0, "for i in range(20000): print('line', i)");
    await b.idle();
    await b.save();
    let saved;
    await b.until(() => (saved = b.server.read(b.name)));
    const text = saved.cells[0].outputs.map((o) => [].concat(o.text).join("")).join("");
    assert.equal(text, Array.from({ length: 20000 }, (_, i) => `line ${i}\n`).join(""));
  }],

  "tasks-and-threads": [null, async (b) => {
    await b.run(0, "import asyncio, threading\nasync def late():\n    await asyncio.sleep(0.2)\n    print('a task')\n" +
      "t = asyncio.ensure_future(late())\nawait asyncio.sleep(0.01)");
    await b.run(1, "await t\nprint('awaited')");
    await b.shows(1, "awaited");
    await b.shows(0, "a task");
  }],

  commands: [null, async (b) => {
    await b.run(0, "!echo from a shell\n%cd /tmp\n%timeit -n 1 -r 1 1");
    await b.shows(0, "from a shell");
    await b.shows(0, "per loop");
  }],

  "the-network-is-closed": [null, async (b) => {
    await b.run(0, "import urllib.request\nurllib.request.urlopen('http://example.org')");
    await b.shows(0, "URLError");
  }],

  "a-page-that-comes-back": [["", ""], async (b) => {
    await b.run(0, "x = 42");
    await b.save();
    await b.load();
    await b.run(1, "print('still', x)");
    await b.shows(1, "still 42");
  }],

  "widgets-in-a-saved-notebook": [["", ""], async (b) => {
    await b.run(0, "import ipywidgets\nipywidgets.IntSlider(value=5, description='kept')");
    await b.output(0).locator(SLIDER).waitFor();
    await b.save();
    await b.load();
    await b.output(0).locator(SLIDER).waitFor();
    await b.shows(0, /^5$/m);
  }],

  console: [["", ""], async (b) => {
    await b.console();
    const prompt = b.page.locator(".jp-CodeConsole-promptCell .cm-content");
    await prompt.click();
    await b.page.keyboard.insertText("print('in a console', 6 * 7)");
    await b.page.keyboard.press("Shift+Enter");
    await b.page.locator(".jp-CodeConsole-content").getByText("in a console 42").last().waitFor();
  }],
};

// Of these, what is done over a gateway, too: whatever goes another way there than from one machine's server to its kernel.
export const overGateway = ["text", "figure", "error", "input", "slider", "a-button-and-an-output", "completion",
  "interrupt-button", "restart", "death", "a-widget-while-a-cell-runs", "long-output", "a-page-that-comes-back"];
