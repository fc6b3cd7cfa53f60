"""Tensors and the numbers in them, on every backend."""

import math
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_he.backend.framework import framework


def float_tensors(values: Any) -> list[Any]:
    """Returns the tensors of floats in a nested structure."""
    return [
        value
        for value in keras.tree.flatten(values)
        if keras.ops.is_tensor(value)
        and keras.backend.is_float_dtype(keras.backend.standardize_dtype(value.dtype))
    ]


def to_array(value: Any) -> NDArray[Any]:
    """Returns as an array what NumPy reads, or a tensor; one of PyTorch on other backends too."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if keras.ops.is_tensor(value):
        value = keras.ops.convert_to_numpy(value)
    return np.asarray(value)


def as_tensors(values: Any) -> Any:
    """Returns a nested structure with tensors in place of arrays; `None` stays."""
    return keras.tree.map_structure(
        lambda one: None if one is None else keras.ops.convert_to_tensor(one), values
    )


def eager_floats(values: Any) -> list[Any] | None:
    """Returns the tensors of floats in a nested structure, `None` if it holds symbolic tensors."""
    flat = keras.tree.flatten(values)
    tensors = [value for value in flat if keras.ops.is_tensor(value)]
    symbolic = any(isinstance(value, keras.KerasTensor) for value in flat)
    return None if symbolic or any(map(framework.is_symbol, tensors)) else float_tensors(tensors)


def number(tensor: Any) -> float:
    """Returns the number in a tensor of one element, also where parts of it lie on several devices.

    On PyTorch `float` of a tensor that is cut over processes sees one process's part alone.
    """
    return float(keras.ops.convert_to_numpy(tensor))


def second_moments(values: Any) -> list[float]:
    """Returns the second moment of each tensor of floats in a nested structure."""
    return [mean_square(one) for one in float_tensors(values)]


def mean_square(value: Any) -> float:
    """Returns the second moment of a tensor's elements, taken in float32; 0.0 where it has none."""
    size: int = math.prod(value.shape)
    if not size:
        return 0.0
    wide = keras.ops.cast(value, "float32") if value.dtype != "float32" else value
    total = framework.sum_of_squares(wide)
    if 1e-30 < total < 1e38 or math.isnan(total):
        return total / size
    # Beyond float32's range for squares, though the values may be within it.
    largest = number(keras.ops.max(keras.ops.abs(wide)))
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    return number(keras.ops.mean(keras.ops.square(wide / largest))) * largest * largest
