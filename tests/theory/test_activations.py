"""The table of activations: against written derivatives, Keras, the papers and each other.

Expected moments are SciPy's integrals of `definitions.py`, which shares no code with the package.
"""

import inspect
import math
from functools import partial

import keras
import numpy as np
import pytest
from definitions import ENTRIES
from hypothesis import given
from hypothesis import strategies as st
from integrals import assert_moments, integrated

from keras_he import errors
from keras_he.errors import InvalidArgument
from keras_he.theory import activations
from keras_he.theory.activations import (
    ALIASES,
    KNOWN,
    NAMES,
    REFUSED,
    canonical,
    depth_factors,
    gain,
    moments,
)
from keras_he.theory.quadrature import Moments, moments_of

SMOOTH, KINKED = 1e-9, 1e-7
MODES = ("fan_in", "fan_out", "fan_avg")


IDS = ["-".join([e.name, *(f"{k}={v}" for k, v in e.parameters.items())]) for e in ENTRIES]
each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=IDS)


def definition(entry):
    defaults = {name: p.default for name, p in KNOWN[entry.name].parameters.items()}
    return partial(KNOWN[entry.name].function, **{**defaults, **entry.parameters})


@each_entry
def test_moments_are_the_integrals_of_the_definition(entry):
    expected = integrated(entry.function, entry.slope, entry.breakpoints)
    assert_moments(moments(entry.name, **entry.parameters), expected, SMOOTH)


@each_entry
def test_quadrature_agrees_with_the_table(entry):
    tolerance = KINKED if entry.breakpoints else SMOOTH
    found = moments_of(definition(entry))
    assert_moments(found, np.array(moments(entry.name, **entry.parameters)), tolerance)


# torch.Tensor.__array__ has no `copy` argument yet; Keras calls NumPy on it.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@each_entry
def test_the_definition_is_that_of_keras(entry):
    name = {"prelu": "leaky_relu"}.get(entry.name, entry.name)  # Keras has PReLU as a layer only
    parameters = dict(entry.parameters)
    if entry.name == "prelu":
        parameters.setdefault("negative_slope", 0.25)
    x = np.linspace(-8, 8, 1600).astype("float32")  # misses the jumps, where either side will do
    tensor = getattr(keras.activations, name)(keras.ops.convert_to_tensor(x), **parameters)
    expected = keras.ops.convert_to_numpy(tensor)
    # Float32 rounds the exponential by 1e-7·8, and alpha times 1 for celu.
    atol = 2e-6 * max(1.0, parameters.get("alpha", 1.0))
    np.testing.assert_allclose(definition(entry)(x.astype(float)), expected, rtol=2e-6, atol=atol)


def test_every_activation_of_the_table_is_compared():
    assert {entry.name for entry in ENTRIES} == set(KNOWN)


def test_every_function_of_keras_activations_is_known_or_refused():
    public = {name for name, value in vars(keras.activations).items() if inspect.isfunction(value)}
    assert public - {"get", "serialize", "deserialize"} <= set(NAMES) | set(REFUSED)


def test_the_names_are_sorted_and_have_a_gain_in_every_mode():
    assert list(NAMES) == sorted({*KNOWN, *ALIASES} - {*REFUSED})
    for name in NAMES:
        assert all(0 < gain(moments(name), mode) < 20 for mode in MODES)


def test_the_entry_says_how_it_is_integrated():
    integrated_names = {name for name, known in KNOWN.items() if known.closed is None}
    assert integrated_names == {
        *("log_sigmoid", "mish", "sigmoid", "silu", "softplus", "softsign", "tanh", "tanh_shrink")
    }


@pytest.mark.parametrize(
    ("name", "signal", "gradient"),
    [
        ("tanh", 0.46, 1.18),
        ("gelu", 1.14, 1.07),
        ("softplus", 0.49, 0.32),
        ("relu", 1, 1),
        ("leaky_relu", 1, 1),
        ("linear", 1, 1),
    ],
)
def test_depth_factors_are_those_of_the_design(name, signal, gradient):
    assert depth_factors(moments(name)) == pytest.approx((signal, gradient), abs=0.005)


@pytest.mark.parametrize(
    ("name", "slope", "expected"),
    [
        ("relu", 0, 1.4142135623730951),
        ("linear", None, 1.0),
        ("leaky_relu", 0.01, 1.4141428569978354),
        ("leaky_relu", 0.2, 1.3867504905630728),
        ("leaky_relu", 5**0.5, 0.5773502691896257),
    ],
)
def test_the_torch_table_of_rectifiers_is_reproduced(name, slope, expected):
    found = moments(name) if slope is None else moments(name, negative_slope=slope)
    for mode in MODES:
        assert gain(found, mode) == pytest.approx(expected, rel=1e-15)


def test_gelu_has_the_moments_of_its_closed_form():
    # E[f²] = 1/3 + 1/(2π√3) and E[f'²] = 1/3 + 2/(3π√3), evaluated by hand.
    assert moments("gelu")[:2] == pytest.approx((0.42522148, 0.45585087), abs=5e-9)


@given(slopes=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_the_leaky_gain_falls_to_1_as_the_slope_rises_to_1(slopes):
    low, high = sorted(slopes)
    steep, flat = (gain(moments("leaky_relu", negative_slope=a), "fan_in") for a in (low, high))
    assert steep >= flat >= 1.0


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softsign", "hard_tanh", "hard_sigmoid"])
def test_a_monte_carlo_finds_the_signal_within_its_bernstein_bound(name):
    # Values of f² in [0, 1] have a variance of at most m(1 - m) about their mean m. Bernstein:
    # P(|mean - m| >= √(2vl/n) + l/(3n)) <= 2·e^-l, here 1e-9; an error of 1 % is caught.
    count, m = 2_000_000, moments(name).signal
    z = np.random.default_rng(20150206).standard_normal(count)
    values = KNOWN[name].function(z) ** 2
    assert values.max() <= 1.0
    log = math.log(2e9)
    bound = math.sqrt(2 * m * (1 - m) * log / count) + log / (3 * count)
    assert abs(values.mean() - m) <= bound <= 0.01 * m


def test_moments_are_computed_once():
    assert moments("mish") is moments("mish")
    assert moments("relu", negative_slope=0) is moments("relu")


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_means_its_activation(alias, name):
    assert canonical(alias) == name
    assert getattr(keras.activations, alias) is getattr(keras.activations, name)


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_name_says_why_and_what_to_write(name):
    with pytest.raises(InvalidArgument, match=rf"`activation` must be .*\n{name} (acts|has two)"):
        canonical(name)


@pytest.mark.parametrize(("name", "near"), [("ReLU", "relu"), ("gelou", "gelu")])
def test_an_unknown_name_gets_the_nearest(name, near):
    with pytest.raises(InvalidArgument, match=f'known activation.*\n.*Did you mean "{near}"'):
        canonical(name)


def test_a_long_name_is_refused_briefly_and_compared_with_none(monkeypatch):
    # difflib, which is quadratic, would take minutes.
    monkeypatch.setattr(errors, "get_close_matches", lambda *_, **__: pytest.fail("compared"))
    with pytest.raises(InvalidArgument, match="known activation") as caught:
        canonical("relu" * 100_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", [None, 3, ["relu"]], ids=repr)
def test_what_is_not_a_string_is_no_name(name):
    with pytest.raises(InvalidArgument, match="known activation"):
        canonical(name)


@pytest.mark.parametrize(
    ("name", "parameters", "match"),
    [
        ("tanh", {"alpha": 1}, r"those of tanh \(none\).*'alpha'"),
        ("elu", {"beta": 1}, r"those of elu \(`alpha`\)"),
        ("elu", {"alpha": math.nan}, "`alpha` must be a finite number"),
        ("elu", {"alpha": math.inf}, "`alpha` must be a finite number"),
        ("elu", {"alpha": "1"}, "`alpha` must be a finite number"),
        ("elu", {"alpha": 10**400}, "`alpha` must be a finite number"),
        ("celu", {"alpha": 0}, "`alpha` must be a finite number of at least 1e-06"),
        ("soft_shrink", {"threshold": -1}, "`threshold` must be a finite number of at least 0"),
        ("threshold", {"threshold": 1}, "`default_value` must be a finite number"),
    ],
)
def test_a_wrong_parameter_is_named(name, parameters, match):
    with pytest.raises(InvalidArgument, match=match):
        moments(name, **parameters)


@pytest.mark.parametrize(
    ("dead", "mode"),
    [
        (Moments(1.0, 0.0, 0.0), "fan_out"),
        (Moments(1.0, 0.0, 0.0), "fan_avg"),
        (Moments(0.0, 0.0, 0.0), "fan_in"),
        (Moments(math.inf, 1.0, 1.0), "fan_in"),
        (Moments(math.nan, 1.0, 1.0), "fan_in"),
    ],
)
def test_a_moment_of_0_or_infinity_has_no_gain(dead, mode):
    with pytest.raises(InvalidArgument, match=r"`mode` must be .*\nThey are .* `gain=`\."):
        gain(dead, mode)


def test_a_staircase_has_a_forward_gain():
    assert gain(Moments(4.0, 0.0, 0.0), "fan_in") == 0.5


def test_an_unknown_mode_is_named():
    with pytest.raises(InvalidArgument, match="`mode` must be \"fan_in\".*'fan'"):
        gain(moments("relu"), "fan")


def test_the_table_needs_no_framework_and_no_scipy():
    source = "".join(
        inspect.getsource(module)
        for module in (activations, activations.closed_forms, inspect.getmodule(moments_of))
    )
    for word in ("import keras\n", "scipy", "tensorflow", "jax.", "torch"):
        assert word not in source
