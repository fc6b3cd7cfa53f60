"""What the first layers of a model take, found by a pass over a small probe.

From each input on, the pass follows values as long as they are moved, averaged, or changed by one
factor and one offset: by layers such as `Rescaling` and `Normalization`, by `Lambda` and layers of
users, by operations of functional models, and inside the `call` of a layer, where the values that
arrive at the next layer are compared with the input. What follows from the factor and the offset is
decided in `drawn_inputs`. Layers that read categories get zeros in this pass, and tell how many
categories there are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_he.backend.keras_private import is_of_keras, sublayers
from keras_he.passes.forward import forward
from keras_he.passes.kernel_watcher import KernelWatcher, LayerCall

Values = NDArray[Any]
_FIT = 1e-3  # by which values may miss a factor and an offset, of the largest value
_LOW_FIT = 3e-2  # the same where layers compute in 16 bits
_LOUD = 128.0  # times the probe, where 16 bits hide small factors beside an offset
_ORDINARY = (0.1, 10.0)  # standard deviations of a layer's output that need no other input


@dataclass(frozen=True)
class Affine:
    """What the layers so far do to an input: `scale * input + offset`.

    Attributes:
        layer: Name of the last of them that changes values.
        scale: The factor, or factors for the values of one sample.
        offset: The offset, likewise.
        adapted: Whether a `Normalization` with a mean and a variance is among them.
        varied: Whether offsets differ, also where `offset` is their mean.
    """

    layer: str = ""
    scale: Values = field(default_factory=lambda: np.ones(()))
    offset: Values = field(default_factory=lambda: np.zeros(()))
    adapted: bool = False
    varied: bool = False

    def then(self, one: "Affine") -> "Affine":
        """Returns this and one more layer."""
        return Affine(
            one.layer,
            one.scale * self.scale,
            one.scale * self.offset + one.offset,
            one.adapted or self.adapted,
            one.varied or self.varied,
        )


@dataclass
class Entrance:
    """What the layers at an input say of the values that they take.

    Attributes:
        steps: What is done to the input, layer by layer, on the longest way that was followed.
        categories: Of layers that read categories, the name and the categories: how many there
            are, or the values.
        value_range: Of a layer that names the range of its input, the name and the range.
        masked: Whether it is passed on as a mask.
        size: Of a layer that is not affine, the name and the standard deviation of its input for
            which that of its output is ordinary; `None` without such a layer.
        images: Whether that layer's output is ordinary for images of 0 to 255.
    """

    steps: tuple[Affine, ...] = ()
    categories: list[tuple[str, Any]] = field(default_factory=list)
    value_range: tuple[str, tuple[float, float]] | None = None
    masked: bool = False
    size: tuple[str, float] | None = None
    images: bool = False


def entrances(model: Any, probe: Any, seed: int) -> list[Entrance]:
    """Returns what is known of each input of a built model, in the order of its flat inputs.

    Args:
        model: The model.
        probe: A small batch: standard normal floats, and integers of 0 and 1.
        seed: Seed of the backend's generator in the pass.
    """
    inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, probe)
    watcher = _Follower(keras.tree.flatten(inputs))
    try:
        forward(model, inputs, keras.StatelessScope(), watcher, seed, training=False)
    except Exception:  # a layer may raise anything on a probe that it does not take
        return watcher.entrances
    return watcher.entrances


@dataclass(frozen=True)
class _Signal:
    """A tensor that holds the values of an input, as far as they were followed.

    Attributes:
        tensor: The tensor, which is held so that no other tensor gets its identity.
        place: The place of the input among all.
        steps: What was done to the input.
        aligned: Whether its values stand in the order of those of the input.
    """

    tensor: Any
    place: int
    steps: tuple[Affine, ...] = ()
    aligned: bool = True

    @property
    def total(self) -> Affine:
        """What was done to the input, in all."""
        return self.steps[-1] if self.steps else Affine()


class _Follower(KernelWatcher):
    """Follows the inputs of a model through its first layers."""

    def __init__(self, tensors: Sequence[Any]) -> None:
        super().__init__()
        self.entrances = [Entrance() for _ in tensors]
        self._inputs = [_Signal(tensor, place) for place, tensor in enumerate(tensors)]
        self._known = {id(one.tensor): one for one in self._inputs}
        self._outer: list[Any] = []  # the layers whose calls are going on

    def run(self, call: LayerCall) -> Any:
        """Runs a layer, and follows the inputs through it."""
        layer = call.layer
        tensors = [one for one in keras.tree.flatten((call.args, call.kwargs)) if _is_array(one)]
        signals = [one for one in map(self._signal, tensors) if one is not None]
        for name, value in call.kwargs.items():
            if "mask" in name and id(value) in self._known:
                self.entrances[self._known[id(value)].place].masked = True
        read = categories(layer)
        if read is not None:
            for signal in signals:
                self.entrances[signal.place].categories.append((layer.name, read))
            first, *rest = call.args
            zeros = keras.tree.map_structure(keras.ops.zeros_like, first)
            return call.function(zeros, *rest, **call.kwargs)
        self._outer.append(layer)
        try:
            outputs = call.run()
        finally:
            self._outer.pop()
        alone = len(signals) == 1 and sum(map(_has_samples(signals[0].tensor), tensors)) == 1
        if alone and _is_simple(layer) and _is_array(outputs):
            self._follow(call, signals[0], outputs)
        return outputs

    def _signal(self, tensor: Any) -> _Signal | None:
        """Returns the signal in a tensor: a known one, or one that the outer layer computed."""
        known = self._known.get(id(tensor))
        if known is not None or not keras.backend.is_float_dtype(_dtype(tensor)):
            return known
        for one in self._inputs:
            if tuple(one.tensor.shape) == tuple(tensor.shape):
                offset = _intercept(_floats(one.tensor), _floats(tensor))
                fit = _fit(_floats(one.tensor), _floats(tensor), offset, _tolerance(tensor))
                if fit is not None and fit.shape == () and fit != 0.0:
                    name = self._outer[-1].name if self._outer else ""
                    signal = replace(one, tensor=tensor)
                    return self._add(_changed(signal, name, fit, offset, adapted=False))
        return None

    def _add(self, signal: _Signal) -> _Signal:
        self._known[id(signal.tensor)] = signal
        entrance = self.entrances[signal.place]
        if len(signal.steps) > len(entrance.steps):
            entrance.steps = signal.steps
        return signal

    def _follow(self, call: LayerCall, signal: _Signal, outputs: Any) -> None:
        """Follows a signal through a layer without weights and without layers inside."""
        layer, entrance = call.layer, self.entrances[signal.place]
        named_range = _named_range(layer)
        if named_range is not None and not signal.steps and entrance.value_range is None:
            entrance.value_range = (layer.name, named_range)
        given, returned = _floats(signal.tensor), _floats(outputs)
        moved = replace(signal, tensor=outputs)
        if _same_values(given, returned):
            same = np.array_equal(given.ravel(), returned.ravel())
            self._add(replace(moved, aligned=signal.aligned and same))
            return
        if "int" in _dtype(outputs) and np.array_equal(np.trunc(given), returned):
            self._add(moved)
            return

        def function(factor: float, constant: float = 0.0) -> Values:
            return _floats(_again(call, signal.tensor, factor, constant))

        if given.shape != returned.shape:
            if _averages(function(0.0), function(0.0, 1.0)):
                self._add(replace(moved, aligned=False))
            return
        offset = function(0.0).mean(axis=0)
        loud = () if "int" in _dtype(signal.tensor) else (_LOUD,)
        for factor in (1.0, *loud):
            out = returned if factor == 1.0 else function(factor)
            fit = _fit(given * factor, out, offset, _tolerance(outputs))
            if fit is not None and np.all(fit):
                normalizes = isinstance(layer, keras.layers.Normalization)
                self._add(_changed(moved, layer.name, fit, offset, adapted=normalizes))
                return
        self._look_for_size(layer.name, signal, function, entrance)

    def _look_for_size(
        self, name: str, signal: _Signal, function: Callable[..., Values], entrance: Entrance
    ) -> None:
        """Finds the size of the input for which the output of a layer is ordinary."""
        low, high = _ORDINARY
        spread = float(np.std(function(1.0)))
        if entrance.size is not None or not spread or low <= spread <= high:
            return
        if not low <= float(np.std(function(1.0 / spread))) <= high:
            return
        entrance.size = (name, 1.0 / spread / float(np.mean(signal.total.scale)))
        pixels = float(np.std(function(73.6, 127.5)))  # of uniform values of 0 to 255
        pictures = len(signal.tensor.shape) == 4 and not signal.steps
        entrance.images = pictures and low <= pixels <= high


def categories(layer: Any) -> Any:
    """Returns the categories that a layer reads: how many, or which; `None` of other layers."""
    if isinstance(layer, keras.layers.Embedding):
        return int(layer.input_dim)
    if isinstance(layer, keras.layers.CategoryEncoding):
        return int(layer.num_tokens)
    if isinstance(layer, keras.layers.Hashing):
        return int(layer.num_bins)
    if isinstance(layer, keras.layers.IntegerLookup):
        held = layer.get_vocabulary(include_special_tokens=False)
        return np.asarray(held, "int64") if len(held) else None
    return None


def _has_samples(signal: Any) -> Callable[[Any], bool]:
    """Returns a function that tells tensors with an axis of samples from constants."""
    rank, samples = len(signal.shape), signal.shape[0]
    return lambda tensor: len(tensor.shape) >= rank and tensor.shape[0] == samples


def _is_simple(layer: Any) -> bool:
    """Returns whether all that a layer does to its input is seen at its output."""
    if not isinstance(layer, keras.layers.Layer):
        return True
    adapted = isinstance(layer, keras.layers.Normalization)  # its weights are a mean and a variance
    return (adapted or not layer.weights) and not sublayers(layer)


def _named_range(layer: Any) -> tuple[float, float] | None:
    """Returns the range of values that a layer of Keras says it takes."""
    if isinstance(layer, keras.layers.Discretization) and len(layer.bin_boundaries or ()) > 1:
        edges = [float(one) for one in layer.bin_boundaries]
        margin = (edges[-1] - edges[0]) / (len(edges) - 1)
        return edges[0] - margin, edges[-1] + margin
    named = getattr(layer, "value_range", None)
    if is_of_keras(layer) and isinstance(named, (list, tuple)) and len(named) == 2:
        return float(named[0]), float(named[1])
    return None


def _again(call: LayerCall, tensor: Any, factor: float, constant: float) -> Any:
    """Returns what a call returns where a tensor is multiplied, and a constant added."""

    def changed(value: Any) -> Any:
        if value is not tensor:
            return value
        wide = keras.ops.cast(value, "float32") * factor + constant
        return keras.ops.cast(wide, value.dtype)

    args, kwargs = keras.tree.map_structure(changed, (call.args, call.kwargs))
    return call.function(*args, **kwargs)


def _changed(
    signal: _Signal, name: str, scale: Values, offset: Values, *, adapted: bool
) -> _Signal:
    """Returns a signal that a layer changed; factors for single values count where they stand."""
    shape = tuple(signal.tensor.shape)[1:]
    parts = [_plain(np.broadcast_to(one, shape)) for one in (scale, offset)]
    varied = bool(parts[1].ndim)
    scale, offset = parts if signal.aligned else [np.asarray(one.mean()) for one in parts]
    if np.all(np.abs(scale - 1.0) < _FIT) and np.all(np.abs(offset) < _FIT):
        return signal
    step = signal.total.then(Affine(name, scale, offset, adapted, varied))
    return replace(signal, steps=(*signal.steps, step))


def _plain(values: Values) -> Values:
    """Returns one number where all are equal."""
    values = np.asarray(values, "float64")
    middle = values.mean()
    return middle.reshape(()) if np.allclose(values, middle, rtol=_FIT, atol=1e-6) else values


def _fit(given: Values, returned: Values, offset: Values, tolerance: float) -> Values | None:
    """Returns the factors by which values were multiplied, `None` where they were not.

    One for all is tried first, then one for each place on the last axis, then one for each value of
    a sample, which takes three samples.
    """
    change = returned - offset
    if not np.all(np.isfinite(change)):
        return None
    last = tuple(range(given.ndim - 1))
    for axes in (tuple(range(given.ndim)), last, (0,)):
        if axes != tuple(range(given.ndim)) and given.size < 3 * given[(0,) * len(axes)].size:
            continue
        squares = np.sum(given * given, axis=axes)
        if not np.all(squares):
            continue
        factors = np.sum(given * change, axis=axes) / squares
        largest = np.max(np.abs(factors * given), initial=0.0)
        if largest and np.max(np.abs(change - factors * given)) <= tolerance * largest:
            return np.asarray(factors)
    return None


def _intercept(given: Values, returned: Values) -> Values:
    """Returns the offset of values that are compared with an input by one factor."""
    centred = given - given.mean()
    factor = np.sum(centred * returned) / max(float(np.sum(centred * centred)), 1e-30)
    return np.full(given.shape[1:], returned.mean() - factor * given.mean())


def _same_values(given: Values, returned: Values) -> bool:
    """Returns whether values were moved at most."""
    if given.size != returned.size:
        return False
    return np.array_equal(np.sort(given, None), np.sort(returned, None))


def _averages(of_zeros: Values, of_ones: Values) -> bool:
    """Returns whether a layer averages or moves values, zeros at the edges allowed."""
    edges = np.isclose(of_ones, 1.0, rtol=_LOW_FIT) | (of_ones == 0.0)
    return not of_zeros.any() and bool(np.all(edges)) and bool(of_ones.any())


def _is_array(value: Any) -> bool:
    return bool(keras.ops.is_tensor(value)) and _dtype(value) not in ("bool", "string")


def _dtype(tensor: Any) -> str:
    return str(keras.backend.standardize_dtype(tensor.dtype))


def _tolerance(tensor: Any) -> float:
    return _LOW_FIT if "16" in _dtype(tensor) else _FIT


def _floats(tensor: Any) -> Values:
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")), "float64")
