"""What is sent through every route: five models in seven variants, the batch, bands, and the table.

A route is a way in which a model leaves the process that made it. The models have one architecture
and differ in what made their weights: one of the four laws, or `keras_he.initialize`. A variant is
a dtype policy, or what is done to a model before it leaves.
"""

from functools import lru_cache

import keras
import numpy as np

import keras_he

L = keras.layers
LAWS = {
    "normal": keras_he.KaimingNormal,
    "uniform": keras_he.KaimingUniform,
    "truncated_normal": keras_he.KaimingTruncatedNormal,
    "orthogonal": keras_he.KaimingOrthogonal,
}
MODELS = (*LAWS, "initialized")
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16", "bfloat16")
VARIANTS = (*POLICIES, "int8", "int4", "lora")

# Bands, each for outputs of size `scale` or less.
#
# Float32: a sum of n products has an error of at most n·u in the size of its terms (u = 2^-24),
# and He's scale passes an error on as it passes the signal on, with factor 1. So each of two
# runtimes errs by at most u times the terms on the longest way: those of the convolution (36), the
# depthwise one (9), the transposed one (8), of attention's key (16), scores (4), softmax and values
# (16 each), output (8), of three steps of the LSTM (16 + 8 each), and of the head (8).
TERMS = 36 + 9 + 8 + 16 + 4 + 16 + 16 + 8 + 3 * (16 + 8) + 8
FLOAT32 = 2 * TERMS * 2.0**-24
# Half precision: sums are kept in float32, and each result is rounded. On the longest way are
# product, bias and activation of three convolutions (9), eight in attention, six in each of the
# LSTM's three steps, and two in the head.
ROUNDINGS = 9 + 8 + 3 * 6 + 2
ROUNDED = {
    "mixed_bfloat16": 2 * ROUNDINGS * 2.0**-8,
    "bfloat16": 2 * ROUNDINGS * 2.0**-8,
    "mixed_float16": 2 * ROUNDINGS * 2.0**-11,
}
# Int8: weights and inputs are rounded to 1/127 of their largest value, so by at most 1/254 of it,
# which is at most three times the root mean square. In a sum of n products of size 1/sqrt(n) the
# two roundings make at most 2·3/254·sqrt(n): embedding (1) and head (8).
INT8 = 6 / 254 * (1**0.5 + 8**0.5)


def batch():
    random = np.random.default_rng(0)
    image = random.normal(size=(16, 8, 8, 4)).astype("float32")
    return {"image": image, "words": random.integers(11, size=(16, 3), dtype="int32")}


def drawn(name, first_seed=0):
    """Returns a model as its initializers, or `initialize`, have drawn it."""
    law, seeds = LAWS.get(name), iter(range(first_seed, first_seed + 20))

    def he(*arguments, **keywords):
        if law is None:
            return keras.initializers.GlorotUniform(next(seeds))
        return law(*arguments, seed=next(seeds), **keywords)

    image = keras.Input((8, 8, 4), name="image")
    words = keras.Input((3,), dtype="int32", name="words")
    x = L.Conv2D(8, 3, activation="relu", kernel_initializer=he("linear"))(image)
    x = L.DepthwiseConv2D(3, activation="relu", depthwise_initializer=he(geometry="depthwise"))(x)
    transposed = he(geometry="transpose", strides=2)
    x = L.Conv2DTranspose(4, 2, strides=2, activation="elu", kernel_initializer=transposed)(x)
    x = L.Reshape((16, 16))(x)
    y = L.Embedding(11, 16, embeddings_initializer=he(gain=4.0, mode="fan_out"))(words)
    y = L.MultiHeadAttention(2, 4, kernel_initializer=he("linear"), name="attention")(y, x)
    gates = {"kernel_initializer": he("linear", gates=4)}
    gates["recurrent_initializer"] = he("tanh", gates=4)
    # Unrolled: neither OpenVINO nor LiteRT has the list of tensors that a loop needs.
    y = L.LSTM(8, unroll=True, **gates)(y)
    output = L.Dense(3, kernel_initializer=he("tanh"), name="head")(y)
    model = keras.Model({"image": image, "words": words}, output, name=name)
    if law is None:
        keras_he.initialize(model, batch(), seed=first_seed + 1)
    return model


@lru_cache
def model(name, variant="float32", first_seed=0):
    """Returns the one `made` model of these arguments; for reading only."""
    return made(name, variant, first_seed)


def made(name, variant="float32", first_seed=0):
    """Returns a model whose weights are not what any initializer draws."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(variant if variant in POLICIES else "float32")
    try:
        model = drawn(name, first_seed)
    finally:
        keras.config.set_dtype_policy(before)
    for number, weight in enumerate(model.weights):
        move(weight, number)
    for layer in model.layers:
        # Not attention: what Keras writes of it, quantized, it cannot read back (docs/routes.md).
        if variant in ("int8", "int4") and isinstance(layer, (L.Dense, L.Embedding)):
            layer.quantize(variant)
        if variant == "lora":
            adapt(layer)
    return model


@lru_cache
def front(name):
    """Returns a model up to its attention: no tanh, no sigmoid."""
    whole = model(name)
    return keras.Model(whole.input, whole.get_layer("attention").output)


def move(weight, number):
    """Changes a weight by a twentieth, each element in its own way."""
    change = 0.05 * np.cos(np.arange(np.prod(weight.shape)) + number).reshape(weight.shape)
    values = keras.ops.convert_to_numpy(keras.ops.cast(weight.value, "float32"))
    weight.assign(keras.ops.cast((values + change).astype("float32"), weight.dtype))


def adapt(layer):
    """Enables LoRA, as after some training: its second factor is no longer zero."""
    if isinstance(layer, L.MultiHeadAttention):
        for projection in (layer.query_dense, layer.value_dense):
            adapt(projection)
    elif isinstance(layer, (L.Dense, L.EinsumDense, L.Embedding)):
        layer.enable_lora(2)
        for number, weight in enumerate(layer.trainable_weights):
            if weight.name.startswith("lora_"):
                move(weight, number)


def facts(model, inputs):
    """Returns a model's outputs, its last kernel as it is used, and its weights by name and dtype.

    All are float32, which holds each exactly.
    """
    weights = {
        f"{number} {weight.name} {weight.dtype}": keras.ops.convert_to_numpy(
            keras.ops.cast(weight, "float32")
        )
        for number, weight in enumerate(model.weights)
    }
    used = {"outputs": model(inputs, training=False), "head": model.layers[-1].kernel}
    for name, tensor in used.items():
        weights[name] = keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))
    return weights


def difference(one, other):
    """Returns the largest difference of two arrays; infinite where an element is not a number."""
    assert one.shape == other.shape
    largest = np.abs(one.astype("float64") - other.astype("float64")).max()
    return float(largest) if np.isfinite(largest) else np.inf


def scale(outputs):
    """Returns the size by which bands are multiplied."""
    return max(1.0, float(np.abs(outputs).max()))


TABLE = {}  # route → model → the largest difference so far


def record(route, name, outputs, expected, band=0.0):
    """Notes how far outputs are from those that were expected; asserts that it is in the band."""
    far = difference(outputs, expected)
    row = TABLE.setdefault(route, {})
    row[name] = max(far, row.get(name, 0.0))
    assert far <= band * scale(expected), f"{route}, {name}: {far:.2e}, band {band:.2e}"


def lines():
    """Returns the table of the largest differences, one route a line; empty if none was taken."""
    if not TABLE:
        return []
    width = max(len(route) for route in TABLE)
    cells = {
        route: "".join(f"{_cell(row.get(name)):>18}" for name in MODELS)
        for route, row in TABLE.items()
    }
    header = " " * width + "".join(f"{name:>18}" for name in MODELS)
    return [header, *(f"{route:<{width}}{cells[route]}" for route in TABLE)]


def _cell(far):
    return "" if far is None else "equal" if far == 0 else f"{far:.1e}"
