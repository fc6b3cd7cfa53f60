"""The same model, batch and seed give the same kernels, whatever was drawn before; nothing is left.

Equal means equal bits: what is drawn twice from one seed is one array of numbers.
"""

import random
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_he

BACKEND = keras.backend.backend()
X = np.random.default_rng(5).normal(size=(32, 12)).astype("float32")
SEQUENCES = np.random.default_rng(6).normal(size=(16, 6, 12)).astype("float32")
IMAGES = np.random.default_rng(7).normal(size=(16, 8, 8, 3)).astype("float32")
SHARED = np.random.default_rng(8)  # a generator that only the code of a layer names


def frameworks():
    """Returns the frameworks that are imported: their draws are looked at, too."""
    return {name: sys.modules.get(name) for name in ("tensorflow", "torch")}


def noise(kind, shape, layer):
    """Returns normal draws from one source of randomness."""
    if kind == "keras, a generator":
        return keras.random.normal(shape, seed=layer.seed_generator)
    if kind == "keras, a generator in a list":
        return keras.random.normal(shape, seed=layer.listed[0])
    if kind == "keras, a new generator":
        return keras.random.normal(shape, seed=keras.random.SeedGenerator())
    if kind == "keras, no seed":
        return keras.random.normal(shape)
    if kind == "keras, a counter as seed":
        layer.counter += 1
        return keras.random.normal(shape, seed=layer.counter)
    if kind == "keras, a seed of random":
        return keras.random.normal(shape, seed=random.randrange(2**20))
    if kind == "random":
        return np.reshape([random.gauss(0.0, 1.0) for _ in range(np.prod(shape))], shape)
    if kind == "a Random":
        return np.reshape([layer.random.gauss(0.0, 1.0) for _ in range(np.prod(shape))], shape)
    if kind == "numpy":
        return np.random.normal(size=shape)
    if kind == "a RandomState":
        return layer.numpy_state.normal(size=shape)
    if kind == "a Generator":
        return layer.numpy.normal(size=shape)
    if kind == "a Generator in an object":
        return layer.sampler.draw(shape)
    if kind == "a Generator of the module":
        return SHARED.normal(size=shape)
    if kind == "torch":
        return sys.modules["torch"].randn(shape)
    if kind == "a torch.Generator":
        return sys.modules["torch"].randn(shape, generator=layer.torch)
    tf = sys.modules["tensorflow"]
    if kind == "tf.random":
        return tf.random.normal(shape)
    if kind == "tf.random, a seed":
        return tf.random.normal(shape, seed=3)
    if kind == "tf.function":
        return layer.compiled(shape)
    if kind == "tf.nn.dropout":
        return tf.nn.dropout(tf.ones(shape), 0.5)
    if kind == "tf, the global generator":
        return tf.random.get_global_generator().normal(shape)
    assert kind == "a tf.random.Generator"
    return layer.tensorflow.normal(shape)


def tf_normal(shape):
    """Returns draws of TensorFlow."""
    return sys.modules["tensorflow"].random.normal(shape)


class Sampler:
    """A user's object that holds a generator."""

    def __init__(self):
        self.generators = {"one": np.random.default_rng()}

    def draw(self, shape):
        return self.generators["one"].normal(size=shape)


class Noise(layers.Layer):
    """Adds noise and applies a kernel's worth of scale, from one source."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.counter = kind, 0
        self.seed_generator = keras.random.SeedGenerator()
        self.listed = [keras.random.SeedGenerator()]
        self.random, self.sampler = random.Random(), Sampler()
        self.numpy, self.numpy_state = np.random.default_rng(), np.random.RandomState()
        if frameworks()["torch"]:
            self.torch = frameworks()["torch"].Generator()
            self.torch.seed()
        if BACKEND == "tensorflow":
            generators = frameworks()["tensorflow"].random.Generator
            self.tensorflow = generators.from_non_deterministic_state()
            self.compiled = frameworks()["tensorflow"].function(tf_normal)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x):
        drawn = noise(self.kind, tuple(x.shape), self)
        return x + 2.0 * keras.ops.cast(keras.ops.convert_to_tensor(drawn), x.dtype)


SOURCES = [
    "keras, a generator",
    "keras, a generator in a list",
    "keras, a new generator",
    "keras, no seed",
    "keras, a counter as seed",
    "keras, a seed of random",
    "random",
    "a Random",
    "numpy",
    "a RandomState",
    "a Generator",
    "a Generator in an object",
    "a Generator of the module",
]
if BACKEND == "torch":
    SOURCES += ["torch", "a torch.Generator"]
if BACKEND == "tensorflow":
    SOURCES += [
        "tf.random",
        "tf.random, a seed",
        "tf.function",
        "tf.nn.dropout",
        "tf, the global generator",
        "a tf.random.Generator",
    ]


def with_noise(kind):
    return keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(16, "relu"),
            Noise(kind),
            layers.Dense(16, "gelu"),
            layers.Dense(4),
        ]
    )


def between(layer, data=X, **options):
    """Returns a chain with a layer after its first activation, and a batch that it takes."""
    width = layers.Dense(data.shape[-1], "relu")
    last = [layers.Flatten(), layers.Dense(8, "gelu"), layers.Dense(4)]
    return keras.Sequential([keras.Input(data.shape[1:]), width, layer(**options), *last]), data


class Attended(layers.Layer):
    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 4, dropout=0.5)

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x):
        return self.attention(x, x)


LAYERS = {
    "Dropout": lambda: between(layers.Dropout, rate=0.5),
    "Dropout with a seed": lambda: between(layers.Dropout, rate=0.5, seed=3),
    "GaussianNoise": lambda: between(layers.GaussianNoise, stddev=1.0),
    "GaussianDropout": lambda: between(layers.GaussianDropout, rate=0.5),
    "AlphaDropout": lambda: between(layers.AlphaDropout, rate=0.5),
    "SpatialDropout1D": lambda: between(layers.SpatialDropout1D, SEQUENCES, rate=0.5),
    "LSTM": lambda: between(
        layers.LSTM, SEQUENCES, units=8, dropout=0.5, recurrent_dropout=0.5, return_sequences=True
    ),
    "GRU": lambda: between(layers.GRU, SEQUENCES, units=8, dropout=0.5),
    "MultiHeadAttention": lambda: between(Attended, SEQUENCES),
    "RandomFlip": lambda: between(layers.RandomFlip, IMAGES),
    "RandomRotation": lambda: between(layers.RandomRotation, IMAGES, factor=0.5),
    "RandomContrast": lambda: between(layers.RandomContrast, IMAGES, factor=0.9),
    **{kind: lambda kind=kind: (with_noise(kind), X) for kind in SOURCES},
}


# A call outside of a pass changes what these keep in an attribute, so they are another layer then.
COUNTED = {"keras, a counter as seed"}


def draw_everywhere():
    """Draws from every generator of the process."""
    random.random(), np.random.random(3), SHARED.random(3)
    keras.random.normal((3,)), keras.initializers.HeNormal()((2, 2))
    tf, torch = frameworks().values()
    if torch:
        torch.rand(3)
    if tf:
        tf.random.normal((3,)), tf.random.get_global_generator().normal((3,))


def kernels(model):
    return [keras.ops.convert_to_numpy(one).copy() for one in model.weights]


def initialized(model, data, **options):
    report = keras_he.initialize(model, data, seed=3, **options)
    return kernels(model), [(row.gain, row.moments) for row in report.rows]


def assert_same(first, second):
    assert first[1] == second[1]
    for one, other in zip(first[0], second[0], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", LAYERS)
def test_the_second_and_the_third_call_give_the_same_kernels(name):
    model, data = LAYERS[name]()
    first = initialized(model, data)
    assert_same(first, initialized(model, data))
    draw_everywhere()
    if name not in COUNTED:
        model(data, training=True)
    assert_same(first, initialized(model, data))


@pytest.mark.parametrize("name", LAYERS)
def test_the_same_architecture_gives_the_same_kernels(name):
    model, data = LAYERS[name]()
    draw_everywhere()
    first = initialized(model, data)
    model, data = LAYERS[name]()
    assert_same(first, initialized(model, data))


@pytest.mark.parametrize("name", ["Dropout", "LSTM", "MultiHeadAttention", "keras, a generator"])
def test_training_in_between_changes_nothing_once_weights_are_put_back(name):
    model, data = LAYERS[name]()
    first, weights = initialized(model, data), model.get_weights()
    model.compile("sgd", "mse")
    outputs = model.predict(data, verbose=0)
    model.fit(data, np.zeros_like(outputs), epochs=1, verbose=0)
    model.set_weights(weights)
    assert_same(first, initialized(model, data))


@pytest.mark.parametrize("mode", ["fan_out", "fan_avg"])
def test_the_passes_of_other_modes_draw_the_same_too(mode):
    model, data = LAYERS["Dropout"]()
    assert_same(initialized(model, data, mode=mode), initialized(model, data, mode=mode))


def test_the_seed_decides_what_is_drawn():
    model, data = LAYERS["GaussianNoise"]()
    gains = {
        tuple(row.gain for row in keras_he.initialize(model, data, seed=seed).kernels)
        for seed in range(4)
    }
    assert len(gains) == 4


# A layer on JAX may draw without a generator only where nothing is traced, and gradients are.
TRACED = {"keras, no seed"} if BACKEND == "jax" else set()


@pytest.mark.parametrize("name", LAYERS)
def test_two_audits_give_the_same_report(name):
    model, data = LAYERS[name]()
    options = {"backward": name not in TRACED}
    first = keras_he.audit(model, data, **options).to_dict()
    draw_everywhere()
    if name not in COUNTED:
        model(data, training=True)
    assert keras_he.audit(model, data, **options).to_dict() == first


class Late(keras.Model):
    """A model that makes and builds its layers in its first call."""

    def build(self, shape):
        self.first, self.second = layers.Dense(16, "relu"), layers.Dense(4)
        self.dropped = layers.Dropout(0.5)
        self.features = self.add_weight(
            shape=(16, 16), initializer="random_normal", trainable=False, name="features"
        )
        self.offset = np.random.normal(size=(16,)).astype("float32")
        self.first.build(shape)
        self.second.build((None, 16))

    def call(self, x, training=False):
        x = keras.ops.matmul(self.first(x), self.features)
        x = x + keras.ops.convert_to_tensor(self.offset)
        return self.second(self.dropped(x, training=training))


def test_a_model_that_the_first_call_builds_gives_the_same_kernels():
    first = initialized(Late(), X)
    draw_everywhere()
    assert_same(first, initialized(Late(), X))


def test_audits_do_not_give_equal_weights_to_what_they_build():
    models = [Late(), Late()]
    for model in models:
        keras_he.audit(model, X)
    first, second = map(kernels, models)
    assert not np.array_equal(first[0], second[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: "random_normal",
        lambda: keras.initializers.RandomNormal(seed=keras.random.SeedGenerator()),
        lambda: lambda shape, dtype=None: keras.random.normal(shape, dtype=dtype),
        lambda: lambda shape, dtype=None: np.random.normal(size=shape).astype(dtype),
    ],
    ids=["no seed", "a generator", "keras.random", "numpy"],
)
@pytest.mark.parametrize("recurrent", [False, True], ids=["Dense", "LSTM"])
def test_biases_that_are_drawn_are_the_same(make, recurrent):
    def built():
        draw_everywhere()
        if recurrent:
            return keras.Sequential(
                [keras.Input((6, 12)), layers.LSTM(8, bias_initializer=make()), layers.Dense(4)]
            )
        return keras.Sequential(
            [keras.Input((12,)), layers.Dense(8, "relu", bias_initializer=make()), layers.Dense(4)]
        )

    data = SEQUENCES if recurrent else X
    model = built()
    first = initialized(model, data)
    assert_same(first, initialized(model, data))
    assert_same(first, initialized(built(), data))


def states(model):
    """Returns the states of all generators, those of the process and of a model's layers."""
    found = {"random": random.getstate(), "numpy": np.random.get_state()[1:], "counters": []}
    found["shared"] = SHARED.bit_generator.state
    tf, torch = frameworks().values()
    if torch:
        found["torch"] = torch.get_rng_state().tolist()
    if tf:
        found["tf"] = tf.random.get_global_generator().state.numpy().tolist()
    found["variables"] = [keras.ops.convert_to_numpy(one).tolist() for one in model.variables]
    for layer in model.layers:
        if isinstance(layer, Noise):
            found["counters"].append(layer.counter)
            found["held"] = [
                layer.random.getstate(),
                layer.numpy.bit_generator.state,
                layer.numpy_state.get_state()[1:],
                layer.sampler.generators["one"].bit_generator.state,
            ]
            if torch:
                found["held torch"] = layer.torch.get_state().tolist()
            if BACKEND == "tensorflow":
                found["held tf"] = layer.tensorflow.state.numpy().tolist()
    return repr(found)


def following(seed):
    """Returns what is drawn next where only draws tell the state: Keras, and operations of tf."""
    keras.utils.clear_session()  # its generator, which `set_random_seed` keeps on Keras 3.12
    keras.utils.set_random_seed(seed)
    tf = frameworks()["tensorflow"]
    first = [keras.random.normal((2,)), tf.random.normal((2,)) if tf else 0]

    def rest():
        last = [keras.random.normal((2,)), tf.random.normal((2,)) if tf else 0]
        return [keras.ops.convert_to_numpy(one).tolist() for one in (*first, *last)]

    return rest


class Stopped(layers.Layer):
    """Raises where a pass reaches it."""

    error = None

    def call(self, x):
        if self.error is not None:
            raise self.error
        return x


def fails(call, error):
    """Returns a call of a model that ends in an error of its last layer."""

    def called(model):
        model.layers[-1].error = error
        with pytest.raises(type(error)):
            call(model)

    return called


CALLS = {
    "initialize": lambda model: keras_he.initialize(model, X, seed=1, dry_run=True),
    "audit": lambda model: keras_he.audit(model, X),
}
ENDS = {
    **CALLS,
    **{
        f"{name}, {error!r}": fails(call, error)
        for name, call in CALLS.items()
        for error in (ValueError("a"), KeyboardInterrupt())
    },
}


@pytest.mark.parametrize("kind", [one for one in SOURCES if one not in TRACED])
@pytest.mark.parametrize("name", ENDS)
def test_every_generator_is_as_it_was(name, kind):
    model = with_noise(kind)
    model.add(Stopped())
    expected = following(1)()
    rest, before = following(1), states(model)
    ENDS[name](model)
    assert states(model) == before
    assert rest() == expected


def test_a_generator_that_keras_makes_in_a_pass_is_taken_away():
    keras.utils.clear_session()
    random.seed(4)
    expected = keras.ops.convert_to_numpy(keras.random.normal((3,)))
    keras.utils.clear_session()
    model = with_noise("keras, no seed")
    random.seed(4)
    keras_he.initialize(model, X, seed=1)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(keras.random.normal((3,))), expected)


@pytest.mark.skipif(BACKEND != "jax", reason="keys of JAX")
def test_a_key_that_a_layer_replaces_is_put_back():
    jax = sys.modules["jax"]

    class Split(layers.Layer):
        def __init__(self):
            super().__init__()
            self.key = jax.random.key(1)

        def call(self, x):
            self.key, key = jax.random.split(self.key)
            return x + 2.0 * jax.random.normal(key, x.shape)

    layer = Split()
    model = keras.Sequential([keras.Input((12,)), layers.Dense(16, "relu"), layer, layers.Dense(4)])
    layer.key = key = jax.random.key(1)
    assert_same(initialized(model, X), initialized(model, X))
    assert layer.key is key
