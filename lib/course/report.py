"""One run on one page: report.html, readable years later without a network, a script or the course."""

from __future__ import annotations

import html
import json
import math
import re
from pathlib import Path

import nbformat

from lib.course.machine import format_memory, format_seconds
from lib.course.notebooks import ROOT
from lib.course.runs import Chapter, Run
from lib.display import format_band
from lib.files import write_atomically

# Limits that the quick profile promises for a chapter on two CPU cores.
QUICK_SECONDS, QUICK_MEMORY = 120, 2 * 2**30

# Folder of the numbers that `benchmarks/first_gpu.py` writes, a file for each card.
GPUS = ROOT / "benchmarks" / "gpus"

ERROR_MARKER_TAG = "papermill-error-cell-tag"

MARKS = {"passed": "✓", "failed": "✗", "interrupted": "◼", "running": "…", "waiting": "·"}

STYLE = """
:root { color-scheme: light; --line: #d9dee4; --soft: #f5f7f9; --good: #00734f; --bad: #b23c00; --text: #1d2430 }
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--text); margin: 0 auto; max-width: 1080px; padding: 24px }
h1 { margin: .2em 0; font-size: 1.8em } h2 { margin: 2em 0 .5em; border-bottom: 1px solid var(--line) }
a { color: #0059a0 } .soft { color: #5a6472 }
table { border-collapse: collapse; margin: .8em 0 } th, td { padding: .28em .9em .28em 0; text-align: left }
th { color: #5a6472; font-weight: 600; font-size: .88em; border-bottom: 1px solid var(--line) }
td { border-bottom: 1px solid #edf0f3; vertical-align: top }
.number { text-align: right; font-variant-numeric: tabular-nums }
.passed, .inside { color: var(--good) } .failed, .outside, .interrupted { color: var(--bad) }
.trouble { border-left: 4px solid var(--bad); background: #fdf3ee; padding: .6em 1em; margin: .8em 0 }
.band { position: relative; width: 140px; height: 8px; background: #f3ddd2; border-radius: 4px; display: inline-block }
.band i { position: absolute; top: 0; bottom: 0; background: #a6d8c5; border-radius: 4px }
.band b { position: absolute; top: -3px; width: 4px; height: 14px; margin-left: -2px; background: var(--text) }
.switch { margin-right: .3em } .switch + label { margin-right: 1.2em; cursor: pointer }
.notebook { border: 1px solid var(--line); border-radius: 8px; padding: 10px 22px; margin-top: .7em; overflow-x: auto }
.figures:checked ~ .notebook { display: flex; flex-wrap: wrap; gap: 18px; align-items: flex-start }
.figures:checked ~ .notebook .cell:not(.pictured), .figures:checked ~ .notebook .aside { display: none }
.figures:checked ~ .notebook .cell { flex: 0 1 auto; max-width: 100% }
figure { margin: .8em 0 } figure img { max-width: 100%; height: auto }
figcaption { font-size: .82em; line-height: 1.4; color: #5a6472; max-width: 46em }
.figures:checked ~ .notebook figcaption { max-width: 30em }
pre { background: var(--soft); padding: .6em .9em; border-radius: 6px; overflow-x: auto }
pre { font-size: .85em; line-height: 1.4 }
pre.output { background: none; border-left: 3px solid var(--line); border-radius: 0 }
pre.error { background: #fdf3ee; border-left: 3px solid var(--bad); border-radius: 0 }
code { font-size: .9em } .anchor-link { display: none }
.ansi-red-fg { color: #b23c00 } .ansi-green-fg { color: #00734f } .ansi-blue-fg, .ansi-cyan-fg { color: #0059a0 }
"""

# Added to nbconvert's plain template: figures with their text, folded code, nothing that needs a script.
TEMPLATE = """
{%- extends 'base/display_priority.j2' -%}
{%- block execute_result scoped -%}{%- block data_priority scoped -%}{{ super() }}{%- endblock -%}{%- endblock -%}
{%- block codecell -%}
<div class="cell{{ ' pictured' if cell | has_picture }}">{{ super() }}</div>
{%- endblock -%}
{%- block input -%}
<div class="aside">{{ cell.source | highlight_code(metadata=cell.metadata) }}</div>
{%- endblock -%}
{%- block markdowncell -%}
<div class="cell">{{ cell.source | markdown2html | link_chapters }}</div>
{%- endblock -%}
{%- block stream -%}<pre class="output aside">{{ output.text | ansi2html }}</pre>{%- endblock -%}
{%- block error -%}<pre class="error aside">{{ output.traceback | join('\\n') | ansi2html }}</pre>{%- endblock -%}
{%- block data_png -%}
{%- set alt = output | get_metadata('alt', 'image/png') or '' -%}
<figure>
<img src="data:image/png;base64,{{ output.data['image/png'] | replace('\\n', '') }}" alt="{{ alt | escape_html }}">
<figcaption>{{ alt | escape_html }}</figcaption></figure>
{%- endblock -%}
{%- block data_html -%}<div class="aside">{{ output.data['text/html'] }}</div>{%- endblock -%}
{%- block data_markdown -%}<div class="aside">{{ output.data['text/markdown'] | markdown2html }}</div>{%- endblock -%}
{%- block data_text -%}<pre class="output aside">{{ output.data['text/plain'] | ansi2html }}</pre>{%- endblock -%}
"""


def write_report(run: Run) -> Path:
    """Write `report.html` into the run's folder and return its path.

    Raises OSError if it cannot be written.
    """
    chapters = "\n".join(_chapter_section(run, chapter) for chapter in run.chapters)
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>3D deep learning: {html.escape(run.started)}</title>
<style>{STYLE}{_code_style()}</style></head><body>
{_summary(run)}
{_metrics_table(run)}
{chapters}
{_machine_table(run)}
{_gpu_tables()}
</body></html>
"""
    path = run.folder / "report.html"
    write_atomically(path, page)
    return path


def over_budget(run: Run, chapter: Chapter) -> str:
    """Tell in words where a chapter exceeded the limits of the quick profile; empty if nowhere."""
    if run.profile != "quick":
        return ""
    parts = []
    # Two chapters at a time take longer than each of them alone.
    if run.jobs == 1 and chapter.seconds > QUICK_SECONDS:
        parts.append(f"over {QUICK_SECONDS} s")
    on_gpu = run.device != "cpu" and run.hardware.get("gpu", "none") != "none"
    if chapter.peak_memory > QUICK_MEMORY and not on_gpu:  # CUDA's libraries alone take that much of the host's
        parts.append(f"over {format_memory(QUICK_MEMORY)}")
    return ", ".join(parts)


def count_inside(metrics: dict[str, dict]) -> str:
    """Count the numbers that lie in their bands, as "3/3"; empty if no number has a band."""
    banded = [entry["inside"] for entry in metrics.values() if entry["inside"] is not None]
    return f"{sum(banded)}/{len(banded)}" if banded else ""


def _summary(run: Run) -> str:
    rows = []
    for chapter in run.chapters:
        took = format_seconds(chapter.seconds) if chapter.seconds else ""
        memory = format_memory(chapter.peak_memory) if chapter.peak_memory else ""
        rows.append(
            f'<tr><td class="{chapter.status}">{MARKS[chapter.status]} {chapter.status}</td>'
            f'<td><a href="#{chapter.name}">{html.escape(chapter.title)}</a></td>'
            f'<td class="number">{took}</td><td class="number">{memory}</td>'
            f'<td class="number">{count_inside(run.metrics(chapter))}</td>'
            f'<td class="outside">{over_budget(run, chapter)}</td></tr>'
        )
    troubles = "".join(
        f'<div class="trouble"><a href="#{chapter.name}">{chapter.name}</a> {chapter.status} '
        f"in cell {chapter.cell} of {chapter.cells}: {html.escape(chapter.reason)}</div>"
        for chapter in run.chapters
        if chapter.reason
    )
    overrides = "".join(f", {name} = {value!r}" for name, value in run.overrides.items())
    total = format_seconds(run.seconds)
    together = f", {run.jobs} chapters at a time" if run.jobs > 1 else ""
    together += f", {run.processes} processes each" if run.processes > 1 else ""
    settings = f"profile {run.profile}, seed {run.seed}, device {run.device}{overrides}{together}"
    machine = f"CPU cores: {run.hardware['cores']}, {run.hardware['memory']}, GPU: {run.hardware['gpu']}"
    return f"""<h1>3D deep learning, a run of the course</h1>
<p class="soft">{html.escape(run.started.replace("T", " "))} · {html.escape(settings)} · {html.escape(machine)} ·
{total} in all · <span class="{run.status}">{run.status}</span></p>
{troubles}
<table><tr><th>result</th><th>chapter</th><th class="number">time</th><th class="number">peak memory</th>
<th class="number">in band</th><th></th></tr>{"".join(rows)}</table>"""


def _metrics_table(run: Run) -> str:
    rows = []
    for chapter in run.chapters:
        for name, entry in run.metrics(chapter).items():
            inside = {True: "inside", False: "outside", None: ""}[entry["inside"]]
            rows.append(
                f'<tr><td><a href="#{chapter.name}">{chapter.name.split("_")[0]}</a></td><td>{html.escape(name)}</td>'
                f'<td class="number {inside}">{entry["value"]:.4g}</td><td>{html.escape(entry["unit"])}</td>'
                f"<td>{format_band(entry['low'], entry['high'])}</td><td>{_band_picture(entry)}</td></tr>"
            )
    if not rows:
        return ""
    return f"""<h2>Results against their bands</h2>
<p class="soft">A band was measured over several seeds; a number outside it stops its chapter.</p>
<table><tr><th></th><th>metric</th><th class="number">value</th><th>unit</th><th>band</th><th></th></tr>
{"".join(rows)}</table>"""


def _band_picture(entry: dict) -> str:
    """Draw the value as a tick on a bar, its band in green; an open side reaches the bar's end."""
    bounds = [bound for bound in (entry["low"], entry["high"]) if bound is not None]
    if not bounds or not all(map(math.isfinite, [*bounds, entry["value"]])):
        return ""
    low, high = min(*bounds, entry["value"]), max(*bounds, entry["value"])
    margin = 0.15 * (high - low or abs(high) or 1.0)

    def place(value: float) -> float:
        return 100 * (value - low + margin) / (high - low + 2 * margin)

    left = 0.0 if entry["low"] is None else place(entry["low"])
    right = 100.0 if entry["high"] is None else place(entry["high"])
    return (
        f'<span class="band"><i style="left:{left:.0f}%;right:{100 - right:.0f}%"></i>'
        f'<b style="left:{place(entry["value"]):.0f}%"></b></span>'
    )


def _machine_table(run: Run) -> str:
    rows = "".join(
        f"<tr><td class=soft>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
        for name, value in (run.hardware | run.versions).items()
    )
    return f"<h2>Machine and versions</h2><table>{rows}</table>"


def _gpu_tables() -> str:
    """Tables of the numbers that `benchmarks/first_gpu.py` measured, one for each GPU; empty if it never ran on one."""
    parts = []
    for path in sorted(GPUS.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        places = list(dict.fromkeys(place for row in found["kernels"] for place in row["milliseconds"]))
        rows = "".join(
            f"<tr><td>{html.escape(row['task'])}</td>"
            + "".join(f'<td class="number">{row["milliseconds"].get(place, math.nan):.3g}</td>' for place in places)
            + "</tr>"
            for row in found["kernels"]
        )
        steps = "".join(
            f"<tr><td>a step of {chapter}, {step['batch']} × {step['size']}²</td>"
            f'<td class="number">{step["milliseconds"]:.3g}</td><td class="number">{step["waits"]:.1f}</td></tr>'
            for chapter, step in found["steps"].items()
        )
        heads = "".join(f'<th class="number">{html.escape(place)}, ms</th>' for place in places)
        parts.append(
            f"<h2>On {html.escape(found['card'])}</h2>"
            f'<p class="soft">Measured {found["date"]} with PyTorch {html.escape(found["torch"])}.</p>'
            f"<table><tr><th></th>{heads}</tr>{rows}</table>"
            f'<table><tr><th></th><th class="number">ms</th><th class="number">waits</th></tr>{steps}</table>'
        )
    return "".join(parts)


def _chapter_section(run: Run, chapter: Chapter) -> str:
    name = chapter.name
    heading = f'<h2 id="{name}">{html.escape(chapter.title)}</h2>'
    if not run.notebook(chapter).exists():
        return f"{heading}<p class=soft>{chapter.status}</p>"
    notebook = nbformat.read(run.notebook(chapter), as_version=4)
    trouble = f"In cell {chapter.cell}: {html.escape(chapter.reason)}"
    choices = "".join(
        f'<input type="radio" class="switch {kind}" name="{name}" id="{name}-{view}"{" checked" * chosen}>'
        f'<label for="{name}-{view}">{view}</label>'
        for view, kind, chosen in (("figures", "figures", not chapter.reason), ("notebook", "", chapter.reason != ""))
    )
    return f"""{heading}{f'<div class="trouble">{trouble}</div>' if chapter.reason else ""}
{choices}
<div class="notebook">{_notebook_body(notebook)}</div>"""


def _notebook_body(notebook) -> str:
    """Convert a notebook to an HTML fragment without scripts and without references to other places."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(raw_template=TEMPLATE)
    exporter.register_filter("has_picture", _has_picture)
    exporter.register_filter("link_chapters", _link_chapters)
    exporter.register_filter("markdown2html", _markdown_to_html)
    return exporter.from_notebook_node(_without_scripts(notebook))[0]


def _has_picture(cell) -> bool:
    return any("image/png" in output.get("data", {}) for output in cell.outputs)


def _link_chapters(text: str) -> str:
    """Turn links from chapter to chapter into links within the page."""
    return re.sub(r'href="(\d\d[a-z]?_\w+)\.ipynb[^"]*"', r'href="#\1"', text)


def _without_scripts(notebook):
    """Remove interactive outputs, which work in the notebook only; each has a static figure beside it.

    Papermill's banners are removed, too: the page says the same at the top of the chapter.
    """
    notebook.cells = [cell for cell in notebook.cells if ERROR_MARKER_TAG not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for kind in list(data):
                if kind not in ("image/png", "text/html", "text/markdown", "text/plain") or "<script" in data[kind]:
                    del data[kind]
                    data["text/plain"] = "(interactive: open the notebook)"
    return notebook


def _markdown_to_html(source: str) -> str:
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def inline_math(self, body: str) -> str:
            return tex_to_mathml(body, "inline")

        def block_math(self, body: str) -> str:
            return tex_to_mathml(body, "block")

        def latex_environment(self, name: str, body: str) -> str:
            return tex_to_mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")

    return MarkdownWithMath(renderer=Renderer(escape=False)).render(source)


def tex_to_mathml(tex: str, display: str) -> str:
    """Convert TeX to MathML, which browsers draw by themselves; return it unchanged if that fails."""
    from latex2mathml.converter import convert

    # Replace two forms that the converter does not know by others that it knows.
    known = re.sub(r"\\arg(?![a-zA-Z])", r"\\operatorname{arg}", tex.replace("{aligned}", "{align*}"))
    try:
        mathml = convert(known.strip(), display=display)
    except Exception:
        mathml = ""
    if not mathml or ">\\" in mathml or "<mi>&</mi>" in mathml:  # the converter leaves an unknown command as text
        tag = "pre" if display == "block" else "code"
        return f"<{tag}>{html.escape(tex.strip())}</{tag}>"
    return mathml


def _code_style() -> str:
    from pygments.formatters import HtmlFormatter

    return HtmlFormatter(style="default", nobackground=True).get_style_defs(".highlight")
