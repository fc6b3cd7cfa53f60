"""Layers as people write them, with weights of their own; `registration` says which are kernels."""

import keras
from keras import layers, ops


class LowRank(layers.Layer):
    """`x @ down @ up`."""

    def __init__(self, units, rank, **kwargs):
        super().__init__(**kwargs)
        self.units, self.rank = units, rank

    def build(self, shape):
        self.down = self.add_weight(shape=(shape[-1], self.rank), name="down")
        self.up = self.add_weight(shape=(self.rank, self.units), name="up")

    def call(self, x):
        return ops.matmul(ops.matmul(x, self.down), self.up)


class TwoKernels(layers.Layer):
    """`relu(x @ a) @ b`."""

    def build(self, shape):
        self.a = self.add_weight(shape=(shape[-1], 2 * shape[-1]), name="a")
        self.b = self.add_weight(shape=(2 * shape[-1], shape[-1]), name="b")

    def call(self, x):
        return ops.matmul(ops.relu(ops.matmul(x, self.a)), self.b)


class KolmogorovArnold(layers.Layer):
    """A kernel after silu, and one over bumps of each input, as in KAN."""

    def __init__(self, units, bumps=5, **kwargs):
        super().__init__(**kwargs)
        self.units, self.bumps = units, bumps

    def build(self, shape):
        self.base = self.add_weight(shape=(shape[-1], self.units), name="base")
        self.spline = self.add_weight(shape=(shape[-1], self.bumps, self.units), name="spline")

    def call(self, x):
        centers = ops.linspace(-2.0, 2.0, self.bumps)
        bumps = ops.exp(-ops.square(ops.expand_dims(x, -1) - centers))
        return ops.matmul(ops.silu(x), self.base) + ops.einsum("bik,iko->bo", bumps, self.spline)


class ReluFirst(layers.Dense):
    """A dense layer whose activation comes first."""

    def call(self, inputs):
        return super().call(ops.relu(inputs))


class Highway(layers.Layer):
    """A gate between a dense layer and its input."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]), name="kernel")
        self.gate = self.add_weight(shape=(shape[-1], shape[-1]), name="gate")
        minus_one = keras.initializers.Constant(-1.0)
        self.bias = self.add_weight(shape=(shape[-1],), initializer=minus_one, name="bias")

    def call(self, x):
        gate = ops.sigmoid(ops.matmul(x, self.gate) + self.bias)
        return gate * ops.relu(ops.matmul(x, self.kernel)) + (1.0 - gate) * x


class Maxout(layers.Layer):
    """The largest of several linear units."""

    def __init__(self, units, pieces=3, **kwargs):
        super().__init__(**kwargs)
        self.units, self.pieces = units, pieces

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units, self.pieces), name="kernel")

    def call(self, x):
        return ops.max(ops.einsum("bi,iup->bup", x, self.kernel), axis=-1)


class Cross(layers.Layer):
    """A layer of a deep and cross network: `x0 * (x @ kernel + bias) + x`."""

    def build(self, shape):
        size = shape[0][-1] if isinstance(shape[0], (tuple, list)) else shape[-1]
        self.kernel = self.add_weight(shape=(size, size), name="kernel")
        self.bias = self.add_weight(shape=(size,), initializer="zeros", name="bias")

    def call(self, inputs):
        first, x = inputs
        return first * (ops.matmul(x, self.kernel) + self.bias) + x


class Bilinear(layers.Layer):
    """Products of all pairs of two vectors, weighted."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        left, right = shape
        self.kernel = self.add_weight(shape=(left[-1], right[-1], self.units), name="kernel")

    def call(self, inputs):
        return ops.einsum("bi,bj,ijo->bo", inputs[0], inputs[1], self.kernel)


class PeriodicFeatures(layers.Layer):
    """Sines and cosines of numbers with learned frequencies, several for each number."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def build(self, shape):
        normal = keras.initializers.RandomNormal(stddev=0.5)
        self.frequencies = self.add_weight(
            shape=(shape[-1], self.count), initializer=normal, name="frequencies"
        )

    def call(self, x):
        phases = 6.2832 * ops.expand_dims(x, -1) * self.frequencies
        both = ops.concatenate([ops.sin(phases), ops.cos(phases)], axis=-1)
        return ops.reshape(both, (-1, both.shape[1] * both.shape[2]))


class Hyper(layers.Layer):
    """A dense layer whose kernel a second input makes, another for each sample."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        inputs, condition = shape
        self.generator = self.add_weight(
            shape=(condition[-1], inputs[-1], self.units), name="generator"
        )

    def call(self, inputs):
        x, condition = inputs
        kernels = ops.einsum("bc,cio->bio", condition, self.generator)
        return ops.einsum("bi,bio->bo", x, kernels)


class TiedTranspose(layers.Layer):
    """A decoder with the transposed kernel of a dense layer."""

    def __init__(self, encoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder

    def build(self, shape):
        size = self.encoder.kernel.shape[0]
        self.bias = self.add_weight(shape=(size,), initializer="zeros", name="bias")

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.encoder.kernel)) + self.bias


class TiedHead(layers.Layer):
    """Logits by the matrix of an embedding."""

    def __init__(self, embedding, **kwargs):
        super().__init__(**kwargs)
        self.embedding = embedding

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.embedding.embeddings))


class Experts(layers.Layer):
    """One dense kernel for each expert: all experts see all tokens."""

    def __init__(self, units, count, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.units, self.count = units, count
        self.function = keras.activations.get(activation)

    def build(self, shape):
        self.kernels = self.add_weight(shape=(self.count, shape[-1], self.units), name="kernels")
        self.biases = self.add_weight(
            shape=(self.count, 1, self.units), initializer="zeros", name="biases"
        )

    def call(self, x):  # (experts, tokens, channels)
        return self.function(ops.einsum("eti,eio->eto", x, self.kernels) + self.biases)


class GraphConvolution(layers.Layer):
    """The mean over neighbours, and a kernel."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        nodes, _ = shape
        self.kernel = self.add_weight(shape=(nodes[-1], self.units), name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")

    def call(self, inputs):
        nodes, adjacency = inputs
        return ops.matmul(adjacency, ops.matmul(nodes, self.kernel)) + self.bias


class GraphAttention(layers.Layer):
    """Graph attention: a kernel for all heads, and two vectors for each head."""

    def __init__(self, heads, units, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.units = heads, units

    def build(self, shape):
        nodes, _ = shape
        each = (self.heads, self.units)
        self.kernel = self.add_weight(shape=(nodes[-1], *each), name="kernel")
        self.source = self.add_weight(shape=each, name="source")
        self.target = self.add_weight(shape=each, name="target")

    def call(self, inputs):
        nodes, adjacency = inputs
        features = ops.einsum("bni,ihd->bnhd", nodes, self.kernel)
        source = ops.einsum("bnhd,hd->bnh", features, self.source)
        target = ops.einsum("bnhd,hd->bnh", features, self.target)
        scores = ops.leaky_relu(ops.expand_dims(source, 2) + ops.expand_dims(target, 1), 0.2)
        scores = scores + (1.0 - ops.expand_dims(ops.cast(adjacency > 0, scores.dtype), -1)) * -1e9
        mixed = ops.einsum("bnmh,bmhd->bnhd", ops.softmax(scores, axis=2), features)
        return ops.reshape(mixed, (-1, nodes.shape[1], self.heads * self.units))


class MinimalGatedCell(layers.Layer):
    """A recurrent cell with one gate, whose two kernels hold gate and candidate."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2 * self.units), name="kernel")
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, 2 * self.units), initializer="orthogonal", name="recurrent_kernel"
        )

    def call(self, x, states):
        state = states[0]
        gate, candidate = ops.split(ops.matmul(x, self.kernel), 2, axis=-1)
        for_gate, for_candidate = ops.split(self.recurrent_kernel, 2, axis=-1)
        gate = ops.sigmoid(gate + ops.matmul(state, for_gate))
        candidate = ops.tanh(candidate + ops.matmul(gate * state, for_candidate))
        new = (1.0 - gate) * state + gate * candidate
        return new, [new]


class SpatialGate(layers.Layer):
    """The gate of gMLP: half of the channels, mixed over positions, times the other half."""

    def build(self, shape):
        small = keras.initializers.RandomNormal(stddev=1e-3)
        length = shape[-2]
        self.kernel = self.add_weight(shape=(length, length), initializer=small, name="kernel")
        self.bias = self.add_weight(shape=(length, 1), initializer="ones", name="bias")

    def call(self, x):
        kept, mixed = ops.split(x, 2, axis=-1)
        return kept * (ops.einsum("bnc,nm->bmc", mixed, self.kernel) + self.bias)


class Positions(layers.Layer):
    """Adds a learned vector to each position."""

    def build(self, shape):
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.table = self.add_weight(
            shape=(1, *shape[1:]), initializer=normal, name="position_table"
        )

    def call(self, x):
        return x + self.table


class ClassToken(layers.Layer):
    """Puts learned tokens before a sequence."""

    def __init__(self, count=1, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def build(self, shape):
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.token = self.add_weight(
            shape=(1, self.count, shape[-1]), initializer=normal, name="class_token"
        )

    def call(self, x):
        tokens = ops.repeat(self.token, ops.shape(x)[0], axis=0)
        return ops.concatenate([tokens, x], axis=1)


class LayerScale(layers.Layer):
    """A small factor for each channel."""

    def __init__(self, value=1e-2, **kwargs):
        super().__init__(**kwargs)
        self.value = value

    def build(self, shape):
        constant = keras.initializers.Constant(self.value)
        self.gamma = self.add_weight(shape=(shape[-1],), initializer=constant, name="gamma")

    def call(self, x):
        return x * self.gamma


class Zero(layers.Layer):
    """ReZero: one factor that starts at 0."""

    def build(self, shape):
        self.alpha = self.add_weight(shape=(), initializer="zeros", name="alpha")

    def call(self, x):
        return x * self.alpha


class DropPath(layers.Layer):
    """Leaves out a branch of some samples."""

    def __init__(self, rate, seed=1, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, x, training=None):
        if not training:
            return x
        shape = (ops.shape(x)[0], *[1] * (len(x.shape) - 1))
        kept = keras.random.uniform(shape, seed=self.generator) >= self.rate
        return x * ops.cast(kept, x.dtype) / (1.0 - self.rate)


class StandardizedConv(layers.Conv2D):
    """A convolution whose kernel is standardized before each use."""

    def convolution_op(self, inputs, kernel):
        mean = ops.mean(kernel, axis=(0, 1, 2), keepdims=True)
        variance = ops.var(kernel, axis=(0, 1, 2), keepdims=True)
        count = kernel.shape[0] * kernel.shape[1] * kernel.shape[2]
        return super().convolution_op(inputs, (kernel - mean) / ops.sqrt(variance * count + 1e-6))
