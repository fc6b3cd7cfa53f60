"""Dense networks of special forms: towers, tables, own layers, several inputs and outputs."""

import keras
import numpy as np
import own_layers as own
from batches import SAMPLES, normal, tokens, uniform
from keras import layers, ops


def nerf():
    """Positional encoding of points, eight layers, a skip in the middle, two heads."""
    point, view = keras.Input((3,)), keras.Input((3,))

    def encoded(x, octaves):
        waves = [f(2.0**k * x) for k in range(octaves) for f in (ops.sin, ops.cos)]
        return ops.concatenate([x, *waves], axis=-1)

    x = start = encoded(point, 6)
    for position in range(8):
        x = layers.Dense(48, activation="relu")(x)
        if position == 4:
            x = layers.Concatenate()([x, start])
    density = layers.Dense(1, activation="softplus")(x)
    x = layers.Concatenate()([layers.Dense(48)(x), encoded(view, 4)])
    color = layers.Dense(3, activation="sigmoid")(layers.Dense(24, activation="relu")(x))
    batch = [uniform(3, low=-1.0), uniform(3, low=-1.0, seed=1)]
    return keras.Model([point, view], [color, density]), batch


def tabular():
    rng = np.random.default_rng(3)
    table = (rng.standard_normal((SAMPLES, 9)) * [1, 10, 100, 1000, 1, 1, 5, 0.1, 3] + 20).astype(
        "float32"
    )
    normalization = layers.Normalization()
    normalization.adapt(table)
    x = normalization(inputs := keras.Input((9,)))
    for _ in range(3):
        x = layers.Dropout(0.1)(layers.Dense(64, activation="silu")(x))
    return keras.Model(inputs, layers.Dense(1)(x)), table


def tabular_without_normalization():
    rng = np.random.default_rng(3)
    table = (rng.standard_normal((SAMPLES, 6)) * [1, 10, 100, 1000, 1, 1] + 5).astype("float32")
    x = inputs = keras.Input((6,))
    for _ in range(3):
        x = layers.Dense(64, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(1)(x)), table


def periodic_features():
    x = own.PeriodicFeatures(6)(inputs := keras.Input((8,)))
    for _ in range(3):
        x = layers.Dense(64, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(2)(x)), normal(8)


def wide_and_deep():
    numbers, ids = keras.Input((6,)), keras.Input((3,), dtype="int32")
    wide = layers.Dense(1)(layers.CategoryEncoding(40, output_mode="multi_hot")(ids))
    deep = layers.Concatenate()([numbers, layers.Flatten()(layers.Embedding(40, 8)(ids))])
    for width in (64, 32):
        deep = layers.Dense(width, activation="relu")(deep)
    outputs = ops.sigmoid(wide + layers.Dense(1)(deep))
    return keras.Model([numbers, ids], outputs), [normal(6), tokens(3, 40)]


def dlrm():
    """Dot products of embeddings and of a dense tower, then a dense tower."""
    numbers = keras.Input((5,))
    ids = [keras.Input((1,), dtype="int32") for _ in range(3)]
    vectors = [layers.Flatten()(layers.Embedding(30, 8)(one)) for one in ids]
    x = layers.Dense(8, activation="relu")(layers.Dense(32, activation="relu")(numbers))
    everything = [x, *vectors]
    dots = [
        layers.Dot(axes=1)([left, right])
        for position, left in enumerate(everything)
        for right in everything[:position]
    ]
    x = layers.Concatenate()([x, *dots])
    outputs = layers.Dense(1, activation="sigmoid")(layers.Dense(32, activation="relu")(x))
    batch = [normal(5), *(tokens(1, 30, seed) for seed in range(3))]
    return keras.Model([numbers, *ids], outputs), batch


def deep_and_cross():
    first = x = inputs = keras.Input((12,))
    for _ in range(3):
        x = own.Cross()([first, x])
    deep = layers.Dense(32, activation="relu")(layers.Dense(32, activation="relu")(inputs))
    return keras.Model(inputs, layers.Dense(1)(layers.Concatenate()([x, deep]))), normal(12)


def siamese():
    left, right = keras.Input((16,)), keras.Input((16,))
    tower = keras.Sequential(
        [layers.Dense(48, activation="relu"), layers.Dense(48, activation="relu"), layers.Dense(24)]
    )
    distance = ops.abs(tower(left) - tower(right))
    outputs = layers.Dense(1, activation="sigmoid")(distance)
    return keras.Model([left, right], outputs), [normal(16), normal(16, seed=1)]


def two_towers():
    """Users and items, unit vectors, a scaled product."""
    user, item = keras.Input((10,)), keras.Input((3,), dtype="int32")
    left = layers.UnitNormalization()(layers.Dense(16)(layers.Dense(32, "relu")(user)))
    right = layers.GlobalAveragePooling1D()(layers.Embedding(40, 16)(item))
    right = layers.UnitNormalization()(layers.Dense(16)(layers.Dense(32, "relu")(right)))
    outputs = layers.Rescaling(10.0)(layers.Dot(axes=1)([left, right]))
    return keras.Model([user, item], outputs), [normal(10), tokens(3, 40)]


def policy():
    """A policy with a last layer of small gain, and a value head."""
    x = inputs = keras.Input((8,))
    for _ in range(2):
        root = keras.initializers.Orthogonal(2**0.5)
        x = layers.Dense(64, activation="tanh", kernel_initializer=root)(x)
    small = keras.initializers.Orthogonal(0.01)
    actions = layers.Dense(4, activation="softmax", kernel_initializer=small)(x)
    value = layers.Dense(1, kernel_initializer=keras.initializers.Orthogonal(1.0))(x)
    return keras.Model(inputs, {"actions": actions, "value": value}), normal(8)


def rezero():
    x = layers.Dense(48)(inputs := keras.Input((20,)))
    for _ in range(8):
        x = layers.Add()([x, own.Zero()(layers.Dense(48, activation="relu")(x))])
    return keras.Model(inputs, layers.Dense(5)(x)), normal(20)


def residual():
    x = layers.Dense(48)(inputs := keras.Input((20,)))
    for _ in range(10):
        x = x + layers.Dense(48)(layers.Dense(96, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(5)(x)), normal(20)


def dense_autoencoder():
    x = inputs = keras.Input((64,))
    for width in (48, 24, 4, 24, 48):
        x = layers.Dense(width, activation="relu" if width > 4 else None)(x)
    return keras.Model(inputs, layers.Dense(64, activation="sigmoid")(x)), uniform(64)


def tied_autoencoder():
    first, second = layers.Dense(32, activation="tanh"), layers.Dense(12, activation="tanh")
    x = second(first(inputs := keras.Input((40,))))
    x = own.TiedTranspose(first)(layers.Activation("tanh")(own.TiedTranspose(second)(x)))
    return keras.Model(inputs, x), normal(40)


def hypernetwork():
    x, condition = keras.Input((12,)), keras.Input((5,))
    code = layers.Dense(8, activation="tanh")(condition)
    hidden = layers.ReLU()(own.Hyper(24)([x, code]))
    outputs = own.Hyper(3)([hidden, code])
    return keras.Model([x, condition], outputs), [normal(12), normal(5, seed=1)]


def low_rank():
    x = inputs = keras.Input((32,))
    for _ in range(5):
        x = layers.Activation("gelu")(own.LowRank(32, 4)(x))
    return keras.Model(inputs, layers.Dense(3)(x)), normal(32)


def two_kernels():
    x = inputs = keras.Input((24,))
    for _ in range(20):
        x = own.TwoKernels()(x)
    return keras.Model(inputs, layers.Dense(3)(x)), normal(24)


def kolmogorov_arnold():
    x = inputs = keras.Input((10,))
    for width in (16, 16, 3):
        x = own.KolmogorovArnold(width)(x)
    return keras.Model(inputs, x), normal(10)


def relu_first():
    x = layers.Dense(48)(inputs := keras.Input((20,)))
    for _ in range(6):
        x = own.ReluFirst(48)(x)
    return keras.Model(inputs, layers.Dense(5)(x)), normal(20)


def highway():
    x = layers.Dense(32)(inputs := keras.Input((20,)))
    for _ in range(6):
        x = own.Highway()(x)
    return keras.Model(inputs, layers.Dense(5)(x)), normal(20)


def maxout():
    x = inputs = keras.Input((20,))
    for _ in range(5):
        x = own.Maxout(32)(x)
    return keras.Model(inputs, layers.Dense(5)(x)), normal(20)


def bilinear():
    left, right = keras.Input((10,)), keras.Input((14,))
    x = own.Bilinear(24)([layers.Dense(16, "relu")(left), layers.Dense(16, "relu")(right)])
    return keras.Model([left, right], layers.Dense(2)(x)), [normal(10), normal(14, seed=1)]


def gated_units():
    """Gated linear units: half of a layer times the sigmoid or gelu of the other."""
    x = inputs = keras.Input((20,))
    for activation in ("sigmoid", "gelu", "silu"):
        x = layers.Dense(48)(x) * layers.Dense(48, activation=activation)(x)
    return keras.Model(inputs, layers.Dense(5)(x)), normal(20)


def shared_thrice():
    layer = layers.Dense(32, activation="relu")
    x = layers.Dense(32)(inputs := keras.Input((20,)))
    for _ in range(3):
        x = layer(x)
    return keras.Model(inputs, layers.Dense(5)(x)), normal(20)


def nested():
    inner = keras.Sequential([layers.Dense(32, activation="gelu"), layers.Dense(32)], name="inner")
    middle_in = keras.Input((32,))
    middle = keras.Model(middle_in, middle_in + inner(middle_in), name="middle")
    x = layers.Dense(32)(inputs := keras.Input((20,)))
    outputs = layers.Dense(2)(layers.Dense(32, activation="relu")(middle(x)))
    return keras.Model(inputs, outputs), normal(20)


def several_inputs_and_outputs():
    names, numbers = keras.Input((6,), dtype="int32", name="ids"), keras.Input((5,), name="numbers")
    words = layers.GlobalAveragePooling1D()(layers.Embedding(50, 12)(names))
    x = layers.Concatenate()([words, layers.Dense(16, activation="relu")(numbers)])
    x = layers.Dense(32, activation="silu")(x)
    outputs = {"class": layers.Dense(3, "softmax")(x), "number": layers.Dense(1)(x)}
    batch = {"ids": tokens(6), "numbers": normal(5)}
    return keras.Model({"ids": names, "numbers": numbers}, outputs), batch


class Sums(keras.Model):
    """Residual sums in `call`."""

    def __init__(self):
        super().__init__()
        self.stem = layers.Dense(32)
        self.hidden = [layers.Dense(64, activation="relu") for _ in range(4)]
        self.back = [layers.Dense(32) for _ in range(4)]
        self.head = layers.Dense(3)

    def call(self, x, training=None):
        x = self.stem(x)
        for hidden, back in zip(self.hidden, self.back, strict=True):
            x = x + back(hidden(x))
        return self.head(x)


def subclassed_sums():
    model, batch = Sums(), normal(20)
    model(batch)
    return model, batch


def frozen_backbone():
    backbone = keras.Sequential(
        [layers.Dense(48, activation="relu"), layers.Dense(48, activation="relu")], name="backbone"
    )
    x = backbone(inputs := keras.Input((20,)))
    backbone.trainable = False
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(16, activation="relu")(x))), normal(20)


MODELS = {
    builder.__name__.replace("_", " "): builder
    for builder in (
        nerf,
        tabular,
        tabular_without_normalization,
        periodic_features,
        wide_and_deep,
        dlrm,
        deep_and_cross,
        siamese,
        two_towers,
        policy,
        rezero,
        residual,
        dense_autoencoder,
        tied_autoencoder,
        hypernetwork,
        low_rank,
        two_kernels,
        kolmogorov_arnold,
        relu_first,
        highway,
        maxout,
        bilinear,
        gated_units,
        shared_thrice,
        nested,
        several_inputs_and_outputs,
        subclassed_sums,
        frozen_backbone,
    )
}
