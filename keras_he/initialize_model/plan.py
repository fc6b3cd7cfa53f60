"""What each variable of a model is to get: measured and decided, with nothing written yet.

Everything that can fail, fails here. A plan holds the new values of all variables that change; the
only writer is `write`.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_he.backend.framework import framework
from keras_he.backend.tensors import as_tensors
from keras_he.errors import NotMeasurable
from keras_he.initialize_model import constraints
from keras_he.initialize_model.gradient import measure_gradient
from keras_he.initialize_model.measure import Measurement
from keras_he.initialize_model.merges import growing_trunks, merges
from keras_he.initialize_model.planned_variable import PlannedVariable, seed_of
from keras_he.initialize_model.records import Pass, Plan, Request
from keras_he.initialize_model.verify import Statistics, Verification, backward_moments
from keras_he.layers.constants import chosen_constants
from keras_he.layers.kinds import has_fixed_threshold
from keras_he.layers.path_patterns import names, selected
from keras_he.layers.variables import remade_value, variables
from keras_he.layers.walk import Place, layer_paths, not_built, random_layers
from keras_he.notes import Note
from keras_he.passes.drawn_inputs import fixed_samples
from keras_he.passes.forward import forward
from keras_he.passes.model_checks import Progress
from keras_he.passes.moving_statistics import MovingStatistics, initial
from keras_he.passes.preceding_activation import is_rectifier
from keras_he.passes.tables import leave_tables
from keras_he.passes.tensor_origins import branch_factors
from keras_he.reports.data import NOT_REACHED, spread_of
from keras_he.theory.kernel_geometry import standard_deviation

_ROUNDS, _UNEVEN = 3, 0.1  # of passes for layers of several calls, and the logarithm they may miss
_FEWEST, _HELD_BACK = 4, 0.5  # samples that are halved; decades in inference that are told
_NOT_SELECTED = Note("not-selected", "not selected")


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
    if batch is not None:
        leave_tables(model, batch, plan.variables, pass_seed)
    _select(plan.variables, request)
    plan.notes += not_built(survey)
    if batch is not None:
        inputs = as_tensors(batch)
        given = Pass(model, inputs, layer_paths(survey), pass_seed, progress)
        try:
            _measure(plan, given, request)
        except Exception as error:
            if request.measures:
                raise
            _note_unknown(plan, f"{type(error).__name__}: {str(error)[:300]}")
        if request.measures:
            if plan.settings.mode != "fan_in":
                _take_to_mode(plan, given)
            _verify(plan, given, request)
        progress.close()
    elif not request.measures:
        _note_unknown(plan, f"{type(model).__name__} does not say what it takes; give `data`")
    _initial_statistics(plan)
    for one in plan.variables:
        if one.is_set and one.gain is None:
            one.rule, one.gain = NOT_REACHED, 1.0
    plan.notes += constraints.notes(plan.variables, plan.settings)
    return plan


def _note_unknown(plan: Plan, why: str) -> None:
    text = f"the preceding activations are not known, so kernels may have a gain of 1: {why}"
    plan.notes.append(Note("activations-unknown", text))


def _select(found: Sequence[PlannedVariable], request: Request) -> None:
    """Decides which variables change, and gives each its seed."""
    for one in found:
        one.seed = seed_of(request.seed, one.key)
    by_path = {one.path: one.variable for one in found}
    chosen = selected(by_path, request.only, request.skip)
    for one in found:
        one.left = one.left if one.path in chosen else _NOT_SELECTED
        if request.constants == "keep" and not (one.left or names(request.only, one.path)):
            one.left = chosen_constants(one)
        one.is_set = one.role == "kernel" and not one.left
    for one in found:
        if one.is_set and has_fixed_threshold(one.layer):
            raise NotMeasurable(
                f"`{one.path}` must set the size of its layer's output to be initialized. With a "
                "fixed `threshold` it does not. Give the layer `threshold=None`, or leave the "
                f'kernel out with `skip="{one.path}"`.'
            )
        if one.role == "remade" and not one.left:
            one.value, one.rule = remade_value(one, one.seed), f"{one.name}_initializer"
    for one in found:
        one.layout = framework.layout_of(one.variable)


def _measure(plan: Plan, given: Pass, request: Request) -> None:
    """Runs the pass that measures; again, where it finds sums whose branches are to be scaled.

    Likewise, where layers are called several times and miss the target over their calls.
    """
    state = _unit_state(plan)
    watcher = _measuring_pass(plan, given, state, {}, request.measures)
    scales = request.residual == "depth" and request.measures
    factors = branch_factors(watcher.trace.runs) if scales else {}
    if factors:
        _forget(plan, {})
        watcher = _measuring_pass(plan, given, state, factors, request.measures)
    gains: dict[int, float] = {}
    for _ in range(_ROUNDS if request.measures else 0):
        found = _gains_of_calls(plan.variables)
        if not found:
            break
        gains |= found
        _forget(plan, gains)
        watcher = _measuring_pass(plan, given, state, factors, request.measures)
    for one in plan.variables:
        if one.is_set and one.gain is None and one.order is not None:
            watcher.give_up(one)
    trace = watcher.trace
    plan.random_layers = random_layers(watcher.called.values(), given.paths)
    plan.notes += watcher.zeros.notes() + watcher.notes + merges(trace)
    plan.chain = [] if trace.runs or trace.left else _chain(plan)


def _forget(plan: Plan, gains: dict[int, float]) -> None:
    """Takes back what a pass has found of kernels, but gives some of them the gains they have."""
    for one in plan.variables:
        if one.role == "kernel":
            target = one.target
            one.forget()
            if id(one) in gains:
                one.rule, one.gain, one.target = "measured", gains[id(one)], target


def _gains_of_calls(found: Sequence[PlannedVariable]) -> dict[int, float]:
    """Returns the gains of kernels that miss their target over several calls of their layer.

    The geometric mean over the calls is brought to the target. If each call is given what the last
    has made, the moment of call k changes with the gain to the power of 2k, else of 2.
    """
    gains = {}
    for one in found:
        calls = [moment for moment in one.moments if moment > 0.0]
        if one.gain is None or one.rule != "measured" or len(calls) < 2:
            continue
        mean = sum(math.log(moment / one.target) for moment in calls) / len(calls)
        if abs(mean) > _UNEVEN:
            power = len(calls) + 1 if one.chained else 2
            gains[id(one)] = float(f"{one.gain * math.exp(-mean / power):.3g}")
    return gains


def _measuring_pass(
    plan: Plan,
    given: Pass,
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


def _verify(plan: Plan, given: Pass, request: Request) -> None:
    """Measures the model as it will be, and sets the moving statistics that it will have."""
    seen = _verifying_pass(plan, given, training=True)
    trace = seen.trace
    plan.notes += growing_trunks(trace)
    spreads = [max(run.moments) / min(run.moments) for run in trace.runs if min(run.moments) > 0.0]
    plan.trunk = math.log10(max(spreads)) if spreads else None
    takes_statistics = any(one.role == "statistic" and not one.left for one in plan.variables)
    inference = None
    if takes_statistics and request.statistics == "batch":
        statistics = seen.statistics
        if plan.random_layers:  # without the random masks, as inference will see it
            inference = _verifying_pass(plan, given, training=False, statistics="batch")
            statistics = inference.statistics
        _batch_statistics(plan.variables, statistics)
        _hold_back(plan, given)
    _initial_statistics(plan)
    inference = inference or _verifying_pass(plan, given, training=False)
    for one in plan.variables:
        one.moments = seen.moments.get(id(one.variable), [])
        one.inference = inference.moments.get(id(one.variable), [])
    if request.backward and framework.takes_gradients:
        measure_gradient(plan, given, _final_state(plan, batch=True), seen)


def _hold_back(plan: Plan, given: Pass) -> None:
    """Notes what moving statistics are worth: of one half of the batch, in inference on the other.

    The kernels stay as they are.
    """
    arrays = [one for one in keras.tree.flatten(given.inputs) if one is not None]
    samples = min(map(len, arrays))
    if samples < _FEWEST or fixed_samples(given.model) is not None:
        return

    def half(part: slice) -> Pass:
        cut = keras.tree.map_structure(lambda one: None if one is None else one[part], given.inputs)
        return given._replace(inputs=cut)

    kept = [(one, one.value, one.rule) for one in plan.variables if one.role == "statistic"]
    first = _verifying_pass(plan, half(slice(samples // 2)), training=True)
    _batch_statistics(plan.variables, first.statistics)
    other = _verifying_pass(plan, half(slice(samples // 2, None)), training=False)
    for one, value, rule in kept:
        one.value, one.rule = value, rule
    ratios = [
        moment / one.target
        for one in plan.variables
        if one.is_set
        for moment in other.moments.get(id(one.variable), ())
        if moment > 0.0
    ]
    if (spread := spread_of(ratios)) > _HELD_BACK:
        text = (
            f"moving statistics: those of {samples // 2} samples give a spread of {spread:.2g} "
            f"decades in inference on the other {samples - samples // 2}, so those of {samples} "
            "fit other data little better; give more samples"
        )
        plan.notes.append(Note("statistics", text))


def _verifying_pass(
    plan: Plan,
    given: Pass,
    *,
    training: bool,
    statistics: Statistics | None = None,
) -> Verification:
    """Runs the model as it will be; in inference mode with moving statistics, if not told."""
    taken: Statistics = statistics or ("training" if training else "moving")
    scope = keras.StatelessScope(state_mapping=_final_state(plan, batch=taken != "moving"))
    tensors = keras.tree.flatten(given.inputs)
    watcher = Verification(
        plan.variables, scope, tensors, given.paths, given.progress.step, statistics=taken
    )
    forward(given.model, given.inputs, scope, watcher, given.seed, training=training)
    return watcher


def _initial_statistics(plan: Plan) -> None:
    """Gives moving statistics that got no values from a batch their initial ones."""
    for one in plan.variables:
        if one.role == "statistic" and not one.left and one.value is None:
            one.rule, one.value = f"{one.name}_initializer", initial(one.layer, one.name)


def _chain(plan: Plan) -> list[PlannedVariable]:
    """Returns the kernels in the order of the signal, where it takes one way through all of them.

    Of a separable convolution the second half stands for both.
    """
    reached = [one for one in plan.variables if one.role == "kernel" and one.order is not None]
    reached.sort(key=lambda one: one.order or 0)
    chain = list({id(one.layer): one for one in reached}.values())
    alone = all(
        one.kernels_before == place and len(one.moments) == 1 and one.left.kind != "by-design"
        for place, one in enumerate(chain)
    )
    return chain if alone else []


def _take_to_mode(plan: Plan, given: Pass) -> None:
    """Changes measured gains to the mode: by the fans, or by the gradient that was measured.

    Along a chain of rectifiers a kernel that keeps the signal changes the gradient's second moment
    by a ratio that is measured, and one that is smaller by its root keeps the gradient. After any
    other activation the ratio depends on the size of the signal.
    """
    ratios: dict[int, float] = {}
    if plan.chain:
        shapes = {id(one.layer): [one.output_shape] for one in plan.chain}
        found = backward_moments(
            given.model, given.inputs, _forward_state(plan), shapes, given.seed
        )
        moments = [found[id(one.layer)][0] for one in plan.chain]
        pairs = zip(plan.chain[:-1], plan.chain[1:], moments[:-1], moments[1:], strict=True)
        for before, one, earlier, later in pairs:
            if follows(before, one) and is_rectifier(one.activation) and earlier and later:
                ratios[id(one.layer)] = earlier / later
    last = {id(one.layer): one for one in plan.variables if one.role == "kernel"}
    for one in plan.variables:
        if one.is_set and (one.rule.startswith("measured") or one.rule == constraints.RULE):
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


def _final_state(plan: Plan, *, batch: bool) -> list[tuple[Any, Any]]:
    """Returns what the variables will hold; moving statistics are 0 if those of a batch count."""
    state = []
    for one in plan.variables:
        if one.role == "statistic" and not one.left and batch:
            state.append((one.variable, keras.ops.zeros(one.shape, dtype=one.variable.dtype)))
            continue
        values = plan.final(one)
        if values is not None:
            state.append((one.variable, values))
            if one.is_set:
                plan.drawn[id(one)] = values
    return state


def _batch_statistics(found: Sequence[PlannedVariable], statistics: MovingStatistics) -> None:
    """Takes over the statistics of the batch, of the layers that took any."""
    for one in found:
        if one.role == "statistic" and not one.left:
            taken = statistics.of_batch(one.layer, one.name)
            if taken is not None:
                one.value, one.rule = taken, "batch statistics"
