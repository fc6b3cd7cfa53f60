"""A report as one HTML page that needs nothing else: figure, findings, and a table that sorts."""

import io
from collections.abc import Sequence
from html import escape

from keras_he.reports.data import Account, Row
from keras_he.reports.figure import picture
from keras_he.reports.text import number, share

_STYLE = """
:root { color-scheme: light; --ink: #17212b; --dim: #5b6875; --line: #d9dee3; --wrong: #c2410c; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; margin: 0 auto;
  max-width: 1200px; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; }
.dim { color: var(--dim); }
figure { margin: 1rem 0; overflow-x: auto; }
figure svg { width: 100%; min-width: 36rem; height: auto; display: block; }
.finding { border-left: 4px solid var(--wrong); background: #fff7f2; margin: .75rem 0;
  padding: .6rem .9rem; overflow-wrap: anywhere; }
.finding b { color: var(--wrong); }
code { font: 13px/1.5 ui-monospace, monospace; }
pre { margin: .4rem 0 0; overflow-x: auto; }
.scroll { overflow-x: auto; border: 1px solid var(--line); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { background: #f4f6f8; padding: 0; } tr:last-child td { border-bottom: 0; }
th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; }
td:first-child { overflow-wrap: anywhere; white-space: normal; min-width: 11rem; }
th button { all: unset; cursor: pointer; padding: .35rem .6rem; font-weight: 600; display: block;
  width: 100%; box-sizing: border-box; text-align: inherit; }
th button:focus-visible { outline: 2px solid #0b6e99; outline-offset: -2px; }
th[aria-sort=ascending] button::after { content: " ↑"; }
th[aria-sort=descending] button::after { content: " ↓"; }
tr.wrong td { background: #fff7f2; } tr.wrong td:nth-child(2) { color: var(--wrong); }
"""

_TITLES = (
    *(
        "kernel",
        "findings",
        "layer",
        "shape",
        "fan in",
        "fan out",
        "in front",
        "std",
        "std wanted",
        "E[y²]",
    ),
    *("mean", "dead", "saturated", "E[∇²]", "E[∇W²]", "update"),
)

_SCRIPT = """
for (const head of document.querySelectorAll("th")) head.querySelector("button").onclick = () => {
  const table = head.closest("table"), body = table.tBodies[0];
  const column = [...head.parentNode.children].indexOf(head);
  const up = head.getAttribute("aria-sort") !== "ascending";
  const key = row => row.cells[column].dataset.value;
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const numbers = !isNaN(x) && !isNaN(y);
    return (up ? 1 : -1) * (numbers ? x - y : x.localeCompare(y));
  };
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...[...body.rows].sort(compare));
};
"""


def page(report: Account) -> str:
    """Returns the page of a report."""
    name = escape(report.model)
    # Nothing may be loaded, from anywhere: what the page shows stands in it.
    inline = "'unsafe-inline'"
    policy = f"default-src 'none'; style-src {inline}; script-src {inline}; img-src data:"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{name} · keras_he</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<h1>{name}</h1>
{_summary(report)}
<figure role="img" aria-label="Second moments of signal and gradient over depth">
{_svg(report)}
</figure>
{_findings(report)}
<h2>Kernels</h2>
<p class="dim">In order of execution. A click on a title sorts.</p>
<div class="scroll">{_table(report)}</div>
{_warnings(report)}
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _summary(report: Account) -> str:
    told = [f"{len(report.findings)} findings" if report.audited else "initialized"]
    told.append(f"{len(report.kernels)} kernels")
    told.append(f"signal over depth {report.forward_spread:.2f} decades")
    if report.gradient_spread is not None:
        told.append(f"gradient over depth {report.gradient_spread:.2f} decades")
    if report.end_to_end is not None:
        told.append(f"end to end {report.end_to_end:.3g} times")
    return f'<p class="dim">{escape(" · ".join(told))}</p>'


def _svg(report: Account) -> str:
    """Returns the figure as SVG, whose letters are paths: no font is asked for."""
    file = io.StringIO()
    picture(report, titled=False).savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _findings(report: Account) -> str:
    if not report.audited:
        return ""
    if not report.findings:
        return "<h2>Findings</h2>\n<p>None.</p>"
    each = (
        f'<div class="finding"><b>{escape(one.verdict)}</b> · {escape(one.layer)}'
        f"<p>{escape(one.evidence)}.</p><pre><code>{escape(one.remedy)}</code></pre></div>"
        for one in report.findings
    )
    return "<h2>Findings</h2>\n" + "\n".join(each)


def _table(report: Account) -> str:
    verdicts: dict[str, list[str]] = {}
    for finding in report.findings:
        for path in finding.paths:
            verdicts.setdefault(path, []).append(finding.verdict)
    head = "".join(f"<th><button>{title}</button></th>" for title in _TITLES)
    body = "\n".join(_row(row, verdicts.get(row.path, [])) for row in report.kernels)
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"


def _row(row: Row, verdicts: Sequence[str]) -> str:
    figures = row.figures
    std = figures.std if figures else row.std
    told = ", ".join(verdicts) or row.left
    cells: list[tuple[str, object]] = [
        (row.path, row.path),
        (told, told),
        (row.layer, row.layer),
        ("×".join(str(size) for size in row.shape), _size(row.shape)),
        *((number(fan), fan) for fan in (row.fans or (None, None))),
        (row.activation or "", row.activation or ""),
        (number(std), std),
        (number(row.std), row.std),
        *((number(one), one) for one in (row.moments[:1] or (None,))),
    ]
    names = ("mean", "dead", "saturated", "gradient", "kernel_gradient", "update_ratio")
    for name in names:
        value = getattr(figures, name, None)
        cells.append(((share if name in ("dead", "saturated") else number)(value), value))
    made = "".join(
        f'<td data-value="{"" if value is None else escape(str(value))}">{escape(text)}</td>'
        for text, value in cells
    )
    wrong = ' class="wrong"' if verdicts else ""
    return f"<tr{wrong}>{made}</tr>"


def _size(shape: Sequence[int]) -> int:
    size = 1
    for one in shape:
        size *= one
    return size


def _warnings(report: Account) -> str:
    if not report.warnings:
        return ""
    each = "".join(f"<li>{escape(text)}</li>" for text in report.warnings)
    return f"<h2>To be known</h2>\n<ul>{each}</ul>"
