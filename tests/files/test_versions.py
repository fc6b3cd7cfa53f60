"""Configs and files between the newest and the oldest supported Keras, in both directions.

`KERAS_HE_OLD_PYTHON` is the path of a Python that has Keras 3.12 and keras_he.
"""

import json
import os

import keras
import numpy as np
import pytest

import keras_he

OLD_PYTHON = os.environ.get("KERAS_HE_OLD_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not OLD_PYTHON, reason="KERAS_HE_OLD_PYTHON names no Python with Keras 3.12 and keras_he"
    ),
    pytest.mark.skipif(
        keras.version().startswith("3.12."), reason="run on the newer of the two versions of Keras"
    ),
]

L = keras.layers
IMPORTS = """
import json
import os
import keras
import numpy as np
import keras_he
L = keras.layers
"""


def initializers():
    """Returns every string, and every class with every kind of argument, all with seeds."""
    made = {
        name: keras.initializers.get({"class_name": name, "config": {"seed": 3}})
        for name in keras_he.names()
    }
    classes = (
        keras_he.KaimingNormal,
        keras_he.KaimingUniform,
        keras_he.KaimingTruncatedNormal,
        keras_he.KaimingOrthogonal,
    )
    for cls in classes:
        arguments = {
            "slope": {"activation": "leaky_relu", "negative_slope": 0.1},
            "slopes": {"activation": "prelu", "negative_slope": [1.0, 7.0]},
            "layer": {"activation": L.LeakyReLU()},
            "callable": {"activation": lambda x: np.maximum(x, 0.0) + 0.1 * x},
            "gain": {"gain": 1.7},
            "fan_avg": {"mode": "fan_avg"},
            "transpose": {"geometry": "transpose", "strides": 2},
            "strides": {"mode": "fan_out", "strides": (2,)},
            "groups": {"groups": 2},
            "gates": {"gates": 4},
            "axes": {"input_axes": (0, 1), "output_axes": (-1,)},
            "large_seed": {"seed": 2**128 - 1},
            "generator": {"seed": keras.random.SeedGenerator(5, name="draws")},
        }
        for case, given in arguments.items():
            made[f"{cls.__name__}-{case}"] = cls(**{"seed": 4, **given})
    return made


def drawn(initializer):
    return keras.ops.convert_to_numpy(initializer((3, 4, 8), "float32"))


def plain_model():
    """Layers whose own configs Keras 3.12 reads, also where a newer Keras wrote them."""
    image, sequence = keras.Input((6, 6, 4)), keras.Input((5, 4))
    x = L.Conv2D(4, 3, kernel_initializer="he_prelu")(image)
    x = L.PReLU(shared_axes=[1, 2])(x)
    x = L.DepthwiseConv2D(2, depthwise_initializer="he_relu_uniform_depthwise")(x)
    x = L.SeparableConv2D(
        4,
        2,
        depthwise_initializer="he_relu_truncated_depthwise",
        pointwise_initializer=keras_he.KaimingNormal(gain=1.0, seed=1),
    )(x)
    x = L.Conv2DTranspose(
        2, 2, strides=2, kernel_initializer=keras_he.KaimingUniform(geometry="transpose", strides=2)
    )(x)
    y = L.Conv1D(4, 2, kernel_initializer=keras_he.KaimingOrthogonal(mode="fan_avg"))(sequence)
    y = L.Bidirectional(
        L.LSTM(
            2,
            return_sequences=True,
            kernel_initializer=keras_he.KaimingTruncatedNormal("linear", gates=4),
            recurrent_initializer="he_linear_orthogonal",
        )
    )(y)
    y = L.GRU(3, kernel_initializer="kaiming_uniform")(y)
    return keras.Model([image, sequence], [x, y])


def dense_model():
    """Layers into whose configs Keras 3.15 writes what 3.12 refuses, whatever the initializer."""
    sequence, tokens = keras.Input((5, 4)), keras.Input((5,), dtype="int32")
    embedded = L.Embedding(7, 4, embeddings_initializer="he_linear_fan_out")(tokens)
    x = L.Add()([sequence, embedded])
    x = L.MultiHeadAttention(2, 3, kernel_initializer="he_linear")(x, x)
    x = L.GroupQueryAttention(2, 2, 1, kernel_initializer="he_prelu")(x, x)
    x = L.EinsumDense("abc,cd->abd", (None, 4), kernel_initializer="KaimingOrthogonal")(x)
    x = L.TimeDistributed(L.Dense(3, kernel_initializer=keras_he.KaimingNormal(seed=2)))(x)
    return keras.Model([sequence, tokens], L.Dense(2, kernel_initializer="he_gelu")(x))


def write(folder, models):
    """Writes configs, draws and models, and the weights of the models beside them."""
    made = initializers()
    with open(os.path.join(folder, "configs.json"), "w") as file:
        json.dump({name: keras.initializers.serialize(one) for name, one in made.items()}, file)
    np.savez(os.path.join(folder, "draws.npz"), **{name: drawn(one) for name, one in made.items()})
    for kind, build in models.items():
        model = build()
        # Not what any initializer draws, so that weights that were not loaded are seen.
        model.set_weights([weight + 1 for weight in model.get_weights()])
        path = os.path.join(folder, kind)
        np.savez(f"{path}.npz", *model.get_weights())
        model.save(f"{path}.keras")
        model.save(f"{path}.h5")
        model.save_weights(f"{path}.weights.h5")


def read(folder, models, routes):
    """Reads what `write` wrote; returns configs, draws, and the weights of each file."""
    with open(os.path.join(folder, "configs.json")) as file:
        made = {name: keras.initializers.deserialize(one) for name, one in json.load(file).items()}
    configs = {name: keras.initializers.serialize(one) for name, one in made.items()}
    draws = {name: drawn(one) for name, one in made.items()}
    weights = {}
    for kind, route in routes:
        path = os.path.join(folder, f"{kind}{route}")
        if route == ".weights.h5":
            model = models[kind]()
            model.load_weights(path)
        else:
            model = keras.models.load_model(path)
        weights[f"{kind}{route}"] = model.get_weights()
    return configs, draws, weights


OLD_PROCESS = """
MODELS = {"plain": plain_model, "dense": dense_model}
configs, draws, weights = read(NEW, MODELS, ROUTES)
with open(os.path.join(OLD, "read.json"), "w") as file:
    json.dump(configs, file)
np.savez(os.path.join(OLD, "read.npz"), **draws)
for name, arrays in weights.items():
    np.savez(os.path.join(OLD, f"read.{name}.npz"), *arrays)
write(OLD, MODELS)
print(keras.version())
"""

MODELS = {"plain": plain_model, "dense": dense_model}
TO_NEW = [(kind, route) for kind in MODELS for route in (".keras", ".h5", ".weights.h5")]
# The weights alone of any model, and whole models of layers whose configs 3.12 reads.
TO_OLD = [("plain", ".keras"), ("plain", ".h5"), ("plain", ".weights.h5"), ("dense", ".weights.h5")]
INITIALIZERS = tuple(initializers()) if OLD_PYTHON else ()
every_initializer = pytest.mark.parametrize("name", INITIALIZERS)
# The gain of a callable is an integral, whose last digits depend on the version of NumPy.
every_exact_initializer = pytest.mark.parametrize(
    "name", [name for name in INITIALIZERS if not name.endswith("-callable")]
)


class Exchange:
    """What each version wrote, and what it made of the other's."""

    def __init__(self, run_python, new, old):
        write(new, MODELS)
        code = f"NEW, OLD, ROUTES = {str(new)!r}, {str(old)!r}, {TO_OLD!r}"
        uses = (initializers, drawn, plain_model, dense_model, write, read)
        printed = run_python(
            IMPORTS, *uses, code, OLD_PROCESS, python=OLD_PYTHON, KERAS_BACKEND="tensorflow"
        )
        self.old_version = printed.split()[-1]
        self.new, self.old = new, old
        self.new_configs, self.new_draws = self.configs(new), arrays(new / "draws.npz")
        self.old_configs, self.old_draws = self.configs(old), arrays(old / "draws.npz")
        self.old_read = json.loads((old / "read.json").read_text()), arrays(old / "read.npz")
        *self.new_read, self.new_weights = read(old, MODELS, TO_NEW)

    @staticmethod
    def configs(folder):
        return json.loads((folder / "configs.json").read_text())


def arrays(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def exchange(run_python, tmp_path_factory):
    return Exchange(run_python, tmp_path_factory.mktemp("new"), tmp_path_factory.mktemp("old"))


def assert_equal_arrays(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_the_other_keras_is_older(exchange):
    assert exchange.old_version.startswith("3.12.")
    assert not keras.version().startswith("3.12.")


def test_both_versions_have_the_same_strings(exchange):
    assert exchange.old_configs.keys() == exchange.new_configs.keys() == set(INITIALIZERS)


def nameless(serialized):
    """Returns a config without the name of its generator, which Keras 3.12 does not write."""
    serialized = json.loads(json.dumps(serialized))
    seed = serialized["config"].get("seed")
    if isinstance(seed, dict):
        seed["config"].pop("name", None)
    return serialized


@every_exact_initializer
def test_both_versions_write_the_same_config(exchange, name):
    assert nameless(exchange.old_configs[name]) == nameless(exchange.new_configs[name])


@every_initializer
def test_old_keras_reads_the_config_of_the_new(exchange, name):
    configs, draws = exchange.old_read
    assert nameless(configs[name]) == nameless(exchange.new_configs[name])
    np.testing.assert_array_equal(draws[name], exchange.new_draws[name])


@every_initializer
def test_new_keras_reads_the_config_of_the_old(exchange, name):
    configs, draws = exchange.new_read
    assert nameless(configs[name]) == nameless(exchange.old_configs[name])
    np.testing.assert_array_equal(draws[name], exchange.old_draws[name])


@pytest.mark.parametrize(("kind", "route"), TO_NEW)
def test_new_keras_loads_the_file_of_the_old(exchange, kind, route):
    written = [*arrays(exchange.old / f"{kind}.npz").values()]
    assert_equal_arrays(exchange.new_weights[f"{kind}{route}"], written)


@pytest.mark.parametrize(("kind", "route"), TO_OLD)
def test_old_keras_loads_the_file_of_the_new(exchange, kind, route):
    written = [*arrays(exchange.new / f"{kind}.npz").values()]
    loaded = [*arrays(exchange.old / f"read.{kind}{route}.npz").values()]
    assert_equal_arrays(loaded, written)
