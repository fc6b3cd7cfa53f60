"""`layer_fans` against the ones-oracle forward and, by automatic differentiation, backward.

An output unit fed ones counts the connections into it; the gradient of the summed output by one
input unit counts those out of it. Every row of the table of layers is measured here, and the last
tests hold that list against the table.
"""

import keras
import numpy as np
import pytest
from autodiff import gradients
from oracle import fill_with_ones, run

import keras_he
from keras_he import layers as table

BACKEND = keras.backend.backend()
NEWEST = [
    pytest.mark.newest,
    pytest.mark.skipif(
        not hasattr(keras.layers, "ReversibleEmbedding"),
        reason="this Keras has neither ReversibleEmbedding nor gated attention",
    ),
]
CHANNELS_LAST_ONLY = pytest.mark.skipif(
    BACKEND == "tensorflow", reason="TensorFlow convolves channels last on a CPU"
)
CASES = []


def case(row, *arguments, marks=()):
    """Registers a function that returns a layer and its measured fans, as a case of a row."""

    def register(measured):
        name = "-".join([row, measured.__name__, *(str(a) for a in arguments)])
        CASES.append(pytest.param(row, measured, arguments, id=name, marks=marks))
        return measured

    return register


def everything(array):
    return array


def measure(outputs, x, of_outputs=everything, of_inputs=everything):
    """Returns (fan_in, fan_out) of `outputs(x)`: its mean, and that of its sum's gradient by x."""
    x = np.asarray(x, "float32")
    y = keras.ops.convert_to_numpy(outputs(keras.ops.convert_to_tensor(x)))
    (slope,) = gradients(lambda tensors: keras.ops.sum(outputs(tensors[0])), [x])
    fans = of_outputs(y).mean(dtype="float64"), of_inputs(slope).mean()
    return pytest.approx(fans, rel=1e-6)


def linear_fans(layer, shape, *names):
    """Returns the fans of a layer without spatial borders whose named weights are ones."""
    fill_with_ones(layer, *(names or ("kernel",)))
    return measure(layer, np.ones(shape))


# Dense layers and lookups.


@case("Dense", (3, 1), 7)
@case("Dense", (3, 5), 1)
@case("Dense", (2, 4, 5), 7)
def dense(shape, units):
    layer = keras.layers.Dense(units)
    layer.build((None, *shape[1:]))
    return layer, {"kernel": linear_fans(layer, shape)}


@case("EinsumDense", "ab,bc->ac", (3, 4), (5,))
@case("EinsumDense", "abc,cde->abde", (3, 4, 5), (4, 2, 6))
@case("EinsumDense", "abcd,cde->abe", (3, 4, 2, 5), (4, 6))
@case("EinsumDense", "abc,bcd->abd", (3, 4, 5), (4, 6))
@case("EinsumDense", "abc,bd->adc", (3, 4, 5), (6, 5))
@case("EinsumDense", "abc,c->abc", (3, 4, 5), (4, 5))
@case("EinsumDense", "...xz,zxy->...y", (3, 4, 5), (6,))
def einsum(equation, shape, output):
    layer = keras.layers.EinsumDense(equation, output_shape=output)
    layer.build((None, *shape[1:]))
    return layer, {"kernel": linear_fans(layer, shape)}


def lookup_fans(layer):
    """Tokens have no gradient: the input units are one-hot rows, which the layer's rows answer."""
    fill_with_ones(layer, "embeddings")
    tokens = np.arange(layer.input_dim, dtype="int32")
    return measure(lambda rows: rows @ layer(tokens), np.eye(layer.input_dim)[::3])


@case("Embedding", 20, 8)
@case("Embedding", 3, 1)
def embedding(vocabulary, width):
    layer = keras.layers.Embedding(vocabulary, width)
    layer.build()
    return layer, {"embeddings": lookup_fans(layer)}


def reverse_fans(layer):
    """Returns the fans of a reversible embedding's way from vectors back to its vocabulary."""
    fill_with_ones(layer, "embeddings" if layer.tie_weights else "reverse_embeddings")
    return measure(lambda x: layer(x, reverse=True), np.ones((3, layer.output_dim)))


@case("ReversibleEmbedding", True, marks=NEWEST)
@case("ReversibleEmbedding", False, marks=NEWEST)
def reversible_embedding(tied):
    layer = keras.layers.ReversibleEmbedding(20, 8, tie_weights=tied)
    layer.build((None,))
    fans = {"embeddings": lookup_fans(layer)}
    return layer, fans if tied else {**fans, "reverse_embeddings": reverse_fans(layer)}


# Convolutions: means over one period of units in the middle, far from every border.


def in_the_middle(axis, period):
    """Returns a function that keeps `period` units in the middle of the axes from `axis` on."""

    def kept(array):
        index = [slice(None)] * array.ndim
        for i, (size, steps) in enumerate(zip(array.shape[axis:], period, strict=False), axis):
            index[i] = slice(size // 2, size // 2 + steps)
        return array[tuple(index)]

    return kept


def spatial_shape(layer, channels, *before):
    """Returns an input shape with a middle, where no unit feels a border."""
    sizes = [
        2 * ((kernel - 1) * dilation + 1) + 4 * stride
        for kernel, dilation, stride in zip(
            layer.kernel_size, layer.dilation_rate, layer.strides, strict=True
        )
    ]
    if layer.data_format == "channels_last":
        return (1, *before, *sizes, channels)
    return (1, *before, channels, *sizes)


def spatial_fans(layer, outputs, shape, strided=True, transposed=False):
    """Returns the fans of `outputs`, which maps inputs of `shape` to the layer's outputs."""
    rank = len(layer.kernel_size)
    single = (1,) * rank
    period = layer.strides if strided else single
    axis = 1 if layer.data_format == "channels_last" else 2
    return measure(
        outputs,
        np.ones(shape),
        in_the_middle(axis, period if transposed else single),
        in_the_middle(axis + len(shape) - rank - 2, single if transposed else period),
    )


def spatial_cases(family, ranks, how_many=6, equal_strides=False, dilated=True):
    """Registers random configurations with a fixed seed, each third one dilated, one transposed."""
    rng = np.random.default_rng(sum(map(ord, family)))

    def register(measured):
        for rank in ranks:
            for index in range(how_many if rank < 3 else 3):
                kernel = rng.integers(1, 5 - (rank == 3), rank).tolist()
                strides = rng.integers(1, 4 - (rank == 3), rank).tolist()
                strides = strides[:1] * rank if equal_strides else strides
                with_dilation = dilated and index % 3 == 1
                step = {"dilation_rate": 2} if with_dilation else {"strides": strides}
                padding = ("valid", "same")[int(rng.integers(2))]
                last = index % 3 < 2
                arguments = {
                    "kernel_size": kernel,
                    "padding": padding,
                    "data_format": "channels_last" if last else "channels_first",
                    **step,
                }
                row = family.format(rank)
                marks = () if last else CHANNELS_LAST_ONLY
                param = pytest.param(
                    row,
                    measured,
                    (getattr(keras.layers, row), arguments, 1 + index % 3),
                    id=f"{row}-{index}",
                    marks=marks,
                )
                CASES.append(param)
        return measured

    return register


@spatial_cases("Conv{}D", (1, 2, 3))
def convolution(layer_class, arguments, groups):
    layer = layer_class(12, groups=groups, **arguments)
    shape = spatial_shape(layer, 6)
    layer.build(shape)
    fill_with_ones(layer, "kernel")
    return layer, {"kernel": spatial_fans(layer, layer, shape)}


@case("Conv1D")
def causal_convolution():
    return convolution(keras.layers.Conv1D, {"kernel_size": 3, "padding": "causal"}, 2)


@spatial_cases("Conv{}DTranspose", (1, 2, 3), dilated=False)
def transposed_convolution(layer_class, arguments, filters):
    layer = layer_class(filters, **arguments)
    shape = spatial_shape(layer, 5)
    layer.build(shape)
    fill_with_ones(layer, "kernel")
    return layer, {"kernel": spatial_fans(layer, layer, shape, transposed=True)}


# TensorFlow's depthwise kernels on a CPU want equal strides.
@spatial_cases("DepthwiseConv{}D", (1, 2), equal_strides=True)
def depthwise_convolution(layer_class, arguments, multiplier):
    layer = layer_class(depth_multiplier=multiplier, **arguments)
    shape = spatial_shape(layer, 4)
    layer.build(shape)
    fill_with_ones(layer, "kernel")
    return layer, {"kernel": spatial_fans(layer, layer, shape)}


@spatial_cases("SeparableConv{}D", (1, 2), equal_strides=True)
def separable_convolution(layer_class, arguments, multiplier):
    """The pointwise half is an identity, then ones: what ones multiply, they connect."""
    layer = layer_class(4 * multiplier + 3, depth_multiplier=multiplier, **arguments)
    shape = spatial_shape(layer, 4)
    layer.build(shape)
    fill_with_ones(layer, "depthwise_kernel")
    hidden, filters = layer.pointwise_kernel.shape[-2:]
    identity = np.eye(hidden, filters).reshape(layer.pointwise_kernel.shape)
    layer.pointwise_kernel.assign(identity)
    first = (..., slice(hidden)) if layer.data_format == "channels_last" else np.s_[:, :hidden]
    depthwise = spatial_fans(layer, lambda x: layer(x)[first], shape)
    fill_with_ones(layer, "depthwise_kernel", "pointwise_kernel")
    both = spatial_fans(layer, layer, shape)
    pointwise = np.divide(both.expected, depthwise.expected)
    return layer, {
        "depthwise_kernel": depthwise,
        "pointwise_kernel": pytest.approx(tuple(pointwise), rel=1e-6),
    }


# Recurrent layers: with linear activations, zero kernels and biases of one that hold the other
# gates open, the new state is what the candidate's share of one kernel makes of its input.
CANDIDATE_AND_OPEN = {1: (0, []), 3: (2, [1]), 4: (2, [0, 3])}  # h; z, r, h; i, f, c, o
LINEAR = {"activation": "linear"}
GATED = {**LINEAR, "recurrent_activation": "linear"}
KINDS = {
    "SimpleRNN": ("SimpleRNN", LINEAR),
    "LSTM": ("LSTM", GATED),
    "GRU": ("GRU", GATED),
    "GRU, reset before": ("GRU", {**GATED, "reset_after": False}),
}


def ones(*shape):
    return np.ones(shape, "float32")


def connect(cell, name, value=1.0):
    """Sets the candidate's share of one kernel, and holds the other gates open."""
    units = cell.units if hasattr(cell, "units") else cell.filters
    gates = cell.kernel.shape[-1] // units
    candidate, opened = CANDIDATE_AND_OPEN[gates]
    fill_with_ones(cell)
    kernel = np.zeros((*getattr(cell, name).shape[:-1], gates, units))
    kernel[..., candidate, :] = value
    getattr(cell, name).assign(kernel.reshape(getattr(cell, name).shape))
    bias = np.zeros(cell.bias.shape)
    bias.reshape(-1, gates, units)[0, opened] = 1.0
    cell.bias.assign(bias)


def states_of(cell, h):
    """Returns the states that start with h; an LSTM's carry is zero."""
    return [h, keras.ops.zeros_like(h)] if "LSTM" in type(cell).__name__ else [h]


def recurrent_fans(cell, x, h, step):
    """Returns the fans of both kernels of a cell, where `step(x, states)` is its new state."""
    connect(cell, "kernel")
    kernel = measure(lambda x: step(x, states_of(cell, np.zeros_like(h))), x)
    connect(cell, "recurrent_kernel")
    recurrent = measure(lambda h: step(np.zeros_like(x), states_of(cell, h)), h)
    return {"kernel": kernel, "recurrent_kernel": recurrent}


@case("SimpleRNNCell", "SimpleRNN")
@case("LSTMCell", "LSTM")
@case("GRUCell", "GRU")
@case("GRUCell", "GRU, reset before")
def recurrent_cell(name):
    kind, arguments = KINDS[name]
    cell = getattr(keras.layers, f"{kind}Cell")(7, **arguments)
    cell.build((None, 5))
    return cell, recurrent_fans(cell, ones(2, 5), ones(2, 7), lambda x, h: cell(x, h)[0])


@case("RNN", "SimpleRNN")
@case("RNN", "LSTM")
@case("RNN", "GRU")
@case("RNN", "GRU, reset before")
def recurrent_layer(name):
    kind, arguments = KINDS[name]
    layer = getattr(keras.layers, kind)(7, **arguments)
    layer.build((None, 1, 5))
    fans = recurrent_fans(
        layer.cell, ones(2, 1, 5), ones(2, 7), lambda x, h: layer(x, initial_state=h)
    )
    return layer, fans


@case("Bidirectional", "SimpleRNN")
@case("Bidirectional", "LSTM")
def bidirectional(name):
    kind, arguments = KINDS[name]
    layer = keras.layers.Bidirectional(getattr(keras.layers, kind)(7, **arguments), merge_mode=None)
    layer.build((None, 1, 5))
    fans = {}
    for way, inner in enumerate((layer.forward_layer, layer.backward_layer)):

        def step(x, h, way=way):
            return layer(x, initial_state=[*h, *h])[way]

        found = recurrent_fans(inner.cell, ones(2, 1, 5), ones(2, 7), step)
        path = ("forward_layer", "backward_layer")[way]
        fans |= {f"{path}/{kernel}": pair for kernel, pair in found.items()}
    return layer, fans


@case("StackedRNNCells")
def stacked_cells():
    """The second cell is fed by the first's state through a recurrent kernel of identity."""
    first = keras.layers.GRUCell(7, reset_after=False, **GATED)
    second = keras.layers.SimpleRNNCell(4, **LINEAR)
    stack = keras.layers.StackedRNNCells([first, second])
    stack.build((None, 5))
    x, h = ones(2, 5), ones(2, 7)
    nothing = np.zeros((2, 4), "float32")
    fans = {
        f"0/{kernel}": pair
        for kernel, pair in recurrent_fans(
            first, x, h, lambda x, h: stack(x, [h, [nothing]])[1][0]
        ).items()
    }
    connect(first, "recurrent_kernel", np.eye(7))
    into_second = recurrent_fans(
        second, h, ones(2, 4), lambda h, state: stack(0 * x, [[h], state])[0]
    )
    return stack, fans | {f"1/{kernel}": pair for kernel, pair in into_second.items()}


@spatial_cases("ConvLSTM{}D", (1, 2, 3), how_many=3)
def convolutional_lstm(layer_class, arguments, _):
    layer = layer_class(6, **GATED, **arguments)
    cell = layer.cell
    shape = spatial_shape(cell, 4, 1)
    layer.build(shape)
    x, h = np.zeros(shape, "float32"), np.zeros(layer.compute_output_shape(shape), "float32")
    connect(cell, "kernel")
    kernel = spatial_fans(cell, layer, shape)
    connect(cell, "recurrent_kernel")
    recurrent = spatial_fans(
        cell,
        lambda state: layer(x, initial_state=[state, keras.ops.convert_to_tensor(h)]),
        h.shape,
        strided=False,
    )
    return layer, {"kernel": kernel, "recurrent_kernel": recurrent}


# Wrappers and attention.


@case("Wrapper", "TimeDistributed")
def time_distributed(_):
    layer = keras.layers.TimeDistributed(keras.layers.Dense(7))
    layer.build((None, 4, 5))
    return layer, {"layer/kernel": linear_fans(layer, (2, 4, 5))}


@case("Wrapper", "SpectralNormalization")
def spectrally_normalized(_):
    """In training the kernel itself is divided by its norm; outside, it is used as it is."""
    convolution = keras.layers.Conv2D(6, 3)
    layer = keras.layers.SpectralNormalization(convolution)
    shape = (1, 10, 10, 4)
    layer.build(shape)
    fill_with_ones(layer, "kernel")
    fans = spatial_fans(convolution, lambda x: layer(x, training=False), shape)
    return layer, {"layer/kernel": fans}


@case("AdditiveAttention")
def additive_attention():
    """Of two keys, the logarithm of their weights' ratio is the difference of their scores.

    `scale` is fed by tanh(query + key): by ones where the key is large, with slope 1 at 0.
    """
    layer = keras.layers.AdditiveAttention()
    layer.build([(None, 1, 6), (None, 2, 6)])
    fill_with_ones(layer, "scale")
    query, other = ones(1, 1, 6) * 0, ones(1, 1, 6) * 0

    def score(key):
        keys = keras.ops.concatenate([key, other], axis=1)
        _, weights = layer([query, keys, keys], return_attention_scores=True)
        return keras.ops.log(weights[..., 0] / weights[..., 1])

    fan_in = measure(score, 30 * ones(1, 1, 6)).expected[0]
    fan_out = measure(score, 0 * ones(1, 1, 6)).expected[1]
    return layer, {"scale": pytest.approx((fan_in, fan_out), rel=1e-5)}


def projections(layer, shapes):
    """Returns the fans of the projections inside, of which the gate's is made linear too."""
    inside = {
        dense.name: dense
        for dense in layer._flatten_layers(include_self=False)
        if isinstance(dense, keras.layers.EinsumDense)
    }
    assert set(inside) == set(shapes)
    for dense in inside.values():
        dense.activation = keras.activations.linear
    return {f"{name}/kernel": linear_fans(inside[name], shapes[name]) for name in shapes}


@case("EinsumDense", "attention", {})
@case("EinsumDense", "attention", {"use_gate": True}, marks=NEWEST)
def multi_head_attention(_, gate):
    layer = keras.layers.MultiHeadAttention(3, 5, value_dim=4, **gate)
    query, value, key = (2, 4, 6), (2, 8, 7), (2, 8, 9)
    layer.build(query, value, key)
    shapes = {"query": query, "key": key, "value": value, "attention_output": (2, 4, 3, 4)}
    return layer, projections(layer, shapes | ({"gate": query} if gate else {}))


@case("EinsumDense", "grouped", {})
@case("EinsumDense", "grouped", {"use_gate": True}, marks=NEWEST)
def grouped_query_attention(_, gate):
    layer = keras.layers.GroupQueryAttention(5, 4, 2, **gate)
    query, value, key = (2, 4, 6), (2, 8, 7), (2, 8, 9)
    layer.build(query, value, key)
    shapes = {"query": query, "key": key, "value": value, "attention_output": (2, 4, 4, 5)}
    return layer, projections(layer, shapes | ({"gate": query} if gate else {}))


# The tests.


def row_of(layer):
    """Returns the name of the row of the table that speaks for a layer, if any does."""
    rows = {getattr(keras.layers, name, None): name for name in table._BUILT_IN}
    return next((rows[cls] for cls in type(layer).__mro__ if cls in rows), None)


@pytest.mark.parametrize(("row", "measured", "arguments"), CASES)
def test_fans_are_what_ones_and_gradients_count(row, measured, arguments):
    layer, fans = measured(*arguments)
    assert keras_he.layer_fans(layer) == fans
    assert row in [row_of(part) for part in layer._flatten_layers()]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.newest
def test_a_tied_embedding_in_reverse_is_the_dense_kernel_that_an_untied_one_names(tied):
    pass


WITHOUT_KERNELS = {
    "Attention": (
        "its scale is one factor of all scores",
        lambda: keras.layers.Attention(use_scale=True, score_mode="concat"),
    ),
    "BatchNormalization": ("scales and shifts channels", keras.layers.BatchNormalization),
    "GroupNormalization": (
        "scales and shifts channels",
        lambda: keras.layers.GroupNormalization(2),
    ),
    "LayerNormalization": ("scales and shifts channels", keras.layers.LayerNormalization),
    "PReLU": ("its weights are slopes of an activation", keras.layers.PReLU),
    "RMSNormalization": ("scales channels", keras.layers.RMSNormalization),
}


@pytest.mark.parametrize("row", WITHOUT_KERNELS)
def test_rows_without_kernels_have_no_fans(row):
    _, make = WITHOUT_KERNELS[row]
    layer = make()
    x = np.ones((2, 4, 6), "float32")
    run(layer, *([[x, x]] if row == "Attention" else [x]))
    assert layer.trainable_weights
    assert row_of(layer) == row
    assert keras_he.layer_fans(layer) == {}


def test_every_row_of_the_table_is_measured_or_has_no_kernels():
    measured = {case.values[0] for case in CASES}
    assert measured | set(WITHOUT_KERNELS) == set(table._BUILT_IN)
    assert measured & set(WITHOUT_KERNELS) == set()
