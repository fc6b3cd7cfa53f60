"""Which layers of a pass return zeros only, and whether a kernel that is kept as zeros explains it.

Behind zeros nothing can be measured. That is no error: the rest of the model can. What a kernel of
zeros by its author's choice explains is not told; any other layer that returns zeros is a note.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from keras_he.backend.keras_private import layers_inside
from keras_he.initialize_model.planned_variable import PlannedVariable
from keras_he.layers.constants import is_zero
from keras_he.notes import Note
from keras_he.passes.kernel_watcher import LayerCall
from keras_he.passes.tensor_origins import Origin


class Zeros:
    """The zeros of one pass."""

    def __init__(self) -> None:
        self._chosen: dict[int, Any] = {}  # tensors that a choice explains, held by identity
        self._silent: dict[int, bool] = {}  # layers that returned zeros: whether by choice
        self._heard: set[int] = set()  # layers that returned anything else
        self._notes: dict[int, Note] = {}  # by the identity of a layer
        self._dead: set[int] = set()  # kernels whose inputs are zero by choice

    def returned(self, call: LayerCall, tensor: Any, note: Note | None) -> None:
        """Takes note of an output of zeros.

        Args:
            call: The call.
            tensor: The output.
            note: What to tell of it if no choice and no layer inside explains it.
        """
        layer = call.layer
        inside = layers_inside(layer)[1:] if hasattr(layer, "weights") else []
        inner = [self._silent[id(one)] for one in inside if id(one) in self._silent]
        chosen = self.explained(call.kernels[-1:], call.inputs) or any(inner)
        if chosen:
            self._chosen[id(tensor)] = tensor
        elif note is not None and not inner:
            self._notes.setdefault(id(layer), note)
        self._silent[id(layer)] = chosen or self._silent.get(id(layer), False)

    def heard(self, layer: Any) -> None:
        """Takes note of a layer that returned anything but zeros."""
        self._heard.add(id(layer))

    def activated(self, value: Any, result: Any) -> None:
        """Takes note of an activation inside a layer."""
        if id(value) in self._chosen:
            self._chosen[id(result)] = result

    def explained(self, kernels: Iterable[PlannedVariable], inputs: Sequence[Origin]) -> bool:
        """Returns whether a kernel of zeros by choice explains that an output is zero."""
        chosen = any(one.left.kind == "by-design" and is_zero(one) for one in kernels)
        return chosen or any(id(origin.tensor) in self._chosen for origin in inputs)

    def given_to(
        self, kernel: PlannedVariable, inputs: Sequence[Origin], note: Note | None
    ) -> None:
        """Takes note of a kernel that returns zeros for inputs, some of which may not be zero."""
        if self.explained([kernel], inputs):
            self._dead.add(id(kernel))
        elif note is not None:
            self._notes.setdefault(id(kernel.layer), note)

    def reason(self, kernel: PlannedVariable) -> Note:
        """Returns the note about a kernel whose inputs were zero at every call."""
        text = f"dead input: {kernel.path} receives only zeros"
        if id(kernel) in self._dead:
            return Note("by-design", f"{text}, from a kernel that is kept as zeros")
        return Note("dead-input", text)

    def notes(self) -> list[Note]:
        """Returns the notes about layers that never returned anything else."""
        return [note for key, note in self._notes.items() if key not in self._heard]
