"""What a report of keras_he says of each kernel, beside what is measured from outside."""

import math
from typing import NamedTuple

import outside

from keras_he.layers.walk import places


class Pair(NamedTuple):
    """A kernel in both accounts.

    Attributes:
        path: Path of the kernel in the report.
        target: The second moment that the report intends.
        reported: What the report says that it has; `None` if it was not measured.
        measured: What was measured from outside, of all calls; of a layer with several kernels, of
            the layer.
    """

    path: str
    target: float
    reported: float | None
    measured: list[float]

    @property
    def signal(self):
        """What was measured at the first call that got a signal, as `Row.moment` counts."""
        return next((one for one in self.measured if one), self.measured[0])


def pairs(model, report, measured):
    """Returns a `Pair` for each kernel of a report that was measured from outside."""
    keys = {id(layer): key for key, layer in outside.holders(model).items()}
    kernels = {}
    for place in places(model):
        for name in place.kernels:
            key = keys.get(id(place.layer))
            if name == "depthwise_kernel" and isinstance(place.layer, outside.SEPARABLE):
                key = f"{key}{outside.FIRST_HALF}"
            kernels[f"{place.path}/{name}".lstrip("/")] = key
    return [
        Pair(row.path, row.target, row.moment, measured[kernels[row.path]])
        for row in report.kernels
        if kernels.get(row.path) in measured
    ]


def disagreement(found):
    """Returns the decades by which the worst measured kernel of a report is off, and its path."""
    worst = (0.0, "")
    for one in found:
        if one.reported is not None and (one.reported > 0.0 or one.signal > 0.0):
            both = one.reported, one.signal
            off = math.inf if 0.0 in both else abs(math.log10(both[1] / both[0]))
            worst = max(worst, (off, one.path))
    return worst


def spread(found, *, only_reported=False):
    """Returns the decades between the extremes of what was measured over its target."""
    return outside.decades(
        one.signal / one.target for one in found if one.reported is not None or not only_reported
    )
