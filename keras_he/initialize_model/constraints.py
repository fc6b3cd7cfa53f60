"""Constraints of kernels, which training applies after each step, applied to what is planned.

A kernel is planned as its constraint leaves it. Where a constraint lets a kernel be scaled, as
`NonNeg` does, the gain is measured as usual. One that fixes the scale, as `UnitNorm` does, leaves
no gain to choose: the kernel gets rule "constraint", and later kernels are measured on what comes
out. Of any other, such as a `MaxNorm` that cuts, the gain is looked for step by step. Where it does
not allow the scale that keeps the signal, a note says so.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from keras_he.initialize_model.planned_variable import PlannedVariable, Settings
from keras_he.notes import Note

RULE = "constraint"  # the rule of a kernel whose scale is that of its constraint
_STEPS = 4  # in which a gain is looked for
_BETTER = 0.9  # of an error, what a step that helps leaves at most
_NEAR = 0.02  # by which a second moment may miss its target
_RESIZED = 0.1  # by which a constraint changes the second moment of a kernel, to be told


def fit(
    kernel: PlannedVariable,
    settings: Settings,
    target: float,
    place: Callable[[Any], None],
    measured: Callable[[], float],
) -> None:
    """Gives a kernel the gain that its constraint allows, if that is not the measured one.

    Args:
        kernel: The kernel; one without a constraint, or that has a gain, is left as it is.
        settings: Law and mode of the pass.
        target: The second moment that its pre-activation is to have.
        place: Puts values of the kernel into the pass.
        measured: Returns the second moment of its pre-activation with these values.
    """
    if kernel.constraint is None or not kernel.is_set or kernel.gain is not None:
        return
    moment, gain = measured(), 1.0
    if kernel.scale_is_fixed or not 0.0 < moment < math.inf:
        return
    if kernel.scales_by(settings, rounded_gain(1.0, target / moment)):
        return
    for _ in range(_STEPS):
        wanted = rounded_gain(gain, target / moment)
        place(kernel.draw(settings, wanted))
        found = measured()
        if not _error(found, target) < _BETTER * _error(moment, target):
            break
        moment, gain = found, wanted
    place(kernel.draw(settings, gain))
    kernel.gain, kernel.target, kernel.placed = gain, target, True
    kernel.rule = "measured" if _error(moment, target) <= _NEAR else RULE


def _error(moment: float, target: float) -> float:
    """Returns by how much a second moment misses its target, as a logarithm."""
    return abs(math.log(moment / target)) if 0.0 < moment < math.inf else math.inf


def rounded_gain(gain: float, ratio: float) -> float:
    """Returns a gain that changes a second moment by a ratio, to three significant digits."""
    return float(f"{gain * math.sqrt(ratio):.3g}")


def notes(found: Sequence[PlannedVariable], settings: Settings) -> list[Note]:
    """Returns the notes about kernels whose scale is that of a constraint that need not fix it."""
    texts = (
        f"constraint: {one.path} will not have the scale that keeps the signal: its constraint "
        f"{type(one.constraint).__name__} sets another"
        for one in found
        if one.is_set and one.constraint is not None and _is_cut(one, settings)
    )
    return [Note("constraint", text) for text in texts]


def _is_cut(one: PlannedVariable, settings: Settings) -> bool:
    """Returns whether a constraint changes the scale of a kernel that could have another."""
    if one.scale_is_fixed or one.gain is None:
        return False
    if not one.is_stable(settings):
        return True
    if one.rule == "measured":
        # The constrained kernel was measured: with any other gain it has to be the same kernel.
        return not (one.placed and settings.mode == "fan_in") and not one.scales_by(
            settings, one.gain
        )
    return one.rule == RULE or _error(one.share_left(settings), 1.0) > _RESIZED
