"""`layer_fans` against the ones-oracle forward and, by automatic differentiation, backward.

An output unit fed ones counts the connections into it; the gradient of the summed output by an
input unit counts those out of it. The last test holds the cases here against the table of layers.
"""

import inspect

import keras
import numpy as np
import pytest
from autodiff import gradients
from oracle import fill_with_ones

import keras_he
from keras_he.layers import rules as table

LINEAR = {"activation": "linear"}
GATED = {**LINEAR, "recurrent_activation": "linear"}
RECURRENT = {
    "SimpleRNN": ("SimpleRNN", LINEAR),
    "LSTM": ("LSTM", GATED),
    "GRU": ("GRU", GATED),
    "GRU, reset before": ("GRU", {**GATED, "reset_after": False}),
}


def ones(*shape):
    return np.ones(shape, "float32")


def measure(outputs, x, of_outputs=np.asarray, of_inputs=np.asarray):
    """Returns (fan_in, fan_out) of `outputs(x)`: its mean, and that of its sum's gradient by x."""
    y = keras.ops.convert_to_numpy(outputs(keras.ops.convert_to_tensor(x)))
    (slope,) = gradients(lambda tensors: keras.ops.sum(outputs(tensors[0])), [x])
    return float(of_outputs(y).mean(dtype="float64")), float(of_inputs(slope).mean())


def linear_fans(layer, shape):
    fill_with_ones(layer, "kernel")
    return measure(layer, ones(*shape))


def dense(shape, units, name="Dense"):
    layer = getattr(keras.layers, name)(units)
    layer.build((None, *shape[1:]))
    return layer, {"kernel": linear_fans(layer, shape)}


def einsum(equation, shape, output):
    layer = keras.layers.EinsumDense(equation, output_shape=output)
    layer.build((None, *shape[1:]))
    return layer, {"kernel": linear_fans(layer, shape)}


def lookup_fans(layer):
    """Tokens have no gradient: the input is one-hot rows, times what the layer gives each token."""
    fill_with_ones(layer, "embeddings")
    tokens = np.arange(layer.input_dim, dtype="int32")
    return measure(lambda rows: rows @ layer(tokens), np.eye(layer.input_dim, dtype="float32"))


def embedding(vocabulary, width):
    layer = keras.layers.Embedding(vocabulary, width)
    layer.build()
    return layer, {"embeddings": lookup_fans(layer)}


def reversible_embedding(tied):
    """A tied matrix is listed as the lookup; in reverse, it is a dense kernel all the same."""
    layer = keras.layers.ReversibleEmbedding(20, 8, tie_weights=tied)
    layer.build((None,))
    lookup = lookup_fans(layer)
    fill_with_ones(layer, "embeddings" if tied else "reverse_embeddings")
    reverse = measure(lambda x: layer(x, reverse=True), ones(3, 8))
    assert keras_he.fans((8, 20)) == reverse
    return layer, {"embeddings": lookup, **({} if tied else {"reverse_embeddings": reverse})}


def in_the_middle(axis, period):
    """Returns a function that keeps `period` units, far from borders, of the axes from `axis`."""

    def kept(array):
        index = [slice(None)] * array.ndim
        for i, steps in enumerate(period, axis):
            index[i] = slice(array.shape[i] // 2, array.shape[i] // 2 + steps)
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
    last = layer.data_format == "channels_last"
    return (1, *before, *sizes, channels) if last else (1, *before, channels, *sizes)


def spatial_fans(layer, outputs, shape, strided=True):
    """Returns the fans of `outputs`, which maps `shape` to the layer's outputs, of their middle."""
    rank, single = len(layer.kernel_size), (1,) * len(layer.kernel_size)
    periods = [single, layer.strides if strided else single]
    if "Transpose" in type(layer).__name__:
        periods.reverse()
    axis = 1 if layer.data_format == "channels_last" else 2
    time = len(shape) - rank - 2
    middles = in_the_middle(axis, periods[0]), in_the_middle(axis + time, periods[1])
    return measure(outputs, ones(*shape), *middles)


def convolution(layer_class, arguments):
    layer = layer_class(**arguments)
    shape = spatial_shape(layer, 6)
    layer.build(shape)
    fill_with_ones(layer, "kernel")
    return layer, {"kernel": spatial_fans(layer, layer, shape)}


def separable(layer_class, arguments):
    """The pointwise half is an identity, then ones, which multiply by the fans of that half."""
    layer = layer_class(**arguments)
    shape = spatial_shape(layer, 4)
    layer.build(shape)
    fill_with_ones(layer, "depthwise_kernel")
    kernel = layer.pointwise_kernel
    hidden, filters = kernel.shape[-2:]
    kernel.assign(np.eye(hidden, filters).reshape(kernel.shape))
    first = (..., slice(hidden)) if layer.data_format == "channels_last" else np.s_[:, :hidden]
    depthwise = spatial_fans(layer, lambda x: layer(x)[first], shape)
    fill_with_ones(layer, "depthwise_kernel", "pointwise_kernel")
    pointwise = tuple(np.divide(spatial_fans(layer, layer, shape), depthwise))
    return layer, {"depthwise_kernel": depthwise, "pointwise_kernel": pointwise}


def connect(cell, name, value=1.0):
    """Sets the candidate's share of one kernel; the other gates are open by biases of one.

    All activations are linear, so the new state is what that share makes of its input.
    """
    units = cell.units if hasattr(cell, "units") else cell.filters
    kernel = getattr(cell, name)
    gates = kernel.shape[-1] // units
    candidate, opened = {1: (0, []), 3: (2, [1]), 4: (2, [0, 3])}[gates]  # h; z, r, h; i, f, c, o
    fill_with_ones(cell)
    share = np.zeros((*kernel.shape[:-1], gates, units))
    share[..., candidate, :] = value
    kernel.assign(share.reshape(kernel.shape))
    bias = np.zeros(cell.bias.shape)
    bias.reshape(-1, gates, units)[0, opened] = 1.0
    cell.bias.assign(bias)


def cell_fans(cell, x, h, step, path=""):
    """Returns the fans of both kernels of a cell, where `step(x, states)` is its new state."""

    def states(h):
        return [h, keras.ops.zeros_like(h)] if "LSTM" in type(cell).__name__ else [h]

    connect(cell, "kernel")
    kernel = measure(lambda x: step(x, states(keras.ops.zeros_like(h))), x)
    connect(cell, "recurrent_kernel")
    recurrent = measure(lambda h: step(keras.ops.zeros_like(x), states(h)), h)
    return {f"{path}kernel": kernel, f"{path}recurrent_kernel": recurrent}


def recurrent_cell(name):
    kind, arguments = RECURRENT[name]
    cell = getattr(keras.layers, f"{kind}Cell")(7, **arguments)
    cell.build((None, 5))
    return cell, cell_fans(cell, ones(2, 5), ones(2, 7), lambda x, h: cell(x, h)[0])


def recurrent_layer(name):
    kind, arguments = RECURRENT[name]
    layer = getattr(keras.layers, kind)(7, **arguments)
    layer.build((None, 1, 5))
    step = lambda x, h: layer(x, initial_state=h)  # noqa: E731
    return layer, cell_fans(layer.cell, ones(2, 1, 5), ones(2, 7), step)


def bidirectional(name):
    kind, arguments = RECURRENT[name]
    inner = getattr(keras.layers, kind)(7, **arguments)
    layer = keras.layers.Bidirectional(inner, merge_mode=None)
    layer.build((None, 1, 5))
    x, h = ones(2, 1, 5), ones(2, 7)
    ways = [
        cell_fans(way.cell, x, h, lambda x, h, i=i: layer(x, initial_state=[*h, *h])[i], path)
        for i, (way, path) in enumerate(
            [(layer.forward_layer, "forward_layer/"), (layer.backward_layer, "backward_layer/")]
        )
    ]
    return layer, ways[0] | ways[1]


def stacked_cells():
    """The second cell is fed through the first one's recurrent kernel, then an identity."""
    first = keras.layers.GRUCell(7, reset_after=False, **GATED)
    second = keras.layers.SimpleRNNCell(4, **LINEAR)
    stack = keras.layers.StackedRNNCells([first, second])
    stack.build((None, 5))
    x, h, state = ones(2, 5), ones(2, 7), ones(2, 4)
    fans = cell_fans(first, x, h, lambda x, h: stack(x, [h, [0 * state]])[1][0], "0/")
    connect(first, "recurrent_kernel", np.eye(7))
    return stack, fans | cell_fans(second, h, state, lambda h, s: stack(0 * x, [[h], s])[0], "1/")


def convolutional_lstm(layer_class, arguments):
    layer = layer_class(**GATED, **arguments)
    shape = spatial_shape(layer.cell, 4, 1)
    layer.build(shape)
    connect(layer.cell, "kernel")
    kernel = spatial_fans(layer.cell, layer, shape)
    connect(layer.cell, "recurrent_kernel")
    state = layer.compute_output_shape(shape)
    call = lambda h: layer(0 * ones(*shape), initial_state=[h, keras.ops.zeros_like(h)])  # noqa: E731
    recurrent = spatial_fans(layer.cell, call, state, strided=False)
    return layer, {"kernel": kernel, "recurrent_kernel": recurrent}


def time_distributed():
    layer = keras.layers.TimeDistributed(keras.layers.Dense(7))
    layer.build((None, 4, 5))
    return layer, {"layer/kernel": linear_fans(layer, (2, 4, 5))}


def spectral_normalization():
    """In training the kernel is divided by its norm; outside, it is used as it is."""
    inner = keras.layers.Conv2D(6, 3)
    layer = keras.layers.SpectralNormalization(inner)
    shape = spatial_shape(inner, 4)
    layer.build(shape)
    fill_with_ones(layer, "kernel")
    call = lambda x: layer(x, training=False)  # noqa: E731
    return layer, {"layer/kernel": spatial_fans(inner, call, shape)}


def additive_attention():
    """The difference of two keys' scores is the logarithm of the ratio of their weights.

    `scale` is fed by tanh(query + key): by ones where the key is large, with slope 1 at 0.
    """
    layer = keras.layers.AdditiveAttention()
    layer.build([(None, 1, 6), (None, 2, 6)])
    fill_with_ones(layer, "scale")
    zero = 0 * ones(1, 1, 6)

    def score(key):
        keys = keras.ops.concatenate([key, zero], axis=1)
        _, weights = layer([zero, keys, keys], return_attention_scores=True)
        return keras.ops.log(weights[..., 0] / weights[..., 1])

    return layer, {"scale": (measure(score, 30 + zero)[0], measure(score, zero)[1])}


def attention(layer_class, heads, shapes, gate=()):
    """Measures the projections inside by name; the gate's is made linear for it."""
    layer = layer_class(*heads, **dict.fromkeys(gate, True))
    layer.build(shapes["query"], shapes["value"], shapes["key"])
    shapes = {**shapes, **({"gate": shapes["query"]} if gate else {})}
    inside = [part for part in layer._flatten_layers() if type(part) is keras.layers.EinsumDense]
    assert {part.name for part in inside} == set(shapes)
    for part in inside:
        part.activation = keras.activations.linear
    return layer, {f"{part.name}/kernel": linear_fans(part, shapes[part.name]) for part in inside}


INPUTS = {"query": (2, 4, 6), "value": (2, 8, 7), "key": (2, 8, 9)}
MULTI_HEAD = (
    keras.layers.MultiHeadAttention,
    (3, 5, 4),
    {**INPUTS, "attention_output": (2, 4, 3, 4)},
)
GROUPED = keras.layers.GroupQueryAttention, (5, 4, 2), {**INPUTS, "attention_output": (2, 4, 4, 5)}
PLAIN_CASES = [
    ("Dense", dense, (3, 1), 7),
    ("Dense", dense, (2, 4, 5), 1),
    ("EinsumDense", einsum, "ab,bc->ac", (3, 4), (5,)),
    ("EinsumDense", einsum, "abc,cde->abde", (3, 4, 5), (4, 2, 6)),
    ("EinsumDense", einsum, "abcd,cde->abe", (3, 4, 2, 5), (4, 6)),
    ("EinsumDense", einsum, "abc,bcd->abd", (3, 4, 5), (4, 6)),
    ("EinsumDense", einsum, "abc,c->abc", (3, 4, 5), (4, 5)),
    ("EinsumDense", einsum, "...xz,zxy->...y", (3, 4, 5), (6,)),
    ("EinsumDense", attention, *MULTI_HEAD),
    ("EinsumDense", attention, *GROUPED),
    ("Embedding", embedding, 20, 8),
    ("ReversibleEmbedding", reversible_embedding, True),
    ("ReversibleEmbedding", reversible_embedding, False),
    *[(f"{RECURRENT[name][0]}Cell", recurrent_cell, name) for name in RECURRENT],
    *[("RNN", recurrent_layer, name) for name in RECURRENT],
    *[("Bidirectional", bidirectional, name) for name in RECURRENT],
    ("StackedRNNCells", stacked_cells),
    ("Wrapper", time_distributed),
    ("Wrapper", spectral_normalization),
    ("AdditiveAttention", additive_attention),
    (
        "Conv1D",
        convolution,
        keras.layers.Conv1D,
        {"filters": 3, "kernel_size": 3, "padding": "causal"},
    ),
]
NEWEST_CASES = [
    ("EinsumDense", attention, *MULTI_HEAD, ["use_gate"]),
    ("EinsumDense", attention, *GROUPED, ["use_gate"]),
]
if hasattr(keras.layers, "TernaryDense"):  # Keras after 3.15
    PLAIN_CASES.append(("TernaryDense", dense, (3, 5), 7, "TernaryDense"))
# From the name of a row to its ranks, its function and its arguments.
SPATIAL = {
    "Conv{}D": ((1, 2, 3), convolution, {"filters": 12}),
    "Conv{}DTranspose": ((1, 2, 3), convolution, {"filters": 5}),
    "DepthwiseConv{}D": ((1, 2), convolution, {"depth_multiplier": 2}),
    "SeparableConv{}D": ((1, 2), separable, {"filters": 15, "depth_multiplier": 3}),
    "ConvLSTM{}D": ((1, 2, 3), convolutional_lstm, {"filters": 6}),
}


def spatial_cases():
    """Yields random configurations: strides (with groups), dilation, strides, channels first."""
    rng = np.random.default_rng(0)
    for name, (ranks, function, given) in SPATIAL.items():
        for rank, index in [(rank, index) for rank in ranks for index in range(4)]:
            arguments = {**given, "kernel_size": rng.integers(1, 5 - rank // 3, rank).tolist()}
            arguments["padding"] = ("valid", "same")[int(rng.integers(2))]
            if index == 1 and "Transpose" not in name:
                arguments["dilation_rate"] = 2
            else:
                steps = rng.integers(1, 4 - rank // 3, rank).tolist()
                equal = name[0] in "DS"  # as TensorFlow's depthwise kernels on a CPU want them
                arguments["strides"] = steps[:1] * rank if equal else steps
            if name == "Conv{}D" and index == 0:
                arguments["groups"] = (2, 3, 6)[rank - 1]
            if index == 3:
                arguments["data_format"] = "channels_first"
            row = name.format(rank)
            yield row, function, getattr(keras.layers, row), arguments


def parameters():
    gated = "use_gate" in inspect.signature(keras.layers.MultiHeadAttention).parameters
    too_old = pytest.mark.skipif(not gated, reason="this Keras has no gate in its attention")
    on_tensorflow = keras.backend.backend() == "tensorflow"
    last = pytest.mark.skipif(on_tensorflow, reason="TensorFlow convolves channels last on a CPU")
    for row, function, *arguments in [*PLAIN_CASES, *NEWEST_CASES, *spatial_cases()]:
        marks = [last] if "channels_first" in str(arguments) else []
        if (row, function, *arguments) in NEWEST_CASES:
            marks = [pytest.mark.newest, too_old]
        yield pytest.param(row, function, arguments, id=f"{row}-{function.__name__}", marks=marks)


CASES = list(parameters())
WITHOUT_KERNELS = {
    "Attention": "its scale is one factor of all scores",
    "BatchNormalization": "scales and shifts each channel by itself",
    "GroupNormalization": "scales and shifts each channel by itself",
    "LayerNormalization": "scales and shifts each channel by itself",
    "PReLU": "its weights are the slopes of an activation",
    "RMSNormalization": "scales each channel by itself",
}


@pytest.mark.parametrize(("row", "function", "arguments"), CASES)
def test_fans_are_what_ones_and_gradients_count(row, function, arguments):
    layer, expected = function(*arguments)
    found = keras_he.layer_fans(layer)
    assert found == {name: pytest.approx(pair, rel=1e-5) for name, pair in expected.items()}
    rules = table.RULES
    spoken = [next((c for c in type(p).__mro__ if c in rules), p) for p in layer._flatten_layers()]
    assert getattr(keras.layers, row) in spoken, "no layer of this case reads the row"


def test_every_row_of_the_table_is_measured_or_has_no_kernels():
    measured = {case.values[0] for case in CASES}
    missing = set(table._BUILT_IN) - measured - set(WITHOUT_KERNELS)
    assert missing <= {"TernaryDense"}  # which Keras has from 3.16 on
    assert not any(hasattr(keras.layers, name) for name in missing)
    assert measured | set(WITHOUT_KERNELS) <= set(table._BUILT_IN)
    assert measured & set(WITHOUT_KERNELS) == set()


@pytest.mark.parametrize("row", WITHOUT_KERNELS)
def test_rows_without_kernels_have_no_fans(row):
    needed = {"Attention": {"use_scale": True}, "GroupNormalization": {"groups": 2}}
    layer = getattr(keras.layers, row)(**needed.get(row, {}))
    layer.build([(None, 3, 6)] * 2 if row == "Attention" else (None, 3, 6))
    assert layer.trainable_weights
    assert keras_he.layer_fans(layer) == {}
