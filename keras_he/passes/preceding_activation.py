"""What the activation that precedes a kernel does to the signal, as far as it is known."""

from typing import Any

import keras

from keras_he.errors import KerasHeError
from keras_he.initializers.activation_argument import read_activation
from keras_he.passes.tensor_origins import UNKNOWN
from keras_he.theory.activations import gain as moments_gain
from keras_he.theory.quadrature import Moments


def analytic_gain(activation: Any, mode: str) -> float:
    """Returns the gain of the preceding activation; 1 of none, and of one without moments."""
    moments = preceding_moments(activation)
    return 1.0 if moments is None else moments_gain(moments, mode)


def preceding_moments(activation: Any) -> Moments | None:
    """Returns the second moments of an activation, 1 of none, and `None` where it has none."""
    if activation is None:
        return Moments(1.0, 1.0, 1.0)
    if activation == UNKNOWN:
        return None
    try:
        return read_activation(activation).moments
    except KerasHeError:  # it acts across elements, or has a moment of 0
        return None


def is_rectifier(activation: Any) -> bool:
    """Returns whether an activation is linear on both sides of 0, so that sizes pass through it."""
    moments = preceding_moments(activation)
    return moments is not None and moments.signal == moments.gradient == moments.depth


def activation_name(activation: Any) -> str:
    """Returns what an activation is called in a report; `"linear"` for none."""
    if activation is None or isinstance(activation, str):
        return activation or "linear"
    if isinstance(activation, keras.layers.Activation):
        activation = activation.activation
    return str(getattr(activation, "__name__", type(activation).__name__))
