"""Packages that stand beside keras_he do the same before and after it is imported.

Each case runs in two fresh processes, one with `import keras_he`, and prints what it found.
"""

import importlib.util
import json

import keras
import pytest

import keras_he

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="run on one backend: none of it is ours"
    ),
]

HUB = """
import os, tempfile
import keras_hub

sizes = dict(vocabulary_size=30, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16,
             max_sequence_length=10)

class Mine(keras_hub.models.GPT2Backbone):
    '''Is in the table of custom objects, which KerasHub looks through for presets.'''

keras.saving.register_keras_serializable("mine")(Mine)
backbone = keras_hub.models.GPT2Backbone(**sizes)
tokens = {"token_ids": np.ones((1, 4), int), "padding_mask": np.ones((1, 4), int)}

def outputs(model):
    return np.round(keras.ops.convert_to_numpy(model(tokens)).ravel()[:8], 4).tolist()

found["presets"] = [len(one.presets) for one in (
    keras_hub.models.Backbone, keras_hub.models.GPT2Backbone, keras_hub.models.CausalLM)]
folder = tempfile.mkdtemp()
backbone.save_to_preset(folder)
found["files"] = sorted(os.listdir(folder))
again = keras_hub.models.Backbone.from_preset(folder)
found["backbone"] = [type(again).__name__, outputs(again) == outputs(backbone)]
task = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
folder = tempfile.mkdtemp()
task.save_to_preset(folder)
again = keras_hub.models.CausalLM.from_preset(folder, preprocessor=None)
found["task"] = [type(again).__name__, outputs(again) == outputs(task)]
found["clone"] = type(Mine.from_config(backbone.get_config())).__name__
"""

TUNER = """
import tempfile
import keras_tuner

def build(choice):
    units = choice.Int("units", 2, 4)
    model = keras.Sequential([
        keras.Input((3,)),
        keras.layers.Dense(units, kernel_initializer="he_normal"),
        keras.layers.Dense(1),
    ])
    model.compile("sgd", "mse")
    return model

tuner = keras_tuner.RandomSearch(
    build, "loss", max_trials=2, seed=1, directory=tempfile.mkdtemp(), overwrite=True)
tuner.search(np.ones((8, 3)), np.ones((8, 1)), epochs=1, verbose=0)
found["space"] = [one.name for one in tuner.oracle.get_space().space]
found["trials"] = len(tuner.oracle.trials)
found["best"] = type(tuner.get_best_models(1)[0]).__name__
"""

RECOMMENDERS = """
import keras_rs

model = keras.Sequential([
    keras.Input((6,)), keras_rs.layers.FeatureCross(kernel_initializer="he_normal")])
model.save("cross.keras")
again = keras.models.load_model("cross.keras")
found["equal"] = [
    bool(np.array_equal(a, b)) for a, b in zip(model.get_weights(), again.get_weights())]
found["config"] = sorted(model.layers[0].get_config())
"""

SAVING = """
@keras.saving.register_keras_serializable("mine")
class Mine(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return keras.ops.ones(shape, dtype)

model = keras.Sequential([
    keras.Input((3,)),
    keras.layers.Dense(2, kernel_initializer="he_normal", bias_initializer=Mine(), name="one"),
], name="model")
found["json"] = model.to_json()
for ending in (".keras", ".h5"):
    model.save(f"model{ending}")
    found[ending] = keras.models.load_model(f"model{ending}").to_json() == model.to_json()
table = keras.saving.get_custom_objects()
found["mine"] = [table["mine>Mine"] is Mine, keras.saving.get_registered_name(Mine)]
with keras.saving.custom_object_scope({"Other": Mine}):
    found["scope"] = type(keras.initializers.deserialize(
        {"class_name": "Other", "config": {}})).__name__
found["own"] = [type(keras.initializers.get({"class_name": one, "config": {}})).__name__
                for one in ("HeNormal", "he_normal", "glorot_uniform", "Orthogonal", "zeros")]
values = list(table.values())
found["classes"] = all(isinstance(one, type) for one in values)
assert len(set(values)) <= len(values) and hash(frozenset(values)) is not None
assert all(one == one and repr(one) for one in values)
"""

CASES = {
    "KerasHub": ("keras_hub", HUB),
    "KerasTuner": ("keras_tuner", TUNER),
    "keras-rs": ("keras_rs", RECOMMENDERS),
    "keras.saving": ("keras", SAVING),
}
COMMON = """
import json
import keras
import numpy as np
found = {}
keras.utils.set_random_seed(3)
"""


@pytest.mark.parametrize("name", CASES)
def test_the_same_before_and_after_the_import(name, run_python):
    package, code = CASES[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    end = "\nprint(json.dumps(found))"
    before, after = (
        json.loads(run_python(start, COMMON, code, end).splitlines()[-1])
        for start in ("", "import keras_he")
    )
    assert before == after
    assert before


# Keras 2 beside Keras 3: told apart by what makes a model, whoever calls

needs_keras_2 = pytest.mark.skipif(
    importlib.util.find_spec("tf_keras") is None, reason="needs tf_keras"
)

KERAS_2 = """
import json
import numpy as np
import keras
import keras_he
import tf_keras

model = tf_keras.Sequential([
    tf_keras.layers.Dense(4, "relu", input_shape=(3,), kernel_initializer="he_normal"),
    tf_keras.layers.Dense(1)])
model.compile("sgd", "mse")
before = [one.copy() for one in model.get_weights()]
calls = {
    "initialize": lambda: keras_he.initialize(model),
    "audit": lambda: keras_he.audit(model),
    "make_portable": lambda: keras_he.make_portable(model),
    "layer_fans": lambda: keras_he.layer_fans(model.layers[0]),
    "register_kernels": lambda: keras_he.register_kernels(tf_keras.layers.Dense, lambda one: {}),
    "gain": lambda: keras_he.gain(tf_keras.layers.PReLU()),
    "initializer": lambda: keras_he.KaimingNormal(tf_keras.layers.LeakyReLU()),
    "SignalLogger": lambda: model.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0,
                                      callbacks=[keras_he.SignalLogger()]),
}
told = {}
for name, call in calls.items():
    try:
        call()
    except keras_he.KerasHeError as error:
        told[name] = str(error)
assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))
kernel = keras_he.KaimingNormal(seed=1)
layer = tf_keras.layers.Dense(4, kernel_initializer=kernel)
layer.build((None, 3))
equal = bool(np.array_equal(layer.kernel.numpy(), keras.ops.convert_to_numpy(kernel((3, 4)))))
print(json.dumps({"told": told, "calls": list(calls), "equal": equal}))
"""


@needs_keras_2
def test_models_of_keras_2_are_told_that_keras_3_is_needed(run_python):
    found = json.loads(run_python(KERAS_2).splitlines()[-1])
    assert list(found["told"]) == found["calls"]
    for said in found["told"].values():
        assert "of Keras 2 (tf_keras), and keras_he needs Keras 3" in said
        assert "Build it from `import keras`" in said
        assert "pip install --upgrade keras" in said
        assert "TF_USE_LEGACY_KERAS" in said
    assert found["equal"]  # an initializer of ours is a callable that Keras 2 takes too


@needs_keras_2
def test_tf_keras_by_the_legacy_switch_after_the_import_is_told_too(run_python):
    code = """
import os
import keras_he
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import tensorflow as tf
model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(2,))])
try:
    keras_he.initialize(model)
except keras_he.KerasHeError as error:
    print(" ".join(str(error).split()))
"""
    assert "of Keras 2 (tf_keras)" in run_python(code).splitlines()[-1]


NO_MODEL = {
    "path": ("model.keras", "Load the model first"),
    "class": (keras.Sequential, "Give an instance"),
    "list": ([keras.layers.Dense(2)], "Put the layers into a model first"),
    "tensor": (keras.Input((2,)), "Make a model first"),
    "nothing": (None, "`model` must be a Keras model"),
    "layer's function": (lambda x: x, "`model` must be a Keras model"),
}


@pytest.mark.parametrize("kind", NO_MODEL)
@pytest.mark.parametrize("call", [keras_he.initialize, keras_he.audit, keras_he.make_portable])
def test_what_is_no_model_is_told_what_it_is(kind, call):
    value, match = NO_MODEL[kind]
    with pytest.raises(keras_he.KerasHeError, match=match) as raised:
        call(value)
    assert "`model` must be a Keras model" in str(raised.value)
