"""What was done to a model, or would be: one row for each variable, and what a person should know.

A report holds plain values only, so it can be compared, kept as JSON, and read without the model.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from keras_he.errors import KerasHeError

WIDTH = 100  # columns of the printed table
_COLUMNS = (("kernel", 37), ("shape", 17), ("in front", 10), ("gain", 8), ("std", 8), ("E[y²]", 8))


_GAPS = ("dead input", "not built", "the trunk")  # warnings that `check` raises
_TABLE = "a table that is looked up"
_ON_PURPOSE = ("not selected", "frozen", "quantized", "LoRA", "holds integers")


class ReportProblem(KerasHeError, ValueError):
    """A kernel was not set, or a second moment lies outside of the band."""


@dataclass(frozen=True)
class Row:
    """What happened to one variable.

    Attributes:
        path: Names of the layers on the way to it, and its own.
        layer: Type of the layer that holds it.
        shape: Its shape.
        role: `"kernel"`, `"remade"` by an initializer of its layer, `"statistic"`, `"unknown"`
            where it may be a kernel and no rule says so, or `"other"`.
        fans: Connections into an output and out of an input unit, of kernels.
        activation: The activation in front, of kernels that the pass came by; `"linear"` for none.
        gain: Factor over `1 / sqrt(fan)`, of kernels that were set.
        std: Standard deviation of the values, of kernels that were set.
        rule: How its values were found; empty where it was left.
        left: Why it was left as it is; empty where it was not.
        moments: Second moment of the pre-activation without its bias, at each call of the layer.
        target: The second moment that was asked for; below 1 for the last kernel before a sum.
        clone: Of kernels that were set, `"same"` if a clone of the model has these weights again,
            else `"draws anew"`.
        values: The range of what is no kernel, as (least, largest).
    """

    path: str
    layer: str
    shape: tuple[int, ...]
    role: str
    fans: tuple[float, float] | None = None
    activation: str | None = None
    gain: float | None = None
    std: float | None = None
    rule: str = ""
    left: str = ""
    moments: tuple[float, ...] = ()
    target: float = 1.0
    clone: str = ""
    values: tuple[float, float] | None = None


@dataclass(frozen=True)
class Report:
    """What `initialize` did: a row for each variable, a summary, and warnings.

    Attributes:
        model: Name of the model.
        mode: `"fan_in"`, `"fan_out"` or `"fan_avg"`.
        law: Law of the kernels.
        seed: The seed; given again, it draws the same weights.
        rows: One for each variable.
        warnings: What a person should know.
        random_layers: Layers whose random numbers differ between backends, and with them what was
            measured behind them.
        gradient_spread: Decades between the largest and the smallest second moment that the
            gradient has on its way, as the fans and moments of a plain chain predict it; `None`
            where the model branches.
        written: Whether the model was changed; `False` after a dry run.
    """

    model: str
    mode: str
    law: str
    seed: int
    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()
    random_layers: tuple[str, ...] = ()
    gradient_spread: float | None = None
    written: bool = True

    @property
    def kernels(self) -> tuple[Row, ...]:
        """The rows of kernels, those among them that no rule knows."""
        return tuple(row for row in self.rows if row.role in ("kernel", "unknown"))

    @property
    def forward_spread(self) -> float:
        """Decades between the largest and the smallest second moment over its target.

        Of the first calls of the kernels that were measured; 0.0 where there are none.
        """
        ratios = [_first(row) / row.target for row in self.kernels if _first(row)]
        return math.log10(max(ratios) / min(ratios)) if ratios else 0.0

    def check(self, *, spread: float = math.log10(1.5), skipped: bool = False) -> None:
        """Raises where a kernel was not set, or the forward signal is not kept: for use in CI.

        Args:
            spread: Decades that `forward_spread` may reach.
            skipped: Whether kernels are accepted that were left on purpose: by `only` and `skip`,
                frozen, quantized, or under LoRA.

        Raises:
            ReportProblem: With all that was missed.
        """
        accepted = (_TABLE, *(_ON_PURPOSE if skipped else ()))
        missed = [
            f"{row.path} was not set: {row.left}"
            for row in self.kernels
            if row.left and not row.left.startswith(accepted)
        ]
        missed += [
            f"{row.path} was not reached by the pass"
            for row in self.kernels
            if row.rule.endswith("not reached")
        ]
        missed += [text for text in self.warnings if text.startswith(_GAPS)]
        if self.forward_spread > spread:
            missed.append(f"forward spread {self.forward_spread:.2f} is above {spread:.2f} decades")
        if missed:
            raise ReportProblem("The report must show no gaps.\n" + "\n".join(missed))

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain values."""
        return {**asdict(self), "forward_spread": self.forward_spread}

    def to_json(self, **kwargs: Any) -> str:
        """Returns the report as JSON; keywords go to `json.dumps`."""
        return json.dumps(self.to_dict(), **kwargs)

    def __str__(self) -> str:
        return "\n".join([*self._head(), *_table(self.kernels), *self._foot()])

    def _head(self) -> list[str]:
        done = "would get" if not self.written else "has"
        kernels = self.kernels
        count = sum(not row.left for row in kernels)
        return [
            f"{self.model} {done} {count} of {len(kernels)} kernels set: {self.law}, {self.mode}, "
            f"seed {self.seed}."
        ]

    def _foot(self) -> list[str]:
        gradient = (
            f"{self.gradient_spread:.2f} decades predicted"
            if self.gradient_spread is not None
            else "not predicted, for the model branches or was not measured"
        )
        lines = [
            f"Second moment of the signal over depth: spread {self.forward_spread:.2f} decades "
            "about its targets.",
            f"Second moment of the gradient over depth: {gradient}.",
        ]
        anew = sum(row.clone == "draws anew" for row in self.kernels)
        if anew:
            lines.append(f"A clone of the model draws {anew} kernels anew (c), the others it has.")
        lines += _others(self.rows)
        lines += [f"! {text}" for text in self.warnings]
        if self.random_layers:
            lines.append(f"Random layers: {len(self.random_layers)}; their masks are a backend's.")
        return [line for text in lines for line in _wrapped(text)]


def gradient_spread(factors: Sequence[float]) -> float:
    """Returns the decades between the extremes of a gradient that these factors multiply in turn.

    Args:
        factors: By which each kernel changes the gradient's second moment, in any order of a chain.
    """
    level, levels = 0.0, [0.0]
    for factor in factors:
        level += math.log10(factor)
        levels.append(level)
    return max(levels) - min(levels)


def _first(row: Row) -> float:
    """Returns the second moment at the first call that was given a signal; 0 of no such."""
    return next((one for one in row.moments if one), 0.0) if row.rule == "measured" else 0.0


def _table(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    titles = "".join(title.ljust(width) for title, width in _COLUMNS)
    return [titles + "rule", *(_line(row) for row in rows)]


def _line(row: Row) -> str:
    cells = (
        _shortened(row.path, _COLUMNS[0][1] - 1),
        "×".join(str(size) for size in row.shape),
        _shortened(row.activation or "", _COLUMNS[2][1] - 1),
        "" if row.gain is None else f"{row.gain:.3g}",
        "" if row.std is None else f"{row.std:.3g}",
        f"{row.moments[0]:.3g}" if row.moments else "",
    )
    text = "".join(cell.ljust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True))
    rule = f"left: {row.left}" if row.left else row.rule
    calls = f" ×{len(row.moments)}" if len(row.moments) > 1 else ""
    anew = " (c)" if row.clone == "draws anew" else ""
    return _shortened(f"{text}{rule}{calls}{anew}", WIDTH, at_end=True)


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


def _shortened(text: str, width: int, *, at_end: bool = False) -> str:
    """Returns a text that fits, without its middle, or its end."""
    if len(text) <= width:
        return text
    if at_end:
        return text[: width - 1] + "…"
    half = (width - 1) // 2
    return f"{text[:half]}…{text[len(text) - (width - 1 - half) :]}"


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=True)
