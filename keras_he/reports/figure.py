"""A report as a figure: second moments of the signal and of the gradient over depth."""

from collections.abc import Sequence
from typing import Any

from keras_he.reports.columns import Line

_BAND = 10.0  # the factor about 1 that the shaded band shows
_MOST_NAMES = 8  # findings whose layers are named in the figure
_SIGNAL, _GRADIENT, _WRONG = "#0b6e99", "#8a4fbf", "#c2410c"


def picture(lines: Sequence[Line], title: str = "") -> Any:
    """Returns the matplotlib figure of the lines of a report."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "A figure needs matplotlib: `python -m pip install matplotlib`. Without it, "
            "`print(report)` and `report.to_json()` say the same."
        ) from error
    lines = [line for line in lines if line.row.moments]
    gradients = [line.row.figures.gradient if line.row.figures else None for line in lines]
    backward = any(gradients)
    figure = Figure(figsize=(9.0, 5.6 if backward else 3.2), layout="constrained")
    axes = figure.subplots(2 if backward else 1, 1, sharex=True, squeeze=False)[:, 0]
    _draw(axes[0], [line.row.moment for line in lines], _SIGNAL, "signal  E[y²]")
    if lines:
        axes[0].axhspan(1 / _BAND, _BAND, color=_SIGNAL, alpha=0.1, lw=0, zorder=0)
    if backward:
        _draw(axes[1], gradients, _GRADIENT, "gradient  E[(∂L/∂y)²]")
    for place, name in _marked(lines):
        for axis in axes:
            axis.axvline(place, color=_WRONG, alpha=0.5, lw=1.0, zorder=1)
        if name:
            axes[0].annotate(
                name,
                (place, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(3, -4),
                textcoords="offset points",
                rotation=90,
                va="top",
                fontsize=7,
                color=_WRONG,
            )
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    axes[-1].set_xlabel("kernels in order of execution, from the input to the output")
    if title:
        figure.suptitle(title, fontsize=11, ha="left", x=0.01)
    return figure


def _draw(axis: Any, values: list[float | None], color: str, label: str) -> None:
    """Draws values over depth; zeros, which a log scale cannot show, are crosses at the bottom."""
    known = [(place, value) for place, value in enumerate(values) if value]
    finite = [(place, value) for place, value in known if value < float("inf")]
    axis.set_yscale("log")
    if finite:
        axis.plot(*zip(*finite, strict=True), color=color, marker="o", ms=3.0, lw=1.2, zorder=2)
        low, high = (pick(value for _, value in finite) for pick in (min, max))
        axis.set_ylim(min(low, 1.0) / 30, max(high, 1.0) * 30)
    gone = [place for place, value in enumerate(values) if value is not None]
    gone = [place for place in gone if place not in {one for one, _ in finite}]
    axis.plot(gone, [0.03] * len(gone), "x", color=_WRONG, transform=axis.get_xaxis_transform())
    axis.set_ylabel(label)
    axis.grid(axis="y", color="#d9dee3", lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _marked(lines: Sequence[Line]) -> list[tuple[int, str]]:
    """Returns the places of findings; with the verdicts if they are few."""
    places = [(place, line.verdicts.values()) for place, line in enumerate(lines) if line.verdicts]
    named = len(places) <= _MOST_NAMES
    return [(place, ", ".join(dict.fromkeys(one)) if named else "") for place, one in places]
