"""A report as one HTML page that needs nothing else: figure, findings, and a table that sorts."""

import io
from collections.abc import Sequence
from html import escape
from typing import Literal

from keras_he.reports.columns import Column, Line, columns_of, sort_key
from keras_he.reports.data import Finding
from keras_he.reports.figure import picture

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
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; }
.scroll { overflow-x: auto; border: 1px solid var(--line); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { background: #f4f6f8; padding: 0; } tr:last-child td { border-bottom: 0; }
.words { text-align: left; }
td:first-child { overflow-wrap: anywhere; white-space: normal; min-width: 11rem; }
th button { all: unset; cursor: pointer; padding: .35rem .6rem; font-weight: 600; display: block;
  width: 100%; box-sizing: border-box; text-align: inherit; }
th button:focus-visible { outline: 2px solid #0b6e99; outline-offset: -2px; }
th[aria-sort=ascending] button::after { content: " ↑"; }
th[aria-sort=descending] button::after { content: " ↓"; }
tr.wrong td { background: #fff7f2; } tr.wrong td:nth-child(2) { color: var(--wrong); }
"""

_CAPTION = (
    "Second moments of the pre-activations and of the loss's gradient with respect to them. "
    "The band is a factor of 10 about 1; crosses are zeros, or not finite; red lines mark findings."
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


def page(
    job: Literal["initialization", "audit"],
    model: str,
    facts: Sequence[str],
    lines: Sequence[Line],
    findings: Sequence[Finding] | None,
    notes: Sequence[str],
) -> str:
    """Returns the page of a report: the facts are about the whole model, in a few words each.

    The findings are `None` in a report that has none to show.
    """
    name = escape(model)
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
<p class="dim">{escape(" · ".join(facts))}</p>
<figure role="img" aria-label="Second moments of signal and gradient over depth">
{_svg(lines)}
<figcaption class="dim">{_CAPTION}</figcaption>
</figure>
{_findings(findings)}
<h2>Kernels</h2>
<p class="dim">Click a title to sort.</p>
{_table(columns_of(job, "page"), lines)}
{_notes(notes)}
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _svg(lines: Sequence[Line]) -> str:
    """Returns the figure as SVG whose letters are paths, so that it needs no font."""
    file = io.StringIO()
    picture(lines).savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _findings(findings: Sequence[Finding] | None) -> str:
    if findings is None:
        return ""
    each = [
        f'<div class="finding"><b>{escape(one.verdict)}</b> · {escape(one.layer)}'
        f"<p>{escape(one.evidence)}.</p><pre><code>{escape(one.remedy)}</code></pre></div>"
        for one in findings
    ]
    return "<h2>Findings</h2>\n" + ("\n".join(each) or "<p>None.</p>")


def _table(columns: Sequence[Column], lines: Sequence[Line]) -> str:
    """Returns the table of kernels, and what its columns mean."""
    head = "".join(
        f'<th{_words(one)} title="{escape(one.meaning)}"><button>{one.title}</button></th>'
        for one in columns
    )
    body = "\n".join(_line(columns, line) for line in lines)
    meanings = "\n".join(f"<dt>{one.title}</dt><dd>{escape(one.meaning)}</dd>" for one in columns)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>\n"
        f"<details><summary>What the columns mean</summary><dl>\n{meanings}\n</dl></details>"
    )


def _line(columns: Sequence[Column], line: Line) -> str:
    cells = "".join(
        f'<td{_words(one)} data-value="{escape(sort_key(one.value(line)))}">'
        f"{escape(one.cell(line))}</td>"
        for one in columns
    )
    wrong = ' class="wrong"' if line.verdicts else ""
    return f"<tr{wrong}>{cells}</tr>"


def _words(column: Column) -> str:
    return ' class="words"' if column.words else ""


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    each = "".join(f"<li>{escape(text)}</li>" for text in notes)
    return f"<h2>Notes</h2>\n<ul>{each}</ul>"
