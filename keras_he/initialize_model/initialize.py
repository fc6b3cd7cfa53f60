"""Whole models: one call that gives every kernel the right scale, and tells what it did."""

import math
import secrets
from collections.abc import Sequence
from typing import Any, Literal

import keras

from keras_he.errors import did_you_mean, invalid
from keras_he.initialize_model.plan import Plan, Request, follows, make_plan
from keras_he.initialize_model.planned_variable import PlannedVariable, Settings, seed_of
from keras_he.initialize_model.write import apply, assignments, reproduced
from keras_he.notes import Note
from keras_he.passes.forward import watched
from keras_he.passes.inputs import first_batch
from keras_he.passes.model_checks import Progress, check_model, survey_of
from keras_he.passes.preceding_activation import activation_name, preceding_moments
from keras_he.reports.data import Row
from keras_he.reports.initialization_report import InitializationReport
from keras_he.sampling.laws import LawName, law_named
from keras_he.theory.kernel_geometry import Mode, checked_mode, integer, standard_deviation
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
    only: Any = None,
    skip: Any = None,
    dry_run: bool = False,
) -> InitializationReport:
    """Gives every kernel of a model the scale that keeps the signal, and returns what was done.

    One forward pass in training mode measures the second moment (the mean of the squares) of each
    kernel's pre-activation on a batch, and the kernel gets the gain that makes it 1. A kernel's
    standard deviation is its gain divided by the root of its fan, which is the number of
    connections into an output unit (fan-in) or out of an input unit (fan-out). Nothing is written
    before the whole plan is known. Afterwards the layers' configs contain the new initializers.

    Args:
        model: A model: functional, sequential or subclassed, in any nesting. The batch builds what
            was not built yet, in a dry run too.
        data: What to measure on: an array, or a dict or list of arrays as the model takes them (at
            most 256 samples are used); a `tf.data.Dataset`, a PyTorch `DataLoader` or a
            `keras.utils.PyDataset`, of which the first batch is taken. `None` draws a standard
            normal batch that fits the inputs. `False` measures nothing: every kernel gets the gain
            that compensates for the preceding activation.
        mode: `"fan_in"` keeps the signal's second moment, `"fan_out"` the gradient's through
            rectifiers, `"fan_avg"` the mean of both conditions.
        law: Law of the values, by the name of its class: `"truncated_normal"` is that of
            `KaimingTruncatedNormal`. Recurrent kernels of recurrent layers are orthogonal, one
            block per gate, under every law.
        seed: An integer of at least 0. Each variable's own seed follows from it and from the
            variable's place in the model. `None` draws a seed, which the report contains.
        residual: `"depth"` scales the last kernel of each branch that a sum adds to a residual
            trunk by `1 / sqrt(n)`, with `n` the number of sums on that trunk, and by `1 / n` if the
            branch ends in an activation, because its mean adds up; `None` scales none.
        statistics: `"batch"` sets moving statistics to those of the batch, so that training and
            inference start from the same signal; `"initial"` sets them to 0 and 1.
        only: Paths of variables to set: a shell pattern for a variable or a layer that contains it,
            several patterns, or a function of a path.
        skip: Paths to leave unchanged, in the same forms.
        dry_run: Whether to return the report and leave the model unchanged.

    Returns:
        An `InitializationReport` with a row for each variable; `print` it.

    Raises:
        InvalidArgument: If an argument is out of range, or the batch cannot be known.
        NotMeasurable: If a layer returns NaN, or zeros, or is not linear in its kernel.
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
    seed = _checked_seed(seed)
    batch_seed = seed_of(seed, "the batch")
    check_model(model)
    measures = data is not False
    batch = first_batch(model, data, batch_seed)
    survey = survey_of(model, batch)
    progress = Progress(len(watched(model)))
    request = Request(settings, seed, measures, residual, statistics, only, skip)
    plan = make_plan(model, survey, batch, request, progress)
    initializers = assignments(plan)
    report = _report(model, plan, seed, reproduced(model, plan, initializers), written=not dry_run)
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
    model: Any, plan: Plan, seed: int, again: set[int], *, written: bool
) -> InitializationReport:
    activations = [one.activation for one in plan.variables]
    along_chain = [one.activation for one in plan.chain[1:]]
    names = list(map(activation_name, activations))
    moments = list(map(preceding_moments, along_chain))
    for one in plan.variables:
        if one.gain is not None and one.fans is not None:
            one.std = standard_deviation(one.gain, one.fans, plan.settings.mode)
    rows = zip(plan.variables, names, strict=True)
    return InitializationReport(
        model=model.name,
        mode=plan.settings.mode,
        law=plan.settings.law,
        seed=seed,
        rows=tuple(_row(one, name, again) for one, name in rows),
        warnings=(*plan.notes, *_depth(moments), *_optimizer(model)),
        random_layers=tuple(plan.random_layers),
        gradient_spread=_gradient_spread(plan, moments),
        written=written,
    )


def _row(one: PlannedVariable, activation: str, again: set[int]) -> Row:
    observed = one.geometry is not None and one.order is not None
    clone = ("same" if one.seed in again else "draws anew") if one.is_set else ""
    return Row(
        path=one.path,
        layer=type(one.layer).__name__,
        shape=one.shape,
        role=one.role,
        fans=one.fans,
        activation=activation if observed else None,
        gain=one.gain,
        std=one.std,
        rule="" if one.left else one.rule,
        left=one.left,
        moments=tuple(float(f"{moment:.3g}") for moment in one.moments),
        target=one.target,
        clone=clone,
        values=one.value_range if one.value is not None else None,
    )


def _gradient_spread(plan: Plan, moments: Sequence[Moments | None]) -> float | None:
    """Returns the decades that the gradient of a chain spreads over depth, as predicted.

    A kernel that keeps the signal multiplies the gradient's second moment by
    `(n_out·E[f'²]) / (n_in·E[f²])`, with f the preceding activation; in the other modes, their fan
    replaces `n_in`. The first kernel is left out, because it leads to the input.

    Args:
        plan: The plan.
        moments: Of the activation that precedes each kernel of the chain but the first.
    """
    factors = []
    for before, one, preceding in zip(plan.chain[:-1], plan.chain[1:], moments, strict=True):
        fans = one.fans
        if preceding is None or fans is None or not follows(before, one):
            return None
        divisor = {
            "fan_in": fans.fan_in,
            "fan_out": fans.fan_out,
            "fan_avg": (fans.fan_in + fans.fan_out) / 2,
        }[plan.settings.mode]
        factors.append(fans.fan_out * preceding.gradient / (divisor * preceding.signal))
    return _spread(factors) if factors else None


def _spread(factors: Sequence[float]) -> float:
    """Returns the decades between the extremes of a number that factors multiply in turn."""
    level, levels = 0.0, [0.0]
    for factor in factors:
        level += math.log10(factor)
        levels.append(level)
    return max(levels) - min(levels)


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
