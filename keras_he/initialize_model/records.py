"""What the stages of `initialize` hand to one another: what is asked for, and the plan."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from keras_he.initialize_model.planned_variable import PlannedVariable, Settings
from keras_he.notes import Note
from keras_he.passes.model_checks import Progress


@dataclass
class Plan:
    """The records of a model's variables, and what the pass noticed.

    Attributes:
        settings: Law and mode of the kernels.
        variables: The records.
        notes: What a user should know.
        random_layers: Layers that drew random numbers, which differ between backends.
        chain: The kernels in order, where the signal takes one way through all of them.
        trunk: Decades that the residual trunk grows by, `None` without sums or verification.
        drawn: Final values of kernels that were needed before the model is written.
    """

    settings: Settings
    variables: list[PlannedVariable]
    notes: list[Note] = field(default_factory=list)
    random_layers: list[str] = field(default_factory=list)
    chain: list[PlannedVariable] = field(default_factory=list)
    trunk: float | None = None
    drawn: dict[int, Any] = field(default_factory=dict)

    def final(self, one: PlannedVariable) -> Any:
        """Returns the values that a variable gets, `None` of one that is left."""
        if one.is_set and one.gain is not None:
            known = self.drawn.get(id(one))
            return one.draw(self.settings, one.gain) if known is None else known
        return None if one.left else one.value


class Request(NamedTuple):
    """What a plan is asked for: the arguments of `initialize` of these names, checked."""

    settings: Settings
    seed: int
    measures: bool
    residual: str | None
    statistics: str
    backward: bool
    only: Any
    skip: Any
    constants: str


class Pass(NamedTuple):
    """The arguments that all passes over a model share."""

    model: Any
    inputs: Any
    paths: dict[int, str]
    seed: int
    progress: Progress
