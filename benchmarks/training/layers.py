"""Layers with weights of their own, registered with keras_he, and blocks that models share."""

from typing import Any

import keras

import keras_he


class Positions(keras.layers.Layer):
    """Adds a learned vector to each token, after it put `extra` learned tokens in front."""

    def __init__(self, extra: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.extra = extra

    def build(self, shape: Any) -> None:
        """Makes the vectors, small as Touvron et al. draw them."""
        small = keras.initializers.TruncatedNormal(stddev=0.02)
        total = shape[1] + self.extra
        self.positions = self.add_weight((total, shape[2]), small, name="positions")
        self.tokens = self.add_weight((self.extra, shape[2]), small, name="tokens")

    def call(self, tokens: Any) -> Any:
        """Returns the tokens with their positions."""
        batch = keras.ops.shape(tokens)[0]
        extra = keras.ops.broadcast_to(self.tokens, (batch, *self.tokens.shape))
        return keras.ops.concatenate([extra, tokens], axis=1) + self.positions


class Scale(keras.layers.Layer):
    """Multiplies each channel by a number that starts at 1e-6: the layer scale of ConvNeXt."""

    def build(self, shape: Any) -> None:
        """Makes the numbers."""
        small = keras.initializers.Constant(1e-6)
        self.gamma = self.add_weight((shape[-1],), small, name="gamma")

    def call(self, inputs: Any) -> Any:
        """Returns the scaled inputs."""
        return inputs * self.gamma


class ExpertDense(keras.layers.Layer):
    """A dense layer of each expert, from (batch, experts, inputs) to (batch, experts, units)."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape: Any) -> None:
        """Makes one kernel with an axis of experts, which Keras' default counts as spatial."""
        self.kernels = self.add_weight((*shape[1:], self.units), name="kernels")
        self.bias = self.add_weight((shape[1], self.units), "zeros", name="bias")

    def call(self, inputs: Any) -> Any:
        """Returns the output of each expert."""
        return keras.ops.einsum("bei,eio->beo", inputs, self.kernels) + self.bias


class GraphAttention(keras.layers.Layer):
    """Graph attention of Velickovic et al., on a dense matrix of edges."""

    def __init__(self, heads: int, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.units = heads, units
        self.project = keras.layers.Dense(heads * units, use_bias=False)

    def build(self, features_shape: Any, edges_shape: Any) -> None:
        """Makes the projection, and what gives each end of an edge its score."""
        self.project.build(features_shape)
        self.source = self.add_weight((self.heads, self.units), name="source")
        self.target = self.add_weight((self.heads, self.units), name="target")
        self.bias = self.add_weight((self.heads * self.units,), "zeros", name="bias")

    def compute_output_shape(self, features_shape: Any, edges_shape: Any) -> Any:
        """Returns the shape of the nodes' new features."""
        return (*features_shape[:2], self.heads * self.units)

    def call(self, features: Any, edges: Any) -> Any:
        """Returns for each node the mean of its neighbours, weighted by attention."""
        ops, (nodes, _) = keras.ops, edges.shape[1:]
        values = ops.reshape(self.project(features), (-1, nodes, self.heads, self.units))
        towards = ops.sum(values * self.source, -1)[:, :, None]
        away = ops.sum(values * self.target, -1)[:, None]
        scores = ops.leaky_relu(towards + away, 0.2) - 1e9 * (1 - edges[..., None])
        mixed = ops.einsum("bnmh,bmhu->bnhu", ops.softmax(scores, axis=2), values)
        return ops.reshape(mixed, (-1, nodes, self.heads * self.units)) + self.bias


keras_he.register_kernels(Positions, lambda layer: {})
keras_he.register_kernels(Scale, lambda layer: {})
keras_he.register_kernels(
    ExpertDense, lambda layer: {"kernels": {"input_axes": (1,), "output_axes": (2,)}}
)
keras_he.register_kernels(
    GraphAttention,
    lambda layer: {key: {"input_axes": (1,), "output_axes": ()} for key in ("source", "target")},
)


def dense_branch(inputs: Any, hidden: int) -> Any:
    """Returns the output of a normalisation and two dense layers."""
    width = inputs.shape[-1]
    x = keras.layers.LayerNormalization(epsilon=1e-6)(inputs)
    x = keras.layers.Dense(hidden, activation="gelu")(x)
    return keras.layers.Dense(width)(x)


def encoder_block(inputs: Any, heads: int, hidden: int, causal: bool = False) -> Any:
    """Returns the output of a transformer's block that normalises the inputs of its branches."""
    x = keras.layers.LayerNormalization(epsilon=1e-6)(inputs)
    attention = keras.layers.MultiHeadAttention(heads, inputs.shape[-1] // heads)
    x = keras.layers.Add()([inputs, attention(x, x, use_causal_mask=causal)])
    return keras.layers.Add()([x, dense_branch(x, hidden)])
