"""The rows of an audit's report: what was observed of each variable, as plain values."""

import math
from collections.abc import Sequence
from dataclasses import replace

from keras_he.audit_model.expectations import expected_std
from keras_he.audit_model.kernel_facts import ObservedVariable
from keras_he.notes import NO_NOTE, Note
from keras_he.passes.preceding_activation import activation_name
from keras_he.reports.data import Figures, Row

_NOT_REACHED = Note("not-reached", "not reached by the pass")
_NOT_SEEN = Note("not-seen", "not seen")


def rows(found: Sequence[ObservedVariable], kernels: Sequence[ObservedVariable]) -> list[Row]:
    """Returns the rows of variables, first those of the kernels that the pass used."""
    reached = {kernel.path for kernel in kernels}
    return [
        *map(_reached, kernels),
        *(_not_reached(one) for one in found if one.path not in reached),
    ]


def _reached(kernel: ObservedVariable) -> Row:
    return replace(
        _row(kernel),
        fans=kernel.fans,
        activation=activation_name(kernel.activation),
        std=expected_std(kernel),
        rule="measured" if kernel.seen else "",
        left=_left(kernel),
        moments=tuple(kernel.moments),
        target=kernel.aim,
        figures=_figures(kernel),
    )


def _left(kernel: ObservedVariable) -> Note:
    """Returns why nothing is said of a kernel's signal; an empty note where something is."""
    if kernel.is_table:
        return kernel.left
    return NO_NOTE if kernel.seen else _NOT_SEEN


def _figures(kernel: ObservedVariable) -> Figures:
    made, units = kernel.claim, kernel.units
    ratio = None
    if kernel.kernel_gradient is not None and kernel.std > 0.0:
        ratio = math.sqrt(kernel.kernel_gradient) / kernel.std
    # A layer that returns NaN has a mean of NaN; one that shows none has no mean.
    unknown = math.isnan(kernel.mean) and all(map(math.isfinite, kernel.moments))
    return Figures(
        initializer=type(made.initializer).__name__ if made else "",
        assumed_fans=made.fans if made else None,
        assumed_std=made.std if made else None,
        std=kernel.std,
        mean=None if unknown else kernel.mean,
        dead=units.dead if units else None,
        saturated=units.saturated if units and units.dead is not None else None,
        gradient=kernel.gradient[0] if kernel.gradient else None,
        kernel_gradient=kernel.kernel_gradient,
        offset=kernel.offset or None,
        update_ratio=ratio,
    )


def _not_reached(one: ObservedVariable) -> Row:
    kernel = one.role in ("kernel", "unknown")
    left = one.left or _NOT_REACHED
    return replace(_row(one), left=left if kernel else NO_NOTE)


def _row(one: ObservedVariable) -> Row:
    """Returns the row of a variable of which nothing was seen."""
    return Row(one.path, type(one.layer).__name__, one.shape, one.role)
