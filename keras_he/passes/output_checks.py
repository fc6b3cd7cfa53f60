"""What a layer must not return while it is measured: NaN, or zeros that nothing accounts for."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_he.backend.keras_private import own_trainable_weights
from keras_he.backend.tensors import mean_square, number
from keras_he.errors import NotMeasurable
from keras_he.layers.variables import is_normalisation
from keras_he.passes.tensor_origins import Origin


def check_output(path: str, layer: Any, inputs: Sequence[Origin], tensor: Any) -> float:
    """Returns the second moment of an output; refuses NaN, and zeros that nothing accounts for."""
    moment = mean_square(tensor)
    if not math.isfinite(moment):
        raise NotMeasurable(f"`{path}` returns NaN or infinity.")
    if moment or not inputs or 0 in tensor.shape:
        return moment
    given = [mean_square(origin.tensor) for origin in inputs]
    if not all(given) or _may_be_silent(layer, inputs):
        return moment
    hint = " Give samples that differ: it takes their mean away." if is_normalisation(layer) else ""
    raise NotMeasurable(f"`{path}` returns zeros only, so nothing behind it can be measured.{hint}")


def _may_be_silent(layer: Any, inputs: Sequence[Origin]) -> bool:
    """Returns whether zeros are what this layer has to make of its inputs."""
    if isinstance(layer, keras.layers.Layer) and not type(layer).__module__.startswith("keras."):
        # The author's own, such as a mask, or a branch with a factor that starts at zero.
        factors = [one for one in own_trainable_weights(layer) if one.name != "bias"]
        return not layer.weights or any(not mean_square(one.value) for one in factors)
    if is_normalisation(layer):
        scale = getattr(layer, "gamma", getattr(layer, "scale", None))
        return scale is not None and keras.ops.is_tensor(scale.value) and not mean_square(scale)
    rectifiers = (keras.layers.Activation, keras.layers.PReLU, keras.layers.ReLU)
    return isinstance(layer, rectifiers) and number(keras.ops.max(inputs[0].tensor)) <= 0.0
