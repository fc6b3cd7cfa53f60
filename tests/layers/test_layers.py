"""`layer_fans` against the ones-oracle, for every row of the table, and what it refuses."""

import inspect
import itertools

import keras
import numpy as np
import pytest
from oracle import dense_fans, fill_with_ones, run, spatial_fans

import keras_he
from keras_he.layers import rules as table

BACKEND = keras.backend.backend()


def configurations(rank, transposed=False, strides=(1, 2, 3), sizes=(1, 2, 3, 4)):
    """Yields layer arguments in a fixed mixed order: the product is thinned, not the corners."""
    kernels = list(itertools.product(sizes, repeat=rank))
    steps = [(s,) * rank for s in strides] + ([(1, 2), (3, 1)] if rank == 2 else [])
    for index, (kernel, step, padding) in enumerate(
        itertools.product(kernels, steps, ("valid", "same"))
    ):
        if index % {1: 1, 2: 2, 3: 24}[rank] == 0:
            yield {"kernel_size": kernel, "strides": step, "padding": padding}
    if not transposed:  # Keras has no layer with both strides and dilation
        for kernel in kernels[:: {1: 1, 2: 2, 3: 8}[rank]]:
            yield {"kernel_size": kernel, "dilation_rate": (2,) * rank, "padding": "valid"}


def labelled(cases):
    return [pytest.param(*case, id=f"{case[0].__name__}-{i}") for i, case in enumerate(cases)]


def plain_cases():
    for rank, layer in enumerate(
        (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D), start=1
    ):
        for index, arguments in enumerate(configurations(rank)):
            groups = (1, 2, 3)[index % 3]
            yield layer, 6, {**arguments, "filters": 12, "groups": groups}
    yield keras.layers.Conv1D, 4, {"filters": 3, "kernel_size": (3,), "padding": "causal"}


def transposed_cases():
    for rank, layer in enumerate(
        (
            keras.layers.Conv1DTranspose,
            keras.layers.Conv2DTranspose,
            keras.layers.Conv3DTranspose,
        ),
        start=1,
    ):
        for arguments in configurations(rank, transposed=True):
            yield layer, 5, {**arguments, "filters": 3}


def depthwise_cases():
    for rank, layer in ((1, keras.layers.DepthwiseConv1D), (2, keras.layers.DepthwiseConv2D)):
        for index, arguments in enumerate(configurations(rank)):
            # TensorFlow's depthwise kernels on a CPU want equal strides.
            if len(set(arguments.get("strides", (1,)))) == 1:
                yield layer, 4, {**arguments, "depth_multiplier": 1 + index % 3}


def separable_cases():
    for rank, layer in ((1, keras.layers.SeparableConv1D), (2, keras.layers.SeparableConv2D)):
        for index, arguments in enumerate(configurations(rank)):
            if len(set(arguments.get("strides", (1,)))) == 1:
                yield layer, 4, {**arguments, "filters": 7, "depth_multiplier": 1 + index % 3}


def spatial_oracle(layer, channels, arguments, transposed=False):
    kernel_size = arguments["kernel_size"]
    ones = (1,) * len(kernel_size)
    strides = arguments.get("strides", ones)
    dilation = arguments.get("dilation_rate", ones)
    last = layer.data_format == "channels_last"
    return spatial_fans(layer, kernel_size, channels, strides, dilation, transposed, last)


def built(layer_class, channels, arguments):
    layer = layer_class(**arguments)
    rank = len(arguments["kernel_size"])
    shape = (None, *[16] * rank, channels)
    if layer.data_format == "channels_first":
        shape = (None, channels, *[16] * rank)
    layer.build(shape)
    return layer


@pytest.mark.parametrize(("layer_class", "channels", "arguments"), labelled(plain_cases()))
def test_convolutions_have_the_oracles_fans(layer_class, channels, arguments):
    layer = built(layer_class, channels, arguments)
    fill_with_ones(layer, "kernel")
    expected = spatial_oracle(layer, channels, arguments)
    assert keras_he.layer_fans(layer) == {"kernel": pytest.approx(expected, rel=1e-6)}


@pytest.mark.parametrize(("layer_class", "channels", "arguments"), labelled(transposed_cases()))
def test_transposed_convolutions_have_the_oracles_fans(layer_class, channels, arguments):
    layer = built(layer_class, channels, arguments)
    fill_with_ones(layer, "kernel")
    expected = spatial_oracle(layer, channels, arguments, transposed=True)
    assert keras_he.layer_fans(layer) == {"kernel": pytest.approx(expected, rel=1e-6)}


@pytest.mark.parametrize(("layer_class", "channels", "arguments"), labelled(depthwise_cases()))
def test_depthwise_convolutions_have_the_oracles_fans(layer_class, channels, arguments):
    layer = built(layer_class, channels, arguments)
    fill_with_ones(layer, "kernel")
    expected = spatial_oracle(layer, channels, arguments)
    assert keras_he.layer_fans(layer) == {"kernel": pytest.approx(expected, rel=1e-6)}


@pytest.mark.parametrize(("layer_class", "channels", "arguments"), labelled(separable_cases()))
def test_separable_convolutions_have_the_oracles_fans(layer_class, channels, arguments):
    """Each half is the layer's effect over that of the other half, an identity in turn."""
    layer = built(layer_class, channels, arguments)
    fans = keras_he.layer_fans(layer)
    multiplier = arguments["depth_multiplier"]
    fill_with_ones(layer, "depthwise_kernel", "pointwise_kernel")
    fan_in, fan_out = spatial_oracle(layer, channels, arguments)
    # Ones everywhere: the two halves' fans multiply.
    depthwise, pointwise = fans["depthwise_kernel"], fans["pointwise_kernel"]
    assert depthwise.fan_in * pointwise.fan_in == pytest.approx(fan_in, rel=1e-6)
    assert depthwise.fan_out * pointwise.fan_out == pytest.approx(fan_out, rel=1e-6)
    # A pointwise half that only reads the first channel leaves the depthwise fan_in.
    first = np.zeros(layer.pointwise_kernel.shape, "float32")
    first[..., 0, :] = 1.0
    layer.pointwise_kernel.assign(first)
    assert spatial_oracle(layer, channels, arguments)[0] == pytest.approx(depthwise.fan_in)
    assert pointwise == (channels * multiplier, 7)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow convolves channels last on a CPU")
@pytest.mark.parametrize(
    ("layer_class", "transposed"),
    [(keras.layers.Conv2D, False), (keras.layers.Conv2DTranspose, True)],
)
def test_channels_first_changes_no_fan(layer_class, transposed):
    arguments = {"filters": 6, "kernel_size": (3, 2), "strides": (2, 2)}
    layer = built(layer_class, 4, {**arguments, "data_format": "channels_first"})
    fill_with_ones(layer, "kernel")
    expected = spatial_oracle(layer, 4, arguments, transposed)
    assert keras_he.layer_fans(layer) == {"kernel": pytest.approx(expected, rel=1e-6)}


@pytest.mark.parametrize("units", [1, 7, 64])
@pytest.mark.parametrize("inputs", [1, 5, 48])
def test_dense_has_the_oracles_fans(inputs, units):
    layer = keras.layers.Dense(units)
    layer.build((None, inputs))
    fill_with_ones(layer, "kernel")
    assert keras_he.layer_fans(layer) == {"kernel": dense_fans(layer, (3, inputs))}


EINSUMS = [
    ("ab,bc->ac", (3, 4), (5,), None),
    ("abc,cd->abd", (3, 4, 5), (4, 6), "d"),
    ("abc,cde->abde", (3, 4, 5), (4, 2, 6), "de"),
    ("abcd,cde->abe", (3, 4, 2, 5), (4, 6), "e"),
    ("abcd,cde->abce", (3, 4, 2, 5), (4, 2, 6), None),
    ("abc,bcd->abd", (3, 4, 5), (4, 6), None),
    ("abc,bd->adc", (3, 4, 5), (6, 5), "d"),
    ("abc,c->abc", (3, 4, 5), (4, 5), None),
    ("...x,xy->...y", (3, 4, 5), 6, "y"),
    ("...xz,zxy->...y", (3, 4, 5), (6,), None),
]


@pytest.mark.parametrize(("equation", "shape", "output", "bias"), EINSUMS)
def test_einsum_has_the_oracles_fans(equation, shape, output, bias):
    layer = keras.layers.EinsumDense(equation, output_shape=output, bias_axes=bias)
    layer.build((None, *shape[1:]))
    fill_with_ones(layer, "kernel")
    expected = dense_fans(layer, shape)
    assert keras_he.layer_fans(layer) == {"kernel": pytest.approx(expected, rel=1e-6)}


def test_an_einsum_that_sums_beside_its_kernel_is_refused():
    layer = keras.layers.EinsumDense("abc,cd->ad", output_shape=(6,))
    layer.build((None, 4, 5))
    with pytest.raises(keras_he.KerasHeError, match="sums over b, which is no axis of the kernel"):
        keras_he.layer_fans(layer)


def one(x):
    return keras.ops.ones_like(x)


def half(x):
    return 0.5 * keras.ops.ones_like(x)


def as_it_is(x):
    return x


def recurrent_layers():
    """Returns layers whose gates are constants, so that their output is linear in one kernel."""
    return {
        "SimpleRNN": keras.layers.SimpleRNN(7, activation=as_it_is),
        "LSTM": keras.layers.LSTM(7, activation=as_it_is, recurrent_activation=one),
        "GRU": keras.layers.GRU(7, activation=as_it_is, recurrent_activation=half),
        "GRU, reset before": keras.layers.GRU(
            7, activation=as_it_is, recurrent_activation=half, reset_after=False
        ),
    }


# With both gates of a GRU at 1/2, the new state is h/2 + (x·K + (h·R)/2)/2.
INPUT_SHARE = {"SimpleRNN": 1, "LSTM": 1, "GRU": 1 / 2, "GRU, reset before": 1 / 2}
STATE_SHARE = {"SimpleRNN": (0, 1), "LSTM": (0, 1), "GRU": (1 / 2, 1 / 4)}
STATE_SHARE["GRU, reset before"] = STATE_SHARE["GRU"]


@pytest.mark.parametrize("name", INPUT_SHARE)
def test_recurrent_kernels_have_the_oracles_fans_per_gate(name):
    layer = recurrent_layers()[name]
    layer.build((None, 1, 5))
    fill_with_ones(layer, "kernel")
    x = np.ones((2, 1, 5), "float32")
    y = run(layer, x) / INPUT_SHARE[name]
    fans = keras_he.layer_fans(layer)
    assert fans["kernel"] == (y.mean(), y.sum() / x.sum())

    fill_with_ones(layer, "recurrent_kernel")
    state = [np.ones((2, 7), "float32"), np.zeros((2, 7), "float32")][: 1 + (name == "LSTM")]
    kept, share = STATE_SHARE[name]
    y = run(layer, 0 * x, initial_state=[keras.ops.convert_to_tensor(s) for s in state])
    y = (y - kept) / share
    assert fans["recurrent_kernel"] == (y.mean(), y.sum() / state[0].sum())
    assert set(fans) == {"kernel", "recurrent_kernel"}


@pytest.mark.parametrize("name", INPUT_SHARE)
def test_a_cell_has_the_fans_of_its_layer(name):
    layer = recurrent_layers()[name]
    layer.build((None, 4, 5))
    assert keras_he.layer_fans(layer.cell) == keras_he.layer_fans(layer)


@pytest.mark.parametrize(
    ("layer_class", "kernel_size", "strides"),
    [
        (keras.layers.ConvLSTM1D, (3,), (1,)),
        (keras.layers.ConvLSTM1D, (2,), (3,)),
        (keras.layers.ConvLSTM2D, (3, 3), (1, 1)),
        (keras.layers.ConvLSTM2D, (3, 2), (2, 2)),
        (keras.layers.ConvLSTM3D, (2, 3, 1), (1, 1, 1)),
    ],
)
def test_convolutional_lstms_have_the_oracles_fans_per_gate(layer_class, kernel_size, strides):
    """One gate of the input kernel is a convolution to `filters`; so is the recurrent one."""
    layer = layer_class(6, kernel_size, strides=strides)
    rank = len(kernel_size)
    layer.build((None, 2, *[12] * rank, 4))
    fans = keras_he.layer_fans(layer)
    convolution = [keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D][rank - 1]
    for name, channels, step in (("kernel", 4, strides), ("recurrent_kernel", 6, (1,) * rank)):
        arguments = {"filters": 6, "kernel_size": kernel_size, "strides": step}
        gate = built(convolution, channels, arguments)
        fill_with_ones(gate, "kernel")
        assert fans[name] == pytest.approx(spatial_oracle(gate, channels, arguments), rel=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("key_dim", [2, 5])
def test_attention_projections_have_the_oracles_fans(heads, key_dim):
    layer = keras.layers.MultiHeadAttention(heads, key_dim, value_dim=key_dim + 1)
    layer.build((None, 4, 6), (None, 4, 7))
    fans = keras_he.layer_fans(layer)
    projections = {
        "query": (layer.query_dense, (2, 4, 6)),
        "key": (layer.key_dense, (2, 4, 7)),
        "value": (layer.value_dense, (2, 4, 7)),
        "attention_output": (layer.output_dense, (2, 4, heads, key_dim + 1)),
    }
    for dense, _ in projections.values():
        fill_with_ones(dense, "kernel")
    assert fans == {
        f"{name}/kernel": pytest.approx(dense_fans(dense, shape), rel=1e-6)
        for name, (dense, shape) in projections.items()
    }


def test_grouped_query_attention_has_the_fans_of_its_projections():
    layer = keras.layers.GroupQueryAttention(5, 4, 2)
    layer.build((None, 3, 6), (None, 3, 6))
    assert keras_he.layer_fans(layer) == {
        "query/kernel": (6, 4 * 5),
        "key/kernel": (6, 2 * 5),
        "value/kernel": (6, 2 * 5),
        "attention_output/kernel": (4 * 5, 6),
    }


def test_scores_of_attention_have_no_kernel_and_additive_ones_do():
    plain = keras.layers.Attention(use_scale=True, score_mode="concat")
    plain.build([(None, 3, 6), (None, 3, 6)])
    assert keras_he.layer_fans(plain) == {}
    additive = keras.layers.AdditiveAttention()
    additive.build([(None, 3, 6), (None, 3, 6)])
    assert keras_he.layer_fans(additive) == {"scale": (6, 1)}


def test_an_embedding_is_a_lookup():
    layer = keras.layers.Embedding(50, 8)
    layer.build()
    fill_with_ones(layer, "embeddings")
    y = run(layer, np.zeros((2, 3), "int32"))
    assert keras_he.layer_fans(layer) == {"embeddings": (y.mean(), y.sum() / 6)}


@pytest.mark.parametrize("tied", [True, False])
def test_a_reversible_embedding_is_a_lookup_and_a_dense_kernel(tied):
    layer = keras.layers.ReversibleEmbedding(50, 8, tie_weights=tied)
    layer.build((None,))
    fans = keras_he.layer_fans(layer)
    assert fans.pop("embeddings") == (1, 8)
    assert fans == ({} if tied else {"reverse_embeddings": (8, 50)})


def test_wrappers_and_stacks_name_the_layer_inside():
    dense = keras.layers.TimeDistributed(keras.layers.Dense(5))
    dense.build((None, 4, 3))
    assert keras_he.layer_fans(dense) == {"layer/kernel": (3, 5)}
    normalized = keras.layers.SpectralNormalization(keras.layers.Conv2D(6, 3))
    normalized.build((None, 8, 8, 4))
    assert keras_he.layer_fans(normalized) == {"layer/kernel": (36, 54)}
    both = keras.layers.Bidirectional(keras.layers.LSTM(6))
    both.build((None, 4, 3))
    assert keras_he.layer_fans(both) == {
        f"{way}_layer/{kernel}": fans
        for way in ("forward", "backward")
        for kernel, fans in (("kernel", (3, 6)), ("recurrent_kernel", (6, 6)))
    }
    stack = keras.layers.RNN([keras.layers.GRUCell(5), keras.layers.SimpleRNNCell(4)])
    stack.build((None, 4, 3))
    assert keras_he.layer_fans(stack) == {
        "0/kernel": (3, 5),
        "0/recurrent_kernel": (5, 5),
        "1/kernel": (5, 4),
        "1/recurrent_kernel": (4, 4),
    }


def test_models_in_models_name_every_kernel():
    inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, name="a")], name="inner")
    model = keras.Sequential(
        [keras.Input((6,)), inner, keras.layers.ReLU(), keras.layers.Dense(4, name="b")]
    )
    assert keras_he.layer_fans(model) == {"inner/a/kernel": (6, 5), "b/kernel": (5, 4)}


class Unnamed(keras.layers.Layer):
    """Holds weights whose names are not those of its attributes."""

    def build(self, shape):
        self.projection = self.add_weight(shape=(shape[-1], 3))
        self.bias = self.add_weight(shape=(3, 3), name="lora_like")


def test_a_layer_without_a_rule_is_never_guessed_by_names():
    layer = Unnamed(name="mine")
    layer.build((None, 4))
    with pytest.raises(keras_he.KerasHeError, match=r"lora_like \(3, 3\)") as caught:
        keras_he.layer_fans(layer)
    assert 'lambda layer: {"projection": {…}}' in str(caught.value)


def test_an_activation_layer_that_is_not_built_yet_holds_no_kernel():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, keras.layers.PReLU())])
    (fans,) = keras_he.layer_fans(model).values()
    assert fans == (4, 3)


class Block(keras.layers.Layer):
    """Holds layers, and nothing of its own."""

    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(5, name="same")
        self.rest = [keras.layers.Dense(4, name="same"), keras.layers.Dropout(0.1)]

    def call(self, x):
        return self.rest[0](self.first(x))


class Tokens(keras.layers.Layer):
    """Holds a weight of its own beside a layer."""

    def __init__(self):
        super().__init__()
        self.inner = keras.layers.Dense(5, name="inner")

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x + self.token)


class WiderDense(keras.layers.Dense):
    """A subclass that adds a kernel of its own."""

    def build(self, shape):
        super().build(shape)
        self.more = self.add_weight(shape=(shape[-1], 3), name="more")


class QuietDense(keras.layers.Dense):
    """A subclass that adds nothing."""


class QuietEinsum(keras.layers.EinsumDense):
    """A subclass whose bias has two axes."""


def test_a_layer_that_only_holds_layers_needs_no_rule():
    layer = Block()  # its dropout is never called, and holds no kernel
    run(layer, np.ones((1, 6), "float32"))
    assert keras_he.layer_fans(layer) == {"same/kernel": (6, 5), "same_2/kernel": (5, 4)}


def test_a_subclass_inherits_the_rule():
    layer = QuietDense(5)
    layer.build((None, 6))
    assert keras_he.layer_fans(layer) == {"kernel": (6, 5)}
    einsum = QuietEinsum("abc,cde->abde", output_shape=(4, 2, 6), bias_axes="de")
    einsum.build((None, 4, 5))
    assert keras_he.layer_fans(einsum) == {"kernel": (5, 12)}


@pytest.mark.parametrize("trainable", [True, False], ids=["trained", "frozen"])
def test_weights_without_a_rule_are_named_never_guessed(trainable):
    tokens, wider = Tokens(), WiderDense(5)
    model = keras.Sequential([keras.Input((4, 6)), tokens, wider])
    model.trainable = trainable
    with pytest.raises(keras_he.KerasHeError) as caught:
        keras_he.layer_fans(model)
    message = str(caught.value)
    assert f"{tokens.name}: no rule says how Tokens uses token (1, 1, 6)" in message
    assert f"{wider.name}: no rule says how WiderDense uses more (5, 3)" in message
    assert "keras_he.register_kernels(WiderDense, lambda layer:" in message


def test_users_register_their_own_layers(monkeypatch):
    monkeypatch.setattr(table, "RULES", dict(table.RULES))
    keras_he.register_kernels(Tokens, lambda layer: {})
    keras_he.register_kernels(WiderDense, lambda layer: {"kernel": {}, "more": {"gates": 3}})
    model = keras.Sequential([keras.Input((4, 6)), Tokens(), WiderDense(5, name="wide")])
    fans = keras_he.layer_fans(model)
    assert list(fans.values()) == [(6, 5), (5, 5), (5, 1)]
    assert list(fans)[1:] == ["wide/kernel", "wide/more"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda layer: {"kernle": {}}, "no attribute 'kernle'"),
        (lambda layer: {"kernel": {"geometry": "transpose"}}, r"`shape` must be \(spatial"),
        (lambda layer: {"kernel": {"gates": 2}}, "`gates` must be a divisor"),
        (lambda layer: {"kernel": {"stride": 2}}, "stride"),
        (lambda layer: ["kernel"], "dict"),
        (lambda layer: {"kernel": 3}, "dict"),
        (lambda layer: {"kernel.value": {}}, "no attribute 'kernel.value'"),
        (lambda layer: {}["kernel"], "KeyError"),
        (lambda layer: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_wrong_rule_is_told_with_the_layer(monkeypatch, rule, message):
    monkeypatch.setattr(table, "RULES", {**table.RULES, QuietDense: rule})
    layer = QuietDense(5, name="mine")
    layer.build((None, 6))
    with pytest.raises(keras_he.KerasHeError, match=rf"mine: .*{message}"):
        keras_he.layer_fans(layer)


@pytest.mark.parametrize("value", ["Dense", int, keras.layers.Dense(3)])
def test_only_layer_classes_are_registered(value):
    with pytest.raises(keras_he.KerasHeError, match="`layer_class` must be a subclass"):
        keras_he.register_kernels(value, lambda layer: {})


def test_a_rule_is_a_function():
    with pytest.raises(keras_he.KerasHeError, match="`function` must be a function"):
        keras_he.register_kernels(QuietDense, {"kernel": {}})


def test_an_unbuilt_layer_is_named():
    with pytest.raises(keras_he.KerasHeError, match="mine: Dense is not built"):
        keras_he.layer_fans(keras.layers.Dense(3, name="mine"))


@pytest.mark.parametrize("value", ["Dense", None, keras.layers.Dense])
def test_only_a_layer_has_fans(value):
    with pytest.raises(keras_he.KerasHeError, match="`layer` must be a Keras layer"):
        keras_he.layer_fans(value)


@pytest.mark.parametrize("layer_class", [keras.layers.Dense, QuietDense])
def test_lora_changes_no_fan(layer_class):
    layer = layer_class(5)
    layer.build((None, 6))
    layer.enable_lora(2)
    assert keras_he.layer_fans(layer) == {"kernel": (6, 5)}


# Layers of Keras that call `add_weight` and need no rule, each with the reason.
NOT_RULED = {
    "FlaxLayer": "holds the weights of another framework, whose use is unknown: refused",
    "JaxLayer": "holds the weights of another framework, whose use is unknown: refused",
    "MelSpectrogram": "its filter bank is not trained",
    "Normalization": "its mean and variance are data, not trained",
    "STFTSpectrogram": "its kernels are fixed",
    "TFSMLayer": "holds the weights of a SavedModel, whose use is unknown: refused",
    "TorchModuleWrapper": "holds the weights of another framework, whose use is unknown: refused",
}


def test_every_keras_layer_with_weights_has_a_rule():
    """Reads the source of every layer of Keras; a new one with weights of its own fails here."""
    unknown = []
    for name in dir(keras.layers):
        cls = getattr(keras.layers, name)
        if not (isinstance(cls, type) and issubclass(cls, keras.layers.Layer)):
            continue
        ancestry = cls.__mro__[: cls.__mro__.index(keras.layers.Layer)]
        source = "".join(inspect.getsource(part) for part in ancestry)
        holds_weights = "add_weight(" in source or "backend.Variable(" in source
        if holds_weights and not any(part in table.RULES for part in ancestry):
            unknown.append(name)
    assert set(unknown) - set(NOT_RULED) == set()


@pytest.mark.skipif(not hasattr(keras.layers, "TernaryDense"), reason="Keras has it from 3.16 on")
def test_a_ternary_kernel_is_measured_if_its_threshold_follows_it():
    """Its output is `mean|w| · x·t`, t in {-1, 0, 1}: as large as the kernel, and linear in x."""

    def network(threshold):
        layers = [keras.layers.TernaryDense(64, threshold, "relu") for _ in range(6)]
        return keras.Sequential([keras.Input((64,)), *layers])

    model, x = network(None), np.random.default_rng(0).standard_normal((256, 64))
    report = keras_he.initialize(model, x, seed=1)
    assert [row.rule for row in report.kernels] == ["measured"] * 6
    for layer in model.layers:
        layer.activation = keras.activations.linear
        before = keras.ops.convert_to_numpy(layer(x))
        assert np.mean(before.astype("float64") ** 2) == pytest.approx(1.0, rel=0.02)
        x = np.maximum(before, 0)
    for data in (None, False):
        with pytest.raises(keras_he.KerasHeError, match="fixed `threshold` .*threshold=None"):
            keras_he.initialize(network(0.05), data, seed=1)
    found = keras_he.audit(network(0.05)).findings
    assert {(one.verdict, one.remedy) for one in found} == {("exploding", "threshold=None")}
    assert keras_he.layer_fans(network(0.05).layers[0]) == {"kernel": (64, 64)}
