"""What each variable of a model is to get: measured and decided, with nothing written yet.

Everything that can fail, fails here. A plan holds the new values of all variables that change; the
only writer is `write`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras

from keras_he.backend.framework import framework
from keras_he.errors import KerasHeError, NotMeasurable
from keras_he.initialize_model.measure import Measurement
from keras_he.initialize_model.planned_variable import PlannedVariable, Settings, seed_of
from keras_he.initialize_model.second_pass import FinalPass, backward_moments
from keras_he.layers.kinds import has_fixed_threshold
from keras_he.layers.path_patterns import selected
from keras_he.layers.variables import remade_value, variables
from keras_he.layers.walk import Place, layer_paths, not_built, random_layers
from keras_he.notes import NO_NOTE, Note
from keras_he.passes.forward import forward
from keras_he.passes.model_checks import Progress
from keras_he.passes.moving_statistics import MovingStatistics, initial
from keras_he.passes.preceding_activation import is_rectifier
from keras_he.passes.tensor_origins import Trace, branch_factors
from keras_he.reports.data import NOT_REACHED
from keras_he.theory.kernel_geometry import standard_deviation

# By which the second moment of a trunk may grow: 4, or half as much again as sums of independent
# branches of size 1, such as those that end in normalisations, make of it.
_STEADY, _PER_SUM = 4.0, 1.5
_NOT_SELECTED = Note("not-selected", "not selected")


@dataclass
class Plan:
    """The records of a model's variables, and what the pass noticed.

    Attributes:
        settings: Law and mode of the kernels.
        variables: The records.
        notes: What a user should know.
        random_layers: Layers that drew random numbers, which differ between backends.
        chain: The kernels in order, where the signal takes one way through all of them.
        drawn: Final values of kernels that were needed before the model is written.
    """

    settings: Settings
    variables: list[PlannedVariable]
    notes: list[Note] = field(default_factory=list)
    random_layers: list[str] = field(default_factory=list)
    chain: list[PlannedVariable] = field(default_factory=list)
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
    only: Any
    skip: Any


class _Pass(NamedTuple):
    """The arguments that all passes over a model share."""

    model: Any
    inputs: Any
    paths: dict[int, str]
    seed: int
    progress: Progress


def make_plan(
    model: Any,
    survey: Sequence[Place],
    batch: Any,
    request: Request,
    progress: Progress,
) -> Plan:
    """Returns the plan of a model and its `places`; `batch=None` runs no pass."""
    pass_seed = seed_of(request.seed, "a pass") % 2**32
    plan = Plan(request.settings, variables(model, survey, PlannedVariable))
    _select(plan.variables, request)
    plan.notes += not_built(survey)
    if batch is not None:
        inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)
        given = _Pass(model, inputs, layer_paths(survey), pass_seed, progress)
        try:
            watcher = _measure(plan, given, request)
        except KerasHeError as error:
            if request.measures:
                raise
            progress.close()
            text = f"the preceding activations are not known: {error}"
            plan.notes.append(Note("activations-unknown", text))
        if request.measures:
            seen = _final_passes(plan, given, watcher.statistics)
            if request.statistics == "batch":
                _batch_statistics(plan.variables, seen)
    for one in plan.variables:
        if one.role == "statistic" and not one.left and one.value is None:
            one.rule, one.value = f"{one.name}_initializer", initial(one.layer, one.name)
        if one.is_set and one.gain is None:
            one.rule, one.gain = NOT_REACHED, 1.0
    return plan


def _select(found: Sequence[PlannedVariable], request: Request) -> None:
    """Decides which variables change, and gives each its seed."""
    for one in found:
        one.seed = seed_of(request.seed, one.key)
    chosen = selected([one.path for one in found], request.only, request.skip)
    for one in found:
        one.left = one.left or (NO_NOTE if one.path in chosen else _NOT_SELECTED)
        one.is_set = one.role == "kernel" and not one.left
    for one in found:
        if one.is_set and has_fixed_threshold(one.layer):
            raise NotMeasurable(
                f"`{one.path}` must set the size of its layer's output to be initialized. With a "
                "fixed `threshold` it does not. Give the layer `threshold=None`, or leave the "
                f'kernel out with `skip="{one.path}"`.'
            )
        if one.role == "remade" and not one.left:
            one.value, one.rule = remade_value(one), f"{one.name}_initializer"
    for one in found:
        one.layout = framework.layout_of(one.variable)


def _measure(plan: Plan, given: _Pass, request: Request) -> Measurement:
    """Runs the pass that measures; again, where it finds sums whose branches are to be scaled."""
    state = _unit_state(plan)
    watcher = _measuring_pass(plan, given, state, {}, request.measures)
    scales = request.residual == "depth" and request.measures
    factors = branch_factors(watcher.trace.runs) if scales else {}
    if factors:
        for one in plan.variables:
            if one.role == "kernel":
                one.forget()
        watcher = _measuring_pass(plan, given, state, factors, request.measures)
    given.progress.close()
    for one in plan.variables:
        if one.is_set and one.gain is None and one.order is not None:
            watcher.give_up(one)
    trace = watcher.trace
    plan.random_layers = random_layers(watcher.called.values(), given.paths)
    plan.notes += watcher.notes + _merges(trace)
    plan.chain = [] if trace.runs or trace.left or trace.unseen else _chain(plan)
    return watcher


def _measuring_pass(
    plan: Plan,
    given: _Pass,
    state: Sequence[tuple[Any, Any]],
    factors: dict[int, float],
    measures: bool,
) -> Measurement:
    scope = keras.StatelessScope(state_mapping=state)
    watcher = Measurement(
        plan.variables,
        settings=plan.settings,
        scope=scope,
        inputs=keras.tree.flatten(given.inputs),
        paths=given.paths,
        factors=factors,
        measures=measures,
        progress=given.progress.step,
    )
    forward(given.model, given.inputs, scope, watcher, given.seed)
    return watcher


def _final_passes(plan: Plan, given: _Pass, statistics: MovingStatistics) -> MovingStatistics:
    """Runs the passes over the model as it will be; returns the statistics of the last one."""
    modes = []
    if plan.settings.mode != "fan_in":
        _take_to_mode(plan, given)
        modes.append(True)
    if plan.random_layers and any(one.role == "statistic" for one in plan.variables):
        modes.append(False)  # without the random masks, as inference will see it
    for training in modes:
        scope = keras.StatelessScope(state_mapping=_final_state(plan))
        watcher = FinalPass(plan.variables, scope, training)
        forward(given.model, given.inputs, scope, watcher, given.seed, training=training)
        statistics = watcher.statistics
    return statistics


def _chain(plan: Plan) -> list[PlannedVariable]:
    """Returns the kernels in the order of the signal, where it takes one way through all of them.

    Of a separable convolution the second half stands for both.
    """
    reached = [one for one in plan.variables if one.role == "kernel" and one.order is not None]
    reached.sort(key=lambda one: one.order or 0)
    chain = list({id(one.layer): one for one in reached}.values())
    alone = all(
        one.kernels_before == place and len(one.moments) == 1 for place, one in enumerate(chain)
    )
    return chain if alone else []


def _take_to_mode(plan: Plan, given: _Pass) -> None:
    """Changes measured gains to the mode: by the fans, or by the gradient that was measured.

    Along a chain of rectifiers a kernel that keeps the signal changes the gradient's second moment
    by a ratio that is measured, and one that is smaller by its root keeps the gradient. After any
    other activation the ratio depends on the size of the signal.
    """
    ratios: dict[int, float] = {}
    if plan.chain:
        moments = backward_moments(
            given.model, given.inputs, _forward_state(plan), plan.chain, given.seed
        )
        pairs = zip(plan.chain[:-1], plan.chain[1:], moments[:-1], moments[1:], strict=True)
        for before, one, earlier, later in pairs:
            if follows(before, one) and is_rectifier(one.activation) and earlier and later:
                ratios[id(one.layer)] = earlier / later
    last = {id(one.layer): one for one in plan.variables if one.role == "kernel"}
    for one in plan.variables:
        if one.is_set and one.rule == "measured":
            # The ratio is that of the layer's output, so of its last kernel.
            ratio = ratios.get(id(one.layer)) if one is last[id(one.layer)] else None
            one.gain = _gain_of_mode(one, plan.settings.mode, ratio)


def _gain_of_mode(one: PlannedVariable, mode: str, ratio: float | None) -> float:
    """Returns the gain in a mode of a kernel that was measured forward."""
    assert one.gain is not None
    assert one.fans is not None
    forward_std = standard_deviation(one.gain, one.fans, "fan_in")
    backward_std = standard_deviation(one.gain, one.fans, "fan_out")
    if ratio is not None:
        backward_std = forward_std / math.sqrt(ratio)
    std = {
        "fan_out": backward_std,
        "fan_avg": math.sqrt(2 / (forward_std**-2 + backward_std**-2)),
    }[mode]
    return float(f"{std / standard_deviation(1.0, one.fans, mode):.3g}")


def follows(before: PlannedVariable, one: PlannedVariable) -> bool:
    """Returns whether nothing that changes sizes, such as pooling, stands between two kernels."""
    return one.input_size == math.prod(before.output_shape)


def _unit_state(plan: Plan) -> list[tuple[Any, Any]]:
    """Returns what the variables hold while it is measured: kernels of gain 1, biases of 0."""
    state = []
    for one in plan.variables:
        if one.is_set and not one.recurrent:
            unit = plan.settings._replace(mode="fan_in")
            state.append((one.variable, one.draw(unit, 1.0)))
        elif (one.role == "statistic" and not one.left) or (
            one.adds_bias and one.value_range != (0.0, 0.0)
        ):
            state.append((one.variable, keras.ops.zeros(one.shape, dtype=one.variable.dtype)))
        elif one.value is not None:
            state.append((one.variable, one.value))
    return state


def _forward_state(plan: Plan) -> list[tuple[Any, Any]]:
    """Returns what the variables hold where every kernel keeps the signal."""
    state = []
    for one in plan.variables:
        if one.is_set and one.gain is not None:
            unit = plan.settings._replace(mode="fan_in")
            state.append((one.variable, one.draw(unit, one.gain)))
        elif one.value is not None and not one.left:
            state.append((one.variable, one.value))
    return state


def _final_state(plan: Plan) -> list[tuple[Any, Any]]:
    """Returns what the variables will hold, but moving statistics, which are 0."""
    state = []
    for one in plan.variables:
        if one.role == "statistic" and not one.left:
            state.append((one.variable, keras.ops.zeros(one.shape, dtype=one.variable.dtype)))
            continue
        values = plan.final(one)
        if values is not None:
            state.append((one.variable, values))
            if one.is_set:
                plan.drawn[id(one)] = values
    return state


def _merges(trace: Trace) -> list[Note]:
    """Returns the notes about merges that are left as they are."""
    notes = []
    if trace.left:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(trace.left.items()))
        notes.append(Note("merges", f"merges whose branches are not scaled: {counts}"))
    if trace.unseen:
        where = _listed(trace.unseen)
        text = (
            f"unseen merge: sums at {where} are computed by no layer, so their branches are not "
            "scaled; `keras.layers.Add` lets them be scaled"
        )
        notes.append(Note("unseen-merge", text))
    if trace.hidden:
        where = _listed(trace.hidden)
        text = f"not seen: sums of the layers inside {where}; they are not scaled"
        notes.append(Note("unseen-layers", text))
    for run in trace.runs:
        grows = max(run.moments) / min(run.moments) if min(run.moments) > 0.0 else 1.0
        if grows > max(_STEADY, _PER_SUM * (run.sums + 1)):
            text = (
                f"the residual trunk of {run.sums} sums grows by a factor of {grows:.2g}: its "
                "branches have a mean, or add the trunk itself, which no kernel can scale"
            )
            notes.append(Note("growing-trunk", text))
    return notes


def _listed(names: Sequence[str]) -> str:
    """Returns the first names, and how many more there are."""
    different = list(dict.fromkeys(names))
    more = f" and {len(different) - 8} more" if len(different) > 8 else ""
    return ", ".join(different[:8]) + more


def _batch_statistics(found: Sequence[PlannedVariable], statistics: MovingStatistics) -> None:
    """Takes over the statistics of the batch, of the layers that took any."""
    for one in found:
        if one.role == "statistic" and not one.left:
            taken = statistics.of_batch(one.layer, one.name)
            if taken is not None:
                one.value, one.rule = taken, "batch statistics"
