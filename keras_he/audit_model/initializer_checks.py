"""What is wrong about how kernels are made: fans, gains, slopes, and initializers out of place.

An initializer is judged only where the kernel still has the size that it drew; a kernel that was
trained, or set by hand, says nothing of it.
"""

import math
from collections.abc import Iterator

import keras

from keras_he.audit_model.initializer_assumptions import Claim, written
from keras_he.audit_model.kernel_facts import ObservedVariable
from keras_he.audit_model.verdicts import Subject
from keras_he.errors import KerasHeError
from keras_he.initializers.activation_argument import read_activation
from keras_he.reports.data import Finding
from keras_he.theory.activations import Activation
from keras_he.theory.activations import gain as moments_gain
from keras_he.theory.standard_deviation import standard_deviation

_DRAWN = 1.5  # by which a kernel's size may miss that of its initializer, sampling aside
_RARE = 6.0  # standard errors of that size


def causes(subject: Subject) -> Iterator[Finding]:
    """Yields the findings about initializers."""
    for kernel in subject.kernels:
        if kernel.claim is not None and kernel.claim.std and _drew(kernel.claim, kernel):
            yield from _fan(subject, kernel, kernel.claim)
            yield from _activation(subject, kernel, kernel.claim)
    yield from _misplaced(subject)


def _drew(claim: Claim, kernel: ObservedVariable) -> bool:
    """Returns whether a kernel has the size that its initializer draws."""
    assert claim.std is not None
    if not kernel.std > 0.0:
        return False
    size = math.prod(kernel.shape)
    allowed = math.log(_DRAWN) + _RARE / math.sqrt(2 * size)
    return abs(math.log(kernel.std / claim.std)) < allowed


def _fan(subject: Subject, kernel: ObservedVariable, claim: Claim) -> Iterator[Finding]:
    """Yields where an initializer counts other fans than the layer has."""
    right = kernel.fans
    if claim.fans is None or right is None or kernel.name == "embeddings":
        return
    # Of gates side by side Keras' average counts all as one output, and recurrent layers were
    # tuned with it; their states are bounded, so it does not add up over depth.
    if kernel.geometry and kernel.geometry.gates > 1 and claim.mode == "fan_avg":
        return
    # A first layer passes no gradient on, so of its average the fan-in alone counts.
    mode = "fan_in" if kernel.kernels_before == 0 and claim.mode == "fan_avg" else claim.mode
    ratio = standard_deviation(1.0, claim.fans, mode) / standard_deviation(1.0, right, mode)
    threshold = subject.thresholds["fan"]
    if 1 / threshold < ratio < threshold:
        return
    size = f"{1 / ratio:.1f} times too small" if ratio < 1 else f"{ratio:.1f} times too large"
    yield subject.finding(
        "wrong-fan",
        kernel,
        f"{type(claim.initializer).__name__} counts fans of {claim.fans[0]:g} and "
        f"{claim.fans[1]:g}, and the layer has {right[0]:g} and {right[1]:g}: {size}",
        written(claim, kernel, _chosen(subject, kernel, claim)),
    )


def _chosen(subject: Subject, kernel: ObservedVariable, claim: Claim) -> Activation:
    """Returns the activation to write: the claimed one, unless its gain is known to be wrong."""
    claimed = claim.activation or read_activation("linear")
    counted = _counted(kernel, claim)
    if counted is None or (kernel.kernels_before == 0 and claim.activation is not None):
        return claimed
    close = _ratio(claimed, counted, claim.mode) < subject.thresholds["gain"]
    return claimed if close and claim.activation is not None else counted


def _activation(subject: Subject, kernel: ObservedVariable, claim: Claim) -> Iterator[Finding]:
    """Yields where an initializer makes up for another activation than there is."""
    counted = _counted(kernel, claim)
    if claim.activation is None or counted is None or not _matters(kernel, claim):
        return
    where = "behind" if claim.mode == "fan_out" else "in front of"
    mine, slope = claim.activation, counted.negative_slope
    if (
        mine.negative_slope is not None
        and counted.name in ("leaky_relu", "prelu", "relu")
        and abs(mine.negative_slope - (slope or 0.0)) > subject.thresholds["slope"]
    ):
        yield subject.finding(
            "wrong-slope",
            kernel,
            f"the slope of {claim.initializer!r} is {mine.negative_slope:g}, and that {where} "
            f"the kernel is {slope or 0.0:.3g}{_aside(kernel)}",
            written(claim, kernel, counted),
        )
        return
    ratio = _ratio(mine, counted, claim.mode)
    if ratio < subject.thresholds["gain"]:
        return
    claimed, right = (moments_gain(one.moments, claim.mode) for one in (mine, counted))
    yield subject.finding(
        "wrong-gain",
        kernel,
        f"the gain {claimed:.3f} is that of {mine.name}, and {where} the kernel stands "
        f"{counted.name or 'a function of your own'}, whose gain is {right:.3f}{_aside(kernel)}",
        written(claim, kernel, counted),
    )


def _matters(kernel: ObservedVariable, claim: Claim) -> bool:
    """Returns whether a kernel has a gain that can be right or wrong.

    The first kernel is given the data, whose size is the user's. Keras' average with scale 1
    speaks of no activation: it is what layers have unasked.
    """
    keras_average = claim.mode == "fan_avg" and claim.gain == 1.0
    if claim.mode != "fan_out" and kernel.kernels_before == 0:
        return False
    return not keras_average


def _aside(kernel: ObservedVariable) -> str:
    """Returns what is said of a kernel whose size a normalisation takes away."""
    return " (the normalisation behind it takes size away)" if kernel.normalised else ""


def _counted(kernel: ObservedVariable, claim: Claim) -> Activation | None:
    """Returns the activation that counts in a mode, as far as it is known."""
    if claim.mode != "fan_out":
        return kernel.expected
    units = kernel.units
    if units is None:
        return None
    try:
        return read_activation(units.activation)
    except KerasHeError:
        return None


def _ratio(one: Activation, other: Activation, mode: str) -> float:
    """Returns the larger gain over the smaller."""
    try:
        gains = [moments_gain(activation.moments, mode) for activation in (one, other)]
    except KerasHeError:  # a step has no gradient
        return 1.0
    return max(gains) / min(gains)


def _misplaced(subject: Subject) -> Iterator[Finding]:
    """Yields where a variance follows from fans, and there are none."""
    for one, claim in subject.others:
        table = one.name == "embeddings"
        flat = len(one.shape) < 2
        scaled = isinstance(claim.initializer, keras.initializers.VarianceScaling)
        if not scaled or not (table or flat) or one.left == "frozen":
            continue
        if table and one.fans is not None and claim.fans == one.fans:
            continue
        what = (
            "a table that is looked up: each output reads one row, however many there are"
            if table
            else f"{one.name}, which has no fans"
        )
        yield Finding(
            "misplaced",
            one.configured_layer,
            f"{type(claim.initializer).__name__} scales {what}",
            f'{claim.attribute}="{"uniform" if table else "zeros"}"',
            (one.path,),
        )
