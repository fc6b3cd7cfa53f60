"""Checks of what a model does: its signal, its units and its values.

To add a check, write a function that yields findings, and list it in `symptoms`.
"""

import math
from collections.abc import Iterator
from statistics import median

from keras_he.audit_model.expectations import right_initializer
from keras_he.audit_model.gradient_checks import depth, gradient, no_gradient
from keras_he.audit_model.kernel_facts import ObservedVariable, Units
from keras_he.audit_model.subject import NORMALIZED, OTHER_ACTIVATION, ZERO_BIAS, Subject
from keras_he.initializers.activation_argument import RELU
from keras_he.layers.kinds import has_fixed_threshold
from keras_he.reports.data import Finding

_UNSCALED = 2.0  # times the second moment that a branch of a trunk is to have
_CLIPPED = "x = keras.ops.maximum(x, keras.config.epsilon())  # before this layer"
_FEWER_STEPS = "x = x[:, -50:]  # fewer steps, before this layer"
_SIZED = 2.0  # second moment over its target, up to which a pre-activation is not too large


def symptoms(subject: Subject) -> Iterator[Finding]:
    """Yields the findings about signal, gradient, units and values."""
    yield from _nonfinite(subject)
    yield from _constant(subject)
    yield from _identical(subject)
    yield from _low_precision(subject)
    if not subject.single:  # batch normalization turns one sample to 0
        signal = [*_silences(subject), *_signal(subject)]
        yield from signal or _spread(subject)
        yield from gradient(subject)
        yield from no_gradient(subject)
    yield from _units(subject)
    yield from _residual(subject)
    yield from depth(subject)


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
            subject.line(_CLIPPED) if paths else _CLIPPED,
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
    if kernel.is_table:
        return f'{kernel.claim.attribute}="uniform"'
    claim = kernel.claim._replace(mode="fan_in")
    if claim.fans is None:
        claim = claim._replace(law="normal")
    return right_initializer(kernel, claim, claim.activation or RELU)


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
        key, moment = id(kernel.variable), _judged(kernel)
        if kernel.is_table and moment > 0.0:
            highs[key] = lows[key] = moment  # the signal begins here
        if kernel.is_table or _is_not_judged(subject, kernel, moment):
            continue
        known = [source for source in kernel.sources if source in highs]
        high = max((highs[one] for one in known), default=kernel.input_moment)
        low = max((lows[one] for one in known), default=kernel.input_moment)
        chosen = kernel.constant or kernel.chosen
        inherited = chosen or any(one in told for one in kernel.sources)
        verdict = ""
        if moment * limit < min(high, 1.0) * kernel.target * kernel.intended:
            verdict, reference = "vanishing", high
        elif moment > limit * max(low, 1.0):
            verdict, reference = "exploding", low
        if verdict and not inherited:
            yield subject.finding(
                verdict,
                kernel,
                f"signal: the second moment of {_observed(kernel)} is {moment:.3g}; earlier on its "
                f"path it was {reference:.3g}{subject.beyond}",
                _set_right(subject, kernel),
            )
        if verdict or (inherited and not kernel.chosen):
            told.add(key)
        highs[key] = max(high, moment / kernel.target if moment < 1.0 else moment)
        lows[key] = min(low, moment) if low > 0.0 else moment


def _is_meant(kernel: ObservedVariable) -> bool:
    """Returns whether a kernel has no signal by choice, its bias aside."""
    return kernel.silenced or (bool(kernel.chosen) and kernel.std == 0.0)


def _is_not_judged(subject: Subject, kernel: ObservedVariable, moment: float) -> bool:
    """Returns whether nothing is said of the size of a kernel's signal.

    Zeros for zeros are the fault of what precedes a kernel, or of none: an expert may get nothing.
    """
    if math.isnan(moment) or (kernel.is_output and subject.trained) or _is_meant(kernel):
        return True
    return moment == 0.0 and kernel.input_moment == 0.0


def _judged(kernel: ObservedVariable) -> float:
    """Returns the second moment that is judged: of a recurrent layer, that of its state too."""
    moment, state = kernel.signal, kernel.output_moment
    if kernel.is_table or math.isnan(state) or not 0.0 < moment < math.inf:
        return moment
    return max(moment, state, key=_distance)


def _distance(moment: float) -> float:
    """Returns how far a second moment is from 1."""
    return abs(math.log(moment)) if 0.0 < moment < math.inf else math.inf


def _observed(kernel: ObservedVariable) -> str:
    """Returns what was observed of a kernel, in words."""
    if not math.isnan(kernel.output_moment):
        return "the state, or of what its activations are given,"
    own = kernel.units is None and math.isfinite(kernel.moment) and kernel.stands_for_layer
    return "what the layer makes of its input" if own else "the pre-activation"


def _silences(subject: Subject) -> Iterator[Finding]:
    """Yields the first layer that returns zeros for other inputs, where a kernel gets them."""
    behind = [
        kernel.path
        for kernel in subject.kernels
        if kernel.moment == kernel.input_moment == 0.0 and not _is_meant(kernel)
    ]
    if not (behind and subject.silences):
        return
    first, *others = subject.silences
    cause, remedy = subject.cause_of(first)
    more = f", and {len(others)} more layers return zeros" if others else ""
    yield Finding(
        "vanishing",
        first.path,
        f"signal: {cause}, so {len(behind)} kernel{'s get' if len(behind) > 1 else ' gets'} no "
        f"signal{more}",
        remedy,
        tuple(behind),
    )


def _spread(subject: Subject) -> Iterator[Finding]:
    """Yields the kernel whose signal misses its target most, if those of a model are far apart.

    It is for what no path shows: a signal that is lost inside an attention, or behind a gate.
    """
    if subject.bad_weights or subject.broken or not subject.batch_finite:
        return
    judged = [
        ((moment - kernel.offset) / kernel.aim, kernel)
        for kernel in subject.kernels
        if not (kernel.is_table or (kernel.is_output and subject.trained))
        for moment in kernel.moments
        if kernel.offset < moment < math.inf
    ]
    ratios = [ratio for ratio, _ in judged]
    if not ratios or max(ratios) <= subject.thresholds["signal"] * min(ratios):
        return
    middle = median(ratios)
    ratio, kernel = max(judged, key=lambda each: _distance(each[0]))
    yield subject.finding(
        "vanishing" if ratio < 1.0 else "exploding",
        kernel,
        f"signal: the second moment of {_observed(kernel)} is {ratio:.3g} times its target; the "
        f"median of all kernels is {middle:.3g}{subject.beyond}",
        _set_right(subject, kernel),
    )


def _set_right(subject: Subject, kernel: ObservedVariable) -> str:
    """Returns the line of code that corrects the size of the signal, of frozen kernels too."""
    if has_fixed_threshold(kernel.layer):
        return "threshold=None"
    if subject.has_large_bias(kernel):
        return ZERO_BIAS
    if kernel.frozen:
        return _right_initializer(subject, kernel)
    return subject.line(NORMALIZED if math.isnan(kernel.output_moment) else _FEWER_STEPS)


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
                ZERO_BIAS if subject.has_large_bias(kernel) else subject.line(NORMALIZED),
            )
        if units.saturated <= subject.thresholds["saturated"]:
            continue
        # Outputs of a trained model are near 0 and 1 if it is sure, and an output may start so.
        large_bias = subject.has_large_bias(kernel)
        if not (kernel.is_output and (subject.trained or large_bias)):
            yield _saturated(subject, kernel, units, ZERO_BIAS if large_bias else "")


def _saturated(subject: Subject, kernel: ObservedVariable, units: Units, line: str) -> Finding:
    """Returns the finding of a flat activation; it is the cause if it gets a signal of size 1."""
    evidence = (
        f"{100 * units.saturated:.0f}% of the values of the following activation are where it is "
        f"flat; the pre-activation has E[y²] = {kernel.moment:.3g}"
    )
    if not line and kernel.moment <= _SIZED * kernel.target:
        paths = (kernel.path,)
        return Finding("saturated", units.layer, evidence, OTHER_ACTIVATION, paths)
    return subject.finding("saturated", kernel, evidence, line or subject.line(NORMALIZED))


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
