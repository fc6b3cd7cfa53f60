"""`moments_of`: accuracy on functions that nobody told it about, and what it refuses.

Expected values are SciPy's integrals of derivatives written here. Tolerances are those that
`moments_of` promises: 1e-9 for smooth functions, 1e-7 for kinks and jumps, 1e-4 in float32.
"""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integrals import assert_moments, integrated
from scipy import special

from keras_he.errors import InvalidArgument
from keras_he.theory import quadrature
from keras_he.theory.activations import gain, moments
from keras_he.theory.closed_forms import Piece, Term, function_of, piecewise
from keras_he.theory.quadrature import moments_of

SMOOTH, KINKED = 1e-9, 1e-7
SINGLE = 1e-4


class Case(NamedTuple):
    function: Any
    slope: Any
    breakpoints: tuple = ()
    tolerance: float = KINKED


def between(x, left, right):
    return ((x > left) & (x < right)) * 1.0


# Twelve kinks at irrational places, one jump of the slope each.
KINKS = np.sqrt([2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37]) / 2 - 1.7
HEIGHTS = np.array([0, 0.3, -0.2, 0.7, 0.1, 1.2, 0.9, 1.4, 1.2, 2, 1.1, 3])


def spline(x):
    return np.interp(x, KINKS, HEIGHTS)


def spline_slope(x):
    place = np.searchsorted(KINKS, x)
    slopes = np.concatenate([[0], np.diff(HEIGHTS) / np.diff(KINKS), [0]])
    return slopes[place]


def bell(x):
    return np.exp(-(((x - 1.234) / 0.002) ** 2))


CASES = {
    "cubic": Case(lambda x: x**3 - x / 2, lambda x: 3 * x * x - 0.5, (), SMOOTH),
    "silu_17": Case(
        lambda x: x * special.expit(1.7 * x),
        lambda x: special.expit(1.7 * x) * (1 + 1.7 * x * special.expit(-1.7 * x)),
        (),
        SMOOTH,
    ),
    "sin": Case(np.sin, np.cos, (), SMOOTH),
    "sin_20": Case(lambda x: np.sin(20 * x), lambda x: 20 * np.cos(20 * x), (), SMOOTH),
    "exp": Case(np.exp, np.exp, (), SMOOTH),
    "exp_3": Case(lambda x: np.exp(3 * x), lambda x: 3 * np.exp(3 * x), (), SMOOTH),
    "tanh_50": Case(
        lambda x: np.tanh(50 * x), lambda x: 50 * (1 - np.tanh(50 * x) ** 2), (), SMOOTH
    ),
    "offset_tanh": Case(lambda x: 100 + np.tanh(x), lambda x: 1 - np.tanh(x) ** 2, (), SMOOTH),
    "bell": Case(bell, lambda x: -2 * (x - 1.234) / 4e-6 * bell(x), (1.22, 1.234, 1.248), SMOOTH),
    "steep": Case(
        lambda x: np.tanh(3000 * (x - 0.7)),
        lambda x: 3000 * (1 - np.tanh(3000 * (x - 0.7)) ** 2),
        (0.69, 0.699, 0.7, 0.701, 0.71),
        SMOOTH,
    ),
    "power": Case(
        lambda x: np.abs(x) ** 1.5, lambda x: 1.5 * np.sqrt(np.abs(x)) * np.sign(x), (0.0,)
    ),
    "shifted_power": Case(
        lambda x: np.abs(x - 0.3) ** 1.5,
        lambda x: 1.5 * np.sqrt(np.abs(x - 0.3)) * np.sign(x - 0.3),
        (0.3,),
    ),
    "shifted_relu": Case(lambda x: np.maximum(x - 0.3, 0), lambda x: (x > 0.3) * 1.0, (0.3,)),
    "sloped_step": Case(
        lambda x: np.where(x > 0.3, 1 + 0.1 * x, 0.1 * x), lambda x: 0.1 + 0 * x, (0.3,)
    ),
    "spline": Case(spline, spline_slope, tuple(KINKS)),
    "relu6": Case(lambda x: np.clip(x, 0, 6), lambda x: between(x, 0, 6), (0, 6)),
    "hard_tanh": Case(lambda x: np.clip(x, -1, 1), lambda x: between(x, -1, 1), (-1, 1)),
    "hard_shrink": Case(
        lambda x: np.where(np.abs(x) > 0.37, x, 0),
        lambda x: (np.abs(x) > 0.37) * 1.0,
        (-0.37, 0.37),
    ),
    "soft_shrink": Case(
        lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.37, 0),
        lambda x: (np.abs(x) > 0.37) * 1.0,
        (-0.37, 0.37),
    ),
    "threshold": Case(lambda x: np.where(x > 0.1, x, -2.0), lambda x: (x > 0.1) * 1.0, (0.1,)),
    "sparse_plus": Case(
        lambda x: np.where(x > 1, x, np.where(x > -1, (x + 1) ** 2 / 4, 0)),
        lambda x: np.clip((x + 1) / 2, 0, 1),
        (-1, 1),
    ),
    "staircase": Case(
        lambda x: np.floor(3.3 * x), lambda x: 0 * x, tuple(np.arange(-46, 47) / 3.3)
    ),
    "quantizer": Case(
        lambda x: np.round(np.clip(x, -2, 2) * 16) / 16,
        lambda x: 0 * x,
        tuple((np.arange(-32, 32) + 0.5) / 16),
    ),
    "uneven_quantizer": Case(
        lambda x: np.round(np.clip(x, -2, 2) * 16 + 0.123) / 16,
        lambda x: 0 * x,
        tuple((np.arange(-32, 33) + 0.377) / 16),
    ),
    "sign": Case(np.sign, lambda x: 0 * x, (0.0,)),
    "tent": Case(  # three kinks within 0.002
        lambda x: x + np.maximum(0, 0.001 - np.abs(x - 0.7123)),
        lambda x: 1 - np.sign(x - 0.7123) * (np.abs(x - 0.7123) < 0.001),
        (0.7113, 0.7123, 0.7133),
    ),
    "ramp": Case(
        lambda x: np.clip(1000 * (x - 0.3), 0, 1),
        lambda x: 1000 * between(x, 0.3, 0.301),
        (0.3, 0.301),
    ),
}
# A slope of 1000 or more multiplies the rounding of the argument: refused in float32.
TOO_STEEP = {"bell", "steep", "ramp", "offset_tanh"}
IN_SINGLE = [pytest.param(case, id=name) for name, case in CASES.items() if name not in TOO_STEEP]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_moments_of_an_unknown_function_are_its_integrals(case):
    expected = integrated(case.function, case.slope, case.breakpoints)
    assert_moments(moments_of(case.function), expected, case.tolerance)


@pytest.mark.parametrize("case", IN_SINGLE)
@pytest.mark.parametrize("output", ["float32", "float64"])
def test_float32_inside_the_function_costs_digits_only(case, output):
    def single(x):
        return case.function(x.astype("float32")).astype(output)

    expected = integrated(case.function, case.slope, case.breakpoints)
    assert_moments(moments_of(single), expected, SINGLE)


# torch.Tensor.__array__ has no `copy` argument yet; Keras calls NumPy on it.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", ["silu", "gelu", "hard_shrink", "softplus"])
def test_a_function_of_the_backend_is_integrated(name):
    def on_arrays(x):
        tensor = keras.ops.convert_to_tensor(x, dtype="float32")
        return keras.ops.convert_to_numpy(getattr(keras.activations, name)(tensor))

    assert_moments(moments_of(on_arrays), np.array(moments(name)), SINGLE)


@pytest.mark.parametrize("name", ["staircase", "quantizer", "uneven_quantizer", "sign"])
def test_a_staircase_has_gradient_exactly_zero(name):
    assert moments_of(CASES[name].function)[1:] == (0.0, 0.0)


def test_a_constant_passes_a_signal_and_no_gradient():
    assert moments_of(lambda x: 2 + 0 * x) == pytest.approx((4, 0, 0), rel=1e-12)


def test_boolean_and_integer_outputs_are_numbers():
    half = special.ndtr(-0.1)
    assert moments_of(lambda x: x > 0.1) == pytest.approx((half, 0, 0), rel=KINKED)
    assert moments_of(lambda x: (x > 0.1).astype("int8")) == pytest.approx((half, 0, 0), rel=KINKED)


def test_a_function_that_takes_float32_only_gets_it():
    def single(x):
        if x.dtype != np.float32:
            raise TypeError(x.dtype)
        return np.tanh(x)

    assert_moments(moments_of(single), np.array(moments("tanh")), SINGLE)


def test_overflow_where_the_density_vanishes_is_no_concern():
    # exp(50·x) is infinite above x = 14.2, where the density is 1e-44.
    naive = moments_of(lambda x: np.log(1 + np.exp(50 * x)))
    stable = moments_of(lambda x: np.logaddexp(0, 50 * x))
    assert_moments(naive, np.array(stable), SMOOTH)


def test_a_function_may_write_into_its_argument():
    assert_moments(moments_of(lambda x: np.maximum(x, 0, out=x)), np.full(3, 0.5), SMOOTH)


class Counted:
    """A function that counts its calls and points."""

    def __init__(self, function):
        self.function, self.calls, self.points = function, 0, 0

    def __call__(self, x):
        self.calls += 1
        self.points += x.size
        return self.function(x)


@pytest.mark.parametrize(
    ("name", "calls"),
    [("cubic", 2), ("relu6", 2), ("sign", 2), ("shifted_relu", 12), ("spline", 12)],
)
def test_few_calls_suffice(name, calls):
    function = Counted(CASES[name].function)
    moments_of(function)
    assert function.calls <= calls


def test_noise_is_told_from_structure_on_a_few_panels():
    function = Counted(lambda x: np.tanh(x.astype("float32")).astype(float))
    moments_of(function)
    assert function.points <= 50_000


RANDOM = np.random.default_rng(5)
REFUSED = {
    "shape": (lambda x: x[::2], r"keeps the shape.*\n.*\(1024,\) gave \(512,\)"),
    "nothing": (lambda x: None, "keeps the shape"),
    "complex": (lambda x: x * 1j, "dtype is complex128"),
    "raises": (lambda x: x @ x.T @ {}, r"It raised \w+: "),
    "softmax": (lambda x: np.exp(x) / np.exp(x).sum(), "acts across elements"),
    "centred": (lambda x: x - x.mean(), "acts across elements"),
    "normalised": (lambda x: x / x.std(), "acts across elements"),
    "cumulative": (np.cumsum, "acts across elements"),
    "sorted": (np.sort, "acts across elements"),
    "centred_half": (lambda x: np.where(x > 0, x, 0.1 * (x - x.mean())), "acts across elements"),
    "centred_far": (lambda x: np.where(x < -3, x - x.mean(), x), "acts across elements"),
    "median": (lambda x: x - np.median(x), "acts across elements"),
    "largest": (lambda x: x + 1e-3 * x.max(), "acts across elements"),
    "reversed": (lambda x: x[::-1], "acts across elements"),
    "swapped": (lambda x: x.reshape(-1, 2)[:, ::-1].ravel(), "acts across elements"),
    "blockwise": (lambda x: x - np.repeat(x.reshape(-1, 8).mean(1), 8), "acts across elements"),
    "dropout": (lambda x: x * (RANDOM.random(x.shape) > 0.1), "deterministic"),
    "nan": (np.log, "finite values.*\n.*near 0.0"),
    "infinite": (lambda x: 1 / np.maximum(x - 0.3, 0), r"finite values.*\n.*near 0\.\d"),
    "overflow": (lambda x: np.log(1 + np.exp(20 * x.astype("float32"))), "near 4.4"),
    "zero": (lambda x: 0 * x, r"E\[f\(z\)²\] = 0"),
    "pole": (lambda x: 1 / (x - 0.3), "singular"),
    "exploding": (lambda x: np.exp(x * x), "finite moments"),
    "oscillating": (lambda x: np.sin(1 / x), "too many"),
    "too_fast": (lambda x: np.sin(1e5 * x), "too many"),
    "too_fine": (lambda x: np.round(x * 8192) / 8192, "moments can be integrated"),
    "half": (lambda x: np.tanh(x.astype("float16")), "less precision than float32"),
    "not_callable": (3, "a name or a callable"),
}


@pytest.mark.parametrize(("function", "match"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_moments_is_refused_with_the_reason(function, match):
    with pytest.raises(InvalidArgument, match="(?s)`activation` must be.*" + match):
        moments_of(function)


@pytest.mark.parametrize("name", sorted(TOO_STEEP - {"offset_tanh"}))
def test_a_slope_that_float32_hardly_shows_is_right_to_less_or_has_no_gradient(name):
    function = CASES[name].function
    whole, found = moments_of(function), moments_of(lambda x: function(x.astype("float32")))
    assert found.signal == pytest.approx(whole.signal, rel=SINGLE)
    if math.isfinite(found.gradient):
        assert found.gradient == pytest.approx(whole.gradient, rel=20 * SINGLE)


SIGNAL_ONLY = {
    "root": (lambda x: np.sqrt(np.abs(x)), math.sqrt(2 / math.pi)),
    "cube_root": (np.cbrt, 2 ** (1 / 3) * math.gamma(5 / 6) / math.sqrt(math.pi)),
    "drowned": (lambda x: 1e12 + np.tanh(x), 1e24),
}


@pytest.mark.parametrize(("function", "signal"), SIGNAL_ONLY.values(), ids=SIGNAL_ONLY)
def test_where_only_the_gradient_is_infinite_or_unknown_the_signal_is_right(function, signal):
    found = moments_of(function)
    assert found.signal == pytest.approx(signal, rel=KINKED)
    assert math.isnan(found.gradient)
    assert gain(found, "fan_in") == pytest.approx(1 / math.sqrt(signal), rel=KINKED)
    with pytest.raises(InvalidArgument):
        gain(found, "fan_out")


def random_splines(seed, count):
    """Yields kinks, heights and the exact E[f'(z)²] of random splines."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        kinks, heights = np.sort(random.uniform(-3, 3, 12)), random.normal(size=12)
        slopes = np.concatenate([[0], np.diff(heights) / np.diff(kinks), [0]])
        chance = np.diff(special.ndtr(np.concatenate([[-np.inf], kinks, [np.inf]])))
        yield kinks, heights, float((slopes**2 * chance).sum())


def test_random_splines_in_float64_are_not_refused():
    for kinks, heights, gradient in random_splines(0, 300):
        found = moments_of(lambda x, kinks=kinks, heights=heights: np.interp(x, kinks, heights))
        assert found.gradient == pytest.approx(gradient, rel=KINKED)


def test_random_splines_in_float32_are_right_or_have_no_gradient():
    known = 0
    for kinks, heights, gradient in random_splines(0, 60):

        def single(x, kinks=kinks, heights=heights):
            return np.interp(x.astype("float32"), kinks, heights).astype("float32")

        found = moments_of(single)
        if math.isfinite(found.gradient):
            known += 1
            assert found.gradient == pytest.approx(gradient, rel=10 * SINGLE)
    assert known >= 40


def test_a_refusal_names_the_way_out():
    with pytest.raises(InvalidArgument, match=r"Give the gain as a number instead: `gain=`\.$"):
        moments_of(np.cumsum)


def test_a_refusal_costs_a_bounded_number_of_points():
    function = Counted(lambda x: np.sin(1e5 * x))
    with pytest.raises(InvalidArgument):
        moments_of(function)
    assert function.points <= 2**21


def test_the_error_of_the_function_is_the_cause():
    def broken(x):
        raise RuntimeError("no such tensor")

    with pytest.raises(InvalidArgument, match="RuntimeError: no such tensor") as caught:
        moments_of(broken)
    assert isinstance(caught.value.__cause__, RuntimeError)


@settings(max_examples=25, deadline=None)
@given(factor=st.floats(1e-6, 1e6), name=st.sampled_from(["cubic", "spline", "sloped_step"]))
def test_the_gain_of_a_multiple_is_the_gain_divided(factor, name):
    function = CASES[name].function
    whole, multiple = moments_of(function), moments_of(lambda x: factor * function(x))
    for mode in ("fan_in", "fan_out", "fan_avg"):
        assert gain(multiple, mode) == pytest.approx(gain(whole, mode) / factor, rel=KINKED)


numbers = st.floats(-3, 3).map(lambda x: round(x, 3))


@settings(max_examples=40, deadline=None)
@given(
    edges=st.lists(numbers, min_size=1, max_size=6, unique=True),
    terms=st.lists(st.tuples(numbers, numbers, numbers), min_size=7, max_size=7),
)
def test_pieces_of_parabolas_with_jumps_have_their_closed_form(edges, terms):
    inner = sorted(edge + 0.00037 for edge in edges)
    bounds = [-math.inf, *inner, math.inf]
    pieces = [
        Piece(left, right, (Term(1 + a * a), Term(b, 1), Term(c, 2)))
        for left, right, (a, b, c) in zip(bounds[:-1], bounds[1:], terms, strict=False)
    ]
    expected = piecewise(pieces)
    if expected is not None and expected.gradient > 0:
        assert_moments(moments_of(function_of(pieces)), np.array(expected), KINKED)


def test_the_nodes_are_those_of_legendre_gauss_lobatto():
    """The inner nodes are the zeros of P₁₁', here by SciPy; nodes and weights integrate degree 21.

    Their type is real on every NumPy: from 2.5 on its own roots of Legendre series are complex.
    """
    rule = quadrature._lobatto()
    assert rule.nodes.dtype == rule.weights.dtype == rule.coefficients.dtype == np.float64
    inner, _ = special.roots_jacobi(10, 1, 1)
    np.testing.assert_allclose(rule.nodes, [-1.0, *inner, 1.0], rtol=0, atol=1e-14)
    for power in range(22):
        exact = 0.0 if power % 2 else 2.0 / (power + 1)
        assert rule.weights @ rule.nodes**power == pytest.approx(exact, abs=1e-14)
    assert abs(rule.weights @ rule.nodes**22 - 2.0 / 23) > 1e-8


def test_the_coefficients_of_a_legendre_polynomial_are_a_unit_vector():
    rule = quadrature._lobatto()
    values = np.stack([special.eval_legendre(degree, rule.nodes) for degree in range(12)])
    np.testing.assert_allclose(values @ rule.coefficients, np.eye(12), rtol=0, atol=2e-13)
