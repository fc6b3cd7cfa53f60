"""What `initialize` does to the gradient, seen from outside, beside what it predicts."""

import math

import architectures
import keras
import pytest
import signals
from architectures import batch_for

import keras_he


def spreads(model, mode):
    """Returns the decades over which the signal and the gradient spread, and the report."""
    batch = batch_for(model, 16)
    report = keras_he.initialize(model, batch, seed=1, mode=mode)
    forward = signals.second_moments(model, batch)
    backward = signals.gradient_moments(model, batch)
    return (
        math.log10(signals.factor(one[0] for one in forward.values())),
        math.log10(signals.factor(backward)),
        report,
    )


# Not relu: its moments predict no spread, and a hundred layers of width n scatter by
# sqrt(5 * 100 / n) / log(10), 0.6 decades at 256.
@pytest.mark.quick(1)
@pytest.mark.parametrize("activation", ["gelu", "tanh", "selu"])
def test_the_gradients_spread_is_as_measured_from_outside(activation):
    keras.utils.set_random_seed(0)
    _, backward, report = spreads(architectures.dense_chain(activation, width=256), "fan_in")
    assert backward == pytest.approx(report.gradient_spread, abs=0.5)  # by other random outputs


RECTIFIERS = {
    "dense": lambda: architectures.dense_chain("relu"),
    "PReLU convolutions": architectures.conv_prelu,
    "depthwise and pointwise": lambda: architectures.separable_blocks(parts=True),
    "separable": architectures.separable_blocks,
    "strided decoder": architectures.decoder,
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", RECTIFIERS)
def test_fan_out_keeps_the_gradient_and_fan_avg_stands_between(name):
    keras.utils.set_random_seed(0)
    model = RECTIFIERS[name]()
    found = {mode: spreads(model, mode) for mode in ("fan_in", "fan_out", "fan_avg")}
    forward = {mode: one[0] for mode, one in found.items()}
    backward = {mode: one[1] for mode, one in found.items()}
    assert backward["fan_out"] < math.log10(2)
    assert forward["fan_in"] < math.log10(1.5)
    assert forward["fan_avg"] <= max(forward["fan_in"], forward["fan_out"])
    assert backward["fan_avg"] <= max(backward["fan_in"], backward["fan_out"])
    # The moments that the report tells are those of the kernels as they are.
    for mode, (outside, _, report) in found.items():
        assert report.forward_spread == pytest.approx(outside, abs=0.02), mode


def test_a_mode_that_keeps_nothing_would_be_seen():
    keras.utils.set_random_seed(0)
    model = architectures.separable_blocks(parts=True)
    assert math.log10(signals.factor(signals.gradient_moments(model, batch_for(model, 16)))) > 3


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["unet", "post-norm", "several inputs"])
@pytest.mark.parametrize("mode", ["fan_out", "fan_avg"])
def test_other_networks_take_the_measured_gain_to_the_fans(name, mode):
    model = architectures.SMALL[name]()
    batch = batch_for(model)
    forward = keras_he.initialize(model, batch, seed=1)
    report = keras_he.initialize(model, batch, seed=1, mode=mode)
    gains = {row.path: row.gain for row in forward.kernels}
    for row in report.kernels:
        if row.rule == "measured":
            fan = {"fan_out": row.fans[1], "fan_avg": sum(row.fans) / 2}[mode]
            # Gains keep three digits, so two of them differ by 1 % at most.
            assert row.std == pytest.approx(gains[row.path] / math.sqrt(fan), rel=0.01)


@pytest.mark.parametrize("mode", ["fan_out", "fan_avg"])
def test_a_gradient_that_is_cut_is_no_error(mode):
    inputs = keras.Input((16,))
    x = keras.ops.stop_gradient(keras.layers.Dense(16, "relu")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Dense(16, "relu")(x)))
    report = keras_he.initialize(model, seed=1, mode=mode)
    assert all(row.gain > 0 for row in report.kernels)
