"""What an audit says of kernels that are constant, or last ones that are small, by design."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_he

INITIALIZERS = keras.initializers


def dense(inputs, width=32, **arguments):
    return layers.Dense(width, **arguments)(inputs)


def head_of_zeros():
    inputs = keras.Input((32,))
    x = dense(dense(inputs, activation="relu"), activation="relu")
    return keras.Model(inputs, dense(x, 3, kernel_initializer="zeros", name="kept"))


def branches_of_zeros():
    """Returns a residual network whose branches end in zeros, as fixup starts them."""
    x = inputs = keras.Input((32,))
    for place in range(4):
        branch = dense(layers.LayerNormalization()(x), activation="relu")
        x = layers.Add()([x, dense(branch, kernel_initializer="zeros", name=f"kept_{place}")])
    return keras.Model(inputs, dense(layers.LayerNormalization()(x), 3))


def transform():
    """Returns a spatial transformer's regression of an identity, and layers behind it."""
    inputs = keras.Input((32,))
    identity = INITIALIZERS.Constant([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    theta = dense(
        dense(inputs), 6, kernel_initializer="zeros", bias_initializer=identity, name="kept"
    )
    return keras.Model(inputs, dense(dense(theta, activation="relu"), 3))


def in_a_chain():
    inputs = keras.Input((32,))
    x = dense(inputs, activation="relu")
    x = dense(x, kernel_initializer="zeros", activation="relu", name="kept")
    x = dense(layers.LayerNormalization()(x), activation="relu")
    return keras.Model(inputs, dense(dense(x, activation="relu"), 3))


def gate():
    """Returns a highway gate that starts closed, before its sigmoid."""
    inputs = keras.Input((32,))
    closed = {"kernel_initializer": "zeros", "bias_initializer": INITIALIZERS.Constant(-9.0)}
    carried = dense(inputs, activation="sigmoid", name="kept", **closed)
    x = layers.Multiply()([dense(inputs, activation="relu"), carried])
    return keras.Model(inputs, dense(layers.Add()([inputs, x]), 3))


def of_ones():
    inputs = keras.Input((32,))
    summed = dense(inputs, 4, kernel_initializer="ones", name="kept")
    return keras.Model(inputs, dense(layers.Concatenate()([summed, dense(inputs)]), 3))


CHOSEN = {
    "head": head_of_zeros,
    "branches": branches_of_zeros,
    "transform": transform,
    "chain": in_a_chain,
    "gate": gate,
    "ones": of_ones,
}


@pytest.mark.parametrize("name", CHOSEN)
def test_a_constant_kernel_by_choice_is_one_note_and_no_finding(name):
    keras.utils.set_random_seed(2)
    model = CHOSEN[name]()
    kept = [one.name for one in model.layers if one.name.startswith("kept")]
    report = keras_he.audit(model)
    assert report.findings == ()
    (note,) = (note for note in report.warnings if note.kind == "by-design")
    plural = "s" * (len(kept) > 1)
    paths = ", ".join(f"{one}/kernel" for one in kept)
    assert note == f"kept constant by design: {len(kept)} kernel{plural}: {paths}"
    report.check()


def test_zeros_that_no_initializer_makes_are_found():
    model = head_of_zeros()
    model.layers[1].kernel.assign(np.zeros((32, 32)))
    findings = keras_he.audit(model).findings
    assert [one.layer for one in findings if one.verdict == "constant"] == [model.layers[1].name]


@pytest.mark.parametrize("factor", [1e-3, 1e3], ids=["vanishing", "exploding"])
def test_a_fault_behind_a_branch_of_zeros_is_found(factor):
    keras.utils.set_random_seed(2)
    x = inputs = keras.Input((32,))
    x = layers.Add()([x, dense(x, kernel_initializer="zeros")])
    x = dense(x, name="planted")
    model = keras.Model(inputs, dense(dense(x), 3))
    planted = model.get_layer("planted").kernel
    planted.assign(planted.value * factor)
    findings = {(one.verdict, one.layer) for one in keras_he.audit(model).findings}
    assert ("vanishing" if factor < 1 else "exploding", "planted") in findings


def small_normal(shape, dtype=None):
    return 1e-4 * keras.random.normal(shape, dtype=dtype, seed=1)


def small(name):
    """Returns a last kernel that its author made small."""
    return {
        "orthogonal": INITIALIZERS.Orthogonal(0.01, seed=1),
        "normal": INITIALIZERS.RandomNormal(stddev=1e-3, seed=1),
        "uniform": INITIALIZERS.RandomUniform(-3e-3, 3e-3, seed=1),
        "scaled": INITIALIZERS.VarianceScaling(1e-4, seed=1),
        "tiny": INITIALIZERS.VarianceScaling(1e-12, seed=1),
        "ours": keras_he.KaimingNormal(gain=1e-3, seed=1),
        "function": small_normal,
    }[name]


SMALL = ("orthogonal", "normal", "uniform", "scaled", "tiny", "ours", "function")


@pytest.mark.parametrize("behind", ["nothing", "tanh", "joined"])
@pytest.mark.parametrize("name", SMALL)
def test_a_small_last_kernel_is_its_authors_choice(name, behind):
    keras.utils.set_random_seed(2)
    inputs = keras.Input((64,))
    x = dense(dense(inputs, 64, activation="tanh"), 64, activation="tanh")
    policy = dense(
        x, 4, kernel_initializer=small(name), activation="tanh" if behind == "tanh" else None
    )
    outputs = [policy, dense(x, 1)]
    if behind == "joined":
        outputs = layers.Concatenate()(outputs)
    if name == "tiny":
        outputs = policy
    assert keras_he.audit(keras.Model(inputs, outputs)).findings == ()


@pytest.mark.parametrize("name", SMALL)
def test_the_same_kernel_before_another_is_found(name):
    keras.utils.set_random_seed(2)
    inputs = keras.Input((64,))
    x = dense(inputs, 64, activation="tanh")
    x = dense(x, 64, kernel_initializer=small(name), name="planted")
    findings = keras_he.audit(keras.Model(inputs, dense(x, 3))).findings
    assert ("vanishing", "planted") in {(one.verdict, one.layer) for one in findings}


def test_a_last_kernel_that_its_initializer_did_not_make_small_is_found():
    keras.utils.set_random_seed(2)
    inputs = keras.Input((64,))
    last = layers.Dense(4, name="planted")
    model = keras.Model(inputs, last(dense(inputs, 64, activation="tanh")))
    last.kernel.assign(last.kernel.value * 1e-3)
    findings = keras_he.audit(model).findings
    assert [(one.verdict, one.layer) for one in findings] == [("vanishing", "planted")]
