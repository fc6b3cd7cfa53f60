"""Checks of initializers: fans, gains, slopes, and initializers in the wrong place.

An initializer is checked only if the kernel still has the size that it draws: not after training.
In a layer of the user's own, what was measured must contradict it too.
To add a check, write a function that yields findings, and call it in `causes`.
"""

from collections.abc import Iterator

import keras

from keras_he.audit_model.expectations import counted, is_contradicted, right_initializer
from keras_he.audit_model.initializer_assumptions import Claim
from keras_he.audit_model.kernel_facts import ObservedVariable
from keras_he.audit_model.subject import Subject
from keras_he.errors import KerasHeError
from keras_he.initializers.activation_argument import LINEAR
from keras_he.reports.data import Finding
from keras_he.theory.activations import Activation
from keras_he.theory.activations import gain as moments_gain
from keras_he.theory.kernel_geometry import Fans, standard_deviation


def causes(subject: Subject) -> Iterator[Finding]:
    """Yields the findings about initializers."""
    subject.ratios = {id(one.variable): one.moment / one.target for one in subject.kernels}
    for kernel in subject.kernels:
        if kernel.claim is not None and kernel.as_drawn:
            yield from _fan(subject, kernel, kernel.claim)
            yield from _activation(subject, kernel, kernel.claim)
    yield from _misplaced(subject)


def _fan(subject: Subject, kernel: ObservedVariable, claim: Claim) -> Iterator[Finding]:
    """Yields where an initializer assumes other fans than the layer has."""
    right = kernel.fans
    if claim.fans is None or right is None or kernel.is_table:
        return
    # In a kernel of several gates, Keras' average takes all gates for one output. Recurrent layers
    # were tuned with it, and their states are bounded, so it does not add up over depth.
    if kernel.geometry and kernel.geometry.gates > 1 and claim.mode == "fan_avg":
        return
    # A first layer passes no gradient on, so only the fan-in of its average matters.
    mode = "fan_in" if kernel.kernels_before == 0 and claim.mode == "fan_avg" else claim.mode
    ratio = standard_deviation(1.0, claim.fans, mode) / standard_deviation(1.0, right, mode)
    threshold = subject.thresholds["fan"]
    if 1 / threshold < ratio < threshold or not is_contradicted(
        kernel, ratio, subject.ratios, alone=False
    ):
        return
    size = f"{1 / ratio:.1f} times too small" if ratio < 1 else f"{ratio:.1f} times too large"
    assumed, actual = (_fans_in_words(fans, mode) for fans in (claim.fans, right))
    yield subject.finding(
        "wrong-fan",
        kernel,
        f"{type(claim.initializer).__name__} assumes {assumed}, but this layer has {actual}: its "
        f"kernel is {size}",
        right_initializer(kernel, claim, claim.activation or LINEAR),
    )


def _fans_in_words(fans: Fans, mode: str) -> str:
    """Returns the fans that a mode uses as text."""
    names = ("fan_in", "fan_out") if mode == "fan_avg" else (mode,)
    return " and ".join(f"{name}={getattr(fans, name):g}" for name in names)


def _activation(subject: Subject, kernel: ObservedVariable, claim: Claim) -> Iterator[Finding]:
    """Yields where an initializer compensates for another activation than there is."""
    right = counted(kernel, claim.mode)
    if claim.activation is None or right is None or not _matters(kernel, claim):
        return
    ratio = _gains(claim.activation, right, claim.mode)
    if not is_contradicted(kernel, ratio, subject.ratios, alone=True):
        return
    where = "following" if claim.mode == "fan_out" else "preceding"
    mine, slope = claim.activation, right.negative_slope
    if (
        mine.negative_slope is not None
        and right.name in ("leaky_relu", "prelu", "relu")
        and abs(mine.negative_slope - (slope or 0.0)) > subject.thresholds["slope"]
    ):
        yield subject.finding(
            "wrong-slope",
            kernel,
            f"{claim.initializer!r} assumes a negative slope of {mine.negative_slope:g}, but that "
            f"of the {where} activation is {slope or 0.0:.3g}{_aside(kernel)}",
            right_initializer(kernel, claim, right),
        )
        return
    if max(ratio, 1 / ratio) < subject.thresholds["gain"]:
        return
    assumed, actual = (moments_gain(one.moments, claim.mode) for one in (mine, right))
    yield subject.finding(
        "wrong-gain",
        kernel,
        f"the gain {assumed:.3f} compensates for {mine.name}, but the {where} activation is "
        f"{right.name or 'a function of your own'}, whose gain is {actual:.3f}{_aside(kernel)}",
        right_initializer(kernel, claim, right),
    )


def _matters(kernel: ObservedVariable, claim: Claim) -> bool:
    """Returns whether a kernel has a gain that can be right or wrong.

    The first kernel gets the data, whose size is the user's choice. Keras' average with scale 1,
    the default of its layers, is for no activation in particular.
    """
    keras_average = claim.mode == "fan_avg" and claim.gain == 1.0
    if claim.mode != "fan_out" and kernel.kernels_before == 0:
        return False
    return not keras_average


def _aside(kernel: ObservedVariable) -> str:
    """Returns the remark on a kernel whose size a normalization removes."""
    return " (the following normalization removes this difference)" if kernel.normalised else ""


def _gains(one: Activation, other: Activation, mode: str) -> float:
    """Returns the gain of one activation over that of another."""
    try:
        return moments_gain(one.moments, mode) / moments_gain(other.moments, mode)
    except KerasHeError:  # a step has no gradient
        return 1.0


def _misplaced(subject: Subject) -> Iterator[Finding]:
    """Yields where an initializer uses fans for a variable that has none."""
    for one, claim in subject.others:
        table = one.is_table
        flat = len(one.shape) < 2
        scaled = isinstance(claim.initializer, keras.initializers.VarianceScaling)
        if not scaled or not (table or flat) or one.left.kind == "frozen":
            continue
        if table and one.fans is not None and claim.fans == one.fans:
            continue
        what = (
            "a lookup table, of which each output reads one row, whatever their number"
            if table
            else f"{one.name}, which has no fans"
        )
        yield Finding(
            "misplaced",
            one.configured_layer,
            f"{type(claim.initializer).__name__} uses fans to scale {what}",
            f'{claim.attribute}="{"uniform" if table else "zeros"}"',
            (one.path,),
        )
