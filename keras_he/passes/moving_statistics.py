"""Moving statistics during a pass: they start at zero, so that what the pass adds can be read.

After `n` updates a moving statistic that began at 0 is the mean over the updates, by their weights,
times `1 - momentum**n`. A call that uses moving statistics, in inference mode or of a frozen layer,
gets that mean, or Keras' initial 0 and 1 where there was no update yet.
"""

from typing import Any

import keras

from keras_he.layers.kinds import STATISTICS
from keras_he.passes.kernel_watcher import LayerCall


class MovingStatistics:
    """The statistics of the `BatchNormalization` layers of one pass.

    Args:
        scope: The scope of the pass, in which the statistics that are to be replaced are 0.
        always: Whether every call uses the statistics of its batch, in inference mode too.
    """

    def __init__(self, scope: keras.StatelessScope, *, always: bool = False) -> None:
        self._scope, self._always = scope, always
        self._updates: dict[int, int] = {}

    def run(self, call: LayerCall) -> Any:
        """Runs a `BatchNormalization`."""
        layer = call.layer
        variables = [getattr(layer, name) for name in STATISTICS]
        kept = [self._scope.get_current_value(variable) for variable in variables]
        if any(value is None for value in kept):  # left as they are
            return call.run()
        if self._always:
            call.kwargs = {**call.kwargs, "training": True}
        if call.kwargs.get("training") and layer.trainable:
            self._updates[id(layer)] = self._updates.get(id(layer), 0) + 1
            return call.run()
        for name, variable in zip(STATISTICS, variables, strict=True):
            taken = self.of_batch(layer, name)
            value = initial(layer, name) if taken is None else taken
            self._scope.add_update((variable, value))
        outputs = call.run()
        for variable, value in zip(variables, kept, strict=True):
            self._scope.add_update((variable, value))
        return outputs

    def of_batch(self, layer: Any, name: str) -> Any:
        """Returns a statistic over the batch, or `None` where there was no update."""
        share = 1.0 - layer.momentum ** self._updates.get(id(layer), 0)
        if share <= 0.0 or getattr(layer, "renorm", False):
            return None
        variable = getattr(layer, name)
        return keras.ops.cast(self._scope.get_current_value(variable) / share, variable.dtype)


def initial(layer: Any, name: str) -> Any:
    """Returns the initial value of a moving statistic, by the layer's own initializer."""
    variable = getattr(layer, name)
    values = getattr(layer, f"{name}_initializer")(tuple(variable.shape), dtype=variable.dtype)
    return keras.ops.convert_to_tensor(values, dtype=variable.dtype)
