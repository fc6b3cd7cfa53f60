"""A report as text for a terminal, 100 columns wide at most."""

import shutil
import textwrap
from collections.abc import Sequence
from io import StringIO
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keras_he.reports.columns import Line, columns_of

WIDTH = 100  # columns
_LEAST = 60
_WIDE = 96  # columns from which a table has those that the others imply


def report_text(
    job: Literal["initialization", "audit"],
    head: Sequence[str],
    lines: Sequence[Line],
    foot: Sequence[str],
) -> str:
    """Returns the text of a report, as wide as the terminal and at most 100 columns.

    Args:
        job: Whose report it is.
        head: The paragraphs above the table.
        lines: The lines of the table.
        foot: The paragraphs below it. Lines after the first of a paragraph are indented.
    """
    width = max(_LEAST, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))
    columns = columns_of(job, "wide" if width >= _WIDE else "narrow")
    cells = [[column.cell(line) for column in columns] for line in lines]
    table = [grid([column.title for column in columns], cells)] if lines else []
    above, below = (
        [Text(line) for text in texts for line in _wrapped(text, width)] for texts in (head, foot)
    )
    return rendered([*above, *table, *below], width)


def rendered(parts: Sequence[Table | Text | str], width: int) -> str:
    """Returns parts as plain text, with no blanks at the ends of lines."""
    file = StringIO()
    console = Console(file=file, width=width, color_system=None, legacy_windows=False)
    for part in parts:
        console.print(part, markup=False, highlight=False, emoji=False)
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines())


def grid(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Returns a table whose first and last column are wrapped if the terminal is narrow."""
    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for position, title in enumerate(titles):
        wide = position in (0, len(titles) - 1)
        made.add_column(Text(title), overflow="fold", no_wrap=not wide)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def _wrapped(text: str, width: int) -> list[str]:
    """Returns the lines of a text, those after the first indented by two more columns."""
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)
