"""Checks of what a model does: its signal, its gradient, its units and its values.

To add a check, write a function that yields findings, and list it in `symptoms`.
"""

import math
from collections.abc import Iterator
from statistics import median

from keras_he.audit_model.initializer_assumptions import written
from keras_he.audit_model.kernel_facts import ObservedVariable
from keras_he.audit_model.subject import Subject
from keras_he.backend.tensors import mean_square
from keras_he.errors import KerasHeError
from keras_he.initializers.activation_argument import LINEAR, RELU
from keras_he.layers.kinds import has_fixed_threshold
from keras_he.layers.variables import remade_initializer
from keras_he.passes.backward import extremes
from keras_he.reports.data import Finding
from keras_he.theory.activations import Activation, depth_factors

_UNSCALED = 2.0  # times the second moment that a branch of a trunk is to have
_ZERO_BIAS = 'bias_initializer="zeros"'
_CLIPPED = "x = keras.ops.maximum(x, keras.config.epsilon())  # before this layer"
_NORMALIZED = "x = keras.layers.LayerNormalization()(x)  # before this layer"


def symptoms(subject: Subject) -> Iterator[Finding]:
    """Yields the findings about signal, gradient, units and values."""
    yield from _nonfinite(subject)
    yield from _constant(subject)
    yield from _identical(subject)
    yield from _low_precision(subject)
    if not subject.single:  # batch normalization turns one sample to 0
        yield from _signal(subject)
        yield from _gradient(subject)
    yield from _units(subject)
    yield from _residual(subject)
    yield from _depth(subject)


def _nonfinite(subject: Subject) -> Iterator[Finding]:
    for one in subject.bad_weights:
        yield Finding(
            "nonfinite",
            one.path.rpartition("/")[0],
            f"{one.path} contains NaN or infinity",
            subject.initialize(),
            (one.path,),
        )
    if not subject.batch_finite:
        yield Finding(
            "nonfinite", "the input", "the batch contains NaN or infinity", subject.cleaned
        )
    if subject.bad_weights or not subject.batch_finite:
        return  # layers pass them on
    for layer in subject.broken[:1]:
        paths = tuple(kernel.path for kernel in subject.kernels if kernel.configured_layer == layer)
        yield Finding(
            "nonfinite",
            layer,
            "it returns NaN or infinity for finite inputs",
            subject.initialize() if paths else _CLIPPED,
            paths,
        )
    if subject.broken:
        return
    cut = [one for one in subject.kernels if not math.isfinite(sum(one.gradient))]
    for kernel in cut[-1:]:
        yield subject.finding(
            "nonfinite",
            kernel,
            "the gradient is NaN or infinity from this layer back to the input, the signal is not",
            _CLIPPED.replace("before", "after"),
        )


def _constant(subject: Subject) -> Iterator[Finding]:
    for kernel in subject.kernels:
        if kernel.constant and not (kernel.frozen or kernel.chosen):
            zero = "all values of the kernel are zero, so it passes no signal and no gradient"
            yield subject.finding(
                "constant",
                kernel,
                zero
                if kernel.std == 0.0
                else "all units of the kernel are equal, so they learn the same",
                _right_initializer(subject, kernel),
            )


def _right_initializer(subject: Subject, kernel: ObservedVariable) -> str:
    """Returns the argument that gives a kernel the right initializer."""
    if kernel.claim is None:
        return subject.initialize(kernel.path)
    if kernel.name == "embeddings":
        return f'{kernel.claim.attribute}="uniform"'
    claim = kernel.claim._replace(mode="fan_in")
    if claim.fans is None:
        claim = claim._replace(law="normal")
    wanted = kernel.expected if kernel.kernels_before else LINEAR
    return written(claim, kernel, wanted or RELU)


def _identical(subject: Subject) -> Iterator[Finding]:
    same: dict[tuple[float, ...], list[ObservedVariable]] = {}
    for kernel in subject.kernels:
        if kernel.first_values and not (kernel.frozen or kernel.chosen):
            same.setdefault(kernel.first_values, []).append(kernel)
    for kernels in same.values():
        if len(kernels) > 1:
            paths = tuple(kernel.path for kernel in kernels)
            yield Finding(
                "identical",
                kernels[1].configured_layer,
                f"{', '.join(paths)} have the same values up to a factor: they share a seed",
                subject.initialize(*paths),
                paths,
            )


def _low_precision(subject: Subject) -> Iterator[Finding]:
    for kernel in subject.kernels:
        fixed = kernel.constant or kernel.chosen
        if kernel.distinct < subject.thresholds["distinct"] and not fixed:
            yield subject.finding(
                "low-precision",
                kernel,
                f"only {100 * kernel.distinct:.1f}% of the values are distinct: they were drawn in "
                "low precision",
                _right_initializer(subject, kernel),
            )


def _signal(subject: Subject) -> Iterator[Finding]:
    """Yields the first kernel on each path where the signal vanishes or explodes.

    It is compared with the largest and the smallest signal since a normalization or the input. A
    signal that comes to 1 from far away, as unscaled data does, is no finding. Nor is what a kernel
    does that is constant by its author's choice, nor one that gets only the zeros of such a kernel.
    Where its output joins another signal, that signal counts.
    """
    limit = subject.thresholds["signal"]
    highs: dict[int, float] = {}
    lows: dict[int, float] = {}
    told: set[int] = set()
    for kernel in subject.kernels:
        key, moment = id(kernel.variable), kernel.moment
        if math.isnan(moment):
            moment = kernel.output_moment  # of a recurrent layer
        if math.isnan(moment) or (kernel.is_output and subject.trained) or _is_meant(kernel):
            continue
        known = [source for source in kernel.sources if source in highs]
        high = max((highs[one] for one in known), default=kernel.input_moment)
        low = max((lows[one] for one in known), default=kernel.input_moment)
        chosen = kernel.constant or kernel.chosen
        inherited = chosen or any(one in told for one in kernel.sources)
        verdict = ""
        silent = moment == high == 0.0 and kernel.kernels_before > 0
        if silent or moment * limit < min(high, 1.0) * kernel.target * kernel.intended:
            verdict, reference = "vanishing", high
        elif moment > limit * max(low, 1.0):
            verdict, reference = "exploding", low
        if silent and subject.silent and not inherited:
            yield _silenced(subject, kernel)
        elif verdict and not inherited:
            yield subject.finding(
                verdict,
                kernel,
                f"signal: the second moment of the pre-activation is {moment:.3g}; earlier on its "
                f"path it was {reference:.3g}",
                _set_right(subject, kernel),
            )
        if verdict or (inherited and not kernel.chosen):
            told.add(key)
        highs[key] = max(high, moment / kernel.target if moment < 1.0 else moment)
        lows[key] = min(low, moment) if low > 0.0 else moment


def _is_meant(kernel: ObservedVariable) -> bool:
    """Returns whether a kernel has no signal by choice, its bias aside."""
    return kernel.silenced or (bool(kernel.chosen) and kernel.std == 0.0)


def _silenced(subject: Subject, kernel: ObservedVariable) -> Finding:
    """Returns the finding of a normalization whose factor is zero."""
    factor = subject.silent[0]
    return Finding(
        "vanishing",
        factor.configured_layer,
        f"signal: {factor.path} is zero, so {kernel.path} gets no signal",
        f'{factor.name}_initializer="ones"',
        (kernel.path,),
    )


def _set_right(subject: Subject, kernel: ObservedVariable) -> str:
    """Returns the line of code that corrects the size of the signal, of frozen kernels too."""
    if has_fixed_threshold(kernel.layer):
        return "threshold=None"
    return _right_initializer(subject, kernel) if kernel.frozen else subject.initialize()


def _gradient(subject: Subject) -> Iterator[Finding]:
    """Yields where the gradient vanishes or explodes on its way back.

    It compares the squared length, for one sample, of the gradient with respect to a whole
    pre-activation; see `extremes`.
    """
    kernels = subject.kernels
    energies = [kernel.energy for kernel in kernels]
    intended = [kernel.intended for kernel in kernels]
    for one in extremes(energies, subject.thresholds["gradient"], intended):
        where = "before this layer" if one.verdict == "vanishing" else "from this layer on"
        yield subject.finding(
            one.verdict,
            kernels[one.culprit],
            f"gradient: its squared length is {energies[one.largest]:.3g} at "
            f"{kernels[one.largest].configured_layer}, but at most {energies[one.best]:.3g} "
            f"{where}",
            subject.initialize(),
        )


def _units(subject: Subject) -> Iterator[Finding]:
    for kernel in subject.kernels:
        units = kernel.units
        if units is None or kernel.chosen:
            continue
        if units.dead is not None and units.dead > subject.thresholds["dead"]:
            yield subject.finding(
                "dead",
                kernel,
                f"{100 * units.dead:.0f}% of the units of the following activation return the same "
                f"for every sample; the pre-activation has E[y] = {kernel.mean:.3g}, E[y²] = "
                f"{kernel.moment:.3g}",
                _ZERO_BIAS if _has_large_bias(subject, kernel) else subject.initialize(),
            )
        if units.saturated <= subject.thresholds["saturated"]:
            continue
        # Outputs of a trained model are near 0 and 1 if it is sure, and an output may start so.
        large_bias = _has_large_bias(subject, kernel)
        if not (kernel.is_output and (subject.trained or large_bias)):
            yield subject.finding(
                "saturated",
                kernel,
                f"{100 * units.saturated:.0f}% of the values of the following activation are where "
                f"it is flat; the pre-activation has E[y²] = {kernel.moment:.3g}",
                _ZERO_BIAS if large_bias else subject.initialize(),
            )


def _has_large_bias(subject: Subject, kernel: ObservedVariable) -> bool:
    """Returns whether the initializer of a kernel's bias returns values that are too large."""
    for bias in subject.biases:
        make = remade_initializer(kernel.layer, "bias") if bias.layer is kernel.layer else None
        if make is not None and mean_square(make(bias.shape, dtype=bias.variable.dtype)) > 1.0:
            return True
    return False


def _residual(subject: Subject) -> Iterator[Finding]:
    by_key = {id(kernel.variable): kernel for kernel in subject.kernels}
    for run in subject.runs:
        moments = [one for one in run.moments if one > 0.0]
        ends = list(dict.fromkeys(key for key, _ in run.branches if key in by_key))
        ends = [key for key in ends if not by_key[key].chosen]
        if len(moments) < 2 or not ends:
            continue
        growth = max(moments) / max(moments[0], 1.0)
        # One kernel that is too large makes a trunk grow too, and is another finding.
        ratios = [by_key[key].moment / by_key[key].target for key in ends]
        if growth <= subject.thresholds["residual"] or not median(ratios) > _UNSCALED:
            continue
        paths = tuple(by_key[key].path for key in ends)
        yield Finding(
            "unscaled-residual",
            by_key[ends[0]].configured_layer,
            f"the second moment of the residual trunk grows by a factor of {growth:.3g} over "
            f"{run.sums} sums: the last kernels of its branches are not scaled by its depth",
            subject.initialize(*paths),
            paths,
        )


def _depth(subject: Subject) -> Iterator[Finding]:
    """Yields where an error of the signal has grown too much since the last normalization."""
    for kernel, growth in growths(subject, restart=True):
        if growth >= subject.thresholds["depth"]:
            yield subject.finding(
                "unsafe-depth",
                kernel,
                f"an error of the signal has grown by a factor of {growth:.3g} since the last "
                f"normalization: the preceding activations are unsafe at this depth",
                _NORMALIZED,
            )


def growths(subject: Subject, *, restart: bool) -> Iterator[tuple[ObservedVariable, float]]:
    """Yields each kernel and the growth of an error on the worst path; `restart`ed at limits."""
    grown: dict[int, float] = {}
    for kernel in subject.kernels:
        before = max((grown.get(one, 1.0) for one in kernel.sources), default=1.0)
        factor = _factor(kernel.expected) if kernel.sources else 1.0
        growth = max(before * factor, 1.0)
        yield kernel, growth
        over = restart and growth >= subject.thresholds["depth"]
        grown[id(kernel.variable)] = 1.0 if over else growth


def _factor(activation: Activation | None) -> float:
    """Returns the factor on an error of the signal, 1 where it is not known."""
    if activation is None:
        return 1.0
    try:
        return depth_factors(activation.moments).signal
    except KerasHeError:
        return 1.0
