"""Recurrent networks: stacks, both directions, cells of the user's own, encoders and decoders."""

from functools import partial

import keras
import own_layers as own
from batches import normal, tokens, waves
from keras import layers, ops


def stack(layer, activation="tanh", **options):
    x = inputs = keras.Input((16, 4))
    for position in range(3):
        x = layer(24, activation=activation, return_sequences=position < 2, **options)(x)
    return keras.Model(inputs, layers.Dense(2)(x)), waves(16, 4)


def bidirectional():
    x = layers.Embedding(50, 12)(inputs := keras.Input((12,), dtype="int32"))
    x = layers.Bidirectional(layers.LSTM(12, return_sequences=True))(x)
    x = layers.Bidirectional(layers.GRU(8), merge_mode="sum")(layers.Dropout(0.3)(x))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x)), tokens()


def masked():
    """Sequences of many lengths, padded with zeros that are masked."""
    ids = tokens()
    for row in range(len(ids)):
        ids[row, 3 + row % 9 :] = 0
    x = layers.Embedding(50, 12, mask_zero=True)(inputs := keras.Input((12,), dtype="int32"))
    x = layers.GRU(12)(layers.LSTM(12, return_sequences=True)(x))
    return keras.Model(inputs, layers.Dense(2)(x)), ids


def sequence_to_sequence():
    """The decoder starts from the encoder's states, with attention of Luong's kind."""
    source, target = keras.Input((10,), dtype="int32"), keras.Input((8,), dtype="int32")
    encoder = layers.LSTM(16, return_sequences=True, return_state=True)
    encoded, *states = encoder(layers.Embedding(50, 12)(source))
    decoder = layers.LSTM(16, return_sequences=True)
    decoded = decoder(layers.Embedding(50, 12)(target), initial_state=states)
    context = layers.Attention()([decoded, encoded])
    x = layers.Dense(24, activation="tanh")(layers.Concatenate()([decoded, context]))
    outputs = layers.Dense(50, activation="softmax")(x)
    return keras.Model([source, target], outputs), [tokens(10), tokens(8, seed=1)]


def additive_attention():
    """Attention of Bahdanau's kind over a recurrent layer."""
    x = inputs = keras.Input((16, 4))
    x = layers.Bidirectional(layers.GRU(12, return_sequences=True))(x)
    query = layers.Dense(24)(layers.GlobalAveragePooling1D(keepdims=True)(x))
    x = layers.Flatten()(layers.AdditiveAttention()([query, layers.Dense(24)(x)]))
    return keras.Model(inputs, layers.Dense(2)(x)), waves(16, 4)


def convolutional():
    x = inputs = keras.Input((4, 8, 8, 2))
    x = layers.ConvLSTM2D(6, 3, padding="same", return_sequences=True)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ConvLSTM2D(4, 3, padding="same")(x)
    return keras.Model(inputs, layers.Conv2D(1, 3, padding="same")(x)), normal(4, 8, 8, 2)


def stacked_cells():
    cells = [layers.LSTMCell(12), layers.GRUCell(10), layers.SimpleRNNCell(8)]
    x = layers.RNN(cells)(inputs := keras.Input((10, 4)))
    return keras.Model(inputs, layers.Dense(2)(x)), waves(10, 4)


def frames():
    """A convolutional network for each frame, then a recurrent layer."""
    frame = keras.Sequential(
        [
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.Conv2D(8, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
        ],
        name="frame",
    )
    x = layers.TimeDistributed(frame)(inputs := keras.Input((4, 10, 10, 1)))
    x = layers.TimeDistributed(layers.Dense(12, activation="relu"))(x)
    return keras.Model(inputs, layers.Dense(2)(layers.LSTM(12)(x))), normal(4, 10, 10, 1)


class ClosedFormCell(layers.Layer):
    """A cell of dense layers: two candidates, mixed by a gate over time."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units
        self.backbone = layers.Dense(2 * units, activation="silu")
        self.first = layers.Dense(units, activation="tanh")
        self.second = layers.Dense(units, activation="tanh")
        self.time = layers.Dense(units, activation="sigmoid")

    def build(self, shape):
        self.backbone.build((None, shape[-1] + self.units))
        for layer in (self.first, self.second, self.time):
            layer.build((None, 2 * self.units))

    def call(self, x, states):
        hidden = self.backbone(ops.concatenate([x, states[0]], axis=-1))
        gate = self.time(hidden)
        new = (1.0 - gate) * self.first(hidden) + gate * self.second(hidden)
        return new, [new]


def own_cell(cell):
    x = inputs = keras.Input((12, 4))
    x = layers.RNN(cell(16), return_sequences=True)(x)
    x = layers.RNN(cell(12))(x)
    return keras.Model(inputs, layers.Dense(2)(x)), waves(12, 4)


def norm_between():
    x = layers.Dense(16)(inputs := keras.Input((12, 4)))
    for _ in range(3):
        branch = layers.LSTM(16, return_sequences=True)(layers.LayerNormalization()(x))
        x = layers.Add()([x, branch])
    return keras.Model(inputs, layers.Dense(2)(x[:, -1])), waves(12, 4)


def projected():
    """Dense layers around recurrent layers with dropout."""
    x = layers.Dense(32, activation="relu")(inputs := keras.Input((12, 4)))
    x = layers.LSTM(16, return_sequences=True, dropout=0.2, recurrent_dropout=0.2)(x)
    x = layers.Dense(32, activation="relu")(x)
    x = layers.GRU(16, dropout=0.2, reset_after=False)(x)
    return keras.Model(inputs, layers.Dense(2)(x)), waves(12, 4)


MODELS = {
    "lstm": partial(stack, layers.LSTM),
    "lstm relu": partial(stack, layers.LSTM, activation="relu"),
    "gru": partial(stack, layers.GRU),
    "simple rnn": partial(stack, layers.SimpleRNN),
    "simple rnn relu": partial(
        stack, layers.SimpleRNN, activation="relu", recurrent_initializer="identity"
    ),
    "recurrent bidirectional": bidirectional,
    "recurrent masked": masked,
    "sequence to sequence": sequence_to_sequence,
    "additive attention": additive_attention,
    "convolutional lstm": convolutional,
    "stacked cells": stacked_cells,
    "frames": frames,
    "closed-form cell": partial(own_cell, ClosedFormCell),
    "minimal gated cell": partial(own_cell, own.MinimalGatedCell),
    "residual lstm": norm_between,
    "recurrent dropout": projected,
}
