"""A report as text for a terminal, 100 columns wide at most: the table, and what is to be known."""

import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence
from io import StringIO
from itertools import compress

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keras_he.reports.data import Account, Row

WIDTH = 100  # columns
_LEAST = 60
_NARROW = 96  # below which the columns that the others imply are left out
_IMPLIED = ("shape", "update")
_DONE = ("kernel", "shape", "in front", "gain", "std", "E[y²]", "rule")
_SEEN = ("kernel", "shape", "in front", "std", "wanted", "E[y²]", "dead", "E[∇²]", "update", "")


def table(report: Account) -> str:
    """Returns the text of a report, as wide as the terminal, and at most 100 columns."""
    width = max(_LEAST, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))
    parts = [*_head(report), *([_kernels(report, width)] if report.kernels else [])]
    return rendered([*parts, *_foot(report, width)], width)


def rendered(parts: Sequence[Table | Text | str], width: int) -> str:
    """Returns parts as plain text, with no blanks at the ends of lines."""
    file = StringIO()
    console = Console(file=file, width=width, color_system=None, legacy_windows=False)
    for part in parts:
        console.print(part, markup=False, highlight=False, emoji=False)
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines())


def grid(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Returns a table whose first column gives way where the terminal is narrow."""
    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for position, title in enumerate(titles):
        wide = position in (0, len(titles) - 1)
        made.add_column(Text(title), overflow="fold", no_wrap=not wide)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def number(value: float | None) -> str:
    """Returns a number with three digits, and nothing for none."""
    return "" if value is None else f"{value:.3g}"


def share(value: float | None) -> str:
    """Returns a share in percent."""
    return "" if value is None else f"{100 * value:.0f}%"


def _kernels(report: Account, width: int) -> Table:
    if not report.audited:
        return grid(_DONE, [_done(row) for row in report.kernels])
    marks: dict[str, list[str]] = {}
    for place, finding in enumerate(report.findings, start=1):
        for path in finding.paths:
            marks.setdefault(path, []).append(str(place))
    kept = [title not in _IMPLIED or width >= _NARROW for title in _SEEN]
    rows = [_seen(row, ",".join(marks.get(row.path, []))) for row in report.kernels]
    return grid(list(compress(_SEEN, kept)), [list(compress(row, kept)) for row in rows])


def _done(row: Row) -> tuple[str, ...]:
    rule = f"left: {row.left}" if row.left else row.rule
    anew = " (c)" if row.clone == "draws anew" else ""
    return (*_named(row), number(row.gain), number(row.std), _moment(row), f"{rule}{anew}")


def _seen(row: Row, marks: str) -> tuple[str, ...]:
    figures = row.figures
    if figures is None:
        return (*_named(row), *[""] * 6, row.left)
    return (
        *_named(row),
        number(figures.std),
        number(row.std),
        _moment(row),
        share(figures.dead),
        number(figures.gradient),
        number(figures.update_ratio),
        f"✗{marks}" if marks else row.left,
    )


def _named(row: Row) -> tuple[str, str, str]:
    return row.path, "×".join(str(size) for size in row.shape), row.activation or ""


def _moment(row: Row) -> str:
    calls = f" ×{len(row.moments)}" if len(row.moments) > 1 else ""
    return number(row.moments[0] if row.moments else None) + calls


def _head(report: Account) -> list[Text | str]:
    kernels = report.kernels
    if report.audited:
        reached = sum(row.figures is not None for row in kernels)
        count = len(report.findings)
        told = "no findings" if not count else f"{count} finding{'s' * (count > 1)}"
        told = told if reached or count else "nothing could be looked at"
        return [f"{report.model}: {told}; {reached} of {len(kernels)} kernels looked at."]
    done = "would get" if not report.written else "has"
    count = sum(not row.left for row in kernels)
    return [
        f"{report.model} {done} {count} of {len(kernels)} kernels set: {report.law}, "
        f"{report.mode}, seed {report.seed}."
    ]


def _foot(report: Account, width: int) -> list[Text]:
    lines = _audited_foot(report) if report.audited else _initialized_foot(report)
    lines += [f"! {text}" for text in report.warnings]
    if report.random_layers:
        lines.append(f"Random layers: {len(report.random_layers)}; their masks are a backend's.")
    return [Text(line) for text in lines for line in _wrapped(text, width)]


def _wrapped(text: str, width: int) -> list[str]:
    """Returns the lines of a text, those after the first set in by two more columns."""
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)


def _initialized_foot(report: Account) -> list[str]:
    gradient = (
        f"{report.gradient_spread:.2f} decades predicted"
        if report.gradient_spread is not None
        else "not predicted, for the model branches or was not measured"
    )
    lines = [
        f"Second moment of the signal over depth: spread {report.forward_spread:.2f} decades "
        "about its targets.",
        f"Second moment of the gradient over depth: {gradient}.",
    ]
    anew = sum(row.clone == "draws anew" for row in report.kernels)
    if anew:
        lines.append(f"A clone of the model draws {anew} kernels anew (c), the others it has.")
    return lines + _others(report.rows)


def _audited_foot(report: Account) -> list[str]:
    lines = []
    for place, finding in enumerate(report.findings, start=1):
        lines += [
            f"✗{place} {finding.verdict}: {finding.layer}",
            f"    {finding.evidence}.",
            f"    → {finding.remedy}",
        ]
    lines.append(
        f"Second moment over depth: signal E[y²] {report.forward_spread:.2f} decades"
        + (
            ""
            if report.gradient_spread is None
            else f", gradient E[∇²] {report.gradient_spread:.2f} decades"
        )
        + "."
    )
    if report.end_to_end is not None:
        lines.append(f"End to end the second moment changes by {report.end_to_end:.3g} times.")
    if report.depth_growth is not None:
        lines.append(
            f"Errors of the signal grow {report.depth_growth:.3g} times between normalisations."
        )
    return lines


def _others(rows: Sequence[Row]) -> list[str]:
    """Returns what is said of variables that are no kernels."""
    remade = [row for row in rows if row.role in ("remade", "statistic") and not row.left]
    lines = []
    rules = Counter(row.rule for row in remade)
    if rules:
        counts = ", ".join(f"{count} by {rule}" for rule, count in sorted(rules.items()))
        lines.append(f"Made again: {counts}.")
    unusual = [
        f"{row.path} {row.values[0]:.3g} to {row.values[1]:.3g}"
        for row in remade
        if row.role == "remade" and row.values is not None and not _usual(row)
    ]
    if unusual:
        lines.append(f"Among them neither 0 nor 1: {', '.join(unusual)}.")
    left = Counter(row.left for row in rows if row.role not in ("kernel", "unknown") and row.left)
    for reason, count in left.items():
        lines.append(f"Left: {count} because: {reason}")
    return lines


def _usual(row: Row) -> bool:
    """Returns whether a bias or scale is 0 everywhere, or 1, as it nearly always is."""
    zero_gamma = row.path.endswith("gamma") and row.values == (0.0, 0.0)
    return row.values in ((0.0, 0.0), (1.0, 1.0)) and not zero_gamma
