"""Looking at a whole model: one call that tells what the signal and the gradient do, and why."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import keras

from keras_he.audit_model.initializer_assumptions import claim
from keras_he.audit_model.initializer_checks import causes
from keras_he.audit_model.kernel_facts import ObservedVariable, add_facts
from keras_he.audit_model.observe import Observation
from keras_he.audit_model.signal_checks import growths, symptoms
from keras_he.audit_model.subject import Subject
from keras_he.audit_model.verdicts import checked_thresholds, in_order
from keras_he.backend.framework import framework
from keras_he.backend.keras_private import layers_inside
from keras_he.backend.randomness import randomness
from keras_he.backend.tensors import as_tensors, float_tensors, second_moments
from keras_he.errors import invalid
from keras_he.layers.kinds import is_normalisation
from keras_he.layers.variables import variables
from keras_he.layers.walk import Place, layer_paths, not_built, random_layers
from keras_he.notes import NO_NOTE, Note
from keras_he.passes.backward import backward
from keras_he.passes.forward import forward, holders, watched
from keras_he.passes.inputs import first_samples
from keras_he.passes.losses import Loss, averaged, check_loss, read_loss
from keras_he.passes.model_checks import Progress, check_model, survey_of
from keras_he.passes.preceding_activation import activation_name
from keras_he.passes.tensor_origins import branch_factors
from keras_he.reports.audit_report import AuditReport
from keras_he.reports.data import Figures, Row, moment_of_calls
from keras_he.theory.kernel_geometry import standard_deviation

_NAMED = 8  # kernels that a note names
_SEED = 0  # of a synthetic batch, and of the default loss


_NOT_REACHED = Note("not-reached", "not reached by the pass")
_NOT_SEEN = Note("not-seen", "not seen")


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
        'depthwise_initializer="he_relu_depthwise"'

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
    tensors = keras.tree.flatten(inputs)
    watcher = Observation(found, tensors, layer_paths(survey), progress.step)
    outputs = forward(model, inputs, keras.StatelessScope(), watcher, _SEED)
    given, returned = second_moments(inputs), second_moments(outputs)
    finite_batch = math.isfinite(sum(given + second_moments(targets)))
    kernels = _kernels(watcher, outputs)
    if request.backward and returned:
        if request.has_loss:
            check_loss(loss, outputs)
        _look_back(model, inputs, watcher, kernels, loss, progress)
    else:
        progress.close()
    subject = Subject(
        kernels=kernels,
        **_others(found),
        broken=watcher.broken if not math.isfinite(sum(returned)) else [],
        batch_finite=finite_batch,
        single=_samples(inputs) == 1 and _normalises_batches(model),
        trained=_steps(model) > 0,
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


def _look_back(
    model: Any,
    inputs: Any,
    watcher: Observation,
    kernels: Sequence[ObservedVariable],
    loss: Loss,
    progress: Progress,
) -> None:
    """Adds the gradients to the kernels."""
    floats = [one for one in kernels if keras.backend.is_float_dtype(one.variable.dtype)]
    found = backward(
        model,
        inputs,
        watcher.calls,
        loss,
        _SEED,
        variables=[one.variable for one in floats],
        progress=progress.step,
    )
    progress.close()
    samples = _samples(inputs)
    last = {id(kernel.layer): kernel for kernel in kernels}
    seen = [(last[key], each) for key, each in found.activations.items() if key in last]
    for kernel, moment in zip(floats, second_moments(found.variables), strict=True):
        kernel.kernel_gradient = moment
    for kernel, each in seen:
        kernel.gradient = second_moments(each)
    for kernel, each in seen:
        sizes = [math.prod(one.shape) for one in each]
        kernel.energy = sum(map(math.prod, zip(kernel.gradient, sizes, strict=True))) / samples


def _others(found: Sequence[ObservedVariable]) -> dict[str, Any]:
    """Returns what is known of variables that are no kernels at work, as a `Subject` takes it."""
    floats = [one for one in found if keras.backend.is_float_dtype(one.variable.dtype)]
    sizes = second_moments([one.variable.value for one in floats])
    silent = [one for one, size in zip(floats, sizes, strict=True) if not size]
    no_kernels = [one for one in floats if one.role != "kernel" or one.name == "embeddings"]
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


def _report(
    model: Any,
    found: Sequence[ObservedVariable],
    survey: Sequence[Place],
    subject: Subject,
    end_to_end: float | None,
    data: str,
) -> AuditReport:
    kernels = {kernel.path: kernel for kernel in subject.kernels}
    unseen = [one for one in found if one.path not in kernels]
    stds = _expected_stds(subject.kernels)
    names = [activation_name(kernel.activation) for kernel in subject.kernels]
    seen = zip(subject.kernels, names, stds, strict=True)
    rows = [_seen(*each) for each in seen] + [_unseen(one) for one in unseen]
    gradients = [row.figures.gradient for row in rows if row.figures and row.figures.gradient]
    return AuditReport(
        model=model.name,
        data=data,
        rows=tuple(rows),
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
        more = f" and {len(kept) - _NAMED} more" if len(kept) > _NAMED else ""
        count = f"{len(kept)} kernel{'s' * (len(kept) > 1)}"
        text = f"kept constant by design: {count}: {', '.join(kept[:_NAMED])}{more}"
        notes.append(Note("by-design", text))
    if subject.single:
        text = "the batch has one sample, which batch normalization turns to 0; use several samples"
        notes.append(Note("single-sample", text))
    if subject.trained:
        steps = _steps(model)
        text = f"the model was trained for {steps} steps: remedies that re-initialize weights lose "
        text += "what it learned"
        notes.append(Note("trained", text))
    return notes


def _seen(kernel: ObservedVariable, activation: str, expected_std: float | None) -> Row:
    made, units = kernel.claim, kernel.units
    gradient = kernel.gradient[0] if kernel.gradient else None
    ratio = None
    if kernel.kernel_gradient is not None and kernel.std > 0.0:
        ratio = math.sqrt(kernel.kernel_gradient) / kernel.std
    return replace(
        _row(kernel),
        fans=kernel.fans,
        activation=activation,
        std=expected_std,
        rule="measured" if kernel.moments else "",
        left=NO_NOTE if kernel.moments else _NOT_SEEN,
        moments=tuple(kernel.moments),
        target=kernel.target if _closer(kernel) else 1.0,
        figures=Figures(
            initializer=type(made.initializer).__name__ if made else "",
            assumed_fans=made.fans if made else None,
            assumed_std=made.std if made else None,
            std=kernel.std,
            mean=kernel.mean if kernel.moments else None,
            dead=units.dead if units else None,
            saturated=units.saturated if units and units.dead is not None else None,
            gradient=gradient,
            kernel_gradient=kernel.kernel_gradient,
            update_ratio=ratio,
        ),
    )


def _expected_stds(kernels: Sequence[ObservedVariable]) -> list[float | None]:
    """Returns the standard deviations that follow from fans, activation and depth."""
    stds: list[float | None] = []
    for kernel in kernels:
        std = None
        if kernel.fans is not None and kernel.expected is not None and min(kernel.fans) > 0.0:
            gain = 1.0 / math.sqrt(kernel.expected.moments.signal)
            std = standard_deviation(gain, kernel.fans, "fan_in") * math.sqrt(kernel.target)
        stds.append(std)
    return stds


def _closer(kernel: ObservedVariable) -> bool:
    """Returns whether a pre-activation is nearer to its target than to 1."""
    moment = kernel.moment
    if not 0.0 < moment < math.inf:
        return False
    return abs(math.log(moment / kernel.target)) < abs(math.log(moment))


def _unseen(one: ObservedVariable) -> Row:
    kernel = one.role in ("kernel", "unknown")
    left = one.left or _NOT_REACHED
    return replace(_row(one), left=left if kernel else NO_NOTE)


def _row(one: ObservedVariable) -> Row:
    """Returns the row of a variable of which nothing was seen."""
    return Row(one.path, type(one.layer).__name__, one.shape, one.role)
