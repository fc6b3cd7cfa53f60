"""Gains of kernels whose pre-activations cannot be observed: solved from what their layer returns.

A layer may hold several kernels and combine them in code of its own. What it returns is known, and
it can be run again with other kernels. By how much the second moment of what it returns changes
with each kernel tells which kernels set its size: it is multiplied by `factor**exponent`, with an
exponent of 2 for a kernel in which the layer is linear, and near 0 for a gate. The kernels that set
the size share the correction equally.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

_SETS_SIZE = 0.5  # exponent of a kernel from which on it sets the size
_FLAT = 0.25  # exponent below which the kernel only saturates what follows it
_STEEPEST = 16.0  # exponent beyond which nothing is extrapolated
_STEP = 0.05  # in the logarithm of a gain, from which on an exponent is measured
_STEPS = 8  # runs of a layer in search of the factor
_CLOSE, _KEPT = 0.01, 0.1  # natural logarithms: where the search ends, and what counts as reached


class Solution(NamedTuple):
    """What a search found.

    Attributes:
        factors: By which each gain is multiplied; 1 of kernels that do not set the size.
        sets_size: The positions of the kernels that do.
        reached: Whether the second moment is within 10 % of its target.
    """

    factors: tuple[float, ...]
    sets_size: tuple[int, ...]
    reached: bool


def solve(
    moment_of: Callable[[Sequence[float]], float],
    count: int,
    target: float,
    candidates: Sequence[int] | None = None,
) -> Solution:
    """Returns the factors of gains by which a layer returns a second moment.

    Args:
        moment_of: Runs the layer with its gains multiplied by factors; returns the second moment.
        count: The number of kernels.
        target: The second moment that the layer is to return.
        candidates: Positions of the kernels that may change; `None` for all.
    """
    changeable = list(range(count) if candidates is None else candidates)

    def run(factor: float, positions: Sequence[int]) -> float:
        return moment_of([factor if place in positions else 1.0 for place in range(count)])

    first = run(1.0, ())
    if len(changeable) == 1:
        exponents = {changeable[0]: 2.0}
    else:
        exponents = {place: _exponent(first, run(0.5, [place])) for place in changeable}
    chosen = tuple(place for place, one in exponents.items() if one >= _SETS_SIZE)
    if not chosen or first == 0.0:
        return Solution((1.0,) * count, (), _misses(first, target) <= _KEPT)
    slope = min(sum(exponents[place] for place in chosen), _STEEPEST)
    best, factor = _search(lambda one: run(one, chosen), first, target, slope)
    reached = best <= _KEPT
    # A layer that cannot return more, as behind a sigmoid, would get larger kernels for nothing.
    if not reached and first < target:
        factor = 1.0
    factors = tuple(factor if place in chosen else 1.0 for place in range(count))
    return Solution(factors, chosen, reached)


def _search(
    run: Callable[[float], float], first: float, target: float, slope: float
) -> tuple[float, float]:
    """Returns by how much the target is missed at best, and with which factor."""
    place, moment = 0.0, first
    best, best_place = _misses(first, target), 0.0
    for _ in range(_STEPS):
        if best <= _CLOSE:
            break
        # Where nothing finite came back, the kernels are far too large.
        known = 0.0 < moment < math.inf
        step = math.log(target / moment) / slope if known else -math.log(4.0)
        last_place, last_moment = place, moment
        place = min(max(place + step, -30.0), 30.0)
        moment = run(math.exp(place))
        if _misses(moment, target) < best:
            best, best_place = _misses(moment, target), place
        # A smaller step may be the rounding of a gain.
        if known and 0.0 < moment < math.inf and abs(place - last_place) > _STEP:
            measured = math.log(moment / last_moment) / (place - last_place)
            if measured < _FLAT:
                return math.inf, 1.0
            slope = min(measured, _STEEPEST)
    return best, math.exp(best_place)


def _exponent(whole: float, halved: float) -> float:
    """Returns the exponent of a kernel, from the moments with it and with half of it."""
    if not (0.0 < halved < math.inf and whole > 0.0):
        return 0.0 if whole == halved else _STEEPEST
    return _STEEPEST if whole == math.inf else math.log2(whole / halved)


def _misses(moment: float, target: float) -> float:
    """Returns by how much a moment misses its target, as the size of a natural logarithm."""
    return abs(math.log(moment / target)) if 0.0 < moment < math.inf else math.inf
