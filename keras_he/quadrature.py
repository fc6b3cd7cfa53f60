"""The moments of any elementwise function under the normal density, found without its derivative.

The axis is cut into panels, and on each the function is interpolated at Legendre-Gauss-Lobatto nodes.
A panel whose highest coefficients are down at the rounding noise is resolved: its interpolant is the
function, and the interpolant's derivative is the function's. Any other panel is cut in sixteen, all
panels in one call, so what remains closes in on the kinks and jumps until their panels do not count.
No difference is ever taken across a kink.

What is refused: functions that are not elementwise, not deterministic or not finite, moments that are
infinite, and whatever cannot be integrated to the accuracy that `moments_of` promises.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from keras_he.errors import InvalidArgument, invalid

_Array = NDArray[np.float64]

_NODES = 12
_SPLIT = 16
_ROUNDING = 2.0**-53
_REACH = 16.0  # normal density 1e-56
_VANISHED = 9.0  # two-sided normal tail 2e-19: values beyond may overflow
_MOST_NOISE = 1e-6  # of the function's size; float32 gives 6e-8
_MOST_POINTS = 2**21
_PILOT = 32
_WAY_OUT = "Pass the gain as a number instead: `gain=`."


class Moments(NamedTuple):
    """What a function does to a standard normal signal and to its gradient.

    Attributes:
        signal: `E[f(z)²]`, z ~ N(0, 1).
        gradient: `E[f'(z)²]`.
        depth: `E[z·f(z)·f'(z)]`, the response of the signal's moment to the signal's size.
    """

    signal: float
    gradient: float
    depth: float


def moments_of(
    function: Callable[[Any], Any],
    *,
    derivative: Callable[[Any], Any] | None = None,
    breakpoints: Iterable[float] = (),
) -> Moments:
    """Returns the three moments of an elementwise function.

    The derivative is the one almost everywhere, as automatic differentiation gives it: a jump passes
    no gradient, and a staircase has gradient 0. Relative accuracy is 1e-7 or better where the function
    computes in float64 (1e-9 where it is smooth), 1e-4 where it computes in float32. Features are
    found if they are wider than 0.001 for |z| < 4; a slope above 1e10 counts as a jump.

    Args:
        function: Maps a float64 array to an array of the same shape. One that refuses float64 is given
            float32. It is called about 3 times if it is smooth, about 12 times if it has kinks.
        derivative: Its derivative, of the same kind. It is found from the function if not given.
        breakpoints: Places of known kinks and jumps. Others are found.

    Returns:
        The moments, each finite; `signal` is positive.

    Raises:
        InvalidArgument: If the function is not elementwise, deterministic, finite and integrable.

    Example:
        >>> import numpy as np
        >>> moments_of(lambda x: np.maximum(x, 0.0))
        Moments(signal=0.5, gradient=0.5, depth=0.5)
    """
    f = _Function(function)
    slope = None if derivative is None else _Function(derivative)
    with np.errstate(all="ignore"):
        integral = _Integral(f, slope, _first_panels(f, breakpoints))
        while integral.pending.left.size:
            integral.refine()
        return integral.result()


class _Rule(NamedTuple):
    """Nodes on [-1, 1], their weights, values → Legendre coefficients → slopes."""

    nodes: _Array
    weights: _Array
    coefficients: _Array
    slopes: _Array


def _lobatto(count: int) -> _Rule:
    """Returns the Legendre-Gauss-Lobatto rule, whose end nodes feel a kink at any distance."""
    top = np.eye(count)[count - 1]
    inner = legendre.legroots(legendre.legder(top))
    nodes = np.concatenate([[-1.0], inner, [1.0]])
    weights = 2.0 / (count * (count - 1) * legendre.legval(nodes, top) ** 2)
    values = legendre.legvander(nodes, count - 1)
    slopes = np.stack([legendre.legval(nodes, legendre.legder(row)) for row in np.eye(count)], 0)
    return _Rule(nodes, weights, np.linalg.inv(values).T, slopes)


_RULE = _lobatto(_NODES)


class _Function:
    """The caller's function, its output checked and its calls counted."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        if not callable(function):
            raise invalid("activation", "a name or a callable", function)
        self.function = function
        self.dtype: Any = np.float64
        self.noise = _ROUNDING
        self.points = 0

    def error(self, accepted: str, reason: str) -> InvalidArgument:
        return invalid("activation", accepted, self.function, f"{reason} {_WAY_OUT}")

    def __call__(self, x: _Array) -> _Array:
        """Returns the values at `x`, any shape. Sizes are padded: JAX compiles for every new size."""
        size = 1024
        while size < x.size:
            size *= 4
        self.points += size
        if self.points > _MOST_POINTS:
            raise self.unresolved("it has too many kinks, jumps or oscillations")
        padded = np.full(size, x.flat[-1])
        padded[: x.size] = x.ravel()
        y = self._called(padded)
        if y.shape != padded.shape:
            raise self.error(
                "a function that keeps the shape",
                f"It made shape {y.shape} of {padded.shape}.",
            )
        if y.dtype.kind not in "fiub":
            raise self.error("a function with numeric output", f"It returned dtype {y.dtype}.")
        if y.dtype.kind == "f":
            self.noise = max(self.noise, float(np.finfo(y.dtype).eps) / 2.0)
        values: _Array = y[: x.size].reshape(x.shape).astype(np.float64)
        return values

    def _called(self, x: _Array) -> NDArray[Any]:
        try:
            return _quietly(self.function, x.astype(self.dtype))
        except Exception as error:  # the caller's code: it may raise anything
            if self.points > x.size or self.dtype is np.float32:
                raise self.error(
                    "an elementwise function of an array", f"It raised {type(error).__name__}."
                ) from error
            self.dtype = np.float32
            return self._called(x)

    def check_elementwise(self, x: _Array, values: _Array) -> None:
        """Refuses a function whose values depend on the other elements, or on chance."""
        again = self(x[::-1])[::-1]
        close = 1e-5 * (np.abs(values) + np.sqrt(np.nanmean(values * values)))
        if (np.abs(again - values) <= close).all() or not np.isfinite(values * again).all():
            return
        if (np.abs(self(x[::-1])[::-1] - again) > close).any():
            raise self.error("a deterministic function", "Two calls gave different values.")
        raise self.error(
            "an elementwise function",
            "It acts across elements: its value at a point changes with the points beside it.",
        )

    def not_finite(self, x: _Array) -> InvalidArgument:
        nearest = float(x[np.abs(x).argmin()])
        return self.error("a function with finite values", f"It is not, near {nearest:.6g}.")

    def unresolved(self, reason: str) -> InvalidArgument:
        return self.error(
            "a function whose moments can be integrated", f"They cannot be resolved: {reason}."
        )


def _quietly(function: Callable[[Any], Any], x: NDArray[Any]) -> NDArray[Any]:
    """Returns the function's output; overflow on the way to a finite value is no concern."""
    with np.errstate(all="ignore"):
        return np.asarray(function(x))


@dataclass(frozen=True)
class _Panels:
    """Panels, the function's values at their nodes, and what their siblings say about slopes.

    Attributes:
        left: Left edges, shape (panels,).
        right: Right edges.
        values: The function at the nodes, shape (panels, nodes).
        typical: Median slope among siblings: it multiplies the rounding of the argument.
        steepest: Largest slope of a resolved sibling: what an unresolved panel may hide.
    """

    left: _Array
    right: _Array
    values: _Array
    typical: _Array
    steepest: _Array

    def __getitem__(self, index: Any) -> "_Panels":
        return _Panels(*(getattr(self, field.name)[index] for field in fields(self)))

    def __add__(self, other: "_Panels") -> "_Panels":
        pairs = ((getattr(self, x.name), getattr(other, x.name)) for x in fields(self))
        return _Panels(*(np.concatenate(pair) for pair in pairs))


def _nodes(left: _Array, right: _Array) -> _Array:
    """Returns the nodes, an ulp inside the panel, so that a jump at an edge has a side."""
    half = (right - left)[:, None] / 2.0
    inset = (np.maximum(np.abs(left), np.abs(right)) * 2.0 * _ROUNDING)[:, None]
    x = (left + right)[:, None] / 2.0 + half * _RULE.nodes
    return np.clip(x, left[:, None] + inset, right[:, None] - inset)


@lru_cache(maxsize=8)
def _grid(breakpoints: tuple[float, ...]) -> tuple[_Array, _Array, _Array]:
    """Returns the first panels' edges and nodes: nodes lie 0.001 apart or closer for |x| < 4."""
    fine, middle, coarse = np.arange(512) / 128, 4 + np.arange(64) / 16, 8 + np.arange(33) / 4
    side = np.concatenate([fine, middle, coarse])
    inside = [point for point in breakpoints if abs(point) < _REACH]
    edges = np.unique(np.concatenate([-side, side, inside]))
    return edges[:-1], edges[1:], _nodes(edges[:-1], edges[1:])


def _first_panels(function: _Function, breakpoints: Iterable[float]) -> _Panels:
    """Returns the panels of the whole axis, cut where the function overflows far out."""
    left, right, x = _grid(tuple(float(point) for point in breakpoints))
    values = function(x)
    start = int(np.searchsorted(left, 0.2))  # a sample whose mean is not that of the whole
    function.check_elementwise(x[start : start + 85].ravel(), values[start : start + 85].ravel())
    finite = np.isfinite(values * values).all(axis=1)
    end = np.minimum(np.abs(left), np.abs(right))[~finite].min(initial=_REACH)
    if end < _VANISHED:
        raise function.not_finite(x[~np.isfinite(values * values)])
    kept = np.maximum(np.abs(left), np.abs(right)) <= end
    first = _Panels(left, right, values, np.zeros_like(left), np.full_like(left, np.inf))[kept]
    linear = (first.values - first.values[:, :1]) @ _RULE.coefficients[:, 1]
    return replace(first, typical=2.0 * np.abs(linear) / (first.right - first.left))


class _Fit(NamedTuple):
    """What the interpolants on some panels say, one entry per panel.

    Attributes:
        sums: The panel's part of the three moments, shape (panels, 3).
        tail: Largest of the three highest coefficients.
        scale: Size of the numbers whose rounding the values carry.
        floor: Tail that rounding can explain.
        mass: The panel's probability.
        size: Largest value.
        slope: Largest slope.
        doubt: What rounding may add to the second sum.
    """

    sums: _Array
    tail: _Array
    scale: _Array
    floor: _Array
    mass: _Array
    size: _Array
    slope: _Array
    doubt: _Array


def _fit(panels: _Panels, rms: float, noise: float) -> _Fit:
    """Returns the interpolants' integrals; coefficients that rounding explains have no slope."""
    half = (panels.right - panels.left) / 2.0
    x = _nodes(panels.left, panels.right)
    values = panels.values
    coefficients = (values - values[:, :1]) @ _RULE.coefficients
    tail = np.abs(coefficients[:, -3:]).max(axis=1)
    size = np.abs(values).max(axis=1)
    reach = np.maximum(np.abs(panels.left), np.abs(panels.right))
    scale = rms + size + reach * panels.typical
    known = np.abs(coefficients) > 4.0 * noise * scale[:, None]
    known = np.logical_or.accumulate(known[:, ::-1], axis=1)[:, ::-1]
    slopes = (coefficients * known) @ _RULE.slopes / half[:, None]
    weights = half[:, None] * _RULE.weights * np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    products = (values * values, slopes * slopes, x * values * slopes)
    sums = np.stack([(weights * product).sum(axis=1) for product in products], axis=1)
    mass = weights.sum(axis=1)
    varies = coefficients.any(axis=1)
    doubt = mass * varies * (4.0 * noise * scale / half) ** 2
    slope = np.abs(slopes).max(axis=1)
    return _Fit(sums, tail, scale, 16.0 * noise * scale, mass, size, slope, doubt)


class _Integral:
    """The moments so far, the panels not yet resolved, and what may be wrong with the sums."""

    def __init__(self, function: _Function, slope: _Function | None, panels: _Panels) -> None:
        self.function = function
        self.slope = slope
        self.noise = function.noise
        self.totals = np.zeros(3)
        self.risk = np.zeros(2)
        self.accepted: list[_Panels] = []
        self.piloted = False
        self.rms = 0.0
        sums = _fit(panels, 0.0, self.noise).sums
        self.rms = float(np.sqrt(sums[:, 0].sum()))
        self.check_size(panels, sums)
        self.pending = self.judge(panels)

    @property
    def tolerance(self) -> float:
        return min(max(1e-8, 2000.0 * self.noise), 1e-4)

    def check_size(self, panels: _Panels, sums: _Array) -> None:
        """Refuses a moment that is zero, infinite, or still growing at the ends of the axis."""
        totals = sums.sum(axis=0)
        if self.rms == 0.0:
            raise self.function.error(
                "a function that passes a signal", "It is zero: E[f(z)²] = 0."
            )
        outer = np.maximum(np.abs(panels.left), np.abs(panels.right)) > panels.right[-1] - 1.0
        ends = sums[outer].sum(axis=0)
        if not np.isfinite(totals).all() or (ends[:2] > 1e-9 * totals[:2]).any():
            raise self.function.error(
                "a function with finite moments",
                "It grows so fast that E[f(z)²] or E[f'(z)²] is infinite or far out.",
            )

    def judge(self, panels: _Panels) -> _Panels:
        """Adds the panels that are resolved or do not count. Returns the others."""
        fit = _fit(panels, self.rms, self.noise)
        resolved = fit.tail <= fit.floor
        self.add(panels, fit, resolved)
        least = 1e-3 * self.tolerance * np.array([self.rms**2, self.totals[1]])
        little = (fit.mass * fit.size**2 <= least[0]) & (fit.mass * fit.slope**2 <= least[1])
        self.add(panels, fit, little & ~resolved)
        left = ~(resolved | little)
        reach = np.maximum(np.maximum(np.abs(panels.left), np.abs(panels.right)), 1.0)
        narrow = panels.right - panels.left <= max(1e-11, 32.0 * self.noise) * reach
        far = fit.mass * fit.size**2 <= 1e-16 * self.rms**2
        hidden = left & (narrow | far)
        self.totals[0] += fit.sums[hidden, 0].sum()
        risk = np.stack([fit.mass * fit.size**2, fit.mass * panels.steepest**2])
        self.risk += risk[:, left & narrow & ~far].sum(axis=1)
        return panels[left & ~hidden]

    def add(self, panels: _Panels, fit: _Fit, chosen: NDArray[np.bool_]) -> None:
        self.totals += fit.sums[chosen].sum(axis=0)
        self.risk[1] += fit.doubt[chosen].sum()
        if self.slope is not None:
            self.accepted.append(panels[chosen])

    def refine(self) -> None:
        """Cuts the pending panels in sixteen; the first time a few, to tell noise from structure."""
        chosen = np.ones(self.pending.left.size, dtype=bool)
        if not self.piloted and chosen.size > 4 * _PILOT:
            chosen[:] = False
            chosen[:: chosen.size // _PILOT] = True
        self.piloted = True
        parents, rest = self.pending[chosen], self.pending[~chosen]
        children = self.children(parents)
        fit = _fit(parents, self.rms, self.noise)
        tails = _fit(children, self.rms, self.noise).tail.reshape(-1, _SPLIT)
        noisy = np.median(tails, axis=1) >= 0.1 * fit.tail
        noisy &= fit.tail <= _MOST_NOISE * fit.scale
        if noisy.any():
            self.noise = max(self.noise, float((fit.tail / fit.scale)[noisy].max()) / 4.0)
            self.add(parents, _fit(parents, self.rms, self.noise), noisy)
        self.pending = self.judge(children[np.repeat(~noisy, _SPLIT)]) + self.judge(rest)

    def children(self, parents: _Panels) -> _Panels:
        """Returns the sixteen parts of each panel, and what they say of each other's slopes."""
        edges = np.linspace(parents.left, parents.right, _SPLIT + 1, axis=1)
        left, right = edges[:, :-1].ravel(), edges[:, 1:].ravel()
        x = _nodes(left, right)
        values = self.function(x)
        if not np.isfinite(values * values).all():
            raise self.function.not_finite(x[~np.isfinite(values * values)])
        none = np.zeros_like(left)
        children = _Panels(left, right, values, none, none)
        linear = np.abs((values - values[:, :1]) @ _RULE.coefficients[:, 1])
        typical = np.median((2.0 * linear / (right - left)).reshape(-1, _SPLIT), axis=1)
        children = replace(children, typical=np.repeat(typical, _SPLIT))
        fit = _fit(children, self.rms, self.noise)
        known = np.where(fit.tail <= fit.floor, fit.slope, -np.inf).reshape(-1, _SPLIT).max(axis=1)
        steepest = np.where(known < 0.0, parents.steepest, known)
        return replace(children, steepest=np.repeat(steepest, _SPLIT))

    def result(self) -> Moments:
        """Returns the moments, if all that may be wrong with them is within the tolerance."""
        if self.noise > _MOST_NOISE:
            raise self.function.unresolved("it computes in less than float32")
        if self.slope is not None:
            self.totals[1:] = self.with_derivative(self.slope)
        if (self.risk > self.tolerance * self.totals[:2]).any():
            raise self.function.unresolved(
                "it is singular, or varies too little for its size and precision"
            )
        return Moments(*(float(total) for total in self.totals))

    def with_derivative(self, slope: _Function) -> _Array:
        """Returns the gradient and depth moments by the derivative that the caller gave."""
        left, right, values = (
            np.concatenate([getattr(panels, name) for panels in self.accepted])
            for name in ("left", "right", "values")
        )
        x = _nodes(left, right)
        slopes = slope(x)
        if not np.isfinite(slopes * slopes).all():
            raise slope.not_finite(x[~np.isfinite(slopes * slopes)])
        weights = (right - left)[:, None] / 2.0 * _RULE.weights * np.exp(-0.5 * x * x)
        weights /= math.sqrt(2.0 * math.pi)
        return np.array([(weights * slopes**2).sum(), (weights * x * values * slopes).sum()])
