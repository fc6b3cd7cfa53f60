"""What the runs say, as Markdown; from their JSON alone, without Keras.

All differences are paired: the same seed has the same order of the data, and the same weights where
`keras_he.initialize` sets none. A difference is given as t, in units of its standard error. With
five pairs, |t| is above 2.776 in 5 of 100 comparisons of initializers that do not differ.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Run = dict[str, Any]
# |t| that a Student distribution exceeds with probability 0.05, by its degrees of freedom.
CRITICAL = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
}
MEASURES = ("training", "validation")
BASE, OURS, UNSCALED = ORDER = ("default", "keras_he", "residual=None")


def best_rate(tried: Sequence[Run]) -> float:
    """Returns the learning rate with the lowest mean validation loss; NaN counts as the worst."""

    def mean(rate: float) -> float:
        losses = [run["validation"] for run in tried if run["learning_rate"] == rate]
        return statistics.fmean(losses) if all(map(math.isfinite, losses)) else math.inf

    rates: list[float] = list(dict.fromkeys(run["learning_rate"] for run in tried))
    return min(rates, key=mean)


def paired_t(ones: Sequence[float], others: Sequence[float]) -> float:
    """Returns the mean of the differences over its standard error, below 0 if the first are less.

    Args:
        ones: Losses.
        others: Losses of the same seeds.
    """
    differences = [one - other for one, other in zip(ones, others, strict=True)]
    if not all(map(math.isfinite, differences)):
        return math.nan
    if not any(differences):
        return 0.0
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    mean = statistics.fmean(differences)
    return mean / error if error else math.copysign(math.inf, mean)


def verdict(t: float, pairs: int) -> str:
    """Returns whether losses are better, the same or worse than those that they are compared to."""
    if math.isnan(t):
        return "diverged"
    if abs(t) <= CRITICAL[pairs - 1]:
        return "same"
    return "better" if t < 0 else "worse"


def compared(runs: Iterable[Run], model: str) -> dict[str, list[Run]]:
    """Returns the runs of a model that are compared, by initializer, Keras' own first."""

    def order(run: Run) -> tuple[int, str, int]:
        name: str = run["initializer"]
        return (ORDER.index(name) if name in ORDER else len(ORDER)), name, run["seed"]

    found: dict[str, list[Run]] = {}
    for run in sorted(runs, key=order):
        if run["model"] == model and run["part"] == "comparison":
            found.setdefault(run["initializer"], []).append(run)
    return found


def pairs(ones: Sequence[Run], others: Sequence[Run], measure: str) -> tuple[float, int]:
    """Returns t of a measure over the seeds that both have, and how many these are."""
    by_seed = {run["seed"]: run[measure] for run in others}
    shared = [run for run in ones if run["seed"] in by_seed]
    first, second = [run[measure] for run in shared], [by_seed[run["seed"]] for run in shared]
    return (paired_t(first, second) if len(shared) > 1 else math.nan), len(shared)


def markdown(known: dict[str, Any]) -> str:
    """Returns all tables."""
    names = list(dict.fromkeys(run["model"] for run in known["runs"]))
    runs = {name: compared(known["runs"], name) for name in names}
    runs = {name: found for name, found in runs.items() if BASE in found}
    return "\n\n".join(
        _table(heads, lines)
        for heads, lines in (_losses(runs, known["models"]), _depth(runs))
        if lines
    )


def _losses(runs: dict[str, dict[str, list[Run]]], models: dict[str, Any]) -> Any:
    """Returns the losses, and how each initializer compares with Keras' default."""
    heads = "model|weights|rate|spread|training loss|validation loss|t|t, validation|verdict"
    lines = []
    for name, found in runs.items():
        for initializer, given in found.items():
            cells = [name, initializer, _rate(given, models[name]), _spread(given)]
            cells += [_mean(run[measure] for run in given) for measure in MEASURES]
            lines.append([*cells, *_judged(given, found[BASE], initializer == BASE)])
    return heads.split("|"), lines


def _judged(ones: Sequence[Run], others: Sequence[Run], same: bool = False) -> list[str]:
    """Returns t of both measures, and the verdict, which is that of the validation loss."""
    if same:
        return ["", "", ""]
    found = [pairs(ones, others, measure) for measure in MEASURES]
    return [*(f"{t:+.1f}" for t, _ in found), verdict(*found[-1])]


def _depth(runs: dict[str, dict[str, list[Run]]]) -> Any:
    """Returns how branches that are scaled by depth compare with branches that are not."""
    heads = ["model", "t", "t, validation", "scaling by depth is"]
    lines = [
        [name, *_judged(found[OURS], found[UNSCALED])]
        for name, found in runs.items()
        if {OURS, UNSCALED} <= found.keys()
    ]
    return heads, lines


def _rate(given: Sequence[Run], model: dict[str, Any]) -> str:
    """Returns the learning rate, marked where it is the smallest or the largest of the grid."""
    rate = given[0]["learning_rate"]
    low, *_, high = model["learning_rates"]
    return f"{rate:g}" + {low: " ↓", high: " ↑"}.get(rate, "")


def _spread(given: Sequence[Run]) -> str:
    return f"{statistics.median(run['spread'] for run in given):.2f}"


def _mean(values: Iterable[float]) -> str:
    numbers = list(values)
    if not all(map(math.isfinite, numbers)):
        return "diverged"
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else math.nan
    return f"{statistics.fmean(numbers):.4f} ± {deviation:.4f}"


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
