# SPDX-License-Identifier: BSD-3-Clause
"""What bench.py found: one table with ratios, one plot for each figure, and all samples as JSON.

A figure has samples of each participant, taken in turn. Its value is their median. A ratio is husk's median by
the participant's: below 1 husk takes less. Of two builds of husk (`make bench-compare`) a verdict is given only where
nearly all samples of one lie on one side of those of the other; else they are the same as far as this run can tell.
"""

import json
import os
import pathlib
import statistics

MINE = "husk"
SURE = 0.9  # of all pairs of samples, how many must agree
MATTERS = 1.03  # and how far apart the medians must be


def machine():
    def line(path, start):
        try:
            return next(l.split(":", 1)[1].strip() for l in pathlib.Path(path).read_text().splitlines() if l.startswith(start))
        except (OSError, StopIteration):
            return "?"

    memory = line("/proc/meminfo", "MemTotal").split()
    return {
        "processors": os.cpu_count(), "model": line("/proc/cpuinfo", "model name"),
        "memory, GB": round(int(memory[0]) / 1e6, 1) if memory[0].isdigit() else "?",
        "virtual": "hypervisor" in line("/proc/cpuinfo", "flags").split(),
        "kernel": f"{os.uname().sysname} {os.uname().release}", "uid": os.getuid(), "load before": round(os.getloadavg()[0], 2),
    }


def show(value):
    if isinstance(value, str):
        return value
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def verdict(old, new):
    """Of two lists of samples, less is better: a word."""
    pairs = [(a > b) + (a == b) / 2 for a in old for b in new]
    better = sum(pairs) / len(pairs)
    ratio = statistics.median(new) / statistics.median(old)
    if better >= SURE and ratio < 1 / MATTERS:
        return "better"
    if better <= 1 - SURE and ratio > MATTERS:
        return "worse"
    return "same"


class Figure:
    def __init__(self, section, name, samples):
        self.section, self.name = section, name
        self.samples = {who: values if isinstance(values, list) else [values] for who, values in samples.items()}

    def numbers(self, who):
        return [v for v in self.samples.get(who, ()) if not isinstance(v, str)]

    def value(self, who):
        """A median; or what was wrong, where something was."""
        wrong = [v for v in self.samples.get(who, ()) if isinstance(v, str)]
        return wrong[0] if wrong else statistics.median(self.samples[who]) if self.samples.get(who) else ""

    def ratio(self, who):
        mine, theirs = self.value(MINE), self.value(who)
        return mine / theirs if not isinstance(mine, str) and not isinstance(theirs, str) and theirs else None


class Report:
    def __init__(self):
        self.machine, self.figures, self.about = machine(), [], {}

    def add(self, section, name, samples):
        """samples: {participant: [number, or text that says what went wrong]}"""
        self.figures.append(Figure(section, name, samples))

    def add_rows(self, section, rows):
        for name, value in rows.items():
            self.add(section, name, {MINE: [value]})

    def table(self):
        about = ", ".join(f"{k}: {v}" for k, v in {**self.machine, **self.about}.items())
        sections = {}
        for figure in self.figures:
            sections.setdefault(figure.section, []).append(figure)
        return "\n".join([about, *(part for name, figures in sections.items() for part in ("", _table(name, figures)))]) + "\n"

    def verdicts(self, before):
        """Whether MINE is better than the participant `before`; and whether nothing is worse."""
        lines, good = [], True
        for figure in self.figures:
            old, new = figure.numbers(before), figure.numbers(MINE)
            if old and new:
                word = verdict(old, new)
                good = good and word != "worse"
                lines.append(f"{word:8}{statistics.median(new) / statistics.median(old):7.3f}  {figure.section}: {figure.name}")
        return "\n".join(lines) + "\n", good

    def save(self, directory):
        """table.txt, results.json and, where this Python has matplotlib, a plot for each figure."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "table.txt").write_text(self.table())
        (directory / "results.json").write_text(json.dumps({
            "machine": self.machine, "about": self.about,
            "figures": [{"section": f.section, "name": f.name, "samples": f.samples} for f in self.figures]}, indent=1) + "\n")
        try:
            import matplotlib
        except ImportError:
            return "no plots: this Python has no matplotlib"
        matplotlib.use("svg")
        matplotlib.rcParams["svg.hashsalt"] = "husk"  # the same figures make the same file
        drawn = [f for f in self.figures if len([who for who in f.samples if f.numbers(who)]) > 1]
        for figure in drawn:
            draw(figure, directory / f"{file_name(figure)}.svg", self.machine)
        return f"{len(drawn)} plots, table.txt and results.json are in {directory}"


def _table(section, figures):
    """Its participants side by side, then what husk takes for each 1 that the others take."""
    everybody = list(dict.fromkeys(who for f in figures for who in f.samples))
    others = [who for who in everybody if who != MINE]
    rows = [[section, *everybody, *(f"{MINE} / {who}" for who in others)]]
    for f in figures:
        ratios = (f.ratio(who) for who in others)
        rows.append(["  " + f.name, *(show(f.value(who)) for who in everybody), *("" if r is None else f"{r:.3f}" for r in ratios)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]).rstrip() for row in rows)


def file_name(figure):
    words = "".join(c if c.isalnum() else " " for c in f"{figure.section} {figure.name}").split()
    return "-".join(words).lower()


def draw(figure, path, about):
    """A bar is the median, the line on it reaches from the least to the greatest sample."""
    from matplotlib import pyplot

    who = [w for w in figure.samples if figure.numbers(w)][::-1]
    middle = [statistics.median(figure.numbers(w)) for w in who]
    reach = [[m - min(figure.numbers(w)) for w, m in zip(who, middle)], [max(figure.numbers(w)) - m for w, m in zip(who, middle)]]
    plot, axes = pyplot.subplots(figsize=(7, 0.9 + 0.45 * len(who)), layout="constrained")
    bars = axes.barh(who, middle, xerr=reach, color=["#d1663a" if w.startswith(MINE) else "#8a9aa9" for w in who],
                     error_kw={"ecolor": "#333", "elinewidth": 1, "capsize": 2})
    axes.bar_label(bars, [show(m) for m in middle], padding=6)
    axes.set_title(f"{figure.name} (less is better)", loc="left", fontsize=10)
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"{about['processors']} processors, {about['kernel']}", fontsize=7)
    plot.savefig(path, metadata={"Date": None})
    pyplot.close(plot)
