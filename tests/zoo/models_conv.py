"""Convolutional networks without residual trunks: plain, generative, U-shaped, and of signals."""

from functools import partial

import keras
import numpy as np
import own_layers as own
from batches import SAMPLES, images, normal, tokens, waves
from keras import layers, ops


def plain(depth=16, activation="relu", width=16):
    x = inputs = keras.Input((12, 12, 3))
    for _ in range(depth):
        x = layers.Conv2D(width, 3, padding="same", activation=activation)(x)
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x))), normal(
        12, 12, 3
    )


def vgg(norm=False):
    x = inputs = keras.Input((16, 16, 3))
    for width in (12, 24, 48):
        for _ in range(2):
            x = layers.Conv2D(width, 3, padding="same")(x)
            x = layers.ReLU()(layers.BatchNormalization()(x) if norm else x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.5)(layers.Dense(64, activation="relu")(layers.Flatten()(x)))
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x)), normal(16, 16, 3)


def strided():
    """Valid borders, strides and dilations; average pooling."""
    x = inputs = keras.Input((20, 20, 3))
    x = layers.Conv2D(16, 5, strides=2, activation="elu")(x)
    x = layers.Conv2D(16, 3, dilation_rate=2, activation="elu")(x)
    x = layers.AveragePooling2D(2)(x)
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x))), normal(20, 20, 3)


def rescaling_first():
    """Pixels from 0 to 255, scaled in the model."""
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(inputs := keras.Input((16, 16, 3)))
    x = layers.RandomFlip(seed=1)(x)
    for width in (16, 32):
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.25)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x)), images()


def raw_pixels():
    """Pixels from 0 to 255, scaled nowhere."""
    x = inputs = keras.Input((16, 16, 1))
    for width in (8, 16):
        x = layers.MaxPooling2D()(layers.Conv2D(width, 3, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x))), images(channels=1)


def spatial_dropout():
    x = inputs = keras.Input((12, 12, 3))
    for _ in range(4):
        x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
        x = layers.SpatialDropout2D(0.2)(x)
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalMaxPooling2D()(x))), normal(12, 12, 3)


def fire():
    """SqueezeNet: squeeze, and two expansions side by side."""
    x = layers.Conv2D(16, 3, activation="relu")(inputs := keras.Input((16, 16, 3)))
    for width in (4, 8):
        squeezed = layers.Conv2D(width, 1, activation="relu")(x)
        sides = [
            layers.Conv2D(4 * width, size, padding="same", activation="relu")(squeezed)
            for size in (1, 3)
        ]
        x = layers.MaxPooling2D()(layers.Concatenate()(sides))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 1, activation="relu")(x))
    return keras.Model(inputs, layers.Softmax()(x)), normal(16, 16, 3)


def inception():
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(inputs := keras.Input((12, 12, 3)))
    for _ in range(2):
        pooled = layers.MaxPooling2D(3, strides=1, padding="same")(x)
        narrow = layers.Conv2D(6, 1, activation="relu")(x)
        branches = [
            layers.Conv2D(8, 1, activation="relu")(x),
            layers.Conv2D(8, 3, padding="same", activation="relu")(narrow),
            layers.Conv2D(8, 5, padding="same", activation="relu")(narrow),
            layers.Conv2D(8, 1, activation="relu")(pooled),
        ]
        x = layers.Concatenate()(branches)
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x))), normal(
        12, 12, 3
    )


def unet():
    inputs = keras.Input((16, 16, 3))
    skips, x = [], inputs
    for width in (8, 16):
        for _ in range(2):
            x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    for width, skip in zip((16, 8), reversed(skips), strict=True):
        x = layers.Conv2DTranspose(width, 2, strides=2)(x)
        x = layers.Concatenate()([x, skip])
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x)), normal(16, 16, 3)


def diffusion_unet():
    """Adds an embedding of the time in each block; normalisations; a last layer of zeros."""
    image, time = keras.Input((16, 16, 3)), keras.Input((1,))
    waves_of_time = [f(2.0**k * time) for k in range(4) for f in (ops.sin, ops.cos)]
    code = layers.Dense(32, activation="silu")(ops.concatenate(waves_of_time, axis=-1))

    def block(x, width):
        shortcut = x if x.shape[-1] == width else layers.Conv2D(width, 1)(x)
        x = layers.Activation("silu")(layers.GroupNormalization(4)(x))
        x = layers.Conv2D(width, 3, padding="same")(x)
        x = x + layers.Reshape((1, 1, width))(layers.Dense(width)(code))
        x = layers.Activation("silu")(layers.GroupNormalization(4)(x))
        return layers.Add()([shortcut, layers.Conv2D(width, 3, padding="same")(x)])

    x = layers.Conv2D(8, 3, padding="same")(image)
    first = block(x, 8)
    second = block(layers.Conv2D(16, 3, strides=2, padding="same")(first), 16)
    x = layers.UpSampling2D()(block(second, 16))
    x = block(layers.Concatenate()([x, first]), 8)
    x = layers.Activation("silu")(layers.GroupNormalization(4)(x))
    x = layers.Conv2D(3, 3, padding="same", kernel_initializer="zeros")(x)
    batch = [normal(16, 16, 3), np.linspace(0, 1, SAMPLES, dtype="float32")[:, None]]
    return keras.Model([image, time], x), batch


def feature_pyramid():
    """A pyramid from the top down with sums, and shared heads."""
    x = inputs = keras.Input((16, 16, 3))
    levels = []
    for width in (8, 16, 32):
        x = layers.Conv2D(width, 3, strides=2, padding="same", activation="relu")(x)
        levels.append(x)
    head = layers.Conv2D(4, 3, padding="same", name="head")
    top = layers.Conv2D(16, 1)(levels[-1])
    outputs = [head(top)]
    for level in reversed(levels[:-1]):
        top = layers.Add()([layers.UpSampling2D()(top), layers.Conv2D(16, 1)(level)])
        outputs.append(head(layers.Conv2D(16, 3, padding="same")(top)))
    return keras.Model(inputs, outputs), normal(16, 16, 3)


def autoencoder():
    x = inputs = keras.Input((16, 16, 1))
    for width in (8, 16):
        x = layers.Conv2D(width, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Dense(12)(layers.Flatten()(x))
    x = layers.Reshape((4, 4, 16))(layers.Dense(256, activation="relu")(x))
    for width in (16, 8):
        x = layers.Conv2DTranspose(width, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x)
    return keras.Model(inputs, x), normal(16, 16, 1)


def generator():
    x = layers.Dense(4 * 4 * 32, use_bias=False)(inputs := keras.Input((24,)))
    x = layers.Reshape((4, 4, 32))(layers.LeakyReLU()(layers.BatchNormalization()(x)))
    for width in (16, 8):
        x = layers.Conv2DTranspose(width, 4, strides=2, padding="same", use_bias=False)(x)
        x = layers.LeakyReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2DTranspose(3, 4, padding="same", activation="tanh")(x)
    return keras.Model(inputs, x), normal(24)


def critic():
    x = inputs = keras.Input((16, 16, 3))
    for width in (8, 16, 32):
        x = layers.Conv2D(width, 4, strides=2, padding="same", kernel_constraint="unit_norm")(x)
        x = layers.LeakyReLU(negative_slope=0.2)(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(1)(layers.Flatten()(x))), normal(16, 16, 3)


def spectral_critic():
    x = inputs = keras.Input((16, 16, 3))
    for width in (8, 16):
        convolution = layers.Conv2D(width, 3, strides=2, padding="same", activation="leaky_relu")
        x = layers.SpectralNormalization(convolution)(x)
    x = layers.SpectralNormalization(layers.Dense(1))(layers.Flatten()(x))
    return keras.Model(inputs, x), normal(16, 16, 3)


def weight_standardization():
    x = inputs = keras.Input((12, 12, 4))
    for _ in range(3):
        x = own.StandardizedConv(16, 3, padding="same")(x)
        x = layers.ReLU()(layers.GroupNormalization(4)(x))
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x))), normal(
        12, 12, 4
    )


class Sampler(layers.Layer):
    """Bilinear samples of an image at the points of an affine map, six numbers for each image."""

    def call(self, inputs):
        image, theta = inputs
        size = image.shape[1]
        steps = ops.linspace(-1.0, 1.0, size)
        rows, columns = ops.meshgrid(steps, steps, indexing="ij")
        grid = ops.stack([columns, rows, ops.ones_like(rows)], axis=-1)
        points = ops.einsum("hwk,bpk->bhwp", grid, ops.reshape(theta, (-1, 2, 3)))
        # A triangle around each point weights the pixels of each row and column.
        where = (points + 1.0) * (size - 1) / 2
        pixels = ops.arange(size, dtype="float32")
        weights = ops.relu(1.0 - ops.abs(ops.expand_dims(where, -1) - pixels))
        return ops.einsum("bhwx,bhwy,byxc->bhwc", weights[..., 0, :], weights[..., 1, :], image)


def spatial_transformer():
    """The map of the image starts as the identity: zeros, and a bias."""
    inputs = keras.Input((12, 12, 1))
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(inputs)
    x = layers.Dense(16, activation="relu")(layers.Flatten()(x))
    identity = keras.initializers.Constant(np.array([1, 0, 0, 0, 1, 0], "float32"))
    theta = layers.Dense(6, kernel_initializer="zeros", bias_initializer=identity)(x)
    x = Sampler()([inputs, theta])
    x = layers.Conv2D(8, 3, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x))), normal(12, 12, 1)


def temporal():
    """TCN: causal dilated convolutions in residual blocks."""
    x = inputs = keras.Input((32, 2))
    for dilation in (1, 2, 4, 8):
        shortcut = x if x.shape[-1] == 16 else layers.Conv1D(16, 1)(x)
        for _ in range(2):
            x = layers.Conv1D(16, 3, padding="causal", dilation_rate=dilation, activation="relu")(x)
            x = layers.SpatialDropout1D(0.1)(x)
        x = layers.ReLU()(layers.Add()([shortcut, x]))
    return keras.Model(inputs, layers.Dense(1)(x)), waves(channels=2)


def wavenet():
    """Gates, residual sums and skips that are added at the end."""
    x = layers.Conv1D(16, 1)(inputs := keras.Input((32, 1)))
    skips = []
    for dilation in (1, 2, 4, 8):
        options = {"padding": "causal", "dilation_rate": dilation}
        signal = layers.Conv1D(16, 2, activation="tanh", **options)(x)
        gate = layers.Conv1D(16, 2, activation="sigmoid", **options)(x)
        gated = layers.Multiply()([signal, gate])
        skips.append(layers.Conv1D(16, 1)(gated))
        x = layers.Add()([x, layers.Conv1D(16, 1)(gated)])
    x = layers.Conv1D(16, 1, activation="relu")(layers.ReLU()(layers.Add()(skips)))
    return keras.Model(inputs, layers.Conv1D(8, 1, activation="softmax")(x)), waves()


def volume():
    x = inputs = keras.Input((6, 8, 8, 2))
    x = layers.MaxPooling3D()(layers.Conv3D(8, 3, padding="same", activation="relu")(x))
    x = layers.Conv3D(16, 3, padding="same", activation="relu")(x)
    x = layers.Conv3DTranspose(4, 2, strides=2, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling3D()(x))), normal(
        6, 8, 8, 2
    )


def separable_signal():
    x = inputs = keras.Input((32, 3))
    for _ in range(3):
        x = layers.SeparableConv1D(16, 5, padding="same", activation="relu")(x)
    x = layers.DepthwiseConv1D(3, depth_multiplier=2, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalMaxPooling1D()(x))), waves(channels=3)


def text():
    """Kim's network: convolutions of three widths over words."""
    x = layers.Embedding(50, 16)(inputs := keras.Input((12,), dtype="int32"))
    pooled = [
        layers.GlobalMaxPooling1D()(layers.Conv1D(12, size, activation="relu")(x))
        for size in (2, 3, 4)
    ]
    x = layers.Dropout(0.5)(layers.Concatenate()(pooled))
    return keras.Model(inputs, layers.Dense(2)(x)), tokens()


MODELS = {
    "convnet relu": plain,
    "convnet tanh": partial(plain, activation="tanh"),
    "convnet relu, 30 layers": partial(plain, depth=30, width=8),
    "vgg": vgg,
    "vgg batch norm": partial(vgg, norm=True),
    "convnet strided": strided,
    "convnet rescaling first": rescaling_first,
    "convnet raw pixels": raw_pixels,
    "convnet spatial dropout": spatial_dropout,
    "squeezenet": fire,
    "inception": inception,
    "u-net": unet,
    "diffusion u-net": diffusion_unet,
    "feature pyramid": feature_pyramid,
    "convolutional autoencoder": autoencoder,
    "gan generator": generator,
    "wgan critic": critic,
    "spectral norm critic": spectral_critic,
    "weight standardization": weight_standardization,
    "spatial transformer": spatial_transformer,
    "temporal convolutions": temporal,
    "wavenet": wavenet,
    "volumes": volume,
    "separable signal": separable_signal,
    "text convolutions": text,
}
