"""Kernels that are constants by their author's choice: zeros, ones, an identity, a fixed filter.

The choice is the initializer that the layer keeps for the kernel: it makes the same values each
time, and the kernel still has them. A kernel that is constant although its initializer says
otherwise is no choice. A user's layer may keep no initializer: zeros and an exact identity are a
choice by themselves there.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_he.backend.keras_private import is_of_keras
from keras_he.backend.tensors import mean_square, number
from keras_he.layers.variables import ModelVariable
from keras_he.notes import NO_NOTE, Note

_SAMPLE = 256  # values among which distinct ones are counted
_DISTINCT = 16  # distinct values that a filter made by hand may have
_REPEATS = 4  # how often each value stands in it, on average, at least
_LARGEST = 2**31 - 1  # positions that every backend can address


def chosen_constants(one: ModelVariable) -> Note:
    """Returns which constants a kernel has by its author's choice; an empty note if it has none."""
    if one.role != "kernel" or not math.prod(one.shape):
        return NO_NOTE
    attribute = one.initializer_attribute
    if attribute is None:
        return _by_value(one)
    initializer = _initializer(getattr(one.layer, attribute, None))
    if initializer is None or not (_is_fixed(initializer) or _looks_fixed(initializer, one)):
        return NO_NOTE
    if not all(_has_values_of(initializer, one) for _ in range(2)):
        return NO_NOTE
    name = getattr(initializer, "__name__", type(initializer).__name__)
    return Note("by-design", f"kept: {_in_words(one)}, by its initializer {name}")


def _by_value(one: ModelVariable) -> Note:
    """Returns the note of a kernel for which its layer keeps no initializer."""
    own = not is_of_keras(one.layer)
    if own and (is_zero(one) or _is_identity(one)):
        return Note("by-design", f"kept: {_in_words(one)}, as its layer makes it")
    return NO_NOTE


def is_zero(one: ModelVariable) -> bool:
    """Returns whether all values of a variable are zero."""
    return not mean_square(one.variable.value)


def _is_identity(one: ModelVariable) -> bool:
    if len(one.shape) != 2 or len(set(one.shape)) != 1:
        return False
    # A sample first: a whole identity is made only where it may be one.
    return (
        len(_sample(one)) <= 2
        and _differs(one, keras.ops.eye(one.shape[0], dtype="float32")) == 0.0
    )


def _initializer(held: Any) -> Callable[..., Any] | None:
    """Returns what makes the values, given what a layer holds: it may be a name or a config."""
    try:
        found = keras.initializers.get(held)
    except (TypeError, ValueError):
        return None
    return found if callable(found) else None


def _is_fixed(initializer: Any) -> bool:
    """Returns whether an initializer of Keras draws nothing: it has no seed."""
    is_config = isinstance(initializer, keras.initializers.Initializer) and is_of_keras(initializer)
    return is_config and "seed" not in initializer.get_config()


def _looks_fixed(initializer: Any, one: ModelVariable) -> bool:
    """Returns whether the values of a kernel repeat, as those of a draw do not."""
    values = _sample(one)
    if len(values) == 1:
        return math.prod(one.shape) > 1 or values[0] == 0.0
    seeded = getattr(initializer, "seed", None) is not None
    return not seeded and len(values) <= min(_DISTINCT, math.prod(one.shape) // _REPEATS)


def _sample(one: ModelVariable) -> Any:
    """Returns the distinct values among some of a kernel's."""
    size = min(math.prod(one.shape), _LARGEST)
    positions = np.unique(np.linspace(0, size - 1, _SAMPLE).astype("int32"))
    flat = keras.ops.reshape(one.variable.value, (-1,))
    picked = keras.ops.cast(keras.ops.take(flat, positions), "float32")
    return np.unique(keras.ops.convert_to_numpy(picked))


def drawn_size(one: ModelVariable) -> float | None:
    """Returns the root mean square of what a kernel's initializer draws, `None` if none is kept."""
    attribute = one.initializer_attribute
    initializer = _initializer(getattr(one.layer, attribute, None)) if attribute else None
    made = None if initializer is None else _made(initializer, one)
    return None if made is None else math.sqrt(mean_square(made))


def _has_values_of(initializer: Callable[..., Any], one: ModelVariable) -> bool:
    """Returns whether a kernel has the values that its initializer makes when it is called."""
    made = _made(initializer, one)
    return made is not None and _differs(one, made) == 0.0


def _made(initializer: Callable[..., Any], one: ModelVariable) -> Any:
    """Returns what an initializer makes for a kernel, `None` if it fails."""
    try:
        with keras.StatelessScope():  # a generator of seeds keeps its state
            values = initializer(one.shape, dtype=one.variable.dtype)
            made = keras.ops.cast(keras.ops.convert_to_tensor(values), "float32")
    except Exception:  # the user's own code, which may raise anything
        return None
    return made if tuple(made.shape) == one.shape else None


def _differs(one: ModelVariable, made: Any) -> float:
    """Returns the largest difference between the values of a kernel and others."""
    held = keras.ops.cast(one.variable.value, "float32")
    return number(keras.ops.max(keras.ops.abs(held - made)))


def _in_words(one: ModelVariable) -> str:
    if is_zero(one):
        return "all zeros"
    if _is_identity(one):
        return "an identity"
    least, most = (number(end(one.variable.value)) for end in (keras.ops.min, keras.ops.max))
    return f"all {least:.3g}" if least == most else "constants"
