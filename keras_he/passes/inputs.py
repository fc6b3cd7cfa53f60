"""The batch on which a model is measured: the user's first batch, or a synthetic one.

A dataset gives its first batch, as `fit` would take it. An iterator is refused, because training
would miss the batch. A synthetic batch fits the inputs that the model declares: standard normal
values, integers within the model's embeddings, or ones for masks.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import keras
import numpy as np

from keras_he.backend.framework import framework
from keras_he.backend.keras_private import layers_inside
from keras_he.backend.randomness import randomness
from keras_he.backend.tensors import to_array
from keras_he.errors import InvalidArgument, KerasHeError, invalid
from keras_he.sampling.stream import draw

_ELEMENTS = 2**20  # of one synthetic input, and 4 times as many of one that is cut short
_STEPS = 16  # of a sequence whose length is not known
_SIDE = 64  # of an image whose size is not known
_PAIR = "(inputs, targets), or a dataset of both, for a loss of both"


def first_batch(model: Any, data: Any, seed: int) -> Any:
    """Returns the inputs of the model as NumPy arrays; see `first_samples`.

    For `data=False` they are synthetic, and `None` where no synthetic batch fits.
    """
    if data is not False:
        return first_samples(model, data, seed)[0]
    with suppress(KerasHeError):
        return first_samples(model, None, seed)[0]
    return None


def first_samples(model: Any, data: Any, seed: int, *, targets: bool = False) -> tuple[Any, Any]:
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
        return _synthetic(model, seed), None
    if isinstance(data, Iterator):
        raise invalid(
            "data",
            "a dataset or arrays, not an iterator, which would lose a batch for training",
            data,
            "Take the batch yourself: `data=next(it)`, with the inputs only.",
        )
    batch, wanted = _of_dataset(data, seed), None
    if batch is None:
        pair = (data, None)
        if targets:
            if not isinstance(data, (list, tuple)) or len(data) != 2:
                raise invalid(
                    "data", "(inputs, targets), or a dataset of both, for this loss", data
                )
            pair = (data[0], data[1])
        batch, wanted = _first_samples(keras.tree.map_structure(_as_array, pair))
    else:
        inputs, wanted, _ = keras.utils.unpack_x_y_sample_weight(batch)
        batch, wanted = keras.tree.map_structure(_as_array, (inputs, wanted))
        if targets and wanted is None:
            raise invalid("data", _PAIR, data)
    arrays = keras.tree.flatten(batch)
    if not arrays or any(one is None or one.ndim == 0 or 0 in one.shape for one in arrays):
        raise invalid("data", "arrays of at least one sample, or None, False or a dataset", data)
    return batch, wanted


def _of_dataset(data: Any, seed: int) -> Any:
    """Returns the first batch of a dataset, as a tuple with the inputs first, or `None`."""
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
    return tuple(batch) if isinstance(batch, list) else batch


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
    samples = min(256, max(32, 4 * _ELEMENTS // max(largest, 1)))
    return keras.tree.map_structure(lambda array: None if array is None else array[:samples], batch)


def _synthetic(model: Any, seed: int) -> Any:
    symbols = _symbolic_inputs(model)
    sizes = [math.prod(_sizes(symbol, 1)) for symbol in keras.tree.flatten(symbols)]
    samples = min(64, max(8, _ELEMENTS // max(sizes)))
    stream = iter(range(len(sizes)))
    return keras.tree.map_structure(
        lambda symbol: _values(model, symbol, _sizes(symbol, samples), (seed, next(stream))),
        symbols,
    )


def _symbolic_inputs(model: Any) -> Any:
    """Returns the symbolic inputs of a model, in their structure."""
    try:
        symbols = model.input
    except (AttributeError, ValueError):  # of sequential and subclassed models, and unbuilt ones
        symbols = getattr(model, "inputs", None)
        symbols = symbols[0] if symbols else None
    if symbols is None or not keras.tree.flatten(symbols):
        raise InvalidArgument(
            f"`data` must be given: {type(model).__name__} does not say what it takes. "
            "Received: data=None\nPass a batch of inputs, or a dataset."
        )
    if isinstance(symbols, Mapping):
        return dict(symbols)
    return symbols


def _sizes(symbol: Any, samples: int) -> tuple[int, ...]:
    batch, *rest = symbol.shape
    unknown = _SIDE if len(rest) == 3 else _STEPS
    return (batch or samples, *(unknown if size is None else size for size in rest))


def _values(model: Any, symbol: Any, shape: tuple[int, ...], seed: tuple[int, ...]) -> Any:
    """Returns a synthetic input: ones for masks, tokens for embeddings, else normal draws."""
    dtype = keras.backend.standardize_dtype(symbol.dtype)
    words = symbol.name.lower().split("_")
    if dtype == "bool" or "mask" in words or "masks" in words:
        return np.ones(shape, dtype)
    if dtype.startswith(("int", "uint")):
        half = draw("uniform", shape, 1 / math.sqrt(12.0), seed, "float32")  # in ±1/2
        return np.clip((half + 0.5) * _vocabulary(model, symbol), 0, None).astype(dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise InvalidArgument(
            f"`data` must be given: the input {symbol.name!r} takes {dtype}. Received: data=None"
        )
    # A channel, or a feature, alone may be drawn; the batch is the same on every backend.
    return draw("normal", shape, 1.0, seed, "float32")


def _vocabulary(model: Any, symbol: Any) -> float:
    """Returns just less than the size of the smallest embedding that may read an input."""
    readers = [layer for layer in model.layers if _reads(layer, symbol)]
    sizes = _tables(readers) or _tables(model.layers)
    if not sizes:
        raise InvalidArgument(
            f"`data` must be given: no embedding says how large the integers of the input "
            f"{symbol.name!r} are. Received: data=None"
        )
    return min(sizes) - 1e-3


def _reads(layer: Any, symbol: Any) -> bool:
    try:
        return any(one is symbol for one in keras.tree.flatten(layer.input))
    except (AttributeError, ValueError):  # of layers that were called more than once
        return False


def _tables(layers: Any) -> list[int]:
    inside = [one for layer in layers for one in layers_inside(layer)]
    return [one.input_dim for one in inside if isinstance(one, keras.layers.Embedding)]
