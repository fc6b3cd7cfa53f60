"""Moments in closed form: functions made of pieces `c·z^p·e^(r·z)`, exact GELU and squareplus.

Every integral over the normal density is a sum of `erf` and `erfc`. Tails use `erfc` only, so they
keep their digits. If a sum loses digits or overflows, the result is `None`, and the caller
integrates numerically.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_he.theory.quadrature import Moments

_LARGEST_RATE = 30.0  # of e^(r·z): its integral has a factor e^(r²/2), within a float's range
_MOST_CANCELLED = 1e5  # leaves 11 digits


class Term(NamedTuple):
    """The function `coefficient · z^power · e^(rate·z)`."""

    coefficient: float
    power: int = 0
    rate: float = 0.0


class Piece(NamedTuple):
    """A sum of terms between two edges, zero elsewhere."""

    left: float
    right: float
    terms: tuple[Term, ...]


Pieces = tuple[Piece, ...]


def line(left: float, right: float, slope: float, offset: float = 0.0) -> Piece:
    """Returns the piece `slope·z + offset`."""
    return Piece(left, right, (Term(slope, 1), Term(offset)))


def function_of(pieces: Sequence[Piece]) -> Callable[[Any], NDArray[np.float64]]:
    """Returns the NumPy function that the pieces describe."""

    def values(x: Any) -> NDArray[np.float64]:
        x = np.asarray(x, dtype=np.float64)
        y: NDArray[np.float64] = np.zeros_like(x)
        for piece in pieces:
            inside = (x > piece.left) & (x <= piece.right)
            z = x[inside]
            for coefficient, power, rate in piece.terms:
                y[inside] += coefficient * z**power * np.exp(rate * z)
        return y

    return values


def piecewise(pieces: Sequence[Piece]) -> Moments | None:
    """Returns the moments of a sum of pieces, or `None` where the closed form loses digits."""
    sums = {moment: _Sum() for moment in Moments._fields}
    for left, right, terms in pieces:
        if left >= right:
            continue
        slopes = tuple(_derivative(terms))
        ramps = tuple(Term(c, power + 1, rate) for c, power, rate in slopes)
        if any(term.rate > _LARGEST_RATE for term in terms if term.coefficient):
            return None
        factors = {"signal": (terms, terms), "gradient": (slopes, slopes), "depth": (terms, ramps)}
        for moment, pair in factors.items():
            for a, b in product(*pair):
                merged = Term(a.coefficient * b.coefficient, a.power + b.power, a.rate + b.rate)
                if merged.coefficient:
                    sums[moment].add(*_expectation(merged, left, right))
    if not all(total.size <= _MOST_CANCELLED * abs(total.value) for total in sums.values()):
        return None
    return Moments(**{moment: total.value for moment, total in sums.items()})


class _Sum:
    """A sum, and the sum of the absolute values, which bounds its rounding error."""

    def __init__(self) -> None:
        self.value = 0.0
        self.size = 0.0

    def add(self, value: float, size: float) -> None:
        self.value += value
        self.size += size


def _derivative(terms: Iterable[Term]) -> Iterable[Term]:
    for coefficient, power, rate in terms:
        if power:
            yield Term(coefficient * power, power - 1, rate)
        if rate:
            yield Term(coefficient * rate, power, rate)


def _expectation(term: Term, left: float, right: float) -> tuple[float, float]:
    """Returns the term's integral between the edges, and the sum of the absolute values.

    With t = z - r: `z^p·e^(r·z)·density(z) = e^(r²/2)·(t + r)^p·density(t)`.
    """
    coefficient, power, rate = term
    total = _Sum()
    shifted = _normal_moments(left - rate, right - rate, power)
    for k, (value, size) in enumerate(shifted):
        factor = coefficient * math.exp(rate * rate / 2) * math.comb(power, k) * rate ** (power - k)
        total.add(factor * value, abs(factor) * size)
    return total.value, total.size


def _normal_moments(left: float, right: float, order: int) -> list[tuple[float, float]]:
    """Returns `E[t^k; left < t < right]` for k up to the order, and sums of the absolute values.

    By parts: `M_k = (k - 1)·M_(k-2) + left^(k-1)·density(left) - right^(k-1)·density(right)`.
    """
    mass = normal_mass(left, right)
    found = [(mass, mass)]
    for k in range(1, order + 1):
        before, size = found[k - 2] if k > 1 else (0.0, 0.0)
        ends = _edge(left, k - 1), _edge(right, k - 1)
        value = (k - 1) * before + ends[0] - ends[1]
        found.append((value, (k - 1) * size + abs(ends[0]) + abs(ends[1])))
    return found


def _edge(x: float, power: int) -> float:
    density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return 0.0 if math.isinf(x) else x**power * density


def normal_mass(left: float, right: float) -> float:
    """Returns the standard normal probability between two edges, accurate in both tails."""
    if left > 0:
        return (math.erfc(left / math.sqrt(2)) - math.erfc(right / math.sqrt(2))) / 2
    if right < 0:
        return normal_mass(-right, -left)
    return (math.erf(right / math.sqrt(2)) + math.erf(-left / math.sqrt(2))) / 2


def relu_pieces(negative_slope: float, max_value: float | None, threshold: float) -> Pieces:
    """Returns `keras.activations.relu`: above the threshold z, cut to [0, max_value] if given."""
    below = line(-inf, threshold, negative_slope, -negative_slope * threshold)
    if max_value is None:
        return below, line(threshold, inf, 1.0)
    zero = max(threshold, 0.0)
    return below, line(zero, max_value, 1.0), line(max(zero, max_value), inf, 0.0, max_value)


def leaky_pieces(negative_slope: float) -> Pieces:
    """Returns z above 0 and `negative_slope·z` below."""
    return relu_pieces(negative_slope, None, 0.0)


def elu_pieces(alpha: float, rate: float = 1.0, scale: float = 1.0) -> Pieces:
    """Returns `scale·z` above 0 and `scale·alpha·(e^(rate·z) - 1)` below."""
    decay = (Term(scale * alpha, 0, rate), Term(-scale * alpha))
    return Piece(-inf, 0.0, decay), line(0.0, inf, scale)


def hard_shrink_pieces(threshold: float) -> Pieces:
    """Returns z where `|z| > threshold`."""
    return line(-inf, -threshold, 1.0), line(threshold, inf, 1.0)


def soft_shrink_pieces(threshold: float) -> Pieces:
    """Returns z, moved by the threshold towards 0, where `|z| > threshold`."""
    return line(-inf, -threshold, 1.0, threshold), line(threshold, inf, 1.0, -threshold)


def threshold_pieces(threshold: float, default_value: float) -> Pieces:
    """Returns z above the threshold and the default value below."""
    return line(-inf, threshold, 0.0, default_value), line(threshold, inf, 1.0)


def relu_moments(
    negative_slope: float, max_value: float | None, threshold: float
) -> Moments | None:
    """Returns the moments of `keras.activations.relu`.

    Those of a slope are (1 + a²)/2: He et al. (2015), arXiv:1502.01852, equations 8 and 15.
    """
    if max_value is None and threshold == 0.0:
        half = (1.0 + negative_slope * negative_slope) / 2.0
        return Moments(half, half, half)
    return piecewise(relu_pieces(negative_slope, max_value, threshold))


def gelu_moments(approximate: float) -> Moments | None:
    """Returns the moments of `z·Φ(z)`; none for the approximation by tanh.

    Integration by parts, with `E[Φ²] = 1/3`, `E[z·Φ·φ] = 1/(4π√3)`, `E[z²·φ²] = 1/(6π√3)` and
    `E[z³·Φ·φ] = 1/(3π√3)`, where φ = Φ'.
    """
    if approximate:
        return None
    unit = 1.0 / (math.pi * math.sqrt(3.0))
    return Moments(1 / 3 + unit / 2, 1 / 3 + unit * 2 / 3, 1 / 3 + unit * 5 / 6)


def squareplus_moments(b: float) -> Moments | None:
    """Returns the moments of `(z + √(z² + b))/2`; none where `e^(b/2)` overflows.

    Odd parts vanish: `E[f²] = (2 + b)/4`, `E[f'²] = (2 - b·E[1/(z² + b)])/4`, `E[z·f·f'] = 1/2`,
    where `b·E[1/(z² + b)] = √(πb/2)·e^(b/2)·erfc(√(b/2))` (DLMF 7.7.1).
    """
    if b > 1000.0:
        return None
    missing = math.sqrt(math.pi * b / 2) * math.exp(b / 2) * math.erfc(math.sqrt(b / 2))
    return Moments((2 + b) / 4, (2 - missing) / 4, 0.5)


def celu(x: Any, alpha: float) -> Any:
    """Returns CELU, without the cancellation of its pieces for a large alpha."""
    return np.maximum(x, 0.0) + alpha * np.expm1(np.minimum(x, 0.0) / alpha)


def sigmoid(x: Any) -> Any:
    """Returns `1/(1 + e^-x)`, which this form cannot overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def softplus(x: Any) -> Any:
    """Returns `log(1 + e^x)`."""
    return np.logaddexp(x, 0.0)


def gelu(x: Any, approximate: float) -> Any:
    """Returns `x·Φ(x)`, or its approximation by tanh: Hendrycks and Gimpel, arXiv:1606.08415."""
    if approximate:
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * np.vectorize(math.erfc, otypes=[float])(-x / math.sqrt(2.0))
