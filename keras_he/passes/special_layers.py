"""Layers whose calls are taken apart: steps in time, and the halves of a separable convolution."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from keras_he.backend.keras_private import sublayers

SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)


def all_steps(layer: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Runs a `TimeDistributed` on all steps at once, where its layer treats them alike.

    Keras calls the layer inside for each step, and the first would decide for all.
    """
    value, inner = args[0], layer.layer
    alike = len(args) == 1 and kwargs.get("mask") is None and not sublayers(inner)
    if not alike or isinstance(inner, keras.layers.BatchNormalization):
        return call(*args, **kwargs)
    takes_training = "training" in inspect.signature(type(inner).call).parameters
    keywords = {"training": kwargs.get("training")} if takes_training else {}
    steps = keras.ops.reshape(value, (-1, *value.shape[2:]))
    outputs = inner.call(steps, **keywords)
    if not keras.ops.is_tensor(outputs):
        return call(*args, **kwargs)
    return keras.ops.reshape(outputs, (*value.shape[:2], *outputs.shape[1:]))


def depthwise_half(layer: Any, value: Any) -> Any:
    """Returns what the first kernel of a separable convolution makes, which Keras keeps inside."""
    return keras.ops.depthwise_conv(
        keras.ops.cast(value, layer.compute_dtype),
        keras.ops.cast(layer.depthwise_kernel, layer.compute_dtype),
        strides=layer.strides,
        padding=layer.padding,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
    )
