"""Networks of graphs, sets and points."""

import keras
import numpy as np
import own_layers as own
from batches import SAMPLES, normal, uniform
from keras import layers, ops

NODES = 10


def adjacency(seed=0):
    """Returns random graphs with loops; each row has the sum 1."""
    rng = np.random.default_rng(seed)
    edges = (rng.uniform(size=(SAMPLES, NODES, NODES)) < 0.3) | np.eye(NODES, dtype=bool)
    edges = (edges | edges.transpose(0, 2, 1)).astype("float32")
    return edges / edges.sum(-1, keepdims=True)


def graph(layer):
    """Returns three layers over nodes and edges, and a head on the mean of the nodes."""
    nodes, edges = keras.Input((NODES, 6)), keras.Input((NODES, NODES))
    x = nodes
    for _ in range(3):
        x = layers.ELU()(layer()([x, edges]))
    outputs = layers.Dense(3)(layers.GlobalAveragePooling1D()(x))
    return keras.Model([nodes, edges], outputs), [normal(NODES, 6), adjacency()]


def convolution():
    return graph(lambda: own.GraphConvolution(16))


def attention():
    return graph(lambda: own.GraphAttention(4, 6))


def isomorphism():
    """GIN: a dense network on the sum of a node and its neighbours."""
    nodes, edges = keras.Input((NODES, 6)), keras.Input((NODES, NODES))
    x = nodes
    for _ in range(3):
        x = x + layers.Dot(axes=(2, 1))([edges, x])
        x = layers.Dense(16, activation="relu")(x)
        x = layers.BatchNormalization()(layers.Dense(16, activation="relu")(x))
    outputs = layers.Dense(3)(layers.GlobalMaxPooling1D()(x))
    return keras.Model([nodes, edges], outputs), [normal(NODES, 6), adjacency()]


def messages():
    """Messages of pairs of nodes, and a recurrent update."""
    nodes, edges = keras.Input((NODES, 6)), keras.Input((NODES, NODES))
    x = layers.Dense(12)(nodes)
    message = layers.Dense(12, activation="relu")
    update = layers.Dense(12, activation="tanh")
    for _ in range(2):
        left = ops.repeat(ops.expand_dims(x, 2), NODES, axis=2)
        right = ops.repeat(ops.expand_dims(x, 1), NODES, axis=1)
        pairs = message(layers.Concatenate()([left, right]))
        gathered = ops.sum(pairs * ops.expand_dims(edges, -1), axis=2)
        x = update(layers.Concatenate()([x, gathered]))
    return keras.Model([nodes, edges], layers.Dense(2)(x)), [normal(NODES, 6), adjacency()]


def transform(points, size):
    """Returns points after a matrix that a network makes: zeros, and the identity as a bias."""
    x = layers.BatchNormalization()(layers.Conv1D(16, 1, activation="relu")(points))
    x = layers.Dense(16, activation="relu")(layers.GlobalMaxPooling1D()(x))
    identity = keras.initializers.Constant(np.eye(size, dtype="float32").flatten())
    x = layers.Dense(size * size, kernel_initializer="zeros", bias_initializer=identity)(x)
    return layers.Dot(axes=(2, 1))([points, layers.Reshape((size, size))(x)])


def points():
    """PointNet: two transforms, points with shared weights, and a maximum over them."""
    x = transform(inputs := keras.Input((24, 3)), 3)
    x = layers.BatchNormalization()(layers.Conv1D(12, 1, activation="relu")(x))
    x = transform(x, 12)
    for width in (16, 32):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv1D(width, 1)(x)))
    x = layers.Dense(16, activation="relu")(layers.GlobalMaxPooling1D()(x))
    x = layers.Dropout(0.3)(x)
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x)), uniform(24, 3, low=-1.0)


def deep_sets():
    x = inputs = keras.Input((16, 4))
    for _ in range(2):
        x = layers.Dense(24, activation="relu")(x)
    x = ops.sum(x, axis=1)
    return keras.Model(inputs, layers.Dense(1)(layers.Dense(24, activation="relu")(x))), normal(
        16, 4
    )


MODELS = {
    "graph convolution": convolution,
    "graph attention": attention,
    "graph isomorphism": isomorphism,
    "graph messages": messages,
    "pointnet": points,
    "deep sets": deep_sets,
}
