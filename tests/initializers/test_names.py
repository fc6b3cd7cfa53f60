"""The strings: their grammar, what each means, and that no name of Keras' is touched."""

import copy
import json
import pickle
import re

import keras
import numpy as np
import pytest

import keras_he

NAMES = keras_he.names()
CLASS_NAMES = ("KaimingNormal", "KaimingOrthogonal", "KaimingTruncatedNormal", "KaimingUniform")
PLAIN = {"kaiming_normal": "KaimingNormal", "kaiming_uniform": "KaimingUniform"}
# Frozen: files and programs rely on them. New ones may join.
ACTIVATIONS = set(
    """
    celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu
    linear log_sigmoid mish prelu relu relu6 selu sigmoid silu soft_shrink softplus softsign
    sparse_plus sparse_sigmoid squareplus swish tanh tanh_shrink
    """.split()
)
ALIASES = {"swish": "silu", "hard_swish": "hard_silu"}
GRAMMAR = re.compile(
    r"he_(?P<activation>\w+?)(?P<law>|_uniform|_truncated|_orthogonal)"
    r"(?P<mode>|_fan_out|_fan_avg)(?P<geometry>|_depthwise)"
)
LAWS = {
    "": "KaimingNormal",
    "_uniform": "KaimingUniform",
    "_truncated": "KaimingTruncatedNormal",
    "_orthogonal": "KaimingOrthogonal",
}
MODES = {"": "fan_in", "_fan_out": "fan_out", "_fan_avg": "fan_avg"}
SLOPES = {"prelu": 0.25, "leaky_relu": 0.2}

KERAS_NAMES = sorted(
    name
    for name in dir(keras.initializers)
    if not name.startswith("_") and name not in ("get", "serialize", "deserialize", "Initializer")
)
# Names that `keras.initializers.get` knows and no module shows.
HIDDEN_KERAS_NAMES = ("normal", "one", "uniform", "zero")
EINSUM_AXES = tuple(int(part) for part in keras.version().split(".")[:2]) >= (3, 15)


def meaning(name: str) -> tuple[str, str, str, str | None]:
    """Returns class, activation, mode and geometry, as the grammar reads them off the string."""
    if name in (*CLASS_NAMES, *PLAIN):
        return PLAIN.get(name, name), "relu", "fan_in", None
    parts = GRAMMAR.fullmatch(name)
    assert parts is not None, name
    geometry = parts["geometry"].removeprefix("_") or None
    activation = ALIASES.get(parts["activation"], parts["activation"])
    return LAWS[parts["law"]], activation, MODES[parts["mode"]], geometry


def read(initializer):
    """Returns the same of an initializer."""
    return (
        type(initializer).__name__,
        initializer.activation,
        initializer.mode,
        initializer.geometry,
    )


def test_names_are_every_combination_of_the_grammar_and_no_others():
    combinations = {
        f"he_{activation}{law}{mode}{geometry}"
        for activation in ACTIVATIONS
        for law in LAWS
        for mode in MODES
        for geometry in ("", "_depthwise")
    }
    assert set(NAMES) == combinations | set(CLASS_NAMES) | set(PLAIN)


def test_names_are_sorted_and_distinct():
    assert list(NAMES) == sorted(set(NAMES))


# What `names` returns


def test_names_are_a_tuple_that_prints_as_the_grammar():
    assert isinstance(NAMES, tuple)
    lines = repr(NAMES).splitlines()
    assert str(NAMES) == repr(NAMES)
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 100
    words = set(re.findall(r"\w+", repr(NAMES)))
    assert words >= {*ACTIVATIONS, *CLASS_NAMES, *PLAIN, *filter(None, {**LAWS, **MODES})}
    shown = set(re.findall(r"\bhe_\w+", repr(NAMES))) - {"he_", "he_prelu"}
    assert shown
    assert shown <= set(NAMES)


def test_names_are_plain_values_to_other_code():
    assert json.loads(json.dumps(NAMES)) == list(NAMES)
    for other in (pickle.loads(pickle.dumps(NAMES)), copy.deepcopy(NAMES), tuple(NAMES)):
        assert other == NAMES
        assert hash(other) == hash(NAMES)
    assert type(NAMES[:2]) is tuple


def test_a_pattern_gives_the_names_that_match_it():
    assert keras_he.names("*") == NAMES
    assert keras_he.names("he_gelu") == ("he_gelu",)
    found = keras_he.names("he_?elu_*depthwise")
    assert found == tuple(name for name in NAMES if re.fullmatch("he_.elu_.*depthwise", name))
    assert type(found) is tuple
    assert {"he_gelu_depthwise", "he_relu_depthwise", "he_selu_depthwise"} <= set(found)


@pytest.mark.parametrize("pattern", [3, ["he_prelu*"], b"he_*"], ids=str)
def test_what_is_no_pattern_is_refused(pattern):
    message = '`pattern` must be a shell pattern, such as "he_prelu*". Received: pattern='
    with pytest.raises(keras_he.KerasHeError, match=re.escape(message)):
        keras_he.names(pattern)


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("he_rellu*", '\nDid you mean "he_relu"?'),
        ("HE_GELU", '\nDid you mean "he_gelu"?'),
        ("", ""),
    ],
)
def test_a_pattern_that_matches_no_name_is_refused(pattern, hint):
    with pytest.raises(keras_he.KerasHeError) as error:
        keras_he.names(pattern)
    assert str(error.value) == (
        "`pattern` must be a shell pattern that matches at least one string. "
        f"Received: pattern={pattern!r}{hint}"
    )


@pytest.mark.parametrize("name", NAMES)
def test_name_resolves_to_what_it_says(name):
    assert read(keras.initializers.get(name)) == meaning(name)


@pytest.mark.parametrize("name", NAMES)
def test_name_deserializes_to_what_it_says(name):
    serialized = {"class_name": name, "config": {}}
    assert read(keras.initializers.deserialize(serialized)) == meaning(name)


@pytest.mark.parametrize("name", NAMES)
def test_bare_name_deserializes_to_a_class_as_of_anything_that_is_registered(name):
    found = keras.initializers.deserialize(name)
    assert isinstance(found, type)
    assert read(found()) == read(found.from_config({})) == meaning(name)


@pytest.mark.parametrize("name", NAMES)
def test_name_brings_the_slope_of_its_activation_and_no_other(name):
    assert keras.initializers.get(name).negative_slope == SLOPES.get(meaning(name)[1])


@pytest.mark.parametrize("name", NAMES)
def test_serialized_name_is_its_class_with_plain_arguments(name):
    serialized = keras.initializers.serialize(keras.initializers.get(name))
    class_name, activation, mode, geometry = meaning(name)
    config = {} if activation == "relu" else {"activation": activation}
    if activation in SLOPES:
        config["negative_slope"] = SLOPES[activation]
    if mode != "fan_in":
        config["mode"] = mode
    if geometry:
        config["geometry"] = geometry
    assert json.loads(json.dumps(serialized)) == {
        "module": "keras_he",
        "class_name": class_name,
        "config": config,
        "registered_name": f"keras_he>{class_name}",
    }


@pytest.mark.parametrize("name", ["HE_PRELU", "he_reul", "he_prelu_transpose", "kaiming"])
def test_other_strings_are_unknown_to_keras(name):
    with pytest.raises(ValueError, match=f"Could not interpret initializer identifier: .*{name}"):
        keras.initializers.get(name)


def test_a_string_gives_a_new_initializer_with_a_seed_of_its_own_each_time():
    first, second = (keras.initializers.get("he_prelu") for _ in range(2))
    draws = [keras.ops.convert_to_numpy(one((8, 8))) for one in (first, second)]
    assert not np.array_equal(*draws)


def test_set_random_seed_makes_strings_reproducible():
    def drawn():
        keras.utils.set_random_seed(12)
        return keras.ops.convert_to_numpy(keras.initializers.get("he_prelu")((8, 8)))

    np.testing.assert_array_equal(drawn(), drawn())


# A config beside a string


def test_config_beside_a_string_may_add_a_seed():
    initializer = keras.initializers.get({"class_name": "he_prelu", "config": {"seed": 3}})
    assert initializer.get_config() == {"activation": "prelu", "negative_slope": 0.25, "seed": 3}


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("he_prelu", "activation", "relu"),
        ("he_prelu", "gain", 1.0),
        ("he_prelu", "negative_slope", 0.1),
        ("he_leaky_relu", "negative_slope", 0.3),
        ("he_prelu_fan_out", "mode", "fan_in"),
        ("he_prelu_depthwise", "geometry", "transpose"),
    ],
    ids=lambda value: str(value),
)
def test_config_beside_a_string_may_not_contradict_it(name, argument, value):
    with pytest.raises(keras_he.KerasHeError, match=f"`{argument}` must be left out beside"):
        keras.initializers.get({"class_name": name, "config": {argument: value}})


def test_config_beside_a_string_may_not_hold_unknown_keys():
    with pytest.raises(keras_he.KerasHeError, match="`config` must be a dict with keys among"):
        keras.initializers.get({"class_name": "he_prelu", "config": {"scale": 2.0}})


# Keras' own names


@pytest.mark.parametrize("name", KERAS_NAMES)
def test_keras_name_still_resolves_to_the_class_of_keras(name):
    config = {"value": 1.0} if name.lower() == "constant" else {}
    found = type(keras.initializers.get({"class_name": name, "config": config}))
    public = getattr(keras.initializers, name)
    assert found is public
    assert found.__module__.startswith("keras.")


@pytest.mark.parametrize("name", HIDDEN_KERAS_NAMES)
def test_hidden_keras_name_still_resolves_to_a_class_of_keras(name):
    assert type(keras.initializers.get(name)).__module__.startswith("keras.")


def test_he_normal_and_he_uniform_are_those_of_keras():
    assert type(keras.initializers.get("he_normal")) is keras.initializers.HeNormal
    assert type(keras.initializers.get("he_uniform")) is keras.initializers.HeUniform


@pytest.mark.parametrize(
    "module",
    [
        "activations",
        "constraints",
        "dtype_policies",
        "initializers",
        "layers",
        "losses",
        "metrics",
        "models",
        "ops",
        "optimizers",
        "quantizers",
        "regularizers",
        "saving",
    ],
)
def test_no_name_is_a_public_name_of_keras(module):
    public = {name.lower().replace("_", "") for name in dir(getattr(keras, module))}
    ours = {name.lower().replace("_", "") for name in NAMES}
    assert ours & public == set()


def test_importing_keras_he_adds_its_names_and_changes_no_other_entry(run_python):
    code = """
import json, keras
before = dict(keras.saving.get_custom_objects())
import keras_he
after = keras.saving.get_custom_objects()
assert all(after[name] is value for name, value in before.items())
print(json.dumps(sorted(set(after) - set(before))))
"""
    added = json.loads(run_python(code).splitlines()[-1])
    assert added == sorted([*NAMES, *(f"keras_he>{name}" for name in CLASS_NAMES)])


def test_no_name_means_anything_to_keras_alone(run_python):
    code = f"""
import json, keras, sys
known = []
for module in ("initializers", "activations", "constraints", "losses", "metrics", "optimizers",
               "regularizers"):
    for name in {list(NAMES)!r}:
        try:
            getattr(keras, module).get(name)
        except ValueError:
            continue
        known.append((module, name))
assert "keras_he" not in sys.modules
print(json.dumps(known))
"""
    assert json.loads(run_python(code).splitlines()[-1]) == []


def test_a_layer_may_bear_a_string_as_its_name():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="he_prelu")])
    again = keras.models.model_from_json(model.to_json())
    assert [layer.name for layer in again.layers] == ["he_prelu"]


# Strings in layers. The mean square of an orthogonal kernel's elements is its variance exactly,
# gain² / fan_in, so that one draw tells which fan was used. Gain² is 2 for ReLU, 1 for linear.
RELU, DEPTHWISE = "he_relu_orthogonal", "he_relu_orthogonal_depthwise"
LINEAR = "he_linear_orthogonal"


class Scaled(keras.layers.Layer):
    def build(self, input_shape):
        self.kernel = self.add_weight(
            shape=(input_shape[-1], 3), initializer=RELU, name="custom_kernel"
        )

    def call(self, x):
        return keras.ops.matmul(x, self.kernel)


class ScaledByGet(keras.layers.Layer):
    def build(self, input_shape):
        initializer = keras.initializers.get(LINEAR)
        self.kernel = self.add_weight(
            shape=(input_shape[-1], 3), initializer=initializer, name="custom_kernel"
        )

    def call(self, x):
        return keras.ops.matmul(x, self.kernel)


L = keras.layers
RECURRENT = {"kernel_initializer": RELU, "recurrent_initializer": LINEAR}
IN_LAYERS = {
    "dense": (lambda: L.Dense(6, kernel_initializer=RELU), (4,), {"kernel": 2 / 4}),
    "conv1d": (lambda: L.Conv1D(6, 3, kernel_initializer=RELU), (5, 4), {"kernel": 2 / 12}),
    "conv2d": (lambda: L.Conv2D(6, 3, kernel_initializer=RELU), (5, 5, 4), {"kernel": 2 / 36}),
    "conv3d": (lambda: L.Conv3D(6, 2, kernel_initializer=RELU), (3, 3, 3, 4), {"kernel": 2 / 32}),
    "depthwise_conv1d": (
        lambda: L.DepthwiseConv1D(3, depthwise_initializer=DEPTHWISE),
        (5, 4),
        {"kernel": 2 / 3},
    ),
    "depthwise_conv2d": (
        lambda: L.DepthwiseConv2D(3, depthwise_initializer=DEPTHWISE),
        (5, 5, 4),
        {"kernel": 2 / 9},
    ),
    "separable_conv2d": (
        lambda: L.SeparableConv2D(
            6, 3, depthwise_initializer=DEPTHWISE, pointwise_initializer=LINEAR
        ),
        (5, 5, 4),
        {"depthwise_kernel": 2 / 9, "pointwise_kernel": 1 / 4},
    ),
    # A string cannot know that the kernel (3, 3, 6, 4) is transposed: it takes 3·3·6 inputs.
    "conv2d_transpose": (
        lambda: L.Conv2DTranspose(6, 3, kernel_initializer=RELU),
        (5, 5, 4),
        {"kernel": 2 / 54},
    ),
    "simple_rnn": (
        lambda: L.SimpleRNN(3, **RECURRENT),
        (5, 4),
        {"kernel": 2 / 4, "recurrent_kernel": 1 / 3},
    ),
    "gru": (
        lambda: L.GRU(3, **RECURRENT),
        (5, 4),
        {"kernel": 2 / 4, "recurrent_kernel": 1 / 3},
    ),
    "lstm": (
        lambda: L.LSTM(3, **RECURRENT),
        (5, 4),
        {"kernel": 2 / 4, "recurrent_kernel": 1 / 3},
    ),
    "conv_lstm2d": (
        lambda: L.ConvLSTM2D(3, 2, **RECURRENT),
        (3, 4, 4, 2),
        {"kernel": 2 / 8, "recurrent_kernel": 1 / 12},
    ),
    "bidirectional": (
        lambda: L.Bidirectional(L.LSTM(3, **RECURRENT)),
        (5, 4),
        {"kernel": 2 / 4, "recurrent_kernel": 1 / 3},
    ),
    "time_distributed": (
        lambda: L.TimeDistributed(L.Dense(6, kernel_initializer=RELU)),
        (5, 4),
        {"kernel": 2 / 4},
    ),
    # A string cannot know that this kernel (7, 3) is a lookup: it takes 7 inputs.
    "embedding": (
        lambda: L.Embedding(7, 3, embeddings_initializer=RELU),
        (),
        {"embeddings": 2 / 7},
    ),
    "custom_layer": (Scaled, (4,), {"custom_kernel": 2 / 4}),
    "custom_layer_with_get": (ScaledByGet, (4,), {"custom_kernel": 1 / 4}),
}


def assert_mean_squares(layer, expected):
    kernels = [weight for weight in layer.weights if weight.name in expected]
    assert {kernel.name for kernel in kernels} == set(expected)
    for kernel in kernels:
        values = kernel.numpy().astype(np.float64)
        # Each element is rounded to float32, by a relative error of at most 2^-24.
        assert np.mean(values**2) == pytest.approx(expected[kernel.name], rel=2**-22), kernel.path


@pytest.mark.parametrize(("make", "shape", "expected"), IN_LAYERS.values(), ids=IN_LAYERS)
def test_string_sets_the_variance_of_a_layers_kernels(make, shape, expected):
    layer = make()
    layer(np.ones((2, *shape), "float32"))
    assert_mean_squares(layer, expected)


@pytest.mark.skipif(not EINSUM_AXES, reason="Keras gives the axes of einsum kernels from 3.15 on")
def test_string_counts_the_summed_axes_of_an_einsum_kernel():
    layer = L.EinsumDense("abcd,cdef->abef", (None, 2, 3), kernel_initializer=RELU)
    layer(np.ones((2, 5, 4, 3), "float32"))
    assert_mean_squares(layer, {"kernel": 2 / 12})


# Each with the number of its heads times their size, which the output projection sums over.
ATTENTION = {
    "multi_head": (lambda: L.MultiHeadAttention(2, 3, kernel_initializer=RELU), 6),
    "grouped_query": (lambda: L.GroupQueryAttention(3, 4, 2, kernel_initializer=RELU), 12),
}


@pytest.mark.parametrize(("make", "heads"), ATTENTION.values(), ids=ATTENTION)
def test_string_gives_each_projection_of_attention_its_own_draw(make, heads):
    layer = make()
    x = np.ones((2, 5, 4), "float32")
    layer(x, x)
    kernels = [w.numpy() for w in layer.weights if w.name == "kernel"]
    assert len({kernel.tobytes() for kernel in kernels}) == 4


@pytest.mark.skipif(not EINSUM_AXES, reason="Keras gives the axes of einsum kernels from 3.15 on")
@pytest.mark.parametrize(("make", "heads"), ATTENTION.values(), ids=ATTENTION)
def test_string_counts_the_summed_axes_of_attention(make, heads):
    layer = make()
    x = np.ones((2, 5, 4), "float32")
    layer(x, x)
    fans_in = {"query": 4, "key": 4, "value": 4, "attention_output": heads}
    kernels = {w.path.split("/")[-2]: w for w in layer.weights if w.name == "kernel"}
    assert kernels.keys() == fans_in.keys()
    for name, fan_in in fans_in.items():
        values = kernels[name].numpy().astype(np.float64)
        assert np.mean(values**2) == pytest.approx(2 / fan_in, rel=2**-22), name


@pytest.mark.skipif(not EINSUM_AXES, reason="Keras gives the axes of einsum kernels from 3.15 on")
def test_depthwise_string_in_an_einsum_layer_says_that_the_axes_are_known():
    layer = L.EinsumDense("abc,cd->abd", (None, 2), kernel_initializer="he_relu_depthwise")
    with pytest.raises(keras_he.KerasHeError, match="leave the other arguments out there"):
        layer(np.ones((2, 5, 4), "float32"))
