"""The known activations: name → moments → gain.

The table has every elementwise function of `keras.activations`, with Keras' name and defaults, and
`prelu` with the paper's slope. Functions that act across elements have no moments and are refused,
and so is `threshold`, whose name does not determine the function.

Reference:
    He et al. (2015), Delving Deep into Rectifiers, arXiv:1502.01852. The definitions are those of
    `keras.activations` in Keras 3.15.
"""

import math
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from math import inf
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from keras_he.errors import did_you_mean, invalid
from keras_he.theory import closed_forms
from keras_he.theory.closed_forms import Piece, Pieces, Term, function_of, line, piecewise
from keras_he.theory.quadrature import Moments, moments_of

DEFAULT_SLOPES = {"leaky_relu": 0.2, "prelu": 0.25}
ALIASES = {"swish": "silu", "hard_swish": "hard_silu"}

_ACROSS = "acts across elements and has no moments of its own. Give the gain as a number: `gain=`."
REFUSED: dict[str, str] = {
    "softmax": f"softmax {_ACROSS}",
    "log_softmax": f"log_softmax {_ACROSS}",
    "sparsemax": f"sparsemax {_ACROSS}",
    "glu": f"glu {_ACROSS}",
    "threshold": (
        "threshold has two required arguments, which a name does not give. "
        "Pass a function: `lambda x: keras.activations.threshold(x, 1.0, 0.0)`."
    ),
}

_LARGEST = sys.float_info.max
_LARGEST_SLOPE = 1e150  # its square is finite too
_LEAST, _MOST = 1e-290, 1e290  # of a moment: the gain and its square are finite numbers too
_NEEDED = {"fan_in": ("signal",), "fan_out": ("gradient",), "fan_avg": ("signal", "gradient")}


class Activation(NamedTuple):
    """An activation and its moments; `name` is None if only the moments are known."""

    name: str | None
    negative_slope: float | None
    moments: Moments


class Parameter(NamedTuple):
    """A parameter of an activation: its default (or `None`) and its least value."""

    default: float | None
    least: float = -inf
    required: bool = False


class Known(NamedTuple):
    """An activation of the table.

    Attributes:
        function: The definition in NumPy; takes the parameters by name.
        closed: The moments in closed form. If it is `None`, or returns `None`, they are integrated
            numerically.
        parameters: Names, defaults and bounds.
    """

    function: Callable[..., Any]
    closed: Callable[..., Moments | None] | None
    parameters: Mapping[str, Parameter]


def _pieces(build: Callable[..., Pieces], **parameters: Parameter) -> Known:
    """Returns the entry of a function made of pieces."""
    return Known(
        lambda x, **values: function_of(build(**values))(x),
        lambda **values: piecewise(build(**values)),
        parameters,
    )


def _integrated(function: Callable[..., Any], **parameters: Parameter) -> Known:
    return Known(function, None, parameters)


# Klambauer et al. (2017), arXiv:1706.02515, equation 14.
_SELU = closed_forms.elu_pieces(1.6732632423543772, scale=1.0507009873554805)
_QUADRATIC = (Term(1 / 4), Term(1 / 2, 1), Term(1 / 4, 2))
_RELU = {
    "negative_slope": Parameter(0.0),
    "max_value": Parameter(None, least=0.0),
    "threshold": Parameter(0.0),
}

KNOWN: dict[str, Known] = {
    "celu": Known(
        closed_forms.celu,
        lambda alpha: piecewise(closed_forms.elu_pieces(alpha, 1.0 / alpha)),
        {"alpha": Parameter(1.0, least=1e-6)},
    ),
    "elu": _pieces(closed_forms.elu_pieces, alpha=Parameter(1.0)),
    "exponential": _pieces(lambda: (Piece(-inf, inf, (Term(1.0, 0, 1.0),)),)),
    "gelu": Known(closed_forms.gelu, closed_forms.gelu_moments, {"approximate": Parameter(0.0)}),
    "hard_shrink": _pieces(closed_forms.hard_shrink_pieces, threshold=Parameter(0.5, least=0.0)),
    "hard_sigmoid": _pieces(lambda: (line(-3, 3, 1 / 6, 1 / 2), line(3, inf, 0, 1))),
    "hard_silu": _pieces(lambda: (Piece(-3, 3, (Term(1 / 2, 1), Term(1 / 6, 2))), line(3, inf, 1))),
    "hard_tanh": _pieces(lambda: (line(-inf, -1, 0, -1), line(-1, 1, 1), line(1, inf, 0, 1))),
    "leaky_relu": _pieces(
        closed_forms.leaky_pieces, negative_slope=Parameter(DEFAULT_SLOPES["leaky_relu"])
    ),
    "linear": _pieces(lambda: (line(-inf, inf, 1),)),
    "log_sigmoid": _integrated(lambda x: -closed_forms.softplus(-x)),
    "mish": _integrated(lambda x: x * np.tanh(closed_forms.softplus(x))),
    "prelu": _pieces(closed_forms.leaky_pieces, negative_slope=Parameter(DEFAULT_SLOPES["prelu"])),
    "relu": _pieces(closed_forms.relu_pieces, **_RELU)._replace(closed=closed_forms.relu_moments),
    "relu6": _pieces(lambda: closed_forms.relu_pieces(0.0, 6.0, 0.0)),
    "selu": _pieces(lambda: _SELU),
    "sigmoid": _integrated(closed_forms.sigmoid),
    "silu": _integrated(lambda x: x * closed_forms.sigmoid(x)),
    "soft_shrink": _pieces(closed_forms.soft_shrink_pieces, threshold=Parameter(0.5, least=0.0)),
    "softplus": _integrated(closed_forms.softplus),
    "softsign": _integrated(lambda x: x / (1.0 + np.abs(x))),
    "sparse_plus": _pieces(lambda: (Piece(-1, 1, _QUADRATIC), line(1, inf, 1))),
    "sparse_sigmoid": _pieces(lambda: (line(-1, 1, 1 / 2, 1 / 2), line(1, inf, 0, 1))),
    "squareplus": Known(
        lambda x, b: 0.5 * (x + np.sqrt(x * x + b)),
        closed_forms.squareplus_moments,
        {"b": Parameter(4.0, least=0.0)},
    ),
    "tanh": _integrated(np.tanh),
    "tanh_shrink": _integrated(lambda x: x - np.tanh(x)),
    "threshold": _pieces(
        closed_forms.threshold_pieces,
        threshold=Parameter(None, required=True),
        default_value=Parameter(None, required=True),
    ),
}
NAMES: tuple[str, ...] = tuple(sorted((KNOWN.keys() | ALIASES.keys()) - REFUSED.keys()))


class DepthFactors(NamedTuple):
    """The effect of one more layer, with kernels that keep the signal's second moment at 1.

    Attributes:
        signal: `E[z·f·f'] / E[f²]`: the factor on a small error of the signal's second moment.
        gradient: `E[f'²] / E[f²]`: the factor on the gradient's second moment.
    """

    signal: float
    gradient: float


def canonical(name: str) -> str:
    """Returns the activation's name in the table, `"silu"` for `"swish"`."""
    if isinstance(name, str):
        name = ALIASES.get(name, name)
        if name in REFUSED:
            raise invalid("activation", "an elementwise activation", name, REFUSED[name])
        if name in KNOWN:
            return name
    raise invalid("activation", "the name of a known activation", name, did_you_mean(name, NAMES))


def moments(name: str, **parameters: float | None) -> Moments:
    """Returns the moments of a known activation: closed form where there is one, else quadrature.

    The parameters are those of Keras, such as `negative_slope=0.1`. `"threshold"` is a name too
    here, because its parameters are given.

    Example:
        >>> moments("relu")
        Moments(signal=0.5, gradient=0.5, depth=0.5)
    """
    name = "threshold" if name == "threshold" else canonical(name)
    for parameter in parameters:
        if parameter not in KNOWN[name].parameters:
            allowed = ", ".join(f"`{known}`" for known in KNOWN[name].parameters) or "none"
            raise invalid("parameters", f"those of {name} ({allowed})", parameter)
    values = tuple(
        (known, _checked(known, parameter, parameters.get(known)))
        for known, parameter in KNOWN[name].parameters.items()
    )
    return _moments(name, values)


def _checked(name: str, parameter: Parameter, value: float | None) -> float | None:
    if value is None and not parameter.required:
        return parameter.default
    bound = "" if parameter.least == -inf else f" of at least {parameter.least:g}"
    if not isinstance(value, Real) or not max(parameter.least, -_LARGEST) <= value <= _LARGEST:
        raise invalid(name, f"a finite number{bound}", value)
    return float(value)


@lru_cache(maxsize=1024)
def _moments(name: str, parameters: tuple[tuple[str, float | None], ...]) -> Moments:
    known, values = KNOWN[name], dict(parameters)
    found = known.closed(**values) if known.closed else None
    return moments_of(partial(known.function, **values)) if found is None else found


def named(name: str, slope: float | None = None) -> Activation:
    """Returns a known activation, with its default slope if none is given."""
    name = canonical(name)
    if slope is None:
        slope = DEFAULT_SLOPES.get(name)
    if slope is None:
        return Activation(name, None, moments(name))
    return Activation(name, slope, moments(name, negative_slope=slope))


def with_slope(activation: Activation, slope: Any) -> Activation:
    """Returns a leaky rectifier with another slope: a number, or one per channel."""
    if activation.name not in DEFAULT_SLOPES:
        raise invalid(
            "negative_slope",
            'given with activation="leaky_relu" or "prelu" only',
            slope,
            "An activation layer has its own slope; other activations have none.",
        )
    return named(activation.name, root_mean_square("negative_slope", slope))


def root_mean_square(argument: str, value: Any) -> float:
    """Returns the root mean square of one or several numbers, or raises an error."""
    accepted = "a finite number, or a sequence of them, one per channel"
    try:
        slopes = np.asarray(value)
        if slopes.dtype.kind not in "iuf" and slopes.dtype.name != "bfloat16":
            raise TypeError
    except (TypeError, ValueError, RuntimeError):
        raise invalid(argument, accepted, value) from None
    slopes = slopes.astype(np.float64)
    if slopes.size == 0 or not (np.abs(slopes) < _LARGEST_SLOPE).all():
        raise invalid(argument, accepted, value)
    if slopes.ndim == 0:
        return float(slopes)
    return math.sqrt(float(np.mean(np.square(slopes))))


def gain(moments: Moments, mode: str) -> float:
    """Returns the gain by which a kernel keeps a second moment; see `keras_he.gain`.

    Example:
        >>> round(gain(moments("relu"), "fan_in"), 6)
        1.414214
    """
    if mode not in _NEEDED:
        raise invalid("mode", '"fan_in", "fan_out" or "fan_avg"', mode)
    needed = [getattr(moments, field) for field in _NEEDED[mode]]
    if not all(_LEAST < value < _MOST for value in needed):
        step = moments.gradient == 0.0 < moments.signal
        remedy = 'A step passes no gradient: use mode="fan_in", or give' if step else "Give"
        raise invalid(
            "mode",
            "one whose moments are above 0 and finite for the activation",
            mode,
            f"They are E[f²] = {moments.signal:g} and E[f'²] = {moments.gradient:g}. "
            f"{remedy} the gain as a number: `gain=`.",
        )
    return math.sqrt(len(needed) / sum(needed))


def depth_factors(moments: Moments) -> DepthFactors:
    """Returns the factors of one more layer on an error of the signal, and on the gradient."""
    if not (_LEAST < moments.signal < _MOST and math.isfinite(moments.gradient + moments.depth)):
        found = f"E[f²] = {moments.signal:g}, E[f'²] = {moments.gradient:g}"
        raise invalid("activation", "one whose moments are finite, and E[f²] above 0", found)
    return DepthFactors(moments.depth / moments.signal, moments.gradient / moments.signal)
