"""The activations and their derivatives, written here a second time as the tests' reference."""

import math
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats


class Entry(NamedTuple):
    """An activation with parameters: its function and derivative, and where they are not smooth."""

    name: str
    function: Any
    slope: Any
    breakpoints: tuple
    parameters: dict


def entry(name, function, slope, breakpoints=(), /, **parameters):
    return Entry(name, function, slope, breakpoints, parameters)


def leaky(name, a, /, **parameters):
    return entry(
        name,
        lambda x: np.where(x > 0, x, a * x),
        lambda x: np.where(x > 0, 1.0, a),
        (0.0,),
        **parameters,
    )


def exponential_unit(name, height, rate=1.0, scale=1.0, /, **parameters):
    return entry(
        name,
        lambda x: scale * np.where(x > 0, x, height * np.expm1(rate * np.minimum(x, 0))),
        lambda x: scale * np.where(x > 0, 1.0, height * rate * np.exp(rate * np.minimum(x, 0))),
        (0.0, -1 / rate),
        **parameters,
    )


def clipped(name, left, right, slope=1.0, offset=0.0, /, **parameters):
    return entry(
        name,
        lambda x: np.clip(x, left, right) * slope + offset,
        lambda x: ((x > left) & (x < right)) * slope,
        (left, right),
        **parameters,
    )


def hard_shrink(h, /, **parameters):
    def slope(x):
        return (np.abs(x) > h) * 1.0

    return entry("hard_shrink", lambda x: x * slope(x), slope, (-h, h), **parameters)


def soft_shrink(h, /, **parameters):
    def function(x):
        return np.sign(x) * np.maximum(np.abs(x) - h, 0)

    return entry("soft_shrink", function, lambda x: (np.abs(x) > h) * 1.0, (-h, h), **parameters)


def squareplus(c, /, **parameters):
    return entry(
        "squareplus",
        lambda x: (x + np.sqrt(x * x + c)) / 2,
        lambda x: (1 + x / np.sqrt(x * x + c)) / 2,
        (0.0,),
        **parameters,
    )


def tanh_gelu(x):
    return x * special.expit(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def tanh_gelu_slope(x):
    inner = 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    rate = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return special.expit(inner) * (1 + x * rate * special.expit(-inner))


def mish_slope(x):
    inner = np.tanh(np.logaddexp(0, x))
    return inner + x * special.expit(x) * (1 - inner**2)


def threshold_relu(x):
    return np.where(x > 0.7, x, 0.1 * (x - 0.7))


def capped_relu(x):
    return np.where(x > 0.5, np.minimum(x, 2), 0.2 * (x - 0.5))


ENTRIES = [
    exponential_unit("celu", 1.0),
    exponential_unit("celu", 0.3, 1 / 0.3, alpha=0.3),
    exponential_unit("celu", 2.5, 1 / 2.5, alpha=2.5),
    exponential_unit("celu", 0.01, 100.0, alpha=0.01),  # e^(r²/2) overflows in closed form
    exponential_unit("celu", 1e5, 1e-5, alpha=1e5),  # and here it cancels
    exponential_unit("elu", 1.0),
    exponential_unit("elu", 0.5, alpha=0.5),
    exponential_unit("elu", -2.0, alpha=-2.0),
    exponential_unit("selu", 1.6732632423543772, 1.0, 1.0507009873554805),
    entry("exponential", np.exp, np.exp),
    entry(
        "gelu",
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + x * stats.norm.pdf(x),
    ),
    entry("gelu", tanh_gelu, tanh_gelu_slope, approximate=True),
    hard_shrink(0.5),
    hard_shrink(1.3, threshold=1.3),
    hard_shrink(0.0, threshold=0.0),
    clipped("hard_sigmoid", -3, 3, 1 / 6, 0.5),
    entry(
        "hard_silu",
        lambda x: x * np.clip(x + 3, 0, 6) / 6,
        lambda x: np.where(x > 3, 1.0, np.where(x > -3, (2 * x + 3) / 6, 0.0)),
        (-3, 3),
    ),
    clipped("hard_tanh", -1, 1),
    leaky("leaky_relu", 0.2),
    leaky("leaky_relu", 0.01, negative_slope=0.01),
    leaky("leaky_relu", -0.4, negative_slope=-0.4),
    leaky("prelu", 0.25),
    leaky("prelu", 0.7, negative_slope=0.7),
    leaky("linear", 1.0),
    leaky("relu", 0.0),
    leaky("relu", 0.1, negative_slope=0.1),
    clipped("relu", 0, 1.5, max_value=1.5),
    clipped("relu", 0, 6, max_value=6),
    entry(
        "relu",
        threshold_relu,
        lambda x: np.where(x > 0.7, 1.0, 0.1),
        (0.7,),
        threshold=0.7,
        negative_slope=0.1,
    ),
    entry(
        "relu",
        capped_relu,
        lambda x: np.where(x > 0.5, (x < 2) * 1.0, 0.2),
        (0.5, 2),
        threshold=0.5,
        negative_slope=0.2,
        max_value=2.0,
    ),
    entry(
        "relu",
        lambda x: np.where(x > -0.5, x, 0),
        lambda x: (x > -0.5) * 1.0,
        (-0.5,),
        threshold=-0.5,
    ),
    entry(
        "relu",
        lambda x: (x > 2) * 1.5,
        lambda x: 0 * x,
        (2,),
        threshold=2.0,
        max_value=1.5,
    ),
    clipped("relu6", 0, 6),
    entry("log_sigmoid", special.log_expit, lambda x: special.expit(-x)),
    entry("mish", lambda x: x * np.tanh(np.logaddexp(0, x)), mish_slope),
    entry("sigmoid", special.expit, lambda x: special.expit(x) * special.expit(-x)),
    entry(
        "silu",
        lambda x: x * special.expit(x),
        lambda x: special.expit(x) * (1 + x * special.expit(-x)),
    ),
    soft_shrink(0.5),
    soft_shrink(0.1, threshold=0.1),
    soft_shrink(4.0, threshold=4.0),
    entry("softplus", lambda x: np.logaddexp(0, x), special.expit),
    entry("softsign", lambda x: x / (1 + np.abs(x)), lambda x: (1 + np.abs(x)) ** -2.0, (0.0,)),
    entry(
        "sparse_plus",
        lambda x: np.where(x > 1, x, np.maximum(x + 1, 0) ** 2 / 4),
        lambda x: np.clip((x + 1) / 2, 0, 1),
        (-1, 1),
    ),
    clipped("sparse_sigmoid", -1, 1, 0.5, 0.5),
    squareplus(4.0),
    squareplus(0.1, b=0.1),
    squareplus(2000.0, b=2000.0),  # e^(b/2) overflows in closed form
    entry("tanh", np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    entry("tanh_shrink", lambda x: x - np.tanh(x), lambda x: np.tanh(x) ** 2),
    entry(
        "threshold",
        lambda x: np.where(x > 0.4, x, -1.3),
        lambda x: (x > 0.4) * 1.0,
        (0.4,),
        threshold=0.4,
        default_value=-1.3,
    ),
]
