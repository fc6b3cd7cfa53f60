"""The known activations: name → moments → gain (being written)."""

import math
from functools import lru_cache
from typing import NamedTuple

from keras_he.errors import did_you_mean, invalid
from keras_he.quadrature import Moments

DEFAULT_SLOPES = {"leaky_relu": 0.2, "prelu": 0.25}
_SLOPES = {"relu": 0.0, "linear": 1.0, **DEFAULT_SLOPES}
NAMES: tuple[str, ...] = tuple(sorted(_SLOPES))
REFUSED: dict[str, str] = {
    "softmax": "acts across elements, so it has no moments of its own",
    "log_softmax": "acts across elements, so it has no moments of its own",
    "sparsemax": "acts across elements, so it has no moments of its own",
    "glu": "acts across elements, so it has no moments of its own",
    "threshold": "has required arguments",
}


class DepthFactors(NamedTuple):
    """What one more layer does to an error of the signal, and to the gradient."""

    signal: float
    gradient: float


def canonical(name: str) -> str:
    """Returns the activation's name, aliases resolved."""
    if name in REFUSED:
        raise invalid("activation", "an elementwise activation", name, REFUSED[name])
    if name not in _SLOPES:
        raise invalid("activation", "the name of an activation", name, did_you_mean(name, NAMES))
    return name


@lru_cache(maxsize=1024)
def moments(name: str, **parameters: float) -> Moments:
    """Returns the moments of a known activation."""
    name = canonical(name)
    slope = parameters.get("negative_slope", _SLOPES[name])
    half = (1.0 + slope * slope) / 2.0
    return Moments(half, half, half)


def gain(moments: Moments, mode: str) -> float:
    """Returns the gain: `fan_in` 1/√signal, `fan_out` 1/√gradient, `fan_avg` of equal fans."""
    if mode == "fan_in":
        return 1.0 / math.sqrt(moments.signal)
    if mode == "fan_out":
        return 1.0 / math.sqrt(moments.gradient)
    return math.sqrt(2.0 / (moments.signal + moments.gradient))


def depth_factors(moments: Moments) -> DepthFactors:
    """Returns the factors by which depth multiplies an error of the signal, and the gradient."""
    return DepthFactors(moments.depth / moments.signal, moments.gradient / moments.signal)
