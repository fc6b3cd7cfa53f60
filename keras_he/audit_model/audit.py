"""Looking at a whole model: one call that tells what the signal and the gradient do, and why."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import keras

from keras_he.audit_model.gradient import Look, look_back
from keras_he.audit_model.gradient_checks import growths
from keras_he.audit_model.initializer_assumptions import claim
from keras_he.audit_model.initializer_checks import causes
from keras_he.audit_model.kernel_facts import ObservedVariable, add_facts
from keras_he.audit_model.observe import Observation
from keras_he.audit_model.rows import rows
from keras_he.audit_model.signal_checks import symptoms
from keras_he.audit_model.subject import Subject
from keras_he.audit_model.verdicts import checked_thresholds, in_order
from keras_he.backend.framework import framework
from keras_he.backend.keras_private import layers_inside
from keras_he.backend.randomness import randomness
from keras_he.backend.tensors import as_tensors, float_tensors, second_moments
from keras_he.errors import invalid
from keras_he.layers.constants import is_zero
from keras_he.layers.kinds import is_normalisation
from keras_he.layers.variables import variables
from keras_he.layers.walk import Place, layer_paths, not_built, random_layers
from keras_he.notes import Note, listed
from keras_he.passes.backward import backward
from keras_he.passes.forward import forward, holders, watched
from keras_he.passes.inputs import first_samples
from keras_he.passes.losses import averaged, check_loss, read_loss
from keras_he.passes.model_checks import Progress, check_model, survey_of
from keras_he.passes.tables import leave_tables
from keras_he.passes.tensor_origins import branch_factors
from keras_he.reports.audit_report import AuditReport
from keras_he.reports.data import moment_of_calls

_SEED = 0  # of a synthetic batch, and of the default loss


def audit(
    model: keras.Model,
    data: Any = None,
    *,
    loss: Any = None,
    loss_weights: Any = None,
    backward: bool = True,
    thresholds: Mapping[str, float] | None = None,
) -> AuditReport:
    """Returns what a model does to its signal and its gradient, and how to correct it.

    One forward pass in training mode measures the pre-activation of each kernel on a batch, and a
    second pass is differentiated. Sizes are second moments, the means of the squares. The model is
    not changed, except that it is built if it was not.

    Args:
        model: A model: functional, sequential or subclassed, in any nesting.
        data: The batch, in the forms of `keras_he.initialize`; for a `loss` with targets,
            `(inputs, targets)` or a dataset of both. `None` draws a batch that fits the inputs;
            `report.data` says what was drawn.
        loss: What is differentiated: a loss as `model.compile` takes it, which is a Keras loss, its
            name, or a dict or list of them by output; a function of `(targets, outputs)`; or a
            function of the outputs alone. Values of functions are averaged. `None` takes the sum of
            all outputs, weighted by standard normal draws.
        loss_weights: The weights of several losses, as `model.compile` takes them.
        backward: Whether to measure the gradient too.
        thresholds: Numbers that replace the defaults by which findings are decided, by name:
            `"signal"` and `"gradient"`, factors by which second moments change; `"dead"` and
            `"saturated"`, shares of units and values; `"fan"`, `"gain"` and `"slope"`, by which an
            initializer is wrong; `"depth"`, by which an error grows; `"distinct"`, a share of
            values; `"residual"`, by which a residual trunk grows. `docs/audit.md` has the defaults
            and a reason for each.

    Returns:
        An `AuditReport`: `print` it, or `report.plot()`, `report.to_html(path)`, `report.findings`.

    Raises:
        InvalidArgument: If an argument is out of range, the batch cannot be known, or `backward` is
            asked for on a backend of Keras that takes no gradients (NumPy, OpenVINO).
        NotEager: If a layer with kernels runs in compiled or scanned code.

    Example:
        >>> import keras, keras_he
        >>> model = keras.Sequential([keras.Input((16, 16, 64)),
        ...     keras.layers.DepthwiseConv2D(3, depthwise_initializer="he_normal"),
        ...     keras.layers.ReLU(), keras.layers.Conv2D(8, 1)])
        >>> keras_he.audit(model).findings[0].remedy
        'depthwise_initializer="he_linear_depthwise"'

    Reference:
        Schoenholz et al. (2017), arXiv:1611.01232, for what errors do over depth; Lu et al. (2020),
        arXiv:1903.06733, for units that die.
    """
    limits = checked_thresholds(thresholds)
    check_model(model)
    if not isinstance(backward, bool):
        raise invalid("backward", "True or False", backward)
    if backward and not framework.takes_gradients:
        raise invalid(
            "backward",
            f"False on the {keras.backend.backend()} backend, which takes no gradients",
            backward,
            "TensorFlow, JAX and PyTorch do; `backward=False` looks at the signal alone.",
        )
    taken, of_targets = read_loss(loss, loss_weights, model, _SEED)
    batch, wanted, described = first_samples(model, data, _SEED, targets=of_targets)
    survey = survey_of(model, batch)
    with randomness(_SEED, holders(model), writes=True):
        return _audited(
            model,
            survey,
            (batch, wanted if of_targets else None),
            _Request(data, described, loss is not None, of_targets, backward, limits),
            taken,
        )


class _Request(NamedTuple):
    """What an audit is asked for: the arguments of `audit`, checked.

    Attributes:
        data: The data, which remedies name.
        described: What the report says of the batch.
        has_loss: Whether a loss was given.
        of_targets: Whether it takes targets.
        backward: Whether to measure the gradient.
        limits: The thresholds.
    """

    data: Any
    described: str
    has_loss: bool
    of_targets: bool
    backward: bool
    limits: dict[str, float]


def _audited(
    model: Any, survey: Sequence[Place], samples: tuple[Any, Any], request: _Request, loss: Any
) -> AuditReport:
    """Returns the report of a model that is built, on a batch and its targets."""
    inputs, targets = as_tensors(samples)
    if request.of_targets:
        loss = averaged(partial(loss, targets))
    progress = Progress((1 + request.backward) * len(watched(model)))
    found = variables(model, survey, ObservedVariable)
    leave_tables(model, inputs, found, _SEED)
    tensors, scope = keras.tree.flatten(inputs), keras.StatelessScope()
    watcher = Observation(found, scope, tensors, layer_paths(survey), progress.step)
    outputs = forward(model, inputs, scope, watcher, _SEED)
    given, returned = second_moments(inputs), second_moments(outputs)
    finite_batch = math.isfinite(sum(given + second_moments(targets)))
    given = second_moments([one for one in tensors if id(one) not in watcher.tokens])
    kernels = _kernels(watcher, outputs)
    if request.backward and returned:
        if request.has_loss:
            check_loss(loss, outputs)
        look = Look(model, inputs, loss, _SEED, _samples(inputs), backward)
        look_back(look, watcher, kernels, _zeros_by_choice(found), progress.step)
    progress.close()
    subject = Subject(
        kernels=kernels,
        **_others(found),
        broken=watcher.broken if not math.isfinite(sum(returned)) else [],
        batch_finite=finite_batch,
        single=_samples(inputs) == 1 and _normalises_batches(model),
        trained=_steps(model) > 0,
        silences=watcher.silences,
        runs=watcher.trace.runs,
        data=_written(request.data, request.of_targets),
        cleaned=_cleaned(request.data),
        thresholds=request.limits,
    )
    change = None
    if any(given) and returned:
        change = (sum(returned) / len(returned)) / (sum(given) / len(given))
    return _report(model, found, survey, subject, change, request.described)


def _samples(inputs: Any) -> int:
    return max(len(one) for one in keras.tree.flatten(inputs) if one is not None)


def _normalises_batches(model: Any) -> bool:
    return any(isinstance(one, keras.layers.BatchNormalization) for one in layers_inside(model))


def _steps(model: Any) -> int:
    """Returns the number of steps that a model was trained for, as far as its optimizer knows."""
    steps = getattr(getattr(model, "optimizer", None), "iterations", None)
    return 0 if steps is None else int(keras.ops.convert_to_numpy(steps))


def _written(data: Any, of_targets: bool) -> str:
    """Returns the data as a remedy gives it to `initialize`, which takes no targets in a pair."""
    if data is None:
        return ""
    return ", data[0]" if of_targets and isinstance(data, (list, tuple)) else ", data"


def _cleaned(data: Any) -> str:
    """Returns the line that takes NaN and infinity out of the data."""
    zeroed = "lambda x: keras.ops.nan_to_num(x, posinf=0.0, neginf=0.0)"
    clean = f"keras.tree.map_structure({zeroed}, "
    if callable(getattr(data, "map", None)):
        return f"data = data.map(lambda *batch: {clean}batch))"
    return f"data = {clean}data)"


def _kernels(watcher: Observation, outputs: Any) -> list[ObservedVariable]:
    """Returns the kernels that were reached, in order of execution, with all facts."""
    reached = {key: one for key, one in watcher.kernels.items() if one.order is not None}
    origins = watcher.trace.origins(float_tensors(outputs))
    factors = branch_factors(watcher.trace.runs)
    for kernel in reached.values():
        moment = moment_of_calls(kernel.moments)
        kernel.moment = math.nan if moment is None else moment
    last = {key for one in origins for key in one.nearest}
    for key, kernel in reached.items():
        kernel.is_output = key in last
        kernel.target = factors.get(key, 1.0) ** 2
        add_facts(kernel)
    return sorted(reached.values(), key=lambda kernel: kernel.order or 0)


def _others(found: Sequence[ObservedVariable]) -> dict[str, Any]:
    """Returns what is known of variables that are no kernels at work, as a `Subject` takes it."""
    floats = [one for one in found if keras.backend.is_float_dtype(one.variable.dtype)]
    sizes = second_moments([one.variable.value for one in floats])
    silent = [one for one, size in zip(floats, sizes, strict=True) if not size]
    no_kernels = [one for one in floats if one.role != "kernel" or one.is_table]
    return {
        "others": [(one, made) for one in no_kernels if (made := claim(one)) is not None],
        "biases": [one for one in floats if one.name == "bias"],
        "bad_weights": [
            one for one, size in zip(floats, sizes, strict=True) if not math.isfinite(size)
        ],
        "silent": [
            one for one in silent if one.name in ("gamma", "scale") and is_normalisation(one.layer)
        ],
    }


def _zeros_by_choice(found: Sequence[ObservedVariable]) -> list[ObservedVariable]:
    """Returns the variables by which a model stops its gradient on purpose, being 0."""
    return [
        one
        for one in found
        if (one.chosen if one.role == "kernel" else one.role != "statistic")
        and one.name not in ("beta", "bias")
        and keras.backend.is_float_dtype(one.variable.dtype)
        and is_zero(one)
    ]


def _report(
    model: Any,
    found: Sequence[ObservedVariable],
    survey: Sequence[Place],
    subject: Subject,
    end_to_end: float | None,
    data: str,
) -> AuditReport:
    told = rows(found, subject.kernels)
    gradients = [row.figures.gradient for row in told if row.figures and row.figures.gradient]
    return AuditReport(
        model=model.name,
        data=data,
        rows=tuple(told),
        random_layers=tuple(random_layers(layers_inside(model), layer_paths(survey))),
        warnings=(
            *not_built(survey),
            *_unseen_weights(found),
            *_of_subject(model, subject),
        ),
        gradient_spread=(math.log10(max(gradients) / min(gradients)) if gradients else None),
        findings=in_order([*symptoms(subject), *causes(subject)]),
        end_to_end=end_to_end,
        depth_growth=max((growth for _, growth in growths(subject, restart=False)), default=None),
    )


def _unseen_weights(found: Sequence[ObservedVariable]) -> list[Note]:
    """Returns notes about weights whose layers are quantized or adapted."""
    reasons = Counter(
        one.left
        for one in found
        if one.left.kind in ("quantized", "lora", "integers") and len(one.shape) > 1
    )
    texts = [f"not audited: {count} matrices: {why}" for why, count in reasons.items()]
    return [Note("not-audited", text) for text in texts]


def _of_subject(model: Any, subject: Subject) -> list[Note]:
    """Returns notes about the batch, the choices of the model's author, and earlier training."""
    notes = []
    kept = [kernel.path for kernel in subject.kernels if kernel.chosen]
    if kept:
        count = f"{len(kept)} kernel{'s' * (len(kept) > 1)}"
        notes.append(Note("by-design", f"kept constant by design: {count}: {listed(kept)}"))
    stopped = [kernel.path for kernel in subject.kernels if kernel.stopped_by_design]
    if stopped:
        count = f"{len(stopped)} kernel{'s' * (len(stopped) > 1)}"
        text = f"the gradient is zero at {count} behind zeros by design: {listed(stopped)}"
        notes.append(Note("zero-by-design", text))
    if subject.single:
        text = "the batch has one sample, which batch normalization turns to 0; use several samples"
        notes.append(Note("single-sample", text))
    if subject.trained:
        steps = _steps(model)
        text = f"the model was trained for {steps} steps: remedies that re-initialize weights lose "
        text += "what it learned"
        notes.append(Note("trained", text))
    return notes
