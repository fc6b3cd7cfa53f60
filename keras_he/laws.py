"""The laws of the weights as inverse distribution functions of 32-bit words.

A word is read as a number `u` in [-1, 1], and its value under a law is the quantile of probability
`(1 + u) / 2`. Only `+ - * /`, the square root, conversions and `frexp` are used, which IEEE 754
rounds the same way on every processor; NumPy's `log`, `sin` and `exp` are not, and are not used.

With `t = sqrt(1 - u²)`, the normal quantile is `u` times a smooth function of `t` as long as `t` is
not near 0; `tools/fit_inverse_normal.py` fits that function, and the tail that is left over.
All arithmetic keeps the unit of the word: it works on `U = S·u` and `T = S·t` with `S = 2³¹`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.int32]
Values = NDArray[np.float32]
# Fills `values` from as many `words`; `scratch` has room for two arrays of their length.
Fill = Callable[[Words, Values, NDArray[np.float32]], None]

_WORD = 2.0**31

# |u| up to 0.98 for the normal law; largest error 2.0e-6 of a standard deviation.
_CENTRE = 0.98
_NORMAL_P = (0.41255343180974624, 4.1514666457825085, 2.8132453709496157)
_NORMAL_Q = (0.10361759034857526, 1.6803883421725092, 3.102266467978354, 1.0)
# In sqrt(-2 log p), for tail probabilities p from 2^-33 to 0.0105; largest error 4.3e-8.
_TAIL_P = (-7.469847039750286, -0.7651300287384409, 4.874173762711473, 1.0010150698955096)
_TAIL_Q = (2.9270610971192195, 4.935533126505471, 1.0)
# |u| up to erf(sqrt(2)); largest error 4.4e-6 of the parent's standard deviation.
_TRUNCATED_P = (0.46403331018235444, 2.2306821322435817, 0.09910447240158511)
_TRUNCATED_Q = (0.12494078930895171, 1.1041491558000156, 1.0)

# The share of a normal law within two standard deviations, less the share in which rounding could
# step over the cut, and the standard deviation that remains within it (as Keras takes it).
_TRUNCATED_SHARE = math.erf(math.sqrt(2.0)) * (1 - 2.0**-20)
_TRUNCATED_STD = 0.87962566103423978


def normal(std: float) -> Fill:
    """Returns the filler for `N(0, std²)`; its largest values are ±6.3 `std`."""
    ratio = _ratio(_NORMAL_P, _NORMAL_Q, std, _WORD)
    cut = np.float32(_WORD * math.sqrt(1 - _CENTRE**2))

    def fill(words: Words, values: Values, scratch: NDArray[np.float32]) -> None:
        t = ratio(words, values, scratch)
        outer = np.flatnonzero(t < cut)
        values[outer] = std * _tail(words[outer])

    return fill


def truncated_normal(std: float) -> Fill:
    """Returns the filler for a normal law cut at two of its standard deviations.

    `std` is the standard deviation of what is drawn; values lie within `±2 * std / 0.87962566`.
    """
    ratio = _ratio(_TRUNCATED_P, _TRUNCATED_Q, std / _TRUNCATED_STD, _WORD / _TRUNCATED_SHARE)

    def fill(words: Words, values: Values, scratch: NDArray[np.float32]) -> None:
        ratio(words, values, scratch)

    return fill


def uniform(std: float) -> Fill:
    """Returns the filler for the uniform law on `±sqrt(3) * std`, both limits included."""
    scale = np.float32(math.sqrt(3.0) * std / _WORD)

    def fill(words: Words, values: Values, scratch: NDArray[np.float32]) -> None:
        values[...] = words
        np.multiply(values, scale, out=values)

    return fill


def _ratio(
    p: tuple[float, ...], q: tuple[float, ...], std: float, unit: float
) -> Callable[[Words, Values, NDArray[np.float32]], Values]:
    """Returns the function that sets values to `std * u * P(t) / Q(t)` and returns `T = unit * t`.

    The unit and the standard deviation are folded into the coefficients, and `u * P` is formed
    before the division, so that neither a small nor a large `std` leaves float32's normal range.
    """
    degree = len(q) - 1
    p32 = [np.float32(std * c * unit ** (degree - 1 - i)) for i, c in enumerate(p)]
    q32 = [np.float32(c * unit ** (degree - i)) for i, c in enumerate(q)]
    square = np.float32(unit * unit)

    def fill(words: Words, values: Values, scratch: NDArray[np.float32]) -> Values:
        t, work = scratch[0, : len(values)], scratch[1, : len(values)]
        values[...] = words
        np.multiply(values, values, out=t)
        np.subtract(square, t, out=t)
        np.sqrt(t, out=t)
        _polynomial(p32, t, out=work)
        np.multiply(values, work, out=values)
        _polynomial(q32, t, out=work)
        np.divide(values, work, out=values)
        return t

    return fill


def _polynomial(coefficients: list[np.float32], x: Values, out: Values) -> None:
    """Sets `out` to the polynomial of degree two or more, coefficients from lowest to highest."""
    *lower, next_highest, highest = coefficients
    if highest == 1.0:
        np.add(x, next_highest, out=out)
    else:
        np.multiply(x, highest, out=out)
        np.add(out, next_highest, out=out)
    for coefficient in reversed(lower):
        np.multiply(out, x, out=out)
        np.add(out, coefficient, out=out)


def _tail(words: Words) -> Any:
    """Returns the standard normal quantiles of words whose |u| is at least 0.979, in float64."""
    sign = words >> 31  # 0 or -1
    probability = (2147483647.5 - (words ^ sign)) * 2.0**-32
    r = np.sqrt(-2.0 * _log(probability))
    p = ((_TAIL_P[3] * r + _TAIL_P[2]) * r + _TAIL_P[1]) * r + _TAIL_P[0]
    q = (r + _TAIL_Q[1]) * r + _TAIL_Q[0]
    return p / q * (2 * sign + 1)


def _log(x: NDArray[Any]) -> Any:
    """Returns the natural logarithm, to 4e-8, from operations that are exact on every processor."""
    mantissa, exponent = np.frexp(x)
    centre = math.sqrt(0.5)
    f = (mantissa - centre) / (mantissa + centre)
    f2 = f * f
    series = 2.0 * f * (1.0 + f2 * (1 / 3 + f2 * (1 / 5 + f2 * (1 / 7))))
    return series + (math.log(2.0) * exponent - 0.5 * math.log(2.0))
