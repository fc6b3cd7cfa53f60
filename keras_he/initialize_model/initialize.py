"""Whole models: one call that gives every kernel the right scale, and tells what it did."""

import math
import secrets
from collections.abc import Sequence
from typing import Any, Literal

import keras

from keras_he.backend.randomness import randomness
from keras_he.backend.tensors import number
from keras_he.errors import did_you_mean, invalid
from keras_he.initialize_model.plan import make_plan
from keras_he.initialize_model.planned_variable import PlannedVariable, Settings, seed_of
from keras_he.initialize_model.records import Plan, Request
from keras_he.initialize_model.write import apply, assignments, reproduced
from keras_he.notes import Note
from keras_he.passes.forward import holders, watched
from keras_he.passes.inputs import batch_of
from keras_he.passes.model_checks import Progress, check_model, survey_of
from keras_he.passes.preceding_activation import activation_name, preceding_moments
from keras_he.reports.data import Figures, Row
from keras_he.reports.initialization_report import InitializationReport
from keras_he.sampling.laws import LawName, law_named
from keras_he.theory.kernel_geometry import (
    Fans,
    Mode,
    checked_mode,
    integer,
    standard_deviation,
)
from keras_he.theory.quadrature import Moments

_UNSAFE = 10.0  # growth of an error over the whole depth, from which on a note warns of it


def initialize(
    model: keras.Model,
    data: Any = None,
    *,
    mode: Mode = "fan_in",
    law: LawName = "normal",
    seed: int | None = None,
    residual: Literal["depth"] | None = "depth",
    statistics: Literal["batch", "initial"] = "batch",
    backward: bool = True,
    only: Any = None,
    skip: Any = None,
    constants: Literal["keep", "set"] = "keep",
    dry_run: bool = False,
) -> InitializationReport:
    """Gives every kernel of a model the scale that keeps the signal, and returns what was done.

    One forward pass in training mode measures the second moment (the mean of the squares) of each
    kernel's pre-activation on a batch, and the kernel gets the gain that makes it 1. A kernel's
    standard deviation is its gain divided by the root of its fan, which is the number of
    connections into an output unit (fan-in) or out of an input unit (fan-out). Further passes over
    the model as it will be, in training and in inference mode, measure the figures of the report.
    Nothing is written before the whole plan is known. Afterwards the layers' configs contain the
    new initializers.

    Args:
        model: A model: functional, sequential or subclassed, in any nesting. The batch builds what
            was not built yet, in a dry run too.
        data: What to measure on: an array, or a dict or list of arrays as the model takes them (at
            most 256 samples are used); a `tf.data.Dataset`, a PyTorch `DataLoader` or a
            `keras.utils.PyDataset`, of which the first batch is taken. `None` draws a batch that
            fits what the first layers take, such as images of 0 to 255 for `Rescaling(1 / 255)`;
            `report.data` says what was drawn. `False` measures nothing: every kernel gets the gain
            that compensates for the preceding activation.
        mode: `"fan_in"` keeps the signal's second moment, `"fan_out"` the gradient's through
            rectifiers, `"fan_avg"` the mean of both conditions.
        law: Law of the values, by the name of its class: `"truncated_normal"` is that of
            `KaimingTruncatedNormal`. Recurrent kernels of recurrent layers are orthogonal, one
            block per gate, under every law.
        seed: An integer of at least 0. Each variable's own seed follows from it and from the
            variable's place in the model, and so do the masks and the noise of the pass. `None`
            draws a seed, which the report contains.
        residual: `"depth"` scales the last kernel of each branch that a sum adds to a residual
            trunk by `1 / sqrt(n)`, with `n` the number of sums on that trunk, and by `1 / n` if the
            branch ends in an activation, because its mean adds up; `None` scales none.
        statistics: `"batch"` sets moving statistics to those of the batch, so that training and
            inference start from the same signal; `"initial"` sets them to 0 and 1.
        backward: Whether to measure the gradient too, of the sum of all outputs, weighted by
            standard normal draws. The pass takes the time of about two others.
        only: Variables to set: a shell pattern for the path of a variable or of a layer that
            contains it, a layer or a model inside the model, several of these, or a function of a
            path.
        skip: Variables to leave unchanged, in the same forms.
        constants: `"keep"` leaves kernels that are constant by their author's choice: the layer's
            own initializer makes the same zeros, ones, identity or fixed values each time, and the
            kernel still has them. A kernel whose own path stands in `only` is set all the same;
            `"set"` sets them all.
        dry_run: Whether to return the report and leave the model unchanged.

    Returns:
        An `InitializationReport` with a row for each variable; `print` it.

    Raises:
        InvalidArgument: If an argument is out of range, or the batch is not finite or not known.
        NotMeasurable: If a layer returns NaN or infinity.
        NotEager: If a layer with kernels runs in compiled or scanned code.

    Example:
        >>> import keras, keras_he
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "gelu"),
        ...                           keras.layers.Dense(4)])
        >>> report = keras_he.initialize(model, seed=1)
        >>> [row.rule for row in report.kernels], round(report.forward_spread, 1)
        (['measured', 'measured'], 0.0)

    Reference:
        He et al. (2015), arXiv:1502.01852, for the condition; Mishkin and Matas (2016),
        arXiv:1511.06422, for measuring it; Zhang et al. (2019), arXiv:1901.09321, and De and Smith
        (2020), arXiv:2002.10444, for the depth of residual networks.
    """
    settings = Settings(law=law_named(law).name, mode=checked_mode(mode))
    _one_of("residual", residual, ("depth", None))
    _one_of("statistics", statistics, ("batch", "initial"))
    _one_of("constants", constants, ("keep", "set"))
    seed = _checked_seed(seed)
    batch_seed = seed_of(seed, "the batch")
    check_model(model)
    if not isinstance(backward, bool):
        raise invalid("backward", "True or False", backward)
    measures = data is not False
    batch, _, described = batch_of(model, data, batch_seed)
    survey = survey_of(model, batch, seed_of(seed, "the first call"))
    progress = Progress((3 + backward) * len(watched(model)))
    request = Request(
        settings, seed, measures, residual, statistics, backward, only, skip, constants
    )
    with randomness(seed, holders(model), writes=True):
        plan = make_plan(model, survey, batch, request, progress)
        initializers = assignments(plan)
        again = reproduced(model, plan, initializers)
        report = _report(model, plan, seed, again, data=described, written=not dry_run)
    if not dry_run:
        apply(plan, initializers)
    return report


def _one_of(argument: str, value: Any, accepted: tuple[Any, ...]) -> Any:
    if not any(value is one or (isinstance(value, str) and value == one) for one in accepted):
        listed = ", ".join(repr(one) for one in accepted)
        names = [one for one in accepted if one]
        raise invalid(argument, f"one of {listed}", value, did_you_mean(value, names))
    return value


def _checked_seed(seed: Any) -> int:
    if seed is None:
        return secrets.randbits(32)
    if type(seed) is int and seed >= 0:
        return seed
    try:
        number = integer(seed)
    except TypeError:
        number = -1
    if number < 0:
        raise invalid("seed", "an integer of at least 0, or None", seed)
    return number


def _report(
    model: Any, plan: Plan, seed: int, again: set[int], *, data: str, written: bool
) -> InitializationReport:
    activations = [one.activation for one in plan.variables]
    along_chain = [one.activation for one in plan.chain[1:]]
    names = list(map(activation_name, activations))
    moments = list(map(preceding_moments, along_chain))
    gains = {id(one): one.gain for one in plan.variables}
    for one in plan.variables:
        if one.gain is not None and one.fans is not None:
            one.std = _std(plan, one, one.fans)
            if one.is_constrained(plan.settings):
                unit = standard_deviation(1.0, one.fans, plan.settings.mode)
                gains[id(one)] = float(f"{one.std / unit:.3g}")
    rows = zip(plan.variables, names, strict=True)
    return InitializationReport(
        model=model.name,
        data=data,
        mode=plan.settings.mode,
        law=plan.settings.law,
        seed=seed,
        rows=tuple(_row(one, gains[id(one)], name, again) for one, name in rows),
        warnings=(*plan.notes, *_depth(moments), *_optimizer(model)),
        random_layers=tuple(plan.random_layers),
        gradient_spread=_gradient_spread(plan),
        trunk_spread=plan.trunk,
        written=written,
    )


def _std(plan: Plan, one: PlannedVariable, fans: Fans) -> float:
    """Returns the standard deviation of a kernel that is set."""
    assert one.gain is not None
    if one.is_constrained(plan.settings):
        return number(keras.ops.std(keras.ops.cast(plan.final(one), "float32")))
    return standard_deviation(one.gain, fans, plan.settings.mode)


def _row(one: PlannedVariable, gain: float | None, activation: str, again: set[int]) -> Row:
    observed = one.geometry is not None and one.order is not None
    clone = ("same" if one.seed in again else "draws anew") if one.is_set else ""
    return Row(
        path=one.path,
        layer=type(one.layer).__name__,
        shape=one.shape,
        role=one.role,
        fans=one.fans,
        activation=activation if observed else None,
        gain=gain,
        std=one.std,
        rule="" if one.left else one.rule,
        left=one.left,
        moments=_rounded(one.moments),
        inference=_rounded(one.inference),
        target=one.target,
        clone=clone,
        values=one.value_range if one.value is not None else None,
        figures=_figures(one),
    )


def _rounded(moments: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(f"{moment:.3g}") for moment in moments)


def _figures(one: PlannedVariable) -> Figures | None:
    """Returns what was measured of a kernel besides the signal."""
    if one.gradient is None or one.std is None:
        return None
    return Figures("", None, None, one.std, gradient=_rounded([one.gradient])[0])


def _gradient_spread(plan: Plan) -> float | None:
    """Returns the decades between the extremes of the gradient's second moments."""
    known = [one.gradient for one in plan.variables if one.gradient]
    return math.log10(max(known) / min(known)) if known else None


def _depth(moments: Sequence[Moments | None]) -> list[Note]:
    """Returns a note if the activations of a chain are unsafe at its depth."""
    growth = math.prod(one.depth / one.signal for one in moments if one is not None)
    if growth < _UNSAFE:
        return []
    text = (
        f"depth: an error of the signal's second moment grows by a factor of {growth:.2g} over "
        "these activations (`keras_he.depth_factors`), so another batch may look different"
    )
    return [Note("depth", text)]


def _optimizer(model: Any) -> list[Note]:
    optimizer = getattr(model, "optimizer", None)
    steps = getattr(optimizer, "iterations", None)
    if steps is None or not int(steps):
        return []
    text = f"the optimizer holds the state of {int(steps)} steps: compile the model again"
    return [Note("optimizer-state", text)]
