"""Kinds of layers that are treated in their own way wherever a model is read or run."""

from typing import Any

import keras

ATTENTIONS = (keras.layers.GroupQueryAttention, keras.layers.MultiHeadAttention)
SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
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
