"""The batch that is drawn where no data is given: what the first layers of a model say they take.

| what reads an input | what is drawn |
|---|---|
| a layer of categories, such as `Embedding` | integers below their number, or known values |
| `attention_mask=`, or an input with "mask" in its name | ones |
| a factor and an offset that map 0 to 255 to a usual range, such as `Rescaling(1 / 255)` | images |
| an adapted `Normalization`, or factors and offsets by feature | values of that mean and spread |
| another factor and offset | values that they map to a usual range, or to a standard normal |
| anything else | standard normal values, of a size for which its output is ordinary |

Which of these is drawn, and for which layer, is told in words, which the reports show.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_he.backend.keras_private import layers_inside
from keras_he.errors import InvalidArgument
from keras_he.passes.entrance import Affine, Entrance, entrances
from keras_he.passes.model_checks import build
from keras_he.sampling.stream import draw

_ELEMENTS = 2**20  # of one input
_STEPS = 16  # of a sequence whose length is not known
_SIDE = 64  # of an image whose size is not known
_FEW = 4  # samples of a probe
_LARGE = 64.0  # from which on a range is that of raw data, whose values are whole
_PIXELS = (255.0, 65535.0)  # largest values of images of 8 and 16 bits
_NEAR, _NEAR_BY_CHANNEL = 0.01, 0.2  # by which a range may miss them; offsets by channel are means
_NORMAL = "standard normal values"

Seed = tuple[int, ...]


class Drawn(NamedTuple):
    """A batch, and what it is in words."""

    inputs: Any
    described: str


class _Input(NamedTuple):
    """An input of a model: its name, its data type, and the shape of what is drawn for it."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def drawn_batch(model: Any, seed: int) -> Drawn:
    """Returns a batch that fits what a model says of its inputs.

    Args:
        model: The model.
        seed: Seed of the batch.

    Raises:
        InvalidArgument: If the model does not say what it takes.
    """
    symbols = symbolic_inputs(model)
    flat = keras.tree.flatten(symbols)
    largest = max(math.prod(_sizes(symbol, 1)) for symbol in flat)
    samples = fixed_samples(model) or min(64, max(8, _ELEMENTS // max(largest, 1)))
    inputs = [_input(symbol, samples) for symbol in flat]
    found = _looked_at(model, symbols, inputs, seed)
    drawn = [
        _drawn(model, one, entrance, (seed, place))
        for place, (one, entrance) in enumerate(zip(inputs, found, strict=True))
    ]
    batch = keras.tree.pack_sequence_as(symbols, [values for values, _ in drawn])
    count = f"{samples} drawn sample{'s' * (samples > 1)}"
    return Drawn(batch, f"{count}: {_told(inputs, [text for _, text in drawn])}")


def zero_batch(model: Any) -> Any:
    """Returns zeros, or empty strings, that fit a model of which no numbers are wanted."""
    samples = fixed_samples(model) or 2

    def zeros(symbol: Any) -> Any:
        dtype = keras.backend.standardize_dtype(symbol.dtype)
        return np.zeros(_sizes(symbol, samples), "str" if dtype == "string" else dtype)

    return keras.tree.map_structure(zeros, symbolic_inputs(model))


def symbolic_inputs(model: Any) -> Any:
    """Returns the symbolic inputs of a model, in their structure.

    Raises:
        InvalidArgument: If the model does not know them.
    """
    symbols = _known_symbols(model)
    if symbols is None:
        raise InvalidArgument(
            f"`data` must be given: {type(model).__name__} does not say what it takes. "
            "Received: data=None\nPass a batch of inputs, or a dataset."
        )
    return dict(symbols) if isinstance(symbols, Mapping) else symbols


def _known_symbols(model: Any) -> Any:
    try:
        symbols = model.input
    except (AttributeError, ValueError):  # of sequential and subclassed models, and unbuilt ones
        symbols = getattr(model, "inputs", None)
        symbols = symbols[0] if symbols else None
    return symbols if symbols is not None and keras.tree.flatten(symbols) else None


def fixed_samples(model: Any) -> int | None:
    """Returns the batch size that the inputs of a model fix, `None` where they leave it open."""
    symbols = keras.tree.flatten(_known_symbols(model))
    sizes = [symbol.shape[0] for symbol in symbols if symbol is not None and len(symbol.shape)]
    return next((size for size in sizes if size is not None), None)


def input_names(model: Any) -> list[str]:
    """Returns the names of the inputs of a model in flat order, none of a model without inputs."""
    symbols = keras.tree.flatten(_known_symbols(model))
    return [symbol.name for symbol in symbols if symbol is not None]


def is_mask(name: str) -> bool:
    """Returns whether an input is a mask by its name."""
    words = name.lower().split("_")
    return "mask" in words or "masks" in words


def _input(symbol: Any, samples: int) -> _Input:
    dtype = keras.backend.standardize_dtype(symbol.dtype)
    return _Input(symbol.name, dtype, _sizes(symbol, samples))


def _sizes(symbol: Any, samples: int) -> tuple[int, ...]:
    batch, *rest = symbol.shape
    unknown = _SIDE if len(rest) == 3 else _STEPS
    return (batch or samples, *(unknown if size is None else size for size in rest))


def _looked_at(model: Any, symbols: Any, inputs: list[_Input], seed: int) -> list[Entrance]:
    """Returns what is known of each input, after a pass over a few samples."""
    if any(one.dtype == "string" or "complex" in one.dtype for one in inputs):
        return [Entrance() for _ in inputs]
    few = fixed_samples(model) or (16 if any(len(one.shape) == 2 for one in inputs) else _FEW)
    probes = []
    for place, one in enumerate(inputs):
        shape = (few, *one.shape[1:])
        normal = draw("normal", shape, 1.0, (seed, place, 1), "float32")
        is_float = keras.backend.is_float_dtype(one.dtype)
        probes.append(normal if is_float else (normal > 0.0).astype(one.dtype))
    probe = keras.tree.pack_sequence_as(symbols, probes)
    build(model, keras.tree.map_structure(np.zeros_like, probe))
    return entrances(model, probe, seed % 2**32)


def _drawn(model: Any, one: _Input, entrance: Entrance, seed: Seed) -> tuple[Any, str]:
    """Returns the values of an input, and what they are."""
    if one.dtype == "bool" or is_mask(one.name) or entrance.masked:
        return np.ones(one.shape, one.dtype), "ones"
    is_float = keras.backend.is_float_dtype(one.dtype)
    whole = one.dtype.startswith(("int", "uint"))
    if not (is_float or whole):
        raise InvalidArgument(
            f"`data` must be given: the input {one.name!r} takes {one.dtype}. Received: data=None"
        )
    if entrance.categories:
        values, text = _categories(entrance.categories, one, seed)
    elif (found := _range(entrance)) is not None:
        values, text = _uniform(*found, one, seed)
    elif whole:
        values, text = _categories([_tables(model, one)], one, seed)
    elif entrance.steps:
        values, text = _inverted(entrance, one, seed)
    else:
        values, text = _normal(entrance, one, seed)
    dtype = one.dtype if whole else "float32"
    return values.astype(dtype), text


def _range(entrance: Entrance) -> tuple[float, float, str] | None:
    """Returns the range of an input, and the layer that says so; `None` where none does."""
    if entrance.value_range is not None:
        name, (low, high) = entrance.value_range
        return low, high, name
    if entrance.images and entrance.size is not None:
        return 0.0, _PIXELS[0], entrance.size[0]
    plain = _until_adapted(entrance)
    if len(plain) < len(entrance.steps):
        return None
    for step in plain:
        found = _taken(step)
        if found is not None and found[0] == 0.0 and found[1] in _PIXELS:
            return *found, step.layer
    last = plain[-1] if plain else None
    found = _taken(last) if last is not None else None
    return None if found is None or last is None else (*found, last.layer)


def _until_adapted(entrance: Entrance) -> list[Affine]:
    """Returns the steps before the first that says which mean and spread the values have."""
    plain: list[Affine] = []
    for step in entrance.steps:
        if step.adapted or (step.scale.ndim and step.offset.ndim and _taken_pixels(plain) is None):
            break
        plain.append(step)
    return plain


def _taken_pixels(steps: list[Affine]) -> float | None:
    """Returns the largest value of the images that steps take, `None` where they take others."""
    ranges = [_taken(step) for step in steps]
    return next((one[1] for one in ranges if one and one[0] == 0.0 and one[1] in _PIXELS), None)


def _taken(step: Affine) -> tuple[float, float] | None:
    """Returns the range of values that a factor and an offset map to a usual range.

    A negative offset is the lower end of a range about 0, a positive one its middle. Without an
    offset, small factors map raw data to 0 to 1, and those of images map 0 to 1 to images. Other
    factors say nothing of a range: `None`.
    """
    scale, offset = float(step.scale.mean()), float(step.offset.mean())
    near = _NEAR_BY_CHANNEL if step.varied else _NEAR
    size = abs(scale)
    if not offset and size > 1.0 / _LARGE:
        return (0.0, 1.0) if _rounded(size, near) in _PIXELS else None
    if offset * scale < 0.0:
        high = (-2.0 if scale > 0.0 else -1.0) * offset / scale
        return 0.0, _rounded(high, near)
    if offset:
        high = _rounded(offset / scale, near)
        return -high, high
    return 0.0, _rounded(1.0 / size, near)


def _rounded(high: float, near: float) -> float:
    """Returns the end of a range: that of images if it is near, else three digits of it."""
    for pixels in _PIXELS:
        if abs(high - pixels) <= near * pixels:
            return pixels
    return float(f"{high:.3g}")


def _uniform(low: float, high: float, layer: str, one: _Input, seed: Seed) -> tuple[Any, str]:
    half = draw("uniform", one.shape, 1 / math.sqrt(12.0), seed, "float32") + np.float32(0.5)
    if low == 0.0 and high >= _LARGE:
        values = np.clip(np.floor(half * (high + 1.0)), 0.0, high)
        pictures = high in _PIXELS and len(one.shape) == 4
        what = "images" if pictures else "integers"
        return values, f"{what} of 0 to {high:.6g} for `{layer}`"
    values = low + (high - low) * half
    return values, f"values of {low:.3g} to {high:.3g} for `{layer}`"


def _inverted(entrance: Entrance, one: _Input, seed: Seed) -> tuple[Any, str]:
    """Returns values that a factor and an offset, or several, map to standard normal ones."""
    plain = _until_adapted(entrance)
    step = entrance.steps[len(plain)] if len(plain) < len(entrance.steps) else plain[-1]
    normal = draw("normal", one.shape, 1.0, seed, "float32")
    values = (normal - step.offset) / step.scale
    text = f"values that `{step.layer}` makes standard normal"
    highest = _taken_pixels(plain)
    if highest is not None:
        values = np.clip(np.rint(values), 0.0, highest)
        text += f", as integers of 0 to {highest:.6g} for `{plain[0].layer}`"
    return values, text


def _normal(entrance: Entrance, one: _Input, seed: Seed) -> tuple[Any, str]:
    # A channel, or a feature, alone may be drawn; the batch is the same on every backend.
    normal = draw("normal", one.shape, 1.0, seed, "float32")
    if entrance.size is None:
        return normal, _NORMAL
    name, size = entrance.size
    size = float(f"{size:.3g}")
    return normal * size, f"{_NORMAL} times {size:.3g} for `{name}`"


def _categories(found: list[tuple[str, Any]], one: _Input, seed: Seed) -> tuple[Any, str]:
    """Returns integers below the smallest number of categories, or of the known values."""
    layer, known = min(found, key=lambda each: np.size(each[1]) if np.ndim(each[1]) else each[1])
    count = len(known) if np.ndim(known) else known
    half = draw("uniform", one.shape, 1 / math.sqrt(12.0), seed, "float32")  # in ±1/2
    places = np.clip((half + 0.5) * (count - 1e-3), 0, None).astype("int64")
    if np.ndim(known):
        return np.asarray(known)[places], f"values that `{layer}` knows"
    return places, f"integers below {count} for `{layer}`"


def _tables(model: Any, one: _Input) -> tuple[str, int]:
    """Returns the name and the size of the smallest embedding that may read an input."""
    tables = [each for each in layers_inside(model) if isinstance(each, keras.layers.Embedding)]
    if not tables:
        raise InvalidArgument(
            f"`data` must be given: no embedding says how large the integers of the input "
            f"{one.name!r} are. Received: data=None"
        )
    smallest = min(tables, key=lambda table: int(table.input_dim))
    return smallest.name, int(smallest.input_dim)


def _told(inputs: list[_Input], texts: list[str]) -> str:
    """Returns what the inputs are, those alike together."""
    names: dict[str, list[str]] = {}
    for one, text in zip(inputs, texts, strict=True):
        names.setdefault(text, []).append(one.name)
    if len(names) == 1:
        return texts[0]
    return "; ".join(f"{', '.join(each)}: {text}" for text, each in names.items())
