"""Display of pictures, animations, and values that differ between machines, in a notebook.

Everything is displayed as a raw bundle of mime types, which every front end and every IPython understands. Values that
two machines compute differently are shown as text/markdown, which the strict comparison of stored outputs leaves out
(see `conftest.py`). Printed text is compared, character by character.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from numbers import Integral

# Mime types of figures that turn, and of figures that sliders move.
PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"


def show(text: str) -> None:
    """Show a line or a paragraph of Markdown. Use it for values that may differ between machines."""
    show_bundle({"text/markdown": text}, text)


def show_table(
    rows: Sequence[Sequence],
    columns: Sequence[str],
    *,
    formats: dict[str, str] | None = None,
    best: dict[str, str] | None = None,
) -> None:
    """Show a table, the best entry of some columns in bold. It may differ between machines.

    rows: one sequence a row, as long as `columns`; the first entry of a row is its name. None leaves a cell empty.
    formats: a format specification a column, such as {"mIoU": ".2f"}; numbers of other columns have three digits.
    best: {"mIoU": "max", "error": "min"}: which entry of a column is bold; NaN never is.

    Raises ValueError for a row of another length, an unknown column, or a best that is neither "min" nor "max".
    """
    show(format_table(rows, columns, formats=formats, best=best))


def format_table(
    rows: Sequence[Sequence],
    columns: Sequence[str],
    *,
    formats: dict[str, str] | None = None,
    best: dict[str, str] | None = None,
) -> str:
    """Format the table of `show_table` as Markdown."""
    formats, best = formats or {}, best or {}
    for name in (*formats, *best):
        if name not in columns:
            raise ValueError(f"there is no column {name!r}; the columns are {', '.join(columns)}")
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"rows must have {len(columns)} entries, one a column; got {len(row)} in {list(row)}")
    cells = [[_format_cell(entry, formats.get(name, ".3g")) for entry, name in zip(row, columns)] for row in rows]  # noqa: B905
    for name, kind in best.items():
        if kind not in ("min", "max"):
            raise ValueError(f'best[{name!r}] must be "min" or "max", got {kind!r}')
        j = list(columns).index(name)
        numbers = [row[j] for row in rows if _is_number(row[j]) and not math.isnan(row[j])]
        for row, shown in zip(rows, cells, strict=True):
            # Entries that look equal are equally good: a difference below the shown digits does not count.
            if numbers and _is_number(row[j]):
                winner = _format_cell((min if kind == "min" else max)(numbers), formats.get(name, ".3g"))
                shown[j] = f"**{shown[j]}**" if shown[j] == winner else shown[j]
    align = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(columns), align, *cells])


def show_png(png: bytes, alt: str, caption: str = "", livelier: dict | None = None) -> None:
    """Show a PNG (an animated one plays) with a text for readers who cannot see it, and a caption below it.

    `alt` is compared between machines and must be the same on all; `caption` may hold measured values.
    livelier: other mime types of the same figure; a front end that knows them shows them instead of the picture.
    """
    bundle = {"image/png": base64.b64encode(png).decode(), "text/plain": alt}
    show_bundle(bundle | (livelier or {}), alt, metadata={"image/png": {"alt": alt}})
    if caption:
        show(f"*{caption}*")


def show_bundle(bundle: dict, plain: str, metadata: dict | None = None) -> None:
    """Show a bundle of mime types in a notebook; outside of one, print `plain`."""
    from IPython import get_ipython
    from IPython.display import display

    if hasattr(get_ipython(), "kernel"):
        display(bundle, metadata=metadata or {}, raw=True)
    else:
        print(plain)


def format_number(value: float) -> str:
    """Format a number with four significant digits, whole numbers as such: 0.01234, 642, 1.2e-07."""
    value = float(value)
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e6 else f"{value:.4g}"


def format_band(low: float | None, high: float | None) -> str:
    """Format a band: "≥ 0.85", "≤ 2", "0.1 to 0.3", or nothing if there is no band."""
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    return f"≥ {low:g}" if low is not None else f"≤ {high:g}" if high is not None else ""


def _is_number(entry) -> bool:
    return not isinstance(entry, str | bool | None.__class__)


def _format_cell(entry, specification: str) -> str:
    if entry is None:
        return ""
    if not _is_number(entry):
        # A bar or a line break would end the cell.
        return " ".join(str(entry).split()).replace("|", "\\|")
    return format(int(entry), "d") if isinstance(entry, Integral) else format(float(entry), specification)
