"""Kinds of layers that are treated in their own way wherever a model is read or run."""

from collections.abc import Callable
from typing import Any

import keras

ATTENTIONS = (keras.layers.GroupQueryAttention, keras.layers.MultiHeadAttention)
STATISTICS = ("moving_mean", "moving_variance")  # variables of a BatchNormalization
# Layers that apply an activation and nothing else.
ACTIVATIONS = (
    keras.layers.Activation,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ReLU,
    keras.layers.Softmax,
)
_NORMALISATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    keras.layers.UnitNormalization,
    keras.layers.Normalization,
)


def _depthwise_output(layer: Any, value: Any) -> Any:
    return keras.ops.depthwise_conv(
        keras.ops.cast(value, layer.compute_dtype),
        keras.ops.cast(layer.depthwise_kernel, layer.compute_dtype),
        strides=layer.strides,
        padding=layer.padding,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
    )


# Layers of Keras with two kernels one after the other, without an activation between them: the
# output of the first kernel, which Keras does not show, from the layer and its input.
_FIRST_OUTPUTS: dict[str, Callable[[Any, Any], Any]] = {
    "SeparableConv1D": _depthwise_output,
    "SeparableConv2D": _depthwise_output,
}


def first_kernel_output(layer: Any) -> Callable[[Any, Any], Any] | None:
    """Returns the function for a layer with two kernels one after the other, `None` of others."""
    for name, function in _FIRST_OUTPUTS.items():
        if isinstance(layer, getattr(keras.layers, name, ())):
            return function
    return None


def is_normalisation(layer: Any) -> bool:
    """Returns whether a layer sets the size of its output."""
    return isinstance(layer, _NORMALISATIONS)


def is_random(layer: Any) -> bool:
    """Returns whether a layer draws random numbers in training mode."""
    has_generator = getattr(layer, "seed_generator", None) is not None
    return has_generator and bool(getattr(layer, "rate", getattr(layer, "dropout", 1.0)))


def has_fixed_threshold(layer: Any) -> bool:
    """Returns whether a layer rounds its kernel to three values by a fixed threshold.

    The size of its output does not depend on the size of its kernel then.
    """
    ternary = getattr(keras.layers, "TernaryDense", None)
    return ternary is not None and isinstance(layer, ternary) and layer.threshold is not None
