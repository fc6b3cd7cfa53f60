"""Which weights of a user's layers are tables, which are added or appended and multiply nothing.

A class token, or a table of positions, has the shape of a kernel and no fans. No name and no shape
tells them apart for sure: the model is run once more with other values of the weight, and the first
tensor that changes shows whether the weight's own rows appear in it, the same for every sample.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_he.backend.tensors import as_tensors, float_tensors
from keras_he.errors import KerasHeError
from keras_he.layers.variables import ModelVariable
from keras_he.notes import Note
from keras_he.passes.forward import forward
from keras_he.passes.kernel_watcher import KernelWatcher, LayerCall
from keras_he.sampling.stream import draw

_ROWS = 64  # of a tensor that are compared
_SAMPLES = 2  # that are compared
_ROUNDING = {"float16": 2e-2, "bfloat16": 1e-1}
_EXACT = 1e-4  # of float32, with values of size 1


class _Recorder(KernelWatcher):
    """Keeps the tensors that layers are given and return, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Any] = []

    def run(self, call: LayerCall) -> Any:
        """Runs a layer, and keeps its tensors."""
        self.tensors += call.floats
        outputs = call.run()
        self.tensors += float_tensors(outputs)
        return outputs


def leave_tables(model: Any, batch: Any, found: Iterable[ModelVariable], seed: int) -> None:
    """Takes tables out of the variables that may be kernels; writes nothing to the model.

    Args:
        model: The model.
        batch: Its inputs.
        found: The variables. The role of tables becomes `"other"`.
        seed: Seed of the passes.
    """
    asked = [one for one in found if one.role == "unknown"]
    with suppress(KerasHeError):  # such as compiled code, where nothing can be seen
        before = _tensors(model, batch, seed) if asked else []
        for one in asked:
            change = draw("normal", one.shape, 1.0, (seed,), "float32")
            values = one.variable.value + keras.ops.cast(change, one.variable.dtype)
            after = _tensors(model, batch, seed, (one.variable, values))
            if _shows_rows(before, after, change, one):
                one.role = "other"
                one.left = Note(
                    "parameter", f"a table that {type(one.layer).__name__} adds or appends"
                )


def _tensors(model: Any, batch: Any, seed: int, *state: tuple[Any, Any]) -> list[Any]:
    recorder = _Recorder()
    scope = keras.StatelessScope(state_mapping=state)
    forward(model, as_tensors(batch), scope, recorder, seed, training=False)
    return recorder.tensors


def _shows_rows(
    before: list[Any], after: list[Any], change: NDArray[Any], one: ModelVariable
) -> bool:
    """Returns whether rows of a change appear in the first tensor that changes."""
    tolerance = _ROUNDING.get(str(one.variable.dtype), _EXACT)
    for difference in _differences(before, after):
        if np.abs(difference).max() <= tolerance:
            continue
        if difference.shape == change.shape:  # the weight itself, on its way through a layer
            continue
        return _consists_of(difference, change, tolerance)
    return False


def _differences(before: list[Any], after: list[Any]) -> Iterator[NDArray[Any]]:
    if len(before) != len(after):
        return
    for one, other in zip(before, after, strict=True):
        if tuple(one.shape) != tuple(other.shape):
            return
        if one.shape and 0 not in one.shape:
            yield _floats(other[:_SAMPLES]) - _floats(one[:_SAMPLES])


def _floats(tensor: Any) -> NDArray[Any]:
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))  # type: ignore[no-any-return]


def _consists_of(difference: NDArray[Any], change: NDArray[Any], tolerance: float) -> bool:
    """Returns whether each sample changed by the same rows, all of them rows of a change."""
    width = change.shape[-1]
    if difference.shape[-1] != width or np.abs(difference - difference[:1]).max() > tolerance:
        return False
    rows = difference[0].reshape(-1, width)
    rows = rows[np.abs(rows).max(axis=1) > tolerance]
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, _ROWS).astype(int))]
    known = change.reshape(-1, width)
    return all(np.abs(known - row).max(axis=1).min() <= tolerance for row in rows)
