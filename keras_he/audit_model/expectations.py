"""What a kernel is expected to have: one standard deviation, and the initializer that gives it.

The report's column and the remedies take it from here, so that they agree.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from keras_he.audit_model.initializer_assumptions import Claim, written
from keras_he.audit_model.kernel_facts import ObservedVariable
from keras_he.backend.keras_private import is_of_keras
from keras_he.errors import KerasHeError
from keras_he.initializers.activation_argument import read_activation
from keras_he.initializers.kaiming import Kaiming
from keras_he.theory.activations import Activation
from keras_he.theory.activations import gain as moments_gain
from keras_he.theory.kernel_geometry import standard_deviation

_AS_ACCUSED = 0.75  # share of the accused error, in logarithms, that a second moment must show


class Expectation(NamedTuple):
    """The activation that counts for a kernel, and the mode that its initializer keeps."""

    activation: Activation
    mode: str


def counted(kernel: ObservedVariable, mode: str) -> Activation | None:
    """Returns the activation that matters in a mode, as far as it is known."""
    if mode != "fan_out":
        return kernel.expected
    if kernel.units is None:
        return None
    try:
        return read_activation(kernel.units.activation)
    except KerasHeError:
        return None


def expected_std(kernel: ObservedVariable) -> float | None:
    """Returns the standard deviation that a kernel is expected to have, `None` if not known."""
    made = _expectation(kernel)
    if made is None or kernel.fans is None or min(kernel.fans) <= 0.0:
        return None
    gain = moments_gain(made.activation.moments, made.mode)
    return standard_deviation(gain, kernel.fans, made.mode) * math.sqrt(kernel.target)


def right_initializer(kernel: ObservedVariable, claim: Claim, otherwise: Activation) -> str:
    """Returns the argument that gives a kernel the expected standard deviation.

    Args:
        kernel: The kernel.
        claim: What its initializer assumes; the law is kept.
        otherwise: The activation where none is known.
    """
    made = _expectation(kernel) or Expectation(otherwise, _mode(claim))
    return written(claim, kernel, made.activation, mode=made.mode, target=kernel.target)


def _expectation(kernel: ObservedVariable) -> Expectation | None:
    mode = "fan_in" if kernel.claim is None else _mode(kernel.claim)
    activation = counted(kernel, mode)
    if activation is None:
        return None
    try:
        moments_gain(activation.moments, mode)
    except KerasHeError:  # a step has no gradient
        return None
    return Expectation(activation, mode)


def _mode(claim: Claim) -> str:
    """Returns the mode that a user chose: Keras' average of fans is nobody's choice."""
    average = claim.mode == "fan_avg" and not isinstance(claim.initializer, Kaiming)
    return "fan_in" if average else claim.mode


def is_contradicted(kernel: ObservedVariable, ratio: float, ratios: Mapping[int, float]) -> bool:
    """Returns whether what was measured allows to say that a kernel has the wrong size.

    What precedes a kernel in the code of a user's layer is assumed. It counts less than the second
    moment, which must miss its target as the kernel misses its size: in the whole, and by what this
    kernel adds to it.

    Args:
        kernel: The kernel.
        ratio: Its standard deviation over the right one, as it follows from what is assumed.
        ratios: Second moments over their targets, by the identity of the kernel's variable.
    """
    if is_of_keras(kernel.layer):
        return True
    mine = ratios.get(id(kernel.variable), math.nan)
    before = [ratios[one] for one in kernel.sources if one in ratios]
    if not 0.0 < mine < math.inf:
        return False
    accused = 2.0 * math.log(ratio)
    missed = [math.log(mine)]
    if before and min(before) > 0.0 and max(before) < math.inf:
        missed.append(math.log(mine / math.exp(sum(map(math.log, before)) / len(before))))
    return all(one * accused > 0.0 and abs(one) >= _AS_ACCUSED * abs(accused) for one in missed)
