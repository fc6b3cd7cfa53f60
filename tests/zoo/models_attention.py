"""Transformers and mixers: of images, tokens and series, with experts, and as diffusion models."""

from functools import partial

import keras
import numpy as np
import own_layers as own
from batches import SAMPLES, normal, tokens, waves
from keras import layers, ops


def feed_forward(x, activation="gelu", factor=4):
    width = x.shape[-1]
    return layers.Dense(width)(layers.Dense(factor * width, activation=activation)(x))


def attended(x, memory=None, causal=False, heads=4):
    attention = layers.MultiHeadAttention(heads, x.shape[-1] // heads, dropout=0.1)
    return attention(x, x if memory is None else memory, use_causal_mask=causal)


def block(x, *, norm=layers.LayerNormalization, post=False, causal=False, part=feed_forward):
    """Returns a block of attention and a second part, with the normalisation before or after."""
    for apply in (partial(attended, causal=causal), part):
        if post:
            x = norm()(layers.Add()([x, layers.Dropout(0.1)(apply(x))]))
        else:
            x = layers.Add()([x, layers.Dropout(0.1)(apply(norm()(x)))])
    return x


def patches(inputs, width=24):
    return layers.Reshape((16, width))(layers.Conv2D(width, 4, strides=4)(inputs))


def vision(tokens_before=1, depth=3):
    """ViT with a class token, DeiT with one for distillation too."""
    x = patches(inputs := keras.Input((16, 16, 3)))
    x = own.Positions()(own.ClassToken(tokens_before)(x))
    for _ in range(depth):
        x = block(x)
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    outputs = [layers.Dense(4)(x[:, position]) for position in range(tokens_before)]
    return keras.Model(inputs, outputs if tokens_before > 1 else outputs[0]), normal(16, 16, 3)


class EncoderBlock(layers.Layer):
    """A block with plain sums in `call`."""

    def __init__(self, width, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.first, self.second = layers.LayerNormalization(), layers.LayerNormalization()
        self.attention = layers.MultiHeadAttention(4, width // 4)
        self.up, self.down = layers.Dense(2 * width, activation="gelu"), layers.Dense(width)
        self.drop = own.DropPath(rate)

    def build(self, shape):
        for layer in (self.first, self.second, self.up):
            layer.build(shape)
        self.attention.build(shape, shape)
        self.down.build((*shape[:-1], 2 * self.width))

    def call(self, x, training=None):
        y = self.first(x)
        x = x + self.drop(self.attention(y, y), training=training)
        return x + self.drop(self.down(self.up(self.second(x))), training=training)


def compact():
    """CCT: convolutions make tokens; attention pools them."""
    x = inputs = keras.Input((16, 16, 3))
    for width in (16, 24):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, activation="relu")(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    x = own.Positions()(layers.Reshape((16, 24))(x))
    for position in range(3):
        x = EncoderBlock(24, rate=0.05 * position)(x)
    x = layers.LayerNormalization()(x)
    weights = layers.Softmax(axis=1)(layers.Dense(1)(x))
    pooled = layers.Flatten()(layers.Dot(axes=1)([weights, x]))
    return keras.Model(inputs, layers.Dense(4)(pooled)), normal(16, 16, 3)


class ViT(keras.Model):
    """A subclassed model with sums in `call`, and tokens of its own layer."""

    def __init__(self, width=24):
        super().__init__()
        self.embed = layers.Conv2D(width, 4, strides=4)
        self.reshape = layers.Reshape((16, width))
        self.token, self.positions = own.ClassToken(), own.Positions()
        self.blocks = [EncoderBlock(width) for _ in range(2)]
        self.norm, self.head = layers.LayerNormalization(), layers.Dense(4)

    def call(self, x, training=None):
        x = self.positions(self.token(self.reshape(self.embed(x))))
        for one in self.blocks:
            x = one(x, training=training)
        return self.head(self.norm(x)[:, 0])


def vision_subclassed():
    model, batch = ViT(), normal(16, 16, 3)
    model(batch)
    return model, batch


def decoder_only(post=False, tied=False, dtype="int32", depth=3):
    inputs = keras.Input((12,), dtype=dtype)
    embedding = layers.Embedding(50, 24)
    x = own.Positions()(embedding(inputs))
    for _ in range(depth):
        x = block(x, post=post, causal=True)
    x = x if post else layers.LayerNormalization()(x)
    outputs = own.TiedHead(embedding)(x) if tied else layers.Dense(50)(x)
    return keras.Model(inputs, outputs), tokens(dtype=dtype)


def default_inputs():
    """Ids as float32, which is what `keras.Input` assumes without a dtype."""
    x = layers.Embedding(50, 16)(inputs := keras.Input((12,)))
    x = layers.GlobalAveragePooling1D()(block(x))
    return keras.Model(inputs, layers.Dense(2)(x)), tokens(dtype="float32")


def swiglu(x):
    width = x.shape[-1]
    gate = layers.Dense(2 * width, activation="silu", use_bias=False)(x)
    up = layers.Dense(2 * width, use_bias=False)(x)
    return layers.Dense(width, use_bias=False)(layers.Multiply()([gate, up]))


def grouped_queries():
    """Llama's parts: RMS norm, grouped queries, a gated feed-forward part, no biases."""
    x = layers.Embedding(50, 24)(inputs := keras.Input((12,), dtype="int32"))
    for _ in range(3):
        branch = layers.RMSNormalization()(x)
        attention = layers.GroupQueryAttention(6, 4, 2, use_bias=False)
        x = layers.Add()([x, attention(branch, branch, use_causal_mask=True)])
        x = layers.Add()([x, swiglu(layers.RMSNormalization()(x))])
    x = layers.Dense(50, use_bias=False)(layers.RMSNormalization()(x))
    return keras.Model(inputs, x), tokens()


class RelativeAttention(layers.Layer):
    """Attention with a learned number for each head and distance, as in T5; no scaling."""

    def __init__(self, heads, size, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.size = heads, size
        self.query, self.key, self.value = (
            layers.Dense(heads * size, use_bias=False) for _ in "qkv"
        )
        self.out = layers.Dense(heads * size, use_bias=False)
        self.distances = layers.Embedding(64, heads)

    def build(self, shape):
        for layer in (self.query, self.key, self.value):
            layer.build(shape)
        self.out.build((*shape[:-1], self.heads * self.size))
        self.distances.build((None, None))

    def call(self, x):
        length = x.shape[1]

        def split(y):
            return ops.reshape(y, (-1, length, self.heads, self.size))

        positions = ops.arange(length)
        distances = ops.expand_dims(positions, 0) - ops.expand_dims(positions, 1) + 31
        bias = ops.transpose(self.distances(distances), (2, 0, 1))
        scores = ops.einsum("bqhd,bkhd->bhqk", split(self.query(x)), split(self.key(x))) + bias
        mixed = ops.einsum("bhqk,bkhd->bqhd", ops.softmax(scores), split(self.value(x)))
        return self.out(ops.reshape(mixed, (-1, length, self.heads * self.size)))


def relative_positions():
    x = layers.Embedding(50, 24)(inputs := keras.Input((12,), dtype="int32"))
    for _ in range(2):
        x = layers.Add()([x, RelativeAttention(4, 6)(layers.RMSNormalization()(x))])
        x = layers.Add()([x, feed_forward(layers.RMSNormalization()(x), "relu")])
    return keras.Model(inputs, layers.Dense(50)(layers.RMSNormalization()(x))), tokens()


def encoder_decoder():
    source, target = keras.Input((10,), dtype="int32"), keras.Input((8,), dtype="int32")
    embedding = layers.Embedding(50, 24)
    encoded = own.Positions()(embedding(source))
    for _ in range(2):
        encoded = block(encoded, post=True)
    x = own.Positions()(embedding(target))
    for _ in range(2):
        for apply in (
            partial(attended, causal=True),
            partial(attended, memory=encoded),
            feed_forward,
        ):
            x = layers.LayerNormalization()(layers.Add()([x, apply(x)]))
    return keras.Model([source, target], layers.Dense(50)(x)), [tokens(10), tokens(8, seed=1)]


class Routed(layers.Layer):
    """Switch: the expert with the largest probability, times that probability; or all experts."""

    def __init__(self, count=4, top=True, **kwargs):
        super().__init__(**kwargs)
        self.count, self.top = count, top
        self.router = layers.Dense(count, activation="softmax")

    def build(self, shape):
        width = shape[-1]
        self.router.build(shape)
        self.up = own.Experts(2 * width, self.count, activation="relu")
        self.down = own.Experts(width, self.count)
        self.up.build((self.count, None, width))
        self.down.build((self.count, None, 2 * width))

    def call(self, x):
        width, length = x.shape[-1], x.shape[1]
        flat = ops.reshape(x, (-1, width))
        weights = self.router(flat)
        if self.top:
            weights = weights * ops.one_hot(ops.argmax(weights, axis=-1), self.count)
        copies = ops.repeat(ops.expand_dims(flat, 0), self.count, axis=0)
        mixed = ops.einsum("te,eto->to", weights, self.down(self.up(copies)))
        return ops.reshape(mixed, (-1, length, width))


def mixture_of_experts(top=True):
    x = own.Positions()(layers.Embedding(50, 16)(inputs := keras.Input((12,), dtype="int32")))
    for _ in range(2):
        x = block(x, part=lambda y: Routed(top=top)(y))
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x))), tokens()


def diffusion():
    """DiT: scale, shift and gate of each branch from a layer of zeros; a last layer of zeros."""
    image, time = keras.Input((16, 24)), keras.Input((1,))
    waves_of_time = [f(2.0**k * time) for k in range(4) for f in (ops.sin, ops.cos)]
    code = layers.Dense(24, activation="silu")(ops.concatenate(waves_of_time, axis=-1))

    def modulated(x, apply):
        numbers = layers.Dense(72, kernel_initializer="zeros")(layers.Activation("silu")(code))
        shift, scale, gate = (
            layers.Reshape((1, 24))(numbers[:, start : start + 24]) for start in (0, 24, 48)
        )
        normalized = layers.LayerNormalization(center=False, scale=False)(x)
        return x + gate * apply(normalized * (1.0 + scale) + shift)

    x = own.Positions()(layers.Dense(24)(image))
    for _ in range(2):
        x = modulated(modulated(x, attended), feed_forward)
    x = layers.LayerNormalization(center=False, scale=False)(x)
    batch = [normal(16, 24), np.linspace(0, 1, SAMPLES, dtype="float32")[:, None]]
    return keras.Model([image, time], layers.Dense(24, kernel_initializer="zeros")(x)), batch


def mixer():
    x = patches(inputs := keras.Input((16, 16, 3)))
    for _ in range(3):
        branch = layers.Permute((2, 1))(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Permute((2, 1))(feed_forward(branch, factor=2))])
        x = layers.Add()([x, feed_forward(layers.LayerNormalization()(x), factor=2)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(4)(x)), normal(16, 16, 3)


def gated_mixer():
    """gMLP: a gate over positions."""
    x = patches(inputs := keras.Input((16, 16, 3)))
    for _ in range(3):
        branch = layers.Dense(48, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(24)(own.SpatialGate()(branch))])
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling1D()(x))), normal(
        16, 16, 3
    )


def series(depth=2):
    """One channel, and a normalisation over it alone, as in a tutorial on time series."""
    x = inputs = keras.Input((32, 1))
    for _ in range(depth):
        branch = layers.MultiHeadAttention(4, 16, dropout=0.1)(x, x)
        branch = layers.LayerNormalization(epsilon=1e-6)(layers.Dropout(0.1)(branch))
        result = branch + x
        branch = layers.Conv1D(4, 1, activation="relu")(result)
        branch = layers.Conv1D(1, 1)(layers.Dropout(0.1)(branch))
        x = layers.LayerNormalization(epsilon=1e-6)(branch) + result
    x = layers.GlobalAveragePooling1D(data_format="channels_first")(x)
    x = layers.Dropout(0.4)(layers.Dense(32, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x)), waves()


def perceiver():
    """A few learned vectors attend to a long input."""
    x = layers.Dense(24)(inputs := keras.Input((64, 3)))
    latent = own.Positions()(layers.Dense(24)(layers.AveragePooling1D(8)(inputs)))
    for _ in range(2):
        latent = layers.Add()([latent, attended(layers.LayerNormalization()(latent), x)])
        latent = block(latent)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(latent))), normal(
        64, 3
    )


MODELS = {
    "vit": vision,
    "deit": partial(vision, tokens_before=2),
    "cct": compact,
    "vit subclassed": vision_subclassed,
    "decoder pre-norm": decoder_only,
    "decoder post-norm": partial(decoder_only, post=True),
    "decoder tied embeddings": partial(decoder_only, tied=True),
    "tokens as float32": default_inputs,
    "llama": grouped_queries,
    "t5 relative positions": relative_positions,
    "encoder and decoder": encoder_decoder,
    "switch transformer": mixture_of_experts,
    "soft experts": partial(mixture_of_experts, top=False),
    "dit": diffusion,
    "mlp-mixer": mixer,
    "gmlp": gated_mixer,
    "series of one channel": series,
    "perceiver": perceiver,
}
