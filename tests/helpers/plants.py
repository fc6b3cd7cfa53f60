"""Faults that are planted in good models, each with the verdict and the layer that it should get.

The models are initialized first, so that nothing else is wrong with them. Where a fault lies in how
a layer was made, the model is built again with other arguments for that layer, and where it lies in
values, these are written.
"""

from collections.abc import Callable
from typing import NamedTuple

import architectures
import keras
import numpy as np
from keras import layers

import keras_he


class Plant(NamedTuple):
    """A fault: the model that has it, what an audit is to say, and the layers it may name."""

    model: keras.Model
    verdict: str
    layers: tuple[str, ...]


def rebuilt(model, name, **arguments):
    """Returns the model with other arguments for a layer, which is drawn anew; others keep all."""

    def remade(layer):
        config = layer.get_config()
        return type(layer).from_config({**config, **(arguments if layer.name == name else {})})

    copy = keras.models.clone_model(model, clone_function=remade, recursive=True)
    for old, new in zip(leaves(model), leaves(copy), strict=True):
        if old.name != name:
            new.set_weights(old.get_weights())
    return copy


def mended(model, finding):
    """Returns the model after the line that a finding prints, as its reader would follow it."""
    name = finding.layer.rpartition("/")[2]
    if finding.remedy.startswith("keras_he."):
        exec(finding.remedy, {"model": model, "keras_he": keras_he})
        return model
    if finding.remedy.startswith("x = "):
        return with_line_in_front(model, name, finding.remedy)
    return rebuilt(model, name, **eval(f"dict({finding.remedy})", {"keras_he": keras_he}))


def with_line_in_front(model, name, line):
    """Returns a functional model that runs a line on what a layer is given."""

    def call(layer, *args, **kwargs):
        if layer.name == name:
            scope = {"keras": keras, "x": args[0]}
            exec(line, scope)
            args = (scope["x"], *args[1:])
        return layer(*args, **kwargs)

    copy = keras.models.clone_model(model, call_function=call)
    for layer in model.layers:
        if layer.weights:
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


def leaves(model):
    """Returns the layers directly in a model, and in models in it."""
    found = []
    for layer in model.layers:
        found += leaves(layer) if isinstance(layer, keras.Model) else [layer]
    return found


def having(model, *kinds):
    """Returns the layers of some kinds, in order."""
    return [layer for layer in leaves(model) if isinstance(layer, kinds)]


def kernel_of(layer):
    name = "depthwise_kernel" if isinstance(layer, layers.SeparableConv2D) else "kernel"
    return getattr(layer, name)


def initialized(build):
    keras.utils.set_random_seed(1)
    model = build()
    keras_he.initialize(model, seed=1)
    return model


KERNELS = (layers.Dense, layers.Conv2D, layers.Conv2DTranspose, layers.SeparableConv2D)
GOOD: dict[str, Callable[[], keras.Model]] = {
    "dense": lambda: architectures.dense_chain("relu", depth=6, width=64),
    "tanh": lambda: architectures.dense_chain("tanh", depth=4, width=64),
    "convolutions": lambda: architectures.conv_prelu(4),
    "separable": lambda: architectures.separable_blocks(4),
    "decoder": lambda: architectures.decoder(5),
    "transformer": lambda: architectures.transformer(3),
    "residual": lambda: architectures.residual_blocks(4),
    "U-Net": architectures.unet,
    "nested": architectures.nested,
}


def scaled(architecture, position, factor, verdict):
    model = initialized(GOOD[architecture])
    layer = having(model, *KERNELS)[position]
    kernel_of(layer).assign(kernel_of(layer).value * factor)
    return Plant(model, verdict, (layer.name,))


def biased(architecture, position):
    model = initialized(GOOD[architecture])
    layer = having(model, *KERNELS)[position]
    bias = keras.initializers.Constant(-30.0)
    return Plant(rebuilt(model, layer.name, bias_initializer=bias), "dead", (layer.name,))


def made(architecture, position, verdict, kinds=KERNELS, **arguments):
    model = initialized(GOOD[architecture])
    layer = having(model, *kinds)[position]
    return Plant(rebuilt(model, layer.name, **arguments), verdict, (layer.name,))


def filled(architecture, position, value):
    """Writes one value everywhere into a kernel whose initializer draws others."""
    model = initialized(GOOD[architecture])
    layer = having(model, *KERNELS)[position]
    kernel_of(layer).assign(np.full(tuple(kernel_of(layer).shape), value, "float32"))
    return Plant(model, "constant", (layer.name,))


def holed(architecture, position, value):
    """Puts one value that is no number into a kernel."""
    model = initialized(GOOD[architecture])
    layer = having(model, *KERNELS)[position]
    values = np.array(keras.ops.convert_to_numpy(kernel_of(layer)))
    values.flat[3] = value
    kernel_of(layer).assign(values)
    return Plant(model, "nonfinite", (layer.name,))


def one_seed(architecture, kinds):
    """Draws two kernels of one shape by one integer seed, as a user does who wants to repeat."""
    model = initialized(GOOD[architecture])
    groups: dict[tuple[int, ...], list] = {}
    for layer in having(model, *kinds):
        groups.setdefault(tuple(layer.kernel.shape), []).append(layer)
    pair = next(group for group in groups.values() if len(group) > 1)[:2]
    for layer in pair:
        seeded = keras.initializers.RandomNormal(stddev=float(np.std(layer.kernel)), seed=7)
        model = rebuilt(model, layer.name, kernel_initializer=seeded)
    return Plant(model, "identical", tuple(layer.name for layer in pair))


def one_seed_in_attention(attention):
    model = initialized(lambda: architectures.transformer(2, attention=attention))
    layer = having(model, attention)[1]
    seeded = keras.initializers.HeNormal(seed=7)
    model = rebuilt(model, layer.name, kernel_initializer=seeded)
    return Plant(model, "identical", (layer.name,))


def depthwise(initializer):
    inputs = keras.Input((12, 12, 64))
    x = layers.Conv2D(64, 1, activation="relu")(inputs)
    x = layers.DepthwiseConv2D(3, name="planted", depthwise_initializer=initializer)(x)
    x = layers.Conv2D(32, 1)(layers.ReLU()(x))
    return Plant(keras.Model(inputs, x), "wrong-fan", ("planted",))


def transposed(width, size, strides, initializer):
    inputs = keras.Input((6, 6, 64))
    x = layers.Conv2D(64, 3, activation="relu")(inputs)
    x = layers.Conv2DTranspose(
        width, size, strides=strides, name="planted", kernel_initializer=initializer
    )(x)
    return Plant(keras.Model(inputs, layers.Conv2D(8, 1)(x)), "wrong-fan", ("planted",))


def grouped():
    inputs = keras.Input((12, 12, 64))
    he = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal", seed=3)
    x = layers.Conv2D(64, 1, activation="relu")(inputs)
    x = layers.Conv2D(64, 3, groups=8, activation="relu", name="planted", kernel_initializer=he)(x)
    return Plant(keras.Model(inputs, layers.Conv2D(8, 1)(x)), "wrong-fan", ("planted",))


def gates():
    inputs = keras.Input((8, 16))
    he = keras.initializers.VarianceScaling(1.0, "fan_out", "untruncated_normal", seed=3)
    x = layers.LSTM(32, name="planted", kernel_initializer=he)(inputs)
    return Plant(keras.Model(inputs, layers.Dense(2)(x)), "wrong-fan", ("planted",))


@keras.saving.register_keras_serializable("tests")
def steep_tanh(x):
    return keras.ops.tanh(2.0 * x)


def chain(activation, initializer, verdict, normalised=False):
    """Returns dense layers whose second one makes up for another activation."""
    act = (lambda: layers.Activation(activation)) if isinstance(activation, str) else activation
    inputs = keras.Input((64,))
    x = act()(layers.Dense(64)(inputs))
    if normalised:
        x = act()(layers.Dense(64, kernel_initializer="he_relu")(layers.LayerNormalization()(x)))
    x = act()(layers.Dense(64, name="planted", kernel_initializer=initializer)(x))
    return Plant(keras.Model(inputs, layers.Dense(3)(x)), verdict, ("planted",))


def convolved(activation, initializer, verdict):
    inputs = keras.Input((10, 10, 16))
    x = activation()(layers.Conv2D(16, 3)(inputs))
    x = activation()(layers.Conv2D(32, 3, name="planted", kernel_initializer=initializer)(x))
    return Plant(keras.Model(inputs, layers.Conv2D(4, 1)(x)), verdict, ("planted",))


def table(initializer):
    inputs = keras.Input((12,), dtype="int32")
    x = layers.Embedding(5000, 16, name="planted", embeddings_initializer=initializer)(inputs)
    x = layers.Dense(8, activation="relu")(layers.GRU(16)(x))
    return Plant(keras.Model(inputs, layers.Dense(2)(x)), "misplaced", ("planted",))


def coarse(architecture, position):
    """Draws a kernel in half precision, as an initializer does that is asked for it."""
    model = initialized(GOOD[architecture])
    layer = having(model, *KERNELS)[position]
    kernel = kernel_of(layer)
    rng = np.random.default_rng(3)
    uniform = np.round(rng.random(tuple(kernel.shape)) * 256) / 256 - 0.5  # in eight bits
    std = float(np.std(kernel))
    kernel.assign((uniform * np.sqrt(12.0) * std).astype("float32"))
    return Plant(model, "low-precision", (layer.name,))


def half():
    """Has Keras draw a kernel in half precision, in few bits."""
    inputs = keras.Input((64,))
    x = layers.Dense(
        128, "relu", dtype="bfloat16", kernel_initializer="he_uniform", name="planted"
    )(inputs)
    return Plant(keras.Model(inputs, layers.Dense(2)(x)), "low-precision", ("planted",))


def deep(activation, depth):
    model = initialized(lambda: architectures.dense_chain(activation, depth=depth, width=64))
    return Plant(model, "unsafe-depth", tuple(layer.name for layer in having(model, layers.Dense)))


def unscaled(build):
    keras.utils.set_random_seed(1)
    model = build()
    keras_he.initialize(model, seed=1, residual=None)
    ends = tuple(layer.name for layer in having(model, layers.Conv2D, layers.Dense))
    attention = tuple(layer.name for layer in having(model, layers.MultiHeadAttention))
    return Plant(model, "unscaled-residual", ends + attention)


@keras.saving.register_keras_serializable("tests")
def logarithm(x):
    return keras.ops.log(x)


def of_a_layer():
    inputs = keras.Input((16,))
    x = layers.Dense(32)(inputs)
    x = layers.Activation(logarithm, name="planted")(x)
    return Plant(keras.Model(inputs, layers.Dense(2)(x)), "nonfinite", ("planted",))


def plain_sums(depth):
    """Returns a pre-norm network that adds with `+`."""
    x = inputs = keras.Input((16, 32))
    names = []
    for place in range(depth):
        branch = layers.LayerNormalization()(x)
        branch = layers.Dense(64, "relu", kernel_initializer="he_linear")(branch)
        last = layers.Dense(32, kernel_initializer="he_relu", name=f"last_{place}")
        x = x + last(branch)
        names.append(last.name)
    return Plant(
        keras.Model(inputs, layers.Dense(2)(layers.LayerNormalization()(x))),
        "unscaled-residual",
        tuple(names),
    )


def silenced():
    """Normalises with a factor of zero, in the one way that there is."""
    inputs = keras.Input((16,))
    x = layers.LayerNormalization(gamma_initializer="zeros", name="none")(layers.Dense(16)(inputs))
    x = layers.Dense(16)(x)
    return Plant(keras.Model(inputs, layers.Dense(2)(x)), "vanishing", ("none",))


def exploding_states():
    inputs = keras.Input((64, 8))
    states = keras.initializers.Orthogonal(3.0, seed=1)
    x = layers.SimpleRNN(32, activation="relu", recurrent_initializer=states, name="planted")(
        inputs
    )
    return Plant(keras.Model(inputs, layers.Dense(2)(x)), "exploding", ("planted",))


def equal_units():
    plant = made("dense", 2, "constant")
    layer = plant.model.get_layer(plant.layers[0])
    kernel = np.array(keras.ops.convert_to_numpy(layer.kernel))
    layer.kernel.assign(kernel[:, :1].repeat(kernel.shape[1], axis=1))
    return plant


def in_front_of_a_normalisation():
    """Returns a residual network with normalisations, as such networks are built."""
    x = inputs = keras.Input((12, 12, 16))
    for place in range(3):
        branch = layers.Conv2D(
            16,
            3,
            padding="same",
            kernel_initializer="he_tanh" if place == 1 else "he_relu",
            name=f"branch_{place}",
        )(layers.ReLU()(layers.BatchNormalization()(x)))
        x = layers.Add()([x, layers.BatchNormalization()(branch)])
    outputs = layers.Dense(3)(layers.GlobalAveragePooling2D()(x))
    return Plant(keras.Model(inputs, outputs), "wrong-gain", ("branch_1",))


def of_operations(operation, initializer):
    """Returns a functional model whose activation is an operation, not a layer."""
    inputs = keras.Input((64,))
    x = operation(layers.Dense(64)(inputs))
    x = operation(layers.Dense(64, name="planted", kernel_initializer=initializer)(x))
    return Plant(keras.Model(inputs, layers.Dense(3)(x)), "wrong-gain", ("planted",))


PLANTS: dict[str, Callable[[], Plant]] = {
    **{
        f"vanishing, {name} {at}": lambda name=name, at=at: scaled(name, at, 1e-3, "vanishing")
        for name, at in (
            ("dense", 0),
            ("dense", 3),
            ("convolutions", 2),
            ("separable", 1),
            ("decoder", 3),
            ("U-Net", 7),
            ("nested", 2),
            ("residual", 4),
        )
    },
    **{
        f"exploding, {name} {at}": lambda name=name, at=at: scaled(name, at, 1e3, "exploding")
        for name, at in (
            ("dense", 0),
            ("dense", 6),
            ("convolutions", 1),
            ("separable", 2),
            ("decoder", 0),
            ("U-Net", 4),
            ("transformer", 2),
            ("nested", 3),
        )
    },
    **{
        f"dead, {name} {at}": lambda name=name, at=at: biased(name, at)
        for name, at in (("dense", 2), ("separable", 1), ("decoder", 4), ("U-Net", 3))
    },
    **{
        f"saturated, tanh {at}": lambda at=at: scaled("tanh", at, 30.0, "saturated")
        for at in (0, 1, 3)
    },
    "saturated, gate": lambda: scaled("U-Net", -1, 30.0, "saturated"),
    **{
        f"constant, {name} {at}": lambda name=name, at=at, value=value: filled(name, at, value)
        for name, at, value in (
            ("dense", 2, 0.0),
            ("dense", 1, 1.0),
            ("convolutions", 3, 0.0),
            ("decoder", 1, 0.01),
            ("U-Net", 6, 0.0),
            ("transformer", 2, 0.0),
            ("separable", 1, 0.0),
        )
    },
    **{
        f"NaN, {name}": lambda name=name: holed(name, 2, np.nan)
        for name in ("dense", "convolutions", "separable", "transformer")
    },
    "infinity, decoder": lambda: holed("decoder", 1, np.inf),
    "NaN of a layer": of_a_layer,
    "identical, dense": lambda: one_seed("dense", (layers.Dense,)),
    "identical, convolutions": lambda: one_seed("residual", (layers.Conv2D,)),
    "identical, attention": lambda: one_seed_in_attention(layers.MultiHeadAttention),
    "identical, grouped attention": lambda: one_seed_in_attention(layers.GroupQueryAttention),
    "fan, he_normal in depthwise": lambda: depthwise("he_normal"),
    "fan, he_uniform in depthwise": lambda: depthwise("he_uniform"),
    "fan, glorot in depthwise": lambda: depthwise("glorot_uniform"),
    "fan, ours in depthwise": lambda: depthwise("he_relu"),
    "fan, transposed": lambda: transposed(16, 3, 1, "he_normal"),
    "fan, strided transposed": lambda: transposed(64, 4, 2, "he_normal"),
    "fan, strided transposed, ours": lambda: transposed(64, 4, 2, "he_relu_uniform"),
    "fan, groups": grouped,
    "fan, gates": gates,
    "gain, gelu": lambda: chain("gelu", "he_normal", "wrong-gain"),
    "gain, tanh": lambda: chain("tanh", "he_relu_uniform", "wrong-gain"),
    "gain, selu": lambda: chain("selu", "he_normal", "wrong-gain"),
    "gain, relu, lecun": lambda: chain("relu", "lecun_normal", "wrong-gain"),
    "gain, normalised before": lambda: chain("silu", "he_normal", "wrong-gain", normalised=True),
    "gain, fan_out": lambda: chain("gelu", "he_relu_fan_out", "wrong-gain"),
    "gain, own function": lambda: chain(
        lambda: layers.Activation(steep_tanh), "he_relu", "wrong-gain"
    ),
    "gain, convolution": lambda: convolved(
        lambda: layers.Activation("gelu"), "he_relu_orthogonal", "wrong-gain"
    ),
    "slope, LeakyReLU": lambda: chain(layers.LeakyReLU, "he_leaky_relu", "wrong-slope"),
    "slope, PReLU": lambda: chain(layers.PReLU, "he_prelu", "wrong-slope"),
    "slope, PReLU of channels": lambda: convolved(
        architectures.prelu(shared_axes=[1, 2]), "he_prelu", "wrong-slope"
    ),
    "slope, fan_out": lambda: convolved(
        layers.LeakyReLU, "he_leaky_relu_uniform_fan_out", "wrong-slope"
    ),
    "depth, gelu": lambda: deep("gelu", 40),
    "depth, silu": lambda: deep("silu", 30),
    "table, he_normal": lambda: table("he_normal"),
    "table, ours": lambda: table("he_relu"),
    "table, lecun": lambda: table("lecun_uniform"),
    "bias, glorot": lambda: made("dense", 2, "misplaced", bias_initializer="glorot_uniform"),
    "bias of a convolution, he": lambda: made(
        "decoder", 2, "misplaced", (layers.Conv2DTranspose,), bias_initializer="he_normal"
    ),
    "half precision, dense": half,
    **{
        f"few bits, {name}": lambda name=name: coarse(name, 2)
        for name in ("dense", "convolutions", "decoder", "residual")
    },
    "residual, convolutions": lambda: unscaled(lambda: architectures.residual_blocks(20)),
    "residual, plain sums": lambda: plain_sums(40),
    "no signal from a gamma of zero": silenced,
    "states that explode": exploding_states,
    "constant, equal units": equal_units,
    "gain, normalised behind": in_front_of_a_normalisation,
    "gain, operation": lambda: of_operations(keras.ops.gelu, "he_relu"),
    "gain, operation with a slope": lambda: of_operations(
        lambda x: keras.ops.leaky_relu(x, 0.9), "he_relu"
    ),
    "residual, pre-norm": lambda: unscaled(lambda: architectures.transformer(12)),
}
