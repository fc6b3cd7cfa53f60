"""Models that are saved, and loaded where nothing is left of the process that saved them."""

import json
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_he

L = keras.layers
NAMES = keras_he.names()
CLASSES = (
    keras_he.KaimingNormal,
    keras_he.KaimingUniform,
    keras_he.KaimingTruncatedNormal,
    keras_he.KaimingOrthogonal,
)

IMPORTS = """
import json
import keras
import numpy as np
import keras_he
L = keras.layers
"""


@keras.saving.register_keras_serializable("tests")
class Bank(L.Layer):
    """Holds one kernel for each of its initializers."""

    def __init__(self, initializers, **kwargs):
        super().__init__(**kwargs)
        self.initializers = [keras.initializers.get(one) for one in initializers]

    def build(self, input_shape):
        self.kernels = [
            self.add_weight(shape=(3, 4, 2), initializer=one, name=f"kernel_{number}")
            for number, one in enumerate(self.initializers)
        ]

    def call(self, x):
        return x + sum(keras.ops.mean(kernel) for kernel in self.kernels)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        written = [keras.initializers.serialize(one) for one in self.initializers]
        return {**super().get_config(), "initializers": written}


@keras.saving.register_keras_serializable("tests")
class Block(L.Layer):
    """Holds layers, and takes one initializer for all of them."""

    def __init__(self, kernel_initializer="he_prelu", **kwargs):
        super().__init__(**kwargs)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.attention = L.MultiHeadAttention(2, 3, kernel_initializer=self.kernel_initializer)
        self.dense = L.Dense(4, kernel_initializer=self.kernel_initializer)

    def build(self, input_shape):
        self.attention.build(input_shape, input_shape)
        self.dense.build(input_shape)

    def call(self, x):
        return self.dense(self.attention(x, x))

    def get_config(self):
        written = keras.initializers.serialize(self.kernel_initializer)
        return {**super().get_config(), "kernel_initializer": written}


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """A model without a graph of layers."""

    def __init__(self, kernel_initializer="he_relu_uniform", **kwargs):
        super().__init__(**kwargs)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.block = Block("he_relu_truncated")
        self.recurrent = L.Bidirectional(
            L.GRU(3, kernel_initializer="he_linear", recurrent_initializer="he_linear_orthogonal")
        )
        self.head = L.Dense(1, kernel_initializer=self.kernel_initializer)

    def call(self, x):
        return self.head(self.recurrent(self.block(x)))

    def get_config(self):
        written = keras.initializers.serialize(self.kernel_initializer)
        return {**super().get_config(), "kernel_initializer": written}


def layers_model():
    """Every kind of layer that has a kernel, and every class with every kind of argument."""
    normal, uniform, truncated, orthogonal = CLASSES
    image, sequence = keras.Input((6, 6, 4)), keras.Input((5, 4))
    tokens = keras.Input((3,), dtype="int32")
    images = [
        L.Conv2D(4, 3, padding="same", groups=2, kernel_initializer=normal("prelu", groups=2)),
        L.Conv2D(4, 3, padding="same", kernel_initializer=orthogonal(mode="fan_avg", seed=1)),
        L.DepthwiseConv2D(3, depthwise_initializer="he_relu_orthogonal_fan_out_depthwise"),
        L.SeparableConv2D(
            4,
            2,
            depthwise_initializer="he_leaky_relu_depthwise",
            pointwise_initializer=uniform(gain=1.0),
        ),
        L.Conv2DTranspose(
            4, 2, strides=2, kernel_initializer=truncated(geometry="transpose", strides=2)
        ),
        L.Conv2DTranspose(
            2,
            2,
            strides=(2, 1),
            kernel_initializer=uniform(geometry="transpose", strides=(2, 1), seed=2**128 - 1),
        ),
    ]
    sequences = [
        L.Conv1D(4, 2, kernel_initializer=truncated("leaky_relu", negative_slope=[0.1, 0.2])),
        L.SeparableConv1D(
            4, 2, depthwise_initializer="he_relu_depthwise", pointwise_initializer="he_linear"
        ),
        L.EinsumDense("abc,cd->abd", (None, 4), kernel_initializer="he_relu_truncated_fan_avg"),
        L.TimeDistributed(L.Dense(4, kernel_initializer=normal(lambda x: np.maximum(x, 0) + x))),
        keras.Sequential([L.Dense(3, kernel_initializer="he_prelu_uniform"), L.Dense(4)]),
        nested_model(),
        Block(orthogonal("linear")),
        L.Bidirectional(
            L.LSTM(
                2,
                return_sequences=True,
                kernel_initializer=normal("linear", gates=4),
                recurrent_initializer=orthogonal("linear", gates=4),
            )
        ),
        L.GRU(4, return_sequences=True, kernel_initializer="KaimingUniform"),
        L.SimpleRNN(3, kernel_initializer=normal(seed=keras.random.SeedGenerator(5, name="draws"))),
    ]
    x, y = image, sequence
    for layer in images:
        x = layer(x)
    for layer in sequences[:-1]:
        y = layer(y)
    y = L.GroupQueryAttention(2, 2, 1, kernel_initializer="he_linear")(y, y)
    z = L.Embedding(7, 3, embeddings_initializer=normal(gain=1.0, mode="fan_out"))(tokens)
    joined = L.Concatenate()([L.Flatten()(x), sequences[-1](y), L.Flatten()(z)])
    output = L.Dense(1, kernel_initializer="kaiming_normal")(L.PReLU()(joined))
    return keras.Model([image, sequence, tokens], output)


def nested_model():
    inside = keras.Input((None, 4))
    return keras.Model(inside, L.Dense(4, kernel_initializer="he_leaky_relu_fan_out")(inside))


def strings_model():
    """Every string, each with a seed of its own."""
    strings = [{"class_name": name, "config": {"seed": n}} for n, name in enumerate(NAMES)]
    return keras.Sequential([keras.Input((1,)), Bank(strings)])


def subclassed_model():
    return Subclassed()


def batch(kind):
    """Returns a batch that fits the model, the same in every process."""
    shapes = {"layers": [(6, 6, 4), (5, 4)], "strings": [(1,)], "subclassed": [(5, 4)]}[kind]
    values = [np.cos(np.arange(np.prod(shape) * 2)).reshape(2, *shape) for shape in shapes]
    x = [value.astype("float32") for value in values]
    tokens = np.array([[0, 1, 2], [3, 4, 6]], "int32")
    return [*x, tokens] if kind == "layers" else x[0]


def initializer_configs(config) -> Iterator:
    """Yields every serialized initializer of keras_he in a nested config, in its order."""
    if isinstance(config, dict):
        if str(config.get("registered_name")).startswith("keras_he>"):
            yield config
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from initializer_configs(value)


def facts(model):
    """Returns the model's weights, and the initializers that its config holds."""
    weights = [weight.numpy() for weight in model.weights]
    return weights, list(initializer_configs(json.loads(json.dumps(model.get_config()))))


def compiled(model):
    """Returns the model, compiled to train in whatever way starts soonest."""
    eagerly = keras.backend.backend() != "jax"
    model.compile("sgd", keras.losses.MeanSquaredError(), run_eagerly=eagerly)
    return model


def read_back(folder, files):
    """Loads every file and writes what it finds beside it; what is compiled trains a step."""
    for kind, route, path in files:
        if route == "weights":
            with open(f"{folder}/{kind}.json") as file:
                model = keras.models.model_from_json(file.read())
            model(batch(kind))
            model.load_weights(path)
        else:
            # From .h5 Keras 3 restores an optimizer that knows no variable.
            model = keras.models.load_model(path, compile=route == "keras")
        weights, configs = facts(model)
        np.savez(f"{path}.npz", *weights)
        with open(f"{path}.json", "w") as file:
            json.dump(configs, file)
        if model.compiled:
            loss = float(model.train_on_batch(batch(kind), np.ones((2, 1), "float32")))
            weights = [weight.numpy() for weight in model.weights]
            np.savez(f"{path}.step.npz", loss, *weights)


MODELS = {"layers": layers_model, "strings": strings_model, "subclassed": subclassed_model}
ROUTES = {"keras": ".keras", "h5": ".h5", "weights": ".weights.h5"}
# The old whole-model format takes no subclassed models.
FILES = [
    (kind, route) for kind in MODELS for route in ROUTES if (kind, route) != ("subclassed", "h5")
]
TRAINED = ("layers", "subclassed")
every_file = pytest.mark.parametrize(("kind", "route"), FILES)
every_model = pytest.mark.parametrize("kind", MODELS)


class Saved:
    """A model that was saved by every route, after a step of training or another change."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.model = MODELS[kind]()
        if kind in TRAINED:
            target = np.ones((2, 1), "float32")
            compiled(self.model).train_on_batch(batch(kind), target)
        else:
            self.model.set_weights([weight + 1 for weight in self.model.get_weights()])
        self.weights, self.configs = facts(self.model)
        self.paths = {
            route: folder / f"{kind}{ending}"
            for route, ending in ROUTES.items()
            if (kind, route) in FILES
        }
        for route, path in self.paths.items():
            save = self.model.save_weights if route == "weights" else self.model.save
            save(path)
        (folder / f"{kind}.json").write_text(self.model.to_json())
        if kind in TRAINED:
            self.model.reset_metrics()  # Keras 3.12 would return the mean over both steps
            self.loss = float(self.model.train_on_batch(batch(kind), target))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def saved(folder):
    keras.utils.set_random_seed(3)
    return {kind: Saved(kind, folder) for kind in MODELS}


@pytest.fixture(scope="module")
def loaded(saved, folder, run_python):
    """Returns the files that a fresh process has read back."""
    files = [(kind, route, str(saved[kind].paths[route])) for kind, route in FILES]
    uses = (Bank, Block, Subclassed, batch, initializer_configs, facts, compiled, read_back)
    imports = IMPORTS + "from collections.abc import Iterator\n"
    run_python(imports, *uses, f"read_back({str(folder)!r}, {files!r})")
    return {(kind, route): path for kind, route, path in files}


def arrays(path):
    with np.load(path) as file:
        return [file[name] for name in file.files]


# What was saved


@every_model
def test_config_of_a_trained_model_holds_its_initializers(saved, kind):
    assert saved[kind].configs == facts(MODELS[kind]())[1]


def test_every_string_is_saved_as_its_class(saved):
    configs = [
        keras.initializers.serialize(keras.initializers.get(name))["config"] for name in NAMES
    ]
    expected = [{**config, "seed": number} for number, config in enumerate(configs)]
    assert [one["config"] for one in saved["strings"].configs] == expected


@every_model
def test_no_string_of_keras_he_is_written(saved, folder, kind):
    assert '"he_' not in (folder / f"{kind}.json").read_text()


def test_every_class_is_saved(saved):
    assert {one["class_name"] for one in saved["layers"].configs} == {
        cls.__name__ for cls in CLASSES
    }


def test_callable_is_saved_as_its_gain(saved):
    wrapped = next(
        layer for layer in saved["layers"].model.layers if isinstance(layer, L.TimeDistributed)
    )
    assert list(wrapped.layer.kernel_initializer.get_config()) == ["gain"]


# What is loaded in a fresh process


@every_file
def test_loaded_weights_are_those_that_were_saved(saved, loaded, kind, route):
    again = arrays(f"{loaded[kind, route]}.npz")
    assert len(again) == len(saved[kind].weights) > 0
    for loaded_weight, weight in zip(again, saved[kind].weights, strict=True):
        assert loaded_weight.dtype == weight.dtype
        np.testing.assert_array_equal(loaded_weight, weight)


@every_file
def test_loaded_initializers_are_those_that_were_saved(saved, loaded, kind, route):
    configs = json.loads(Path(f"{loaded[kind, route]}.json").read_text())
    assert configs == saved[kind].configs


@pytest.mark.parametrize("kind", TRAINED)
def test_loaded_model_trains_on_from_the_same_loss(saved, loaded, kind):
    loss, *_ = arrays(f"{loaded[kind, 'keras']}.step.npz")
    # The same sums of the same numbers; only their order may differ between two processes.
    assert loss == pytest.approx(saved[kind].loss, rel=1e-4)


@pytest.mark.parametrize("kind", TRAINED)
def test_a_step_after_loading_moves_every_kernel(loaded, kind):
    before = arrays(f"{loaded[kind, 'keras']}.npz")
    _, *after = arrays(f"{loaded[kind, 'keras']}.step.npz")
    unmoved = [
        number
        for number, (first, second) in enumerate(zip(before, after, strict=True))
        if first.ndim > 1 and np.array_equal(first, second)
    ]
    assert unmoved == []


# Clones and JSON in the same process


def cloned(model):
    return keras.models.clone_model(model)


def from_json(model):
    return keras.models.model_from_json(model.to_json())


REBUILT = {"clone_model": cloned, "model_from_json": from_json}
every_rebuilding = pytest.mark.parametrize("rebuild", REBUILT.values(), ids=REBUILT)


@every_rebuilding
@every_model
def test_rebuilt_model_has_the_same_initializers(saved, kind, rebuild):
    assert facts(rebuild(saved[kind].model))[1] == saved[kind].configs


@every_rebuilding
def test_rebuilt_model_with_seeds_has_the_weights_it_began_with(rebuild):
    model = strings_model()
    weights = [weight.numpy() for weight in model.weights]
    again = [weight.numpy() for weight in rebuild(model).weights]
    for first, second in zip(weights, again, strict=True):
        np.testing.assert_array_equal(first, second)


@every_rebuilding
def test_rebuilt_model_without_seeds_draws_anew(rebuild):
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, kernel_initializer="he_prelu")])
    kernel, again = model.layers[0].kernel, rebuild(model).layers[0].kernel
    assert not np.array_equal(kernel.numpy(), again.numpy())


def test_generator_is_saved_with_the_seed_that_it_began_with(saved):
    seeds = [one["config"].get("seed") for one in saved["layers"].configs]
    generators = [seed["config"]["seed"] for seed in seeds if isinstance(seed, dict)]
    assert generators == [5]


# Where the package is not imported

LOAD_WITHOUT = """
import json
import sys
import keras
messages = []
for path in PATHS:
    try:
        if path.endswith(".json"):
            keras.models.model_from_json(open(path).read())
        else:
            keras.models.load_model(path)
    except (TypeError, ValueError) as error:
        messages.append(str(error))
    else:
        messages.append("loaded")
assert "keras_he" not in sys.modules
print(json.dumps(messages))
"""


@pytest.fixture(scope="module")
def refused(run_python, tmp_path_factory):
    """Returns the error of each kind of file in a process that does not import keras_he."""
    folder = tmp_path_factory.mktemp("without")
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, kernel_initializer="he_prelu")])
    paths = [str(folder / f"model{ending}") for ending in (".keras", ".h5", ".json")]
    for path in paths[:2]:
        model.save(path)
    Path(paths[2]).write_text(model.to_json())
    messages = json.loads(run_python(f"PATHS = {paths!r}", LOAD_WITHOUT).splitlines()[-1])
    return dict(zip(("keras", "h5", "json"), messages, strict=True))


@pytest.mark.parametrize("route", ["keras", "h5", "json"])
def test_without_the_import_keras_names_the_class_it_lacks(refused, route):
    assert "keras_he>KaimingNormal" in refused[route]


@pytest.mark.parametrize("route", ["keras", "h5", "json"])
def test_without_the_import_nothing_is_loaded_as_something_else(refused, route):
    assert refused[route] != "loaded"
