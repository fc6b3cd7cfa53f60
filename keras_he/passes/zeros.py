"""Which layers of a pass return zeros only, and whether an author's choice explains it.

Behind zeros nothing can be measured. That is no error: the rest of a model can. Zeros that follow
from a kernel of zeros by its author's choice need no remark. Any other layer that returns zeros
gets a note.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from keras_he.backend.keras_private import is_of_keras, layers_inside, own
from keras_he.backend.tensors import mean_square, number
from keras_he.layers.kinds import is_normalisation
from keras_he.notes import Note
from keras_he.passes.kernel_watcher import LayerCall
from keras_he.passes.tensor_origins import Origin


class Zeros:
    """The zeros of one pass.

    Args:
        layers: The layers that hold a kernel of zeros by their author's choice.
    """

    def __init__(self, layers: Iterable[Any]) -> None:
        self._choosing = {id(layer) for layer in layers}
        self._chosen: dict[int, Any] = {}  # tensors that a choice explains, held by identity
        self._silent: set[int] = set()  # layers that returned zeros
        self._heard: set[int] = set()  # layers that returned anything else
        self._notes: dict[int, Note] = {}  # by the identity of a layer

    def returned(self, call: LayerCall, tensor: Any, note: Note | None = None) -> bool:
        """Records an output of zeros, and returns whether a choice explains it.

        Args:
            call: The call.
            tensor: The output.
            note: What to tell of it if neither a choice nor a layer inside explains it.
        """
        chosen = self.explains(call.layer, call.inputs)
        if chosen:
            self._chosen[id(tensor)] = tensor
        elif note is not None and not any(id(one) in self._silent for one in _inside(call.layer)):
            self._notes.setdefault(id(call.layer), note)
        self._silent.add(id(call.layer))
        return chosen

    def heard(self, layer: Any) -> None:
        """Records a layer that returned anything but zeros."""
        self._heard.add(id(layer))

    def activated(self, value: Any, result: Any) -> None:
        """Records an activation inside a layer."""
        if id(value) in self._chosen:
            self._chosen[id(result)] = result

    def explains(self, layer: Any, inputs: Sequence[Origin]) -> bool:
        """Returns whether a choice explains that a layer returns zeros for inputs."""
        given = any(id(origin.tensor) in self._chosen for origin in inputs)
        return given or any(id(one) in self._choosing for one in _inside(layer))

    def add(self, layer: Any, note: Note) -> None:
        """Adds the note about zeros inside a layer."""
        self._notes.setdefault(id(layer), note)

    def notes(self) -> list[Note]:
        """Returns the notes about layers that never returned anything else."""
        return [note for key, note in self._notes.items() if key not in self._heard]


def _inside(layer: Any) -> list[Any]:
    """Returns a layer and the layers inside it; an operation alone."""
    return layers_inside(layer) if hasattr(layer, "weights") else [layer]


def may_be_zero(call: LayerCall) -> bool:
    """Returns whether a layer returns zeros for a reason: zero inputs, a mask, a zero factor."""
    layer = call.layer
    if not all(mean_square(origin.tensor) for origin in call.inputs):
        return True
    if not is_of_keras(layer):
        # A user's layer, such as a mask, or a branch with a factor that starts at zero.
        factors = [one for one in own(layer).weights if one.name != "bias"]
        return not layer.weights or any(not mean_square(one.value) for one in factors)
    if is_normalisation(layer):
        scale = getattr(layer, "gamma", getattr(layer, "scale", None))
        return scale is not None and keras.ops.is_tensor(scale.value) and not mean_square(scale)
    rectifiers = (keras.layers.Activation, keras.layers.PReLU, keras.layers.ReLU)
    return isinstance(layer, rectifiers) and number(keras.ops.max(call.inputs[0].tensor)) <= 0.0
