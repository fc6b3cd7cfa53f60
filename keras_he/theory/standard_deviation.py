"""The standard deviation of a kernel, from gain, fans and mode."""

import math
from typing import Literal, get_args

from keras_he.errors import did_you_mean, invalid
from keras_he.theory.kernel_geometry import Fans
from keras_he.theory.quadrature import Moments

Mode = Literal["fan_in", "fan_out", "fan_avg"]
MODES: tuple[Mode, ...] = get_args(Mode)


def checked_mode(mode: object) -> Mode:
    """Returns the mode, or raises the error that names all modes."""
    for known in MODES:
        if isinstance(mode, str) and mode == known:
            return known
    raise invalid("mode", '"fan_in", "fan_out" or "fan_avg"', mode, did_you_mean(mode, MODES))


def standard_deviation(gain: float | Moments, fans: Fans, mode: str) -> float:
    """Returns the standard deviation that keeps the second moment of the signal, or the gradient.

    | mode | from an activation's moments | from a gain `g` |
    |---|---|---|
    | `"fan_in"` | `sqrt(1 / (n_in·E[f²]))` | `g / sqrt(n_in)` |
    | `"fan_out"` | `sqrt(1 / (n_out·E[f'²]))` | `g / sqrt(n_out)` |
    | `"fan_avg"` | `sqrt(2 / (n_in·E[f²] + n_out·E[f'²]))` | `g·sqrt(2 / (n_in + n_out))` |

    Args:
        gain: A gain, or the activation's second moments.
        fans: Fans of the kernel, above zero.
        mode: `"fan_in"`, `"fan_out"` or `"fan_avg"`.

    Reference:
        He et al. (2015), arXiv:1502.01852, equations 10 and 14; Glorot and Bengio (2010),
        equation 12, for the mean of both conditions.
    """
    if isinstance(gain, Moments):
        forward, backward = fans.fan_in * gain.signal, fans.fan_out * gain.gradient
        factor = 1.0
    else:
        forward, backward = fans
        factor = gain
    inverse = {"fan_in": forward, "fan_out": backward, "fan_avg": (forward + backward) / 2}[mode]
    return factor / math.sqrt(inverse)
