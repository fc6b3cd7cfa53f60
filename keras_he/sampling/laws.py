"""The laws of the weights: one record each, and their inverse distribution functions of words.

`LAWS` is the only table of laws: strings, classes, arguments, audits and `make_portable` read it.

A word is read as a number `u` in [-1, 1], and its value under a law is the quantile of probability
`(1 + u) / 2`. Only `+ - * /`, the square root, conversions and `frexp` are used, which IEEE 754
rounds the same way on every processor; NumPy's `log`, `sin` and `exp` are not, and are not used.

With `t = sqrt(1 - u²)`, the normal quantile is `u` times a smooth function of `t` as long as `t` is
not near 0; `tools/fit_inverse_normal.py` fits that function, and another for the tail that is left
over. All arithmetic keeps the unit of the word: it works on `U = S·u` and `T = S·t` with `S = 2³¹`.

A call of NumPy holds the interpreter's lock for half a microsecond before it computes, and threads
wait for one another there. Constants that are arrays already, and outputs by position, halve that.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy import absolute, add, copysign, divide, frexp, multiply, sqrt, subtract
from numpy.typing import NDArray

from keras_he.errors import did_you_mean, invalid

Words = NDArray[np.int32]
Values = NDArray[np.float32]
Constants = list[NDArray[Any]]


class Fill(NamedTuple):
    """Computes the values of words under a law of one standard deviation.

    Attributes:
        centre: Takes words, the array of their values, and room for two more such arrays. Fills the
            values, and returns the indices of those that it leaves to `tail`, or `None`.
        tail: Returns the values of words. It is slow, so its words are collected first.
    """

    centre: Callable[[Words, Values, NDArray[np.float32]], NDArray[np.intp] | None]
    tail: Callable[[Words], Values] = lambda words: np.empty(0, np.float32)

    def __call__(self, words: Words, values: Values, scratch: NDArray[np.float32]) -> None:
        """Fills all values, those of the tail too."""
        outer = self.centre(words, values, scratch)
        if outer is not None:
            values[outer] = self.tail(words[outer])


_WORD = 2.0**31

# Coefficients from the highest power to the lowest; all Q are monic.
# |u| up to 0.98 for the normal law; largest error 2.0e-6 of a standard deviation.
_CENTRE = 0.98
_NORMAL_P = (2.8132453709496157, 4.1514666457825085, 0.41255343180974624)
_NORMAL_Q = (3.102266467978354, 1.6803883421725092, 0.10361759034857526)
# |u| up to erf(sqrt(2)); largest error 4.4e-6 of the parent's standard deviation.
_TRUNCATED_P = (0.09910447240158511, 2.2306821322435817, 0.46403331018235444)
_TRUNCATED_Q = (1.1041491558000156, 0.12494078930895171)


def _constants(values: Iterable[float], dtype: type[np.floating] = np.float64) -> Constants:
    """Returns numbers as arrays without axes, which ufuncs take as they are."""
    return [np.array(value, dtype) for value in values]


# In r = sqrt(-2 log p), for tail probabilities p from 2^-33 to 0.0105; largest error 4.3e-8.
_TAIL_P = (1.0010150698955096, 4.874173762711473, -0.7651300287384409, -7.469847039750286)
_TAIL_Q = (4.935533126505471, 2.9270610971192195)
# -2 log(x / 2^32) of x = m · 2^e: f times a series in f² with f = (m - c) / (m + c), and a summand
# for each e.
_LOG_CENTRE = math.sqrt(0.5)
_LOG = tuple(-4.0 * c for c in (1 / 7, 1 / 5, 1 / 3, 1.0))
_LOG_POWERS = -2.0 * (math.log(2.0) * (np.arange(32.0) - 32) - 0.5 * math.log(2.0))
_HALF, _LIMIT = _constants((0.5, _WORD))

# The share of a normal law within two standard deviations, less the share in which rounding could
# step over the cut, and the standard deviation that remains within it (as Keras takes it).
_TRUNCATED_SHARE = math.erf(math.sqrt(2.0)) * (1 - 2.0**-20)
TRUNCATED_STD = 0.87962566103423978


def normal(std: float) -> Fill:
    """Returns what fills values from `N(0, std²)`; the largest are ±6.3 `std`."""
    ratio = _ratio(_NORMAL_P, _NORMAL_Q, std, _WORD)
    cut = np.array(_WORD * math.sqrt(1 - _CENTRE**2), np.float32)

    def centre(words: Words, values: Values, scratch: NDArray[np.float32]) -> Any:
        t = ratio(words, values, scratch)
        return (t < cut).nonzero()[0]

    return Fill(centre, lambda words: (std * _tail(words)).astype(np.float32))


def truncated_normal(std: float) -> Fill:
    """Returns what fills values from a normal law cut at two of its standard deviations.

    `std` is the standard deviation of what is drawn; values lie within `±2 * std / 0.87962566`.
    """
    ratio = _ratio(_TRUNCATED_P, _TRUNCATED_Q, std / TRUNCATED_STD, _WORD / _TRUNCATED_SHARE)

    def centre(words: Words, values: Values, scratch: NDArray[np.float32]) -> None:
        ratio(words, values, scratch)

    return Fill(centre)


def uniform(std: float) -> Fill:
    """Returns what fills values from the uniform law on `±sqrt(3) * std`, both limits included."""
    scale = np.array(math.sqrt(3.0) * std / _WORD, np.float32)

    def centre(words: Words, values: Values, scratch: NDArray[np.float32]) -> None:
        values[...] = words
        multiply(values, scale, values)

    return Fill(centre)


def _ratio(
    p: tuple[float, ...], q: tuple[float, ...], std: float, unit: float
) -> Callable[[Words, Values, NDArray[np.float32]], Values]:
    """Returns the function that sets values to `std * u * P(t) / Q(t)` and returns `T = unit * t`.

    The unit and the standard deviation are folded into the coefficients, and `u * P` is formed
    before the division, so that neither a small nor a large `std` leaves float32's normal range.
    """
    degree = len(q)
    p32 = _constants((std * c * unit**i for i, c in enumerate(p, degree - len(p))), np.float32)
    q32 = _constants((c * unit**i for i, c in enumerate(q, 1)), np.float32)
    square = np.array(unit * unit, np.float32)

    def fill(words: Words, values: Values, scratch: NDArray[np.float32]) -> Values:
        t: Values
        t, work = scratch[:2, : len(values)]
        values[...] = words
        multiply(values, values, t)
        subtract(square, t, t)
        sqrt(t, t)
        _polynomial(p32, t, work)
        multiply(values, work, values)
        _monic(q32, t, work)
        divide(values, work, values)
        return t

    return fill


def _polynomial(coefficients: Iterable[Any], x: NDArray[Any], out: NDArray[Any]) -> None:
    """Sets `out` to a polynomial of degree one or more."""
    highest, following, *rest = coefficients
    multiply(x, highest, out)
    add(out, following, out)
    _horner(rest, x, out)


def _monic(coefficients: Iterable[Any], x: NDArray[Any], out: NDArray[Any]) -> None:
    """Sets `out` to a polynomial whose highest coefficient, 1, is left out."""
    following, *rest = coefficients
    add(x, following, out)
    _horner(rest, x, out)


def _horner(coefficients: Iterable[Any], x: NDArray[Any], out: NDArray[Any]) -> None:
    for coefficient in coefficients:
        multiply(out, x, out)
        add(out, coefficient, out)


def _tail_quantile(x: NDArray[np.float64]) -> Any:
    """Returns how far out a standard normal value is whose tail has the probability `x / 2^32`."""
    mantissa, exponent = frexp(x)
    f = (mantissa - _LOG_CENTRE) / (mantissa + _LOG_CENTRE)
    above, below = np.empty((2, *x.shape))
    _polynomial(_LOG, f * f, above)
    r = sqrt(f * above + _LOG_POWERS[exponent])
    _polynomial(_TAIL_P, r, above)
    _monic(_TAIL_Q, r, below)
    return above / below


# That takes thirty steps, so it is taken at a few points once; between them there are cubics, each
# for one cell of x. The numbers in a cell share their sign, exponent and five bits of the fraction,
# all that is above the `_CELL` lowest bits. Largest error with both: 5.0e-8.
_CELL = np.array(52 - 5)
_CELLS = np.arange(*(np.array([0.5, 2.0**26]).view(np.int64) >> _CELL))


def _cubics() -> NDArray[np.float64]:
    """Returns the coefficients of the cubic in each cell, from the highest power to the lowest."""
    left, right = ((_CELLS + i << _CELL).view(np.float64) for i in (0, 1))
    points = [left, (2 * left + right) / 3, (left + 2 * right) / 3, right]
    differences = [_tail_quantile(x) for x in points]  # divided, as in Newton's interpolation
    for order in (1, 2, 3):
        for i in range(3, order - 1, -1):
            run = points[i] - points[i - order]
            differences[i] = (differences[i] - differences[i - 1]) / run
    coefficients = np.zeros((4, len(_CELLS)))
    for point, difference in zip(reversed(points), reversed(differences), strict=True):
        coefficients = np.vstack([coefficients[1:], difference]) - point * coefficients
    return coefficients


_CUBICS, _FIRST_CELL = _cubics(), _CELLS[0]


def _tail(words: Words) -> Any:
    """Returns the standard normal quantiles of words whose |u| is at least 0.979."""
    centred, x, value = np.empty((3, len(words)))
    add(words, _HALF, centred)
    absolute(centred, x)
    subtract(_LIMIT, x, x)
    cell = x.view(np.int64) >> _CELL
    subtract(cell, _FIRST_CELL, cell)
    _polynomial(_CUBICS.take(cell, 1), x, value)
    return copysign(value, centred, value)


LawName = Literal["normal", "uniform", "truncated_normal", "orthogonal"]


class Law(NamedTuple):
    """What the package knows of a law.

    Attributes:
        name: The name that `initialize(law=...)` takes.
        suffix: What it adds to a string: `he_relu_uniform`.
        class_name: The name of its class in `initializers.kaiming`.
        fill: Returns the `Fill` of a standard deviation. `None`: the law is drawn as orthogonal
            matrices, see `sampling.orthogonal`.
        built_in: Returns the class name and the arguments of the initializer of Keras that draws
            this law with a standard deviation (with a gain, of orthogonal matrices). `None`: Keras
            has none.
        furthest: No value is further from 0 than so many standard deviations.
    """

    name: LawName
    suffix: str
    class_name: str
    fill: Callable[[float], Fill] | None
    built_in: Callable[[float], tuple[str, dict[str, float]]] | None
    furthest: float = 6.4


def _keras_uniform(std: float) -> tuple[str, dict[str, float]]:
    limit = math.sqrt(3.0) * std
    return "RandomUniform", {"minval": -limit, "maxval": limit}


LAWS: dict[LawName, Law] = {
    law.name: law
    for law in (
        Law(
            "normal",
            suffix="",
            class_name="KaimingNormal",
            fill=normal,
            built_in=lambda std: ("RandomNormal", {"stddev": std}),
        ),
        Law(
            "uniform",
            suffix="_uniform",
            class_name="KaimingUniform",
            fill=uniform,
            built_in=_keras_uniform,
        ),
        Law(
            "truncated_normal",
            suffix="_truncated",
            class_name="KaimingTruncatedNormal",
            fill=truncated_normal,
            built_in=lambda std: ("TruncatedNormal", {"stddev": std / TRUNCATED_STD}),
        ),
        Law(
            "orthogonal",
            suffix="_orthogonal",
            class_name="KaimingOrthogonal",
            fill=None,
            built_in=lambda gain: ("Orthogonal", {"gain": gain}),
        ),
    )
}


def law_named(name: object) -> Law:
    """Returns the law of a name, or raises the error that names all laws."""
    for known in LAWS.values():
        if isinstance(name, str) and name == known.name:
            return known
    listed = ", ".join(repr(known) for known in LAWS)
    raise invalid("law", f"one of {listed}", name, did_you_mean(name, LAWS))
