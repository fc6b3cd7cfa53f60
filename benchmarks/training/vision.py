"""Models of images."""

from typing import Any

import keras
from keras import layers

from .data import SHAPES
from .layers import Positions, Scale, dense_branch, encoder_block

WIDTH, HEADS = 32, 4


def cct() -> keras.Model:
    """Returns a compact convolutional transformer of six blocks, with sequence pooling.

    Hassani et al. (2021), arXiv:2104.05704.
    """
    inputs = x = keras.Input((16, 16, 1))
    for filters in (24, WIDTH):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, activation="relu")(x)
        x = layers.MaxPooling2D(3, 2, padding="same")(x)
    x = Positions()(layers.Reshape((16, WIDTH))(x))
    for _ in range(6):
        x = encoder_block(x, HEADS, 2 * WIDTH)
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    weights = layers.Softmax(axis=1)(layers.Dense(1)(x))
    pooled = layers.Flatten()(layers.Dot(axes=1)([weights, x]))
    return keras.Model(inputs, layers.Dense(SHAPES)(pooled), name="cct")


def deit() -> keras.Model:
    """Returns a vision transformer of eight blocks with a class and a distillation token.

    Touvron et al. (2021), arXiv:2012.12877. The outputs are those of the two heads.
    """
    inputs = keras.Input((8, 8, 1))
    x = layers.Reshape((16, WIDTH))(layers.Conv2D(WIDTH, 2, strides=2)(inputs))
    x = Positions(extra=2)(x)
    for _ in range(8):
        x = encoder_block(x, HEADS, 2 * WIDTH)
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    heads = [layers.Dense(10)(x[:, token]) for token in range(2)]
    return keras.Model(inputs, layers.Concatenate()(heads), name="deit")


def mixer() -> keras.Model:
    """Returns an MLP-Mixer of eight blocks. Tolstikhin et al. (2021), arXiv:2105.01601."""
    inputs = keras.Input((16, 16, 1))
    x = layers.Reshape((16, WIDTH))(layers.Conv2D(WIDTH, 4, strides=4)(inputs))
    for _ in range(8):
        tokens = layers.LayerNormalization(epsilon=1e-6)(x)
        tokens = layers.Dense(32, activation="gelu")(layers.Permute((2, 1))(tokens))
        tokens = layers.Permute((2, 1))(layers.Dense(16)(tokens))
        x = layers.Add()([x, tokens])
        x = layers.Add()([x, dense_branch(x, 2 * WIDTH)])
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(SHAPES)(x), name="mixer")


def convnext() -> keras.Model:
    """Returns a ConvNeXt of eight blocks in two stages. Liu et al. (2022), arXiv:2201.03545."""
    inputs = keras.Input((16, 16, 1))
    x = layers.Conv2D(16, 2, strides=2)(inputs)
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    for width in (16, 32):
        if width == 32:
            x = layers.LayerNormalization(epsilon=1e-6)(x)
            x = layers.Conv2D(width, 2, strides=2)(x)
        for _ in range(4):
            branch = layers.DepthwiseConv2D(5, padding="same")(x)
            x = layers.Add()([x, Scale()(dense_branch(branch, 4 * width))])
    x = layers.LayerNormalization(epsilon=1e-6)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(SHAPES)(x), name="convnext")


def _two_convolutions(x: Any, filters: int) -> Any:
    for _ in range(2):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    return x


def unet() -> keras.Model:
    """Returns a U-Net of four levels, without normalisation, as Ronneberger et al. have it.

    Ronneberger et al. (2015), arXiv:1505.04597.
    """
    inputs = x = keras.Input((16, 16, 1))
    levels = []
    for filters in (8, 12, 16):
        x = _two_convolutions(x, filters)
        levels.append(x)
        x = layers.MaxPooling2D()(x)
    x = _two_convolutions(x, 32)
    for level in reversed(levels):
        filters = level.shape[-1]
        x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        x = _two_convolutions(layers.Concatenate()([level, x]), filters)
    return keras.Model(inputs, layers.Conv2D(4, 1)(x), name="unet")


def critic() -> keras.Model:
    """Returns a critic of six convolutions. Gulrajani et al. (2017), arXiv:1704.00028."""
    inputs = x = keras.Input((16, 16, 1))
    for filters, strides in ((8, 1), (12, 2), (16, 1), (24, 2), (32, 1), (48, 2)):
        x = layers.Conv2D(filters, 3, strides=strides, padding="same")(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    return keras.Model(inputs, layers.Dense(1)(layers.Flatten()(x)), name="critic")
