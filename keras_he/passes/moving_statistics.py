"""Moving statistics during a pass: they start at zero, so that what it adds can be read off them.

After `n` updates a moving statistic that began at 0 is the mean over the updates, by their weights,
times `1 - momentum**n`. A call that reads it instead, in inference mode or of a frozen layer, is
given that mean, or Keras' own 0 and 1 where there was no update yet.
"""

from collections.abc import Callable
from typing import Any

import keras

from keras_he.layers.variables import STATISTICS


class MovingStatistics:
    """The statistics of the `BatchNormalization` layers of one pass.

    Args:
        scope: The scope of the pass, in which those to be replaced are 0.
        always: Whether every call takes the statistics of its batch, in inference mode too.
    """

    def __init__(self, scope: keras.StatelessScope, *, always: bool = False) -> None:
        self._scope, self._always = scope, always
        self._updates: dict[int, int] = {}

    def call(self, layer: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Runs a `BatchNormalization`."""
        variables = [getattr(layer, name) for name in STATISTICS]
        kept = [self._scope.get_current_value(variable) for variable in variables]
        if any(value is None for value in kept):  # left as they are
            return call(*args, **kwargs)
        if self._always:
            kwargs = {**kwargs, "training": True}
        if kwargs.get("training") and layer.trainable:
            self._updates[id(layer)] = self._updates.get(id(layer), 0) + 1
            return call(*args, **kwargs)
        for name, variable in zip(STATISTICS, variables, strict=True):
            self._scope.add_update((variable, self._read(layer, name)))
        outputs = call(*args, **kwargs)
        for variable, value in zip(variables, kept, strict=True):
            self._scope.add_update((variable, value))
        return outputs

    def of_batch(self, layer: Any, name: str) -> Any:
        """Returns a statistic over the batch, or `None` where none was taken."""
        share = 1.0 - layer.momentum ** self._updates.get(id(layer), 0)
        if share <= 0.0 or getattr(layer, "renorm", False):
            return None
        variable = getattr(layer, name)
        return keras.ops.cast(self._scope.get_current_value(variable) / share, variable.dtype)

    def _read(self, layer: Any, name: str) -> Any:
        taken = self.of_batch(layer, name)
        return initial(layer, name) if taken is None else taken


def initial(layer: Any, name: str) -> Any:
    """Returns a moving statistic as Keras makes it, by the layer's own initializer."""
    variable = getattr(layer, name)
    values = getattr(layer, f"{name}_initializer")(tuple(variable.shape), dtype=variable.dtype)
    return keras.ops.convert_to_tensor(values, dtype=variable.dtype)
