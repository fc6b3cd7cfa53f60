"""The batch on which a model is measured: the user's first batch, or a drawn one.

A dataset gives its first batch, as `fit` would take it. An iterator is refused, because training
would miss the batch. Where no data is given, `drawn_inputs` draws a batch. If the model fixes its
batch size, as many samples are taken.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_he.backend.framework import framework
from keras_he.backend.randomness import randomness
from keras_he.backend.tensors import to_array
from keras_he.errors import InvalidArgument, KerasHeError, invalid
from keras_he.passes.drawn_inputs import (
    drawn_batch,
    fixed_samples,
    input_names,
    is_mask,
    zero_batch,
)

_ELEMENTS = 2**22  # of an input of which at most 256 samples are taken
_PAIR = "(inputs, targets), or a dataset of both, for a loss of both"


class Samples(NamedTuple):
    """A batch.

    Attributes:
        inputs: NumPy arrays in the structure that the model takes; `None` where there are none.
        targets: The targets, if there are any.
        described: What the inputs are, in words; empty where nothing is measured on them.
    """

    inputs: Any
    targets: Any = None
    described: str = ""


def batch_of(model: Any, data: Any, seed: int) -> Samples:
    """Returns the batch on which `initialize` measures; see `first_samples`.

    For `data=False` its numbers count for nothing: it is zeros where none can be drawn, and `None`
    where the model does not say what it takes.

    Raises:
        InvalidArgument: If it is not finite, too.
    """
    if data is not False:
        samples = first_samples(model, data, seed)
        check_finite(model, samples.inputs)
        return samples
    with suppress(KerasHeError):
        return Samples(first_samples(model, None, seed).inputs)
    with suppress(KerasHeError):
        return Samples(zero_batch(model))
    return Samples(None)


def first_samples(model: Any, data: Any, seed: int, *, targets: bool = False) -> Samples:
    """Returns the inputs of the model as NumPy arrays, and the targets if there are any.

    Args:
        model: The model.
        data: An array, or a dict, list or tuple of arrays, as the model takes them, of which at
            most 256 samples count; a `tf.data.Dataset`, a PyTorch `DataLoader` or a
            `keras.utils.PyDataset`; or `None`.
        seed: Seed of the synthetic batch, and of a dataset that draws or shuffles.
        targets: Whether there must be targets: from a dataset, or as `data=(inputs, targets)`.

    Raises:
        InvalidArgument: If it is an iterator, is empty, or cannot be known.
    """
    if data is None and targets:
        raise invalid("data", _PAIR, data)
    if data is None:
        drawn = drawn_batch(model, seed)
        return Samples(drawn.inputs, described=drawn.described)
    if isinstance(data, Iterator):
        raise invalid(
            "data",
            "a dataset or arrays, not an iterator, which would lose a batch for training",
            data,
            "Take the batch yourself: `data=next(it)`, with the inputs only.",
        )
    pair = _of_dataset(data, seed)
    if pair is None:
        pair = (data, None)
        if targets:
            if not isinstance(data, (list, tuple)) or len(data) != 2:
                raise invalid(
                    "data", "(inputs, targets), or a dataset of both, for this loss", data
                )
            pair = (data[0], data[1])
        batch, wanted = _first_samples(keras.tree.map_structure(_as_array, pair))
    else:
        batch, wanted = keras.tree.map_structure(_as_array, pair)
        if targets and wanted is None:
            raise invalid("data", _PAIR, data)
    arrays = _arrays(batch)
    if not arrays or any(one.ndim == 0 or len(one) == 0 for one in arrays):
        raise invalid("data", "arrays of at least one sample, or None, False or a dataset", data)
    batch, wanted = _of_fixed_size(model, batch, wanted)
    count = max(map(len, _arrays(batch)))
    return Samples(batch, wanted, f"{count} given sample{'s' * (count > 1)}")


def check_finite(model: Any, inputs: Any) -> None:
    """Refuses NaN and infinity in a batch; infinity is a usual value of a mask."""
    found = keras.tree.flatten_with_path(inputs)
    names = input_names(model)
    for place, (path, array) in enumerate(found):
        if array is None or array.dtype.kind in "biu":
            continue
        by_key = [str(key) for key in path if isinstance(key, str)]
        known = names[place] if len(names) == len(found) else f"data{list(path) or ''}"
        name = "/".join(by_key) or known
        wrong = np.isnan(array) if is_mask(name) else ~np.isfinite(array)
        if wrong.any():
            raise InvalidArgument(
                f"`data` must be finite. Received: NaN or infinity in {int(wrong.sum())} of "
                f"{wrong.size} values of the input `{name}`, first in sample "
                f"{int(np.argwhere(wrong)[0][0])}.\nLeave these samples out, or replace the values "
                "(`keras.ops.nan_to_num`)."
            )


def has_targets(model: Any, data: Any) -> bool:
    """Returns whether data has targets beside the inputs of a model."""
    if data is None or isinstance(data, Iterator):
        return False
    pair = _of_dataset(data, 0)
    if pair is not None:
        return pair[1] is not None
    if not isinstance(data, (list, tuple)) or len(data) != 2:
        return False
    count = max(len(input_names(model)), 1)
    return len(keras.tree.flatten(data[0])) == count != len(keras.tree.flatten(data))


def _arrays(batch: Any) -> list[Any]:
    return [one for one in keras.tree.flatten(batch) if one is not None]


def _of_fixed_size(model: Any, batch: Any, wanted: Any) -> tuple[Any, Any]:
    """Returns as many samples as the batch size that a model fixes, else all of them."""
    size = fixed_samples(model)
    if size is None:
        return batch, wanted
    count = min(map(len, _arrays(batch)))
    if count < size:
        raise InvalidArgument(
            f"`data` must have at least {size} samples, the batch size that the inputs of the "
            f"model fix. Received: {count} samples"
        )
    cut: tuple[Any, Any] = keras.tree.map_structure(
        lambda one: one[:size] if one is not None and one.ndim else one, (batch, wanted)
    )
    return cut


def _of_dataset(data: Any, seed: int) -> Any:
    """Returns the inputs and the targets of the first batch of a dataset, `None` of arrays."""
    if keras.ops.is_tensor(data) or isinstance(data, (np.ndarray, Mapping, list, tuple)):
        return None
    with framework.apart(), randomness(seed, [data], writes=True):
        if isinstance(data, keras.utils.PyDataset):
            batch = data[0]
        elif hasattr(data, "__iter__") and not hasattr(data, "__array__"):
            batch = next(iter(data), None)
            if batch is None:
                raise invalid("data", "a dataset of at least one batch", data)
        else:
            return None
    inputs, wanted, _ = keras.utils.unpack_x_y_sample_weight(
        tuple(batch) if isinstance(batch, list) else batch
    )
    return inputs, wanted


def _as_array(value: Any) -> Any:
    if value is None:
        return None
    array = to_array(value)
    if array.dtype.kind in "OUSV" and array.dtype.name != "bfloat16":
        raise invalid("data", "arrays of numbers", value)
    return array.astype(keras.config.floatx()) if array.dtype == np.float64 else array


def _first_samples(batch: Any) -> Any:
    """Returns at most 256 samples of arrays that may hold a whole data set, fewer large ones."""
    arrays = [array for array in keras.tree.flatten(batch) if array is not None]
    if any(array.ndim == 0 for array in arrays) or not arrays:
        return batch
    largest = max(math.prod(array.shape[1:]) for array in arrays)
    samples = min(256, max(32, _ELEMENTS // max(largest, 1)))
    return keras.tree.map_structure(lambda array: None if array is None else array[:samples], batch)
