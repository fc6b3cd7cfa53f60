"""The moments of any elementwise function under the normal density, from its values only.

The axis is divided into panels, and the function is interpolated on each. If the highest Legendre
coefficients of a panel are as small as rounding errors, the panel is resolved: the interpolant and
its derivative stand for the function and its derivative. All other panels are divided again, in one
call of the function, until the panels around kinks and jumps are too small to count. So no
derivative is taken across a kink (Pachón, Platte and Trefethen, Piecewise-smooth chebfuns, 2010).
Functions that are not elementwise, deterministic, finite and integrable are refused.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from keras_he.errors import InvalidArgument, KerasHeError, invalid

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]

_NODES = 12
_ROUNDING = 2.0**-53
_REACH = 16.0  # normal density 1e-56
_VANISHED = 9.0  # beyond it lies 2e-19 of the normal law: values there may overflow
_MOST_NOISE = 1e-6  # relative; float32 has 6e-8
_MOST_POINTS = 2**21
_FEW = 32
_WAY_OUT = "Give the gain as a number instead: `gain=`."


class Moments(NamedTuple):
    """What a function does to a standard normal signal and to its gradient.

    Attributes:
        signal: `E[f(z)²]`, z ~ N(0, 1).
        gradient: `E[f'(z)²]`.
        depth: `E[z·f(z)·f'(z)]`, half the derivative of `E[f(s·z)²]` by s at s = 1 where f is
            continuous.
    """

    signal: float
    gradient: float
    depth: float


def moments_of(function: Callable[[Any], Any]) -> Moments:
    """Returns the three moments of an elementwise function.

    The derivative is that of automatic differentiation: a jump passes no gradient, and a step
    function has gradient 0. The relative accuracy is 1e-7 or better (1e-9 for smooth functions) if
    the function computes in float64. In float32 it is 1e-4, but 2e-3 for the moments of the slope
    if kinks lie closer than 0.1. The accuracy of `depth`, which may be 0, is relative to
    `sqrt(signal·gradient)`. Features narrower than 0.001, or beyond |z| = 4, may be missed without
    an error; slopes above 1e10 count as jumps.

    Args:
        function: Maps a float64 array to an array of the same shape. If it raises on float64, it
            gets float32. It is called twice if it is smooth, about ten times if it has kinks.

    Returns:
        The moments; `signal` is positive and finite. The other two are nan if `E[f'(z)²]` is
        infinite, as for `sqrt(|z|)`, or cannot be found to that accuracy.

    Raises:
        InvalidArgument: If the function is refused, or `E[f(z)²]` is 0, infinite or not found.

    Example:
        >>> import numpy as np
        >>> round(moments_of(np.sin).signal, 12)  # (1 - e^-2)/2
        0.432332358382
    """
    checked = _Function(function)
    with np.errstate(all="ignore"):
        integral = _Integral(checked, _first_panels(checked))
        while integral.pending.left.size:
            integral.refine()
        return integral.result()


class _Function:
    """The caller's function, with checks of its output, its precision and its number of points."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        if not callable(function):
            raise invalid("activation", "a name or a callable", function)
        self.function = function
        self.dtype: Any = np.float64
        self.noise = _ROUNDING
        self.points = 0

    def __call__(self, x: _Array) -> _Array:
        """Returns the values at `x`, padded to few sizes: JAX compiles for each new size."""
        size = 1024
        while size < x.size:
            size *= 4
        padded = np.full(size, x.flat[-1])
        padded[: x.size] = x.ravel()
        if self.points + size > _MOST_POINTS:
            raise self.unresolved("has too many kinks, jumps or oscillations")
        y = self._output(padded)
        self.points += size
        if y.shape != padded.shape:
            shapes = f"Shape {padded.shape} gave {y.shape}."
            raise self.error("a function that keeps the shape", shapes)
        if y.dtype.kind not in "fiub":
            raise self.error("a function with real numbers as output", f"Its dtype is {y.dtype}.")
        if y.dtype.kind == "f":
            self.noise = max(self.noise, float(np.finfo(y.dtype).eps) / 2.0)
        if self.noise > _MOST_NOISE:
            raise self.unresolved("computes with less precision than float32")
        return y[: x.size].reshape(x.shape).astype(np.float64)

    def _output(self, x: _Array) -> NDArray[Any]:
        try:
            return np.asarray(self.function(x.astype(self.dtype)))
        except KerasHeError:
            raise
        except Exception as error:  # the caller's code may raise anything
            if self.points > 0 or self.dtype is np.float32:
                raised = f"It raised {type(error).__name__}: {str(error)[:200]}"
                raise self.error("a function of a NumPy array", raised) from error
        self.dtype = np.float32
        return self._output(x)

    def finite(self, x: _Array, values: _Array) -> _Array:
        """Returns the values, or raises an error if they, or their squares, are not finite."""
        wrong = x[~np.isfinite(values * values)]
        if wrong.size:
            nearest = round(float(wrong[np.abs(wrong).argmin()]), 3) + 0.0
            raise self.error("a function with finite values", f"It is not, near {nearest}.")
        return values

    def check_elementwise(self, x: _Array, alone: _Array, order: Any, among: _Array) -> None:
        """Refuses a function whose values depend on the other elements, or are random.

        `alone` are the values at `x` from a separate call; `among` are those in another order, from
        a call with many other points.
        """
        typical = math.sqrt(float(np.average(alone * alone, weights=np.exp(-0.5 * x * x))))
        close = 1e-5 * (np.abs(alone) + typical)
        if (np.abs(among - alone[order]) <= close[order]).all():
            return
        if (np.abs(self(x) - alone) > close).any():
            raise self.error("a deterministic function", "Two equal calls gave different values.")
        across = "It acts across elements: a value depends on the points that come with it."
        raise self.error("an elementwise function", across)

    def error(self, accepted: str, reason: str) -> InvalidArgument:
        return invalid("activation", accepted, self.function, f"{reason} {_WAY_OUT}")

    def unresolved(self, reason: str) -> InvalidArgument:
        return self.error("a function whose moments can be integrated", f"It {reason}.")


class _Rule(NamedTuple):
    """Nodes on [-1, 1] and their weights; values → coefficients; coefficients → slopes."""

    nodes: _Array
    weights: _Array
    coefficients: _Array
    slopes: _Array


@cache
def _lobatto() -> _Rule:
    """Returns the Legendre-Gauss-Lobatto rule, whose end nodes detect a kink close to an edge.

    Newton's method replaces eigenvalues, whose type differs between versions of NumPy.
    """
    rows, degree = np.eye(_NODES), _NODES - 1
    nodes = -np.cos(np.pi * np.arange(_NODES) / degree)
    for _ in range(8):  # converged after five
        last, highest = (legendre.legval(nodes, row) for row in rows[-2:])
        nodes -= (nodes - last / highest) / _NODES
    weights = 2.0 / (degree * _NODES * highest**2)
    norms = np.append(np.arange(degree) + 0.5, degree / 2.0)  # the last is the rule's own sum of P²
    coefficients = legendre.legvander(nodes, degree) * weights[:, None] * norms
    slopes: _Array = np.array([legendre.legval(nodes, legendre.legder(row)) for row in rows])
    return _Rule(nodes, weights, coefficients, slopes)


@dataclass(frozen=True)
class _Panels:
    """Panels, one entry each, with figures about the slopes around them.

    Attributes:
        left, right: Edges, shape (panels,).
        x: Nodes, shape (panels, nodes).
        weights: Their weights, times the normal density.
        values: The function there.
        coefficients: Legendre coefficients of the interpolants; the first is not used.
        typical: Second largest slope of siblings: the factor on a rounding error of the argument.
        steepest: Largest rms slope of a resolved sibling, assumed for an unresolved panel.
    """

    left: _Array
    right: _Array
    x: _Array
    weights: _Array
    values: _Array
    coefficients: _Array
    typical: _Array
    steepest: _Array

    @classmethod
    def of(
        cls, left: _Array, right: _Array, x: _Array, values: _Array, *, siblings: int = 1
    ) -> "_Panels":
        coefficients = (values - values[:, :1]) @ _lobatto().coefficients
        slopes = 2.0 * np.abs(coefficients[:, 1]) / (x[:, -1] - x[:, 0])
        slopes = np.sort(slopes.reshape(-1, siblings), axis=1)  # at a jump, one of them is large
        typical = np.repeat(slopes[:, -min(2, siblings)], siblings)
        density = np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
        weights = ((right - left) / 2.0)[:, None] * _lobatto().weights * density
        steepest = np.full_like(left, np.inf)
        return cls(left, right, x, weights, values, coefficients, typical, steepest)

    def __getitem__(self, chosen: Any) -> "_Panels":
        return _Panels(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def __add__(self, other: "_Panels") -> "_Panels":
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return _Panels(*(np.concatenate(pair) for pair in pairs))

    @property
    def half(self) -> _Array:
        """Half the distance of the end nodes."""
        return (self.x[:, -1] - self.x[:, 0]) / 2.0

    @property
    def reach(self) -> _Array:
        return np.maximum(np.abs(self.left), np.abs(self.right))

    @property
    def tail(self) -> _Array:
        """The largest of the three highest coefficients: no kink or jump makes all of them 0."""
        largest: _Array = np.abs(self.coefficients[:, -3:]).max(axis=1)
        return largest


def _nodes(left: _Array, right: _Array, noise: float) -> _Array:
    """Returns the nodes, slightly inside the panel, to exclude a jump at its edge."""
    inset = 2.0 * noise * np.maximum(np.abs(left), np.abs(right))
    half = (right - left) / 2.0 - inset
    return (left + right)[:, None] / 2.0 + half[:, None] * _lobatto().nodes


@lru_cache(maxsize=8)
def _grid(noise: float) -> tuple[_Array, _Array, _Array]:
    """Returns the first edges and nodes; for |x| < 4, nodes are at most 0.001 apart."""
    side = np.r_[0 : 4 : 1 / 128, 4 : 8 : 1 / 16, 8 : 16 : 1 / 4, 16]
    edges = np.unique(np.concatenate([-side, side]))
    return edges[:-1], edges[1:], _nodes(edges[:-1], edges[1:], noise)


def _first_panels(function: _Function) -> _Panels:
    """Returns the panels of the whole axis, without far ends on which the function overflows."""
    # Both signs and all sizes, with another mean, median and size than the nodes; then permuted.
    sample = np.concatenate([-np.geomspace(1e-4, 4.0, 256), np.geomspace(1e-3, 5.0, 768)])
    shuffled = np.arange(1024) * 389 % 1024
    alone = function(sample)
    left, right, x = _grid(function.noise)
    values, among = np.split(function(np.concatenate([x.ravel(), sample[shuffled]])), [x.size])
    values = values.reshape(x.shape)
    wrong = ~np.isfinite(values * values).all(axis=1)
    end = np.minimum(np.abs(left), np.abs(right))[wrong].min(initial=_REACH)
    if end < _VANISHED:
        function.finite(x, values)
    function.finite(sample, alone)
    function.check_elementwise(sample, alone, shuffled, among)
    panels = _Panels.of(left, right, x, values)
    return panels[panels.reach <= end]


class _Fit(NamedTuple):
    """Per panel: parts of the three moments, probability, and possible error of the gradient."""

    sums: _Array
    mass: _Array
    gradient_error: _Array


class _Integral:
    """The moments so far, the unresolved panels, and bounds of the errors of the sums."""

    def __init__(self, function: _Function, panels: _Panels) -> None:
        self.function = function
        self.noise = function.noise
        self.totals = np.zeros(3)
        self.error_bounds = np.zeros(2)
        self.probed = False
        self.rms = math.sqrt(float((panels.weights * panels.values**2).sum()))
        self.check_size(panels)
        self.pending = self.judge(panels)

    def check_size(self, panels: _Panels) -> None:
        """Refuses moments that are zero, infinite, or not converged at the ends of the axis."""
        if self.rms == 0.0:
            raise self.function.error("a function that is not zero", "It has E[f(z)²] = 0.")
        sums = self.fit(panels).sums[:, :2]
        ends = sums[panels.reach > panels.right[-1] - 1.0].sum(axis=0)
        if not np.isfinite(sums).all() or (ends > 1e-9 * sums.sum(axis=0)).any():
            growth = "It grows so fast that E[f(z)²] or E[f'(z)²] is infinite, or too far out."
            raise self.function.error("a function with finite moments", growth)

    def scale(self, panels: _Panels) -> _Array:
        """Returns the size of the numbers that determine the rounding errors of the values."""
        size: _Array = np.abs(panels.values).max(axis=1)
        return self.rms + size + panels.reach * panels.typical

    def fit(self, panels: _Panels) -> _Fit:
        """Returns the interpolants' integrals, without coefficients that may be rounding errors."""
        half, weights, values = panels.half, panels.weights, panels.values
        noise = self.noise * self.scale(panels)
        known = np.abs(panels.coefficients) > 2.0 * noise[:, None]
        known = np.logical_or.accumulate(known[:, ::-1], axis=1)[:, ::-1]
        slopes = (panels.coefficients * known) @ _lobatto().slopes / half[:, None]
        products = (values * values, slopes * slopes, panels.x * values * slopes)
        sums = np.stack([(weights * product).sum(axis=1) for product in products], axis=1)
        mass = weights.sum(axis=1)
        # A coefficient has variance noise²·(2k+1)/12, and P_k² a mean squared slope of k(k+1)/2.
        from_rounding = (
            noise**2 * (1.0 + known.sum(axis=1) ** 4 / 48.0) * panels.coefficients.any(axis=1)
        )
        from_truncation = np.where(panels.tail > 2.0 * noise, 10.0 * panels.tail, 0.0) ** 2
        error = mass * (from_rounding + from_truncation) / half**2
        return _Fit(sums, mass, error)

    def judge(self, panels: _Panels, siblings: int = 1) -> _Panels:
        """Adds the panels that are resolved or negligible, and returns the others."""
        fit = self.fit(panels)
        resolved = panels.tail <= 6.0 * self.noise * self.scale(panels)
        self.add(fit, resolved)
        least = 1e-3 * self.tolerance * np.array([self.rms**2, self.totals[1]])
        little = (fit.sums[:, :2] <= least).all(axis=1)
        self.add(fit, little & ~resolved)
        open_ = ~(resolved | little)
        slope = np.sqrt(fit.sums[:, 1] / fit.mass)
        known = np.where(resolved, slope, -np.inf).reshape(-1, siblings).max(axis=1)
        steepest = np.where(known < 0.0, panels.steepest.reshape(-1, siblings)[:, 0], known)
        panels = replace(panels, steepest=np.repeat(steepest, siblings))
        far = np.maximum(fit.sums[:, 0], fit.mass * self.rms**2) <= 1e-16 * self.rms**2
        narrow = 2.0 * panels.half <= max(1e-11, 128.0 * self.noise) * np.maximum(panels.reach, 1.0)
        self.totals[0] += fit.sums[open_ & (far | narrow), 0].sum()
        hidden = open_ & narrow & ~far
        self.error_bounds[0] += (fit.mass * np.ptp(panels.values**2, axis=1))[hidden].sum()
        self.error_bounds[1] += (fit.mass * panels.steepest**2)[hidden].sum()
        return panels[open_ & ~far & ~narrow]

    def add(self, fit: _Fit, chosen: _Mask) -> None:
        self.totals += fit.sums[chosen].sum(axis=0)
        self.error_bounds[1] += fit.gradient_error[chosen].sum()

    def refine(self) -> None:
        """Divides the pending panels; if they are many, first a few, to detect rounding noise."""
        chosen = np.ones(self.pending.left.size, dtype=bool)
        if not self.probed and chosen.size > 4 * _FEW:
            chosen = np.arange(chosen.size) % (chosen.size // _FEW) == 0
        self.probed = True
        parents, rest = self.pending[chosen], self.pending[~chosen]
        parts = 16 if parents.left.size <= 4 * _FEW else 4
        children = self.children(parents, parts)
        relative = parents.tail / self.scale(parents)
        noisy = np.median(children.tail.reshape(-1, parts), axis=1) >= 0.1 * parents.tail
        noisy &= relative <= _MOST_NOISE
        if noisy.any():  # dividing does not shrink the tails
            self.noise = max(self.noise, float(relative[noisy].max()) / 3.0)
            self.add(self.fit(parents), noisy)
        self.pending = self.judge(children[np.repeat(~noisy, parts)], parts)
        if rest.left.size:
            self.pending += self.judge(rest)

    def children(self, parents: _Panels, parts: int) -> _Panels:
        edges = np.linspace(parents.left, parents.right, parts + 1, axis=1)
        left, right = edges[:, :-1].ravel(), edges[:, 1:].ravel()
        x = _nodes(left, right, self.function.noise)
        values = self.function.finite(x, self.function(x))
        children = _Panels.of(left, right, x, values, siblings=parts)
        return replace(children, steepest=np.repeat(parents.steepest, parts))

    @property
    def tolerance(self) -> float:
        """The target of the relative accuracy."""
        return min(max(1e-8, 1e4 * self.noise), 1e-4)

    def result(self) -> Moments:
        """Returns the moments; those of the slopes are nan if their errors may be too large."""
        signal, gradient, depth = (float(total) for total in self.totals)
        promised = max(1e-7, self.tolerance)  # the bounds are far above most errors
        if self.error_bounds[0] > promised * signal:
            raise self.function.unresolved("is singular")
        if self.error_bounds[1] > promised * gradient:
            gradient = depth = math.nan
        return Moments(signal, gradient, depth)
