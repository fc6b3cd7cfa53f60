"""The one table of columns: text, page and comparison take titles, values and formats from it.

To add a column, or to correct a number that a report shows, change it here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from keras_he.reports.data import Finding, Row

Medium = Literal["narrow", "wide", "page"]  # text of fewer than 96 columns, wider text, HTML
Value = str | float | tuple[int, ...] | None

ALL: frozenset[Medium] = frozenset({"narrow", "wide", "page"})
WIDE: frozenset[Medium] = frozenset({"wide", "page"})
TEXT: frozenset[Medium] = frozenset({"narrow", "wide"})
PAGE: frozenset[Medium] = frozenset({"page"})
NONE: frozenset[Medium] = frozenset()


class Line(NamedTuple):
    """A line of a table: a row, and the verdicts about it by their number in the report."""

    row: Row
    verdicts: Mapping[int, str]


@dataclass(frozen=True)
class Column:
    """A column of the tables of kernels.

    Attributes:
        title: Its title.
        meaning: One sentence that explains it.
        value: What it reads from a line: what a page sorts by, and what a comparison shows.
        text: How the value is written, `None` for a number of three digits.
        initialization: The media in which reports of `initialize` show it.
        audit: The media in which reports of `audit` show it.
        words: Whether it has words rather than numbers.
        key: Its name in a comparison; empty if comparisons leave it out.
    """

    title: str
    meaning: str
    value: Callable[[Line], Value]
    text: Callable[[Line], str] | None = None
    initialization: frozenset[Medium] = NONE
    audit: frozenset[Medium] = NONE
    words: bool = False
    key: str = ""

    def cell(self, line: Line) -> str:
        """Returns the text of a cell."""
        if self.text is not None:
            return self.text(line)
        value = self.value(line)
        return value if isinstance(value, str) else number(value)


def number(value: Value) -> str:
    """Returns a number with three digits, and nothing for none."""
    return f"{value:.3g}" if isinstance(value, (int, float)) else ""


def lines_of(rows: Sequence[Row], findings: Sequence[Finding]) -> list[Line]:
    """Returns the lines of rows, each with the findings about it."""
    numbered = list(enumerate(findings, start=1))
    return [
        Line(row, {place: one.verdict for place, one in numbered if row.path in one.paths})
        for row in rows
    ]


def columns_of(job: Literal["initialization", "audit"], medium: Medium) -> list[Column]:
    """Returns the columns that reports of a job show in a medium."""
    return [column for column in COLUMNS if medium in getattr(column, job)]


def _figure(name: str) -> Callable[[Line], float | None]:
    """Returns what reads one of the figures of an audit."""
    return lambda line: getattr(line.row.figures, name, None)


def _share(name: str) -> Callable[[Line], str]:
    """Returns what writes one of the figures of an audit in percent."""

    def written(line: Line) -> str:
        value = getattr(line.row.figures, name, None)
        return "" if value is None else f"{100 * value:.0f}%"

    return written


def _std(line: Line) -> float | None:
    return line.row.figures.std if line.row.figures else line.row.std


def _moment(line: Line) -> str:
    calls = len(line.row.moments)
    return number(line.row.moment) + (f" ×{calls}" if calls > 1 else "")


def _rule(line: Line) -> str:
    rule = f"left: {line.row.left}" if line.row.left else line.row.rule
    return f"{rule} (c)" if line.row.clone == "draws anew" else rule


def _fan(position: int) -> Callable[[Line], float | None]:
    return lambda line: line.row.fans[position] if line.row.fans else None


def _fan_text(position: int) -> Callable[[Line], str]:
    return lambda line: f"{line.row.fans[position]:g}" if line.row.fans else ""


def _marks(line: Line) -> str:
    numbers = ",".join(str(place) for place in line.verdicts)
    return f"✗{numbers}" if numbers else line.row.left


COLUMNS = (
    Column(
        "kernel",
        "Path of the variable: the names of its layers, and its own.",
        lambda line: line.row.path,
        initialization=ALL,
        audit=ALL,
        words=True,
    ),
    Column(
        "findings",
        "Verdicts of the findings about this kernel, or why it was not checked.",
        lambda line: ", ".join(dict.fromkeys(line.verdicts.values())) or line.row.left,
        audit=PAGE,
        words=True,
    ),
    Column(
        "layer",
        "Type of the layer that holds the kernel.",
        lambda line: line.row.layer,
        initialization=PAGE,
        audit=PAGE,
        words=True,
    ),
    Column(
        "shape",
        "Shape of the kernel; sorted by the number of its elements.",
        lambda line: line.row.shape,
        lambda line: "×".join(str(size) for size in line.row.shape),
        initialization=ALL,
        audit=WIDE,
    ),
    Column(
        "fan in",
        "Number of connections into one output unit.",
        _fan(0),
        _fan_text(0),
        initialization=PAGE,
        audit=PAGE,
    ),
    Column(
        "fan out",
        "Number of connections out of one input unit.",
        _fan(1),
        _fan_text(1),
        initialization=PAGE,
        audit=PAGE,
    ),
    Column(
        "activation",
        "The activation that precedes the kernel; linear if there is none.",
        lambda line: line.row.activation or "",
        initialization=ALL,
        audit=ALL,
        words=True,
    ),
    Column(
        "gain",
        "Standard deviation times the root of the fan: it compensates for the activation.",
        lambda line: line.row.gain,
        initialization=ALL,
    ),
    Column(
        "std",
        "Standard deviation of the kernel's values about 0.",
        _std,
        initialization=ALL,
        audit=ALL,
        key="std",
    ),
    Column(
        "expected std",
        "The standard deviation that the fans, the activation and the residual depth require.",
        lambda line: line.row.std,
        audit=ALL,
    ),
    Column(
        "E[y²]",
        "Second moment (mean of the squares) of the pre-activation, at the first call of the layer "
        "that was given a signal; ×2 says that there were two calls.",
        lambda line: line.row.moment,
        _moment,
        initialization=ALL,
        audit=ALL,
        key="moment",
    ),
    Column("mean", "Mean of the pre-activation.", _figure("mean"), audit=PAGE),
    Column(
        "dead",
        "Share of the units of the following activation whose outputs hardly change.",
        _figure("dead"),
        _share("dead"),
        audit=ALL,
    ),
    Column(
        "saturated",
        "Share of the values of the following activation where a sigmoid is flat.",
        _figure("saturated"),
        _share("saturated"),
        audit=PAGE,
    ),
    Column(
        "E[∇²]",
        "Second moment of the loss's gradient with respect to the pre-activation.",
        _figure("gradient"),
        initialization=ALL,
        audit=ALL,
        key="gradient",
    ),
    Column(
        "E[∇W²]",
        "Second moment of the loss's gradient with respect to the kernel.",
        _figure("kernel_gradient"),
        audit=PAGE,
    ),
    Column(
        "update",
        "Relative change of the kernel by one step of gradient descent, per unit of learning rate.",
        _figure("update_ratio"),
        audit=WIDE,
    ),
    Column(
        "rule",
        "How the kernel's values were found; (c) marks kernels that a clone re-draws.",
        _rule,
        initialization=ALL,
        words=True,
    ),
    Column(
        "",
        "Numbers of the findings about this kernel, or why it was not checked.",
        _marks,
        audit=TEXT,
    ),
)


def sort_key(value: Value) -> str:
    """Returns what a page sorts a value by: the number of elements of a shape."""
    if isinstance(value, tuple):
        return str(math.prod(value))
    return "" if value is None else str(value)
