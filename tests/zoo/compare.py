"""What a report of keras_he says of each kernel, beside what is measured from outside."""

import math
from typing import NamedTuple

import outside

from keras_he.layers.walk import places


class Pair(NamedTuple):
    """A kernel in both accounts.

    Attributes:
        path: Path of the kernel in the report.
        was_set: Whether the report says that it was set.
        target: The second moment that the report intends.
        reported: The second moments that the report has; none if it was not measured.
        measured: Those from outside; of a layer with several kernels, of the layer.
    """

    path: str
    was_set: bool
    target: float
    reported: tuple[float, ...]
    measured: list[float]

    @property
    def signal(self):
        """What was measured at the first call that got a signal."""
        return next((one for one in self.measured if one), self.measured[0])

    @property
    def off(self):
        """Decades between the two accounts, at the worst call if both have as many calls."""
        if not self.reported:
            return 0.0
        calls = list(zip(self.reported, self.measured, strict=False))
        if len(self.reported) != len(self.measured):
            calls = calls[:1]
        return max(_decades(*call) for call in calls)


def _decades(one, other):
    if one == other:
        return 0.0
    return math.inf if min(one, other) <= 0.0 else abs(math.log10(one / other))


def pairs(model, batch, report, training=True):
    """Returns a `Pair` for each kernel of a report that can be measured from outside."""
    measured = outside.measure(model, batch, training, bias=False)
    keys = {id(layer): key for key, layer in outside.holders(model).items()}
    kernels = {}
    for place in places(model):
        for name in place.kernels:
            key = keys.get(id(place.layer))
            if name == "depthwise_kernel" and isinstance(place.layer, outside.SEPARABLE):
                key = f"{key}{outside.FIRST_HALF}"
            kernels[f"{place.path}/{name}".lstrip("/")] = key
    return [
        Pair(row.path, not row.left, row.target, row.moments, measured[kernels[row.path]])
        for row in report.kernels
        if kernels.get(row.path) in measured
    ]


def worst(found):
    """Returns the kernel about which the two accounts differ most."""
    return max(found, key=lambda one: one.off)


def spread(found, *, only_reported=False):
    """Returns the decades between the extremes, over the targets, of the kernels that were set."""
    return outside.decades(
        one.signal / one.target
        for one in found
        if one.was_set and (one.reported or not only_reported)
    )
