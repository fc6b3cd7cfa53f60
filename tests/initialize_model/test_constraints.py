"""Kernels with a constraint: what is written is what the first step of training leaves.

What comes out is judged by the constraint itself, applied to the kernels that were written, and by
a pass of the model as Keras runs it.
"""

import keras
import numpy as np
import pytest
import signals
from architectures import batch_for
from keras import constraints, layers

import keras_he


@keras.saving.register_keras_serializable("tests")
class Centred(constraints.Constraint):
    """Takes the mean of each unit's weights out."""

    def __call__(self, w):
        return w - keras.ops.mean(w, axis=0, keepdims=True)


@keras.saving.register_keras_serializable("tests")
class Halved(constraints.Constraint):
    """Changes a kernel at each step."""

    def __call__(self, w):
        return 0.5 * w


def dense(constraint):
    options = {"kernel_constraint": constraint}
    return keras.Sequential(
        [
            keras.Input((32,)),
            layers.Dense(64, "relu", **options),
            layers.Dense(64, "relu", **options),
            layers.Dense(4, **options),
        ]
    )


def convolutions(constraint):
    both = {"depthwise_constraint": constraint, "pointwise_constraint": constraint}
    return keras.Sequential(
        [
            keras.Input((12, 12, 8)),
            layers.Conv2D(8, 3, activation="relu", kernel_constraint=constraint),
            layers.SeparableConv2D(8, 3, activation="relu", **both),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )


def states(constraint):
    both = {"kernel_constraint": constraint, "recurrent_constraint": constraint}
    return keras.Sequential([keras.Input((12, 8)), layers.LSTM(8, **both), layers.Dense(4)])


def attention(constraint):
    inputs = keras.Input((6, 16))
    x = layers.MultiHeadAttention(2, 8, kernel_constraint=constraint)(inputs, inputs)
    return keras.Model(inputs, layers.Dense(4)(layers.Add()([inputs, x])))


class Taps(layers.Layer):
    """A user's layer, whose kernel has a constraint."""

    def __init__(self, constraint):
        super().__init__()
        self.limit = constraint

    def build(self, shape):
        self.taps = self.add_weight(
            shape=(shape[-1], 32), initializer="he_normal", name="taps", constraint=self.limit
        )

    def call(self, x):
        return x @ self.taps


keras_he.register_kernels(Taps, lambda layer: {"taps": {}})


def own(constraint):
    return keras.Sequential([keras.Input((32,)), Taps(constraint), layers.Dense(4)])


MODELS = {
    "dense": dense,
    "convolutions": convolutions,
    "states": states,
    "attention": attention,
    "own": own,
}
CONSTRAINTS = {
    "NonNeg": constraints.NonNeg(),
    "MaxNorm, far": constraints.MaxNorm(50.0),
    "MaxNorm, cuts": constraints.MaxNorm(0.5),
    "MaxNorm, cuts some": constraints.MaxNorm(1.2),
    "UnitNorm": constraints.UnitNorm(),
    "MinMaxNorm": constraints.MinMaxNorm(0.2, 0.8),
    "MinMaxNorm by and by": constraints.MinMaxNorm(2.0, 3.0, rate=0.5),
    "Centred": Centred(),
    "Halved": Halved(),
}


def changed(model):
    """Returns the paths of kernels that their constraint would change, by more than 1 %."""
    paths = []
    for one in model.trainable_variables:
        if one.constraint is not None:
            before = keras.ops.convert_to_numpy(one.value)
            after = keras.ops.convert_to_numpy(one.constraint(one.value))
            if np.square(after - before).mean() > 1e-4 * np.square(before).mean():
                paths.append(one.path)
    return paths


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("build", MODELS)
def test_a_constraint_changes_no_kernel_but_those_that_are_told(build, name):
    keras.utils.set_random_seed(1)
    model = MODELS[build](CONSTRAINTS[name])
    report = keras_he.initialize(model, seed=1)
    told = [note for note in report.warnings if note.kind == "constraint"]
    names = [note.split(" ")[1].split("/")[-1] for note in told]
    assert len(changed(model)) <= len(told)
    assert {path.split("/")[-1] for path in changed(model)} <= set(names)
    if told:
        with pytest.raises(keras_he.KerasHeError, match="constraint: .* will not have the scale"):
            report.check(spread=9.0)
        above = str(report).partition("────")[0]
        assert "! constraint: " in above
    else:
        report.check(spread=9.0)


@pytest.mark.parametrize("name", ["NonNeg", "MaxNorm, far", "Centred"])
def test_a_constraint_that_lets_the_scale_be_chosen_keeps_the_signal(name):
    keras.utils.set_random_seed(1)
    model = dense(CONSTRAINTS[name])
    batch = batch_for(model)
    report = keras_he.initialize(model, batch, seed=1)
    assert {row.rule for row in report.kernels} == {"measured"}
    seen = signals.second_moments(model, batch)
    assert [moments[0] for moments in seen.values()] == pytest.approx([1.0] * 3, rel=0.02)
    report.check()


def test_what_follows_a_fixed_scale_is_measured_on_what_comes_out():
    keras.utils.set_random_seed(1)
    unit = constraints.UnitNorm()
    model = keras.Sequential(
        [
            keras.Input((32,)),
            layers.Dense(64, "relu", kernel_constraint=unit),
            layers.Dense(64, "relu", kernel_constraint=unit),
            layers.Dense(4),
        ]
    )
    batch = batch_for(model)
    report = keras_he.initialize(model, batch, seed=1)
    assert [row.rule for row in report.kernels] == ["constraint", "constraint", "measured"]
    for layer in model.layers[:2]:
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        np.testing.assert_allclose(np.square(kernel).sum(axis=0), 1.0, rtol=1e-4)
    seen = [moments[0] for moments in signals.second_moments(model, batch).values()]
    # A unit column keeps the second moment of the inputs, and a rectifier halves that of a normal.
    assert seen[0] == pytest.approx(1.0, rel=0.1)
    assert seen[1] == pytest.approx(0.5, rel=0.1)
    assert seen[2] == pytest.approx(1.0, rel=0.02)
    assert [row.moment for row in report.kernels] == pytest.approx(seen, rel=0.01)
    assert not [note for note in report.warnings if note.kind == "constraint"]
    report.check(spread=0.4)  # the second kernel is what its constraint makes it


def test_a_norm_that_cuts_is_the_norm_that_is_written():
    keras.utils.set_random_seed(1)
    model = dense(constraints.MaxNorm(0.5))
    report = keras_he.initialize(model, seed=1)
    assert {row.rule for row in report.kernels} == {"constraint"}
    for layer, row in zip(model.layers, report.kernels, strict=True):
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 0.5, rtol=1e-3)
        assert row.std == pytest.approx(kernel.std(), rel=1e-3)


def test_a_norm_that_would_cut_the_first_draw_alone_is_no_limit():
    # Inputs of second moment 100 want columns of norm 0.1, and the constraint allows 0.5.
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((32,)), layers.Dense(16, kernel_constraint=constraints.MaxNorm(0.5))]
    )
    batch = 10.0 * np.random.default_rng(0).standard_normal((64, 32)).astype("float32")
    report = keras_he.initialize(model, batch, seed=1)
    report.check()
    moment = signals.second_moments(model, batch)
    assert next(iter(moment.values()))[0] == pytest.approx(1.0, rel=0.03)


def test_a_clone_is_said_to_draw_what_a_constraint_changed():
    model = dense(constraints.NonNeg())
    report = keras_he.initialize(model, seed=1)
    assert {row.clone for row in report.kernels} == {"draws anew"}
    far = keras_he.initialize(dense(constraints.MaxNorm(50.0)), seed=1)
    plain = dense(None)
    assert {row.clone for row in far.kernels} == {"same"}
    assert [row.gain for row in far.kernels] == [
        row.gain for row in keras_he.initialize(plain, seed=1).kernels
    ]


@pytest.mark.parametrize("mode", ["fan_out", "fan_avg"])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_the_other_modes_write_constrained_kernels_too(name, mode):
    keras.utils.set_random_seed(1)
    model = dense(CONSTRAINTS[name])
    report = keras_he.initialize(model, seed=1, mode=mode)
    told = [note for note in report.warnings if note.kind == "constraint"]
    assert len(changed(model)) <= len(told)
