"""What each variable of a model is to get: decided and measured, with nothing written yet.

Everything that can fail, fails here. A plan holds the values of all variables that change; the
only writer is `write`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras

from keras_he.errors import KerasHeError, NotMeasurable
from keras_he.initialize_model.measure import Measurement, Settings
from keras_he.initialize_model.planned_variable import Entry, seed_of
from keras_he.initialize_model.second_pass import Look, backward_moments
from keras_he.layers.path_patterns import selected
from keras_he.layers.rules import Place, has_fixed_threshold
from keras_he.layers.variables import Slot, layer_paths, not_built, remade_initializer, slots
from keras_he.notes import NO_NOTE, Note
from keras_he.passes.forward import forward
from keras_he.passes.moving_statistics import MovingStatistics, initial
from keras_he.passes.preceding_activation import is_rectifier
from keras_he.passes.tensor_origins import Trace, depth_factors
from keras_he.reports.data import NOT_REACHED
from keras_he.theory.standard_deviation import standard_deviation

# By which the second moment of a trunk may grow: 4, or half as much again as sums of independent
# branches of size 1, such as those that end in normalisations, make of it.
_STEADY, _PER_SUM = 4.0, 1.5
_NOT_SELECTED = Note("not-selected", "not selected")


@dataclass
class Plan:
    """The entries of a model's variables, and what the pass noticed.

    Attributes:
        entries: One for each variable.
        settings: Law and mode of the kernels.
        notes: What a user should know.
        random_layers: Layers that drew random numbers, which differ between backends.
        chain: The kernels in order, where the signal takes one way past all of them.
        drawn: Final values of kernels that were needed before the model is written.
    """

    settings: Settings
    entries: list[Entry]
    notes: list[Note] = field(default_factory=list)
    random_layers: list[str] = field(default_factory=list)
    drawn: dict[int, Any] = field(default_factory=dict)
    chain: list[Entry] = field(default_factory=list)

    def final(self, entry: Entry) -> Any:
        """Returns the values that a variable gets, `None` of one that is left."""
        if entry.is_set and entry.gain is not None:
            known = self.drawn.get(id(entry))
            if known is not None:
                return known
            return entry.draw(self.settings.law, self.settings.mode, entry.gain)
        return None if entry.left else entry.value

    def final_state(self) -> list[tuple[Any, Any]]:
        """Returns what the variables will hold, but moving statistics, which are 0."""
        state = []
        for entry in self.entries:
            if entry.slot.role == "statistic" and not entry.left:
                state.append((entry.slot.variable, _zeros(entry.slot.variable)))
                continue
            values = self.final(entry)
            if values is not None:
                state.append((entry.slot.variable, values))
                if entry.is_set:
                    self.drawn[id(entry)] = values
        return state


def make_plan(
    model: Any,
    survey: Sequence[Place],
    batch: Any,
    settings: Settings,
    seed: int,
    *,
    measures: bool,
    residual: str | None,
    statistics: str,
    only: Any,
    skip: Any,
    progress: Callable[[], None],
) -> Plan:
    """Returns the plan of a model and its `places`; `batch=None` runs no pass."""
    entries = _entries(slots(model, survey), seed, only, skip)
    for entry in entries:
        _check_size(entry)
        if entry.slot.role == "remade" and not entry.left:
            _remake(entry)
    plan = Plan(settings, entries)
    plan.notes += not_built(survey)
    if batch is not None:
        inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)
        pass_seed = seed_of(seed, "a pass") % 2**32
        given = _Pass(model, inputs, layer_paths(survey), pass_seed, progress)
        try:
            watcher = _measure(plan, given, residual, measures)
        except KerasHeError as error:
            if measures:
                raise
            text = f"the activations in front are not known: {error}"
            plan.notes.append(Note("activations-unknown", text))
        if measures:
            seen = _look(plan, given, watcher.statistics)
            if statistics == "batch":
                _batch_statistics(entries, seen)
    for entry in entries:
        if entry.slot.role == "statistic" and not entry.left and entry.value is None:
            _initial_statistics(entry)
        if entry.is_set and entry.gain is None:
            entry.rule = NOT_REACHED
            entry.gain = 1.0
    return plan


def _check_size(entry: Entry) -> None:
    """Refuses a kernel whose size does not come to its layer's output."""
    if entry.is_set and has_fixed_threshold(entry.slot.layer):
        raise NotMeasurable(
            f"`{entry.slot.path}` must set the size of its layer's output to be initialized. With "
            "a fixed `threshold` it does not. Give the layer `threshold=None`, or leave the kernel "
            f'out with `skip="{entry.slot.path}"`.'
        )


def _entries(found: Sequence[Slot], seed: int, only: Any, skip: Any) -> list[Entry]:
    chosen = selected([slot.path for slot in found], only, skip)
    return [
        Entry(
            slot,
            seed_of(seed, slot.key),
            left=slot.left or (NO_NOTE if slot.path in chosen else _NOT_SELECTED),
        )
        for slot in found
    ]


class _Pass(NamedTuple):
    """What every pass over a model is given."""

    model: Any
    inputs: Any
    paths: dict[int, str]
    seed: int
    progress: Callable[[], None]


def _measure(plan: Plan, given: _Pass, residual: str | None, measures: bool) -> Measurement:
    """Runs the pass that measures; again, where it finds sums whose branches are to be scaled."""
    state = _unit_state(plan)
    watcher, trace = _measuring_pass(plan, given, state, {}, measures)
    factors = depth_factors(trace.runs) if residual == "depth" and measures else {}
    if factors:
        for entry in plan.entries:
            if entry.slot.role == "kernel":
                entry.forget()
        watcher, trace = _measuring_pass(plan, given, state, factors, measures)
    for entry in plan.entries:
        if entry.is_set and entry.gain is None and entry.order is not None:
            watcher.give_up(entry)
    plan.notes += watcher.notes + _merges(trace)
    plan.random_layers = watcher.random_layers
    plan.chain = [] if trace.runs or trace.left or trace.unseen else _chain(plan)
    return watcher


def _measuring_pass(
    plan: Plan,
    given: _Pass,
    state: list[tuple[Any, Any]],
    factors: dict[int, float],
    measures: bool,
) -> tuple[Measurement, Trace]:
    scope = keras.StatelessScope(state_mapping=state)
    trace = Trace(keras.tree.flatten(given.inputs))
    watcher = Measurement(
        plan.entries,
        plan.settings,
        scope,
        trace,
        given.paths,
        factors,
        measures=measures,
        progress=given.progress,
    )
    forward(given.model, given.inputs, scope, watcher, given.seed)
    return watcher, trace


def _look(plan: Plan, given: _Pass, statistics: MovingStatistics) -> MovingStatistics:
    """Runs the passes over the model as it will be; returns the statistics of the last one."""
    modes = []
    if plan.settings.mode != "fan_in":
        _look_back(plan, given)
        modes.append(True)
    if plan.random_layers and any(one.slot.role == "statistic" for one in plan.entries):
        modes.append(False)  # without the random masks, as inference will see it
    for training in modes:
        scope = keras.StatelessScope(state_mapping=plan.final_state())
        watcher = Look(plan.entries, scope, training)
        forward(given.model, given.inputs, scope, watcher, given.seed, training=training)
        statistics = watcher.statistics
    return statistics


def _chain(plan: Plan) -> list[Entry]:
    """Returns the kernels in the order of the signal, where it takes one way past all of them.

    Of a separable convolution the second half stands for both.
    """
    reached = sorted(
        (
            entry
            for entry in plan.entries
            if entry.slot.role == "kernel" and entry.order is not None
        ),
        key=lambda entry: entry.order or 0,
    )
    chain = list({id(entry.slot.layer): entry for entry in reached}.values())
    alone = all(
        entry.behind == place and len(entry.moments) == 1 for place, entry in enumerate(chain)
    )
    return chain if alone else []


def _look_back(plan: Plan, given: _Pass) -> None:
    """Takes measured gains to the mode: to the fans, or to the gradient that was measured.

    Along a chain of rectifiers a kernel that keeps the signal changes the gradient's second moment
    by a ratio that is measured, and one that is smaller by its root keeps the gradient. Behind any
    other activation the ratio is another at another size of the signal.
    """
    ratios: dict[int, float] = {}
    if plan.chain:
        state = _forward_state(plan)
        moments = backward_moments(given.model, given.inputs, state, plan.chain, given.seed)
        pairs = zip(plan.chain, plan.chain[1:], moments, moments[1:], strict=False)
        for before, entry, earlier, later in pairs:
            if follows(before, entry) and is_rectifier(entry.activation) and earlier and later:
                ratios[id(entry.slot.layer)] = earlier / later
    for entry in plan.entries:
        if entry.is_set and entry.rule == "measured":
            _take_to_mode(entry, plan.settings.mode, ratios)


def _take_to_mode(entry: Entry, mode: str, ratios: dict[int, float]) -> None:
    forward_std, fans = entry.std("fan_in"), entry.fans
    assert forward_std is not None
    assert fans is not None
    backward_std = entry.std("fan_out")
    ratio = ratios.get(id(entry.slot.layer))
    if ratio is not None and entry.slot.name != "depthwise_kernel":
        backward_std = forward_std / math.sqrt(ratio)
    assert backward_std is not None
    std = {
        "fan_out": backward_std,
        "fan_avg": math.sqrt(2 / (forward_std**-2 + backward_std**-2)),
    }[mode]
    entry.gain = float(f"{std / standard_deviation(1.0, fans, mode):.3g}")


def follows(before: Entry, entry: Entry) -> bool:
    """Returns whether nothing that changes sizes, such as pooling, stands between two kernels."""
    return entry.input_size == math.prod(before.output_shape)


def _forward_state(plan: Plan) -> list[tuple[Any, Any]]:
    """Returns what the variables hold where every kernel keeps the signal."""
    state = []
    for entry in plan.entries:
        if entry.is_set and entry.gain is not None:
            values = entry.draw(plan.settings.law, "fan_in", entry.gain)
            state.append((entry.slot.variable, values))
        elif entry.value is not None and not entry.left:
            state.append((entry.slot.variable, entry.value))
    return state


def _unit_state(plan: Plan) -> list[tuple[Any, Any]]:
    """Returns what the variables hold while it is measured: kernels of gain 1, biases of 0."""
    state = []
    for entry in plan.entries:
        variable = entry.slot.variable
        if entry.is_set and not entry.recurrent:
            state.append((variable, entry.draw(plan.settings.law, "fan_in", 1.0)))
        elif (entry.slot.role == "statistic" and not entry.left) or (
            entry.adds_bias and entry.range != (0.0, 0.0)
        ):
            state.append((variable, _zeros(variable)))
        elif entry.value is not None:
            state.append((variable, entry.value))
    return state


def _zeros(variable: Any) -> Any:
    return keras.ops.zeros(variable.shape, dtype=variable.dtype)


def _merges(trace: Trace) -> list[Note]:
    """Returns what is said of merges that are left as they are."""
    notes = []
    if trace.left:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(trace.left.items()))
        notes.append(Note("merges", f"merges left as they are: {counts}"))
    if trace.unseen:
        where = _listed(trace.unseen)
        text = (
            f"unseen merge: sums that no layer makes, at {where}, are left as they are; made by "
            "`keras.layers.Add` their branches would be scaled"
        )
        notes.append(Note("unseen-merge", text))
    if trace.hidden:
        where = _listed(trace.hidden)
        text = f"not seen: what {where} make of the layers inside; sums there are left"
        notes.append(Note("unseen-layers", text))
    for run in trace.runs:
        grows = max(run.moments) / min(run.moments) if min(run.moments) > 0.0 else 1.0
        if grows > max(_STEADY, _PER_SUM * (run.sums + 1)):
            text = (
                f"the trunk of {run.sums} sums grows {grows:.2g} times: what they add has a mean, "
                "or is the trunk itself, which no kernel can scale"
            )
            notes.append(Note("growing-trunk", text))
    return notes


def _listed(names: Sequence[str]) -> str:
    """Returns the first names, and how many more there are."""
    different = list(dict.fromkeys(names))
    more = f" and {len(different) - 8} more" if len(different) > 8 else ""
    return ", ".join(different[:8]) + more


def _remake(entry: Entry) -> None:
    """Makes a bias or a parameter of a normalisation again, as its layer made it."""
    slot = entry.slot
    make = remade_initializer(slot.layer, slot.name)
    if make is not None:
        entry.value = _made(make, slot)
        entry.rule = f"{slot.name}_initializer"


def _initial_statistics(entry: Entry) -> None:
    entry.rule = f"{entry.slot.name}_initializer"
    entry.value = initial(entry.slot.layer, entry.slot.name)


def _made(initializer: Callable[..., Any], slot: Slot) -> Any:
    variable = slot.variable
    values = initializer(tuple(variable.shape), dtype=variable.dtype)
    return keras.ops.convert_to_tensor(values, dtype=variable.dtype)


def _batch_statistics(entries: Sequence[Entry], statistics: MovingStatistics) -> None:
    """Takes over the statistics of the batch, of the layers that took any."""
    for entry in entries:
        if entry.slot.role == "statistic" and not entry.left:
            taken = statistics.of_batch(entry.slot.layer, entry.slot.name)
            if taken is not None:
                entry.value, entry.rule = taken, "batch statistics"
