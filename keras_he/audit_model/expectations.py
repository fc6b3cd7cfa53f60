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

_SHARE = 0.75  # of the accused error, in logarithms, that a second moment must show
_CHANCE = 0.15  # by which the logarithm of a second moment may be off by chance


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


def is_contradicted(
    kernel: ObservedVariable, ratio: float, ratios: Mapping[int, float], *, alone: bool
) -> bool:
    """Returns whether what was measured allows to say that a kernel has the wrong size.

    What precedes a kernel in the code of a user's layer is assumed. It counts less than the second
    moment, which must miss its target as the kernel misses its size: in the whole, and by what this
    kernel adds to it.

    Args:
        kernel: The kernel.
        ratio: Its standard deviation over the right one, as it follows from what is assumed.
        ratios: Second moments over their targets, by the identity of the kernel's variable.
        alone: Whether the ratio is to explain all that this kernel adds.
    """
    if is_of_keras(kernel.layer):
        return True
    known = [ratios.get(one, math.nan) for one in (id(kernel.variable), *kernel.sources)]
    finite = [math.log(one) for one in known if 0.0 < one < math.inf]
    if not 0.0 < known[0] < math.inf:
        return False
    mine, *before = finite
    accused = 2.0 * math.log(ratio)
    added = mine - sum(before) / len(before) if before else mine
    misses = all(one * accused > 0.0 and abs(one) >= _SHARE * abs(accused) for one in (mine, added))
    return misses and (not alone or abs(added) <= abs(accused) / _SHARE + _CHANCE)
