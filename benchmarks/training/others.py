"""Models of points, rays, sequences, graphs and vectors."""

from typing import Any

import keras
import numpy as np
from keras import layers

from .data import DIGITS, SAMPLES, SYMBOLS
from .layers import ExpertDense, GraphAttention, Positions, encoder_block


def _normalised(layer: Any, x: Any) -> Any:
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layer(x)))


def _transform(x: Any) -> Any:
    """Returns points after a linear map that a small network computes, the identity at first."""
    size = x.shape[-1]
    seen = x
    for filters in (32, 64):
        seen = _normalised(layers.Conv1D(filters, 1), seen)
    seen = layers.GlobalMaxPooling1D()(seen)
    seen = _normalised(layers.Dense(32), seen)
    identity = keras.initializers.Constant(np.eye(size).ravel())
    map_ = layers.Dense(size * size, kernel_initializer="zeros", bias_initializer=identity)(seen)
    return layers.Dot(axes=(2, 1))([x, layers.Reshape((size, size))(map_)])


def pointnet() -> keras.Model:
    """Returns a PointNet with both of its transforms. Qi et al. (2017), arXiv:1612.00593."""
    inputs = keras.Input((48, 3))
    x = _transform(inputs)
    for _ in range(2):
        x = _normalised(layers.Conv1D(24, 1), x)
    x = _transform(x)
    for filters in (24, 48, 96):
        x = _normalised(layers.Conv1D(filters, 1), x)
    x = layers.GlobalMaxPooling1D()(x)
    for units in (48, 24):
        x = _normalised(layers.Dense(units), x)
    return keras.Model(inputs, layers.Dense(6)(x), name="pointnet")


def nerf() -> keras.Model:
    """Returns a radiance field of eight layers with a skip, from points to colour and density.

    Mildenhall et al. (2020), arXiv:2003.08934.
    """
    points, directions = keras.Input((SAMPLES, 27)), keras.Input((SAMPLES, 15))
    x = points
    for number in range(8):
        x = layers.Dense(64, activation="relu")(x)
        if number == 4:
            x = layers.Concatenate()([points, x])
    density = layers.Dense(1)(x)
    x = layers.Concatenate()([layers.Dense(64)(x), directions])
    colour = layers.Dense(3)(layers.Dense(32, activation="relu")(x))
    outputs = layers.Concatenate()([colour, density])
    return keras.Model([points, directions], outputs, name="nerf")


def seq2seq() -> keras.Model:
    """Returns an encoder and a decoder of two LSTM layers each.

    Sutskever et al. (2014), arXiv:1409.3215.
    """
    given, before = keras.Input((6,), dtype="int32"), keras.Input((6,), dtype="int32")
    x, states = layers.Embedding(DIGITS, 32)(given), []
    for _ in range(2):
        x, *state = layers.LSTM(64, return_sequences=True, return_state=True)(x)
        states.append(state)
    x = layers.Embedding(DIGITS + 1, 32)(before)
    for state in states:
        x = layers.LSTM(64, return_sequences=True)(x, initial_state=state)
    return keras.Model([given, before], layers.Dense(DIGITS)(x), name="seq2seq")


def tcn() -> keras.Model:
    """Returns a temporal convolutional network of six blocks. Bai et al. (2018), arXiv:1803.01271.

    Without their weight normalisation, which Keras does not have, and without dropout.
    """
    inputs = x = keras.Input((32, 2))
    x = layers.Conv1D(24, 1)(x)
    for number in range(6):
        branch = x
        for _ in range(2):
            convolution = layers.Conv1D(24, 3, padding="causal", dilation_rate=2 ** min(number, 4))
            branch = layers.ReLU()(convolution(branch))
        x = layers.ReLU()(layers.Add()([x, branch]))
    return keras.Model(inputs, layers.Dense(1)(x[:, -1]), name="tcn")


def gat() -> keras.Model:
    """Returns a graph attention network of six layers. Velickovic et al. (2018), arXiv:1710.10903.

    Its layers have four heads of eight units.
    """
    features, edges = keras.Input((24, 8)), keras.Input((24, 24))
    x = features
    for _ in range(6):
        x = layers.Activation("elu")(GraphAttention(4, 8)(x, edges))
    return keras.Model([features, edges], layers.Dense(4)(x), name="gat")


def moe() -> keras.Model:
    """Returns eight residual blocks of four experts each, mixed by a softmax of their gate.

    Jacobs et al. (1991); the kernels of the experts are one weight with three axes.
    """
    inputs = keras.Input((64,))
    x = layers.Dense(48)(inputs)
    for _ in range(8):
        branch = layers.LayerNormalization(epsilon=1e-6)(x)
        gate = layers.Dense(4, activation="softmax")(branch)
        experts = layers.Activation("gelu")(ExpertDense(48)(layers.RepeatVector(4)(branch)))
        branch = layers.Dot(axes=1)([gate, ExpertDense(48)(experts)])
        x = layers.Add()([x, branch])
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    return keras.Model(inputs, layers.Dense(10)(x), name="moe")


def transformer() -> keras.Model:
    """Returns a causal transformer of eight blocks that normalise the inputs of their branches.

    Radford et al. (2019), *Language models are unsupervised multitask learners*.
    """
    inputs = keras.Input((16,), dtype="int32")
    x = Positions()(layers.Embedding(SYMBOLS, 32)(inputs))
    for _ in range(8):
        x = encoder_block(x, 4, 64, causal=True)
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    return keras.Model(inputs, layers.Dense(SYMBOLS)(x), name="transformer")
