"""Plain dense networks: activations, normalisations, noise, constraints, precisions."""

from functools import partial

import keras
from batches import normal
from keras import layers, ops


def chain(activation, depth=8, width=48, head=None, **options):
    """Returns dense layers in a row; `activation` is a name, a function, or makes a layer."""
    x = inputs = keras.Input((20,))
    for _ in range(depth):
        x = layers.Dense(width, activation=activation, **options)(x)
    return keras.Model(inputs, layers.Dense(5, activation=head)(x)), normal(20)


def with_layers(*makers, depth=6, width=48, use_bias=True):
    """Returns dense layers with other layers after each."""
    x = inputs = keras.Input((20,))
    for _ in range(depth):
        x = layers.Dense(width, use_bias=use_bias)(x)
        for make in makers:
            x = make()(x)
    return keras.Model(inputs, layers.Dense(5)(x)), normal(20)


def steep_tanh(x):
    return ops.tanh(5.0 * x)


def selu():
    x = inputs = keras.Input((20,))
    for _ in range(8):
        x = layers.Dense(48, activation="selu", kernel_initializer="lecun_normal")(x)
        x = layers.AlphaDropout(0.05)(x)
    return keras.Model(inputs, layers.Dense(5)(x)), normal(20)


def mixed_activations():
    x = inputs = keras.Input((20,))
    for name in ("silu", "mish", "leaky_relu", "softplus", "elu", "hard_silu", "softsign", "celu"):
        x = layers.Dense(48, activation=name)(x)
    return keras.Model(inputs, layers.Dense(5, activation="softmax")(x)), normal(20)


def dropout_everywhere():
    x = inputs = keras.Input((20,))
    x = layers.Dropout(0.2)(x)
    for _ in range(5):
        x = layers.Dropout(0.5)(layers.Dense(64, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(5)(x)), normal(20)


def gaussian_noise():
    x = layers.GaussianNoise(0.3)(inputs := keras.Input((20,)))
    for _ in range(4):
        x = layers.GaussianDropout(0.2)(layers.Dense(64, activation="relu")(x))
        x = layers.GaussianNoise(0.1)(x)
    return keras.Model(inputs, layers.Dense(5)(x)), normal(20)


def constrained():
    kinds = ("max_norm", "unit_norm", "min_max_norm", keras.constraints.MaxNorm(0.5))
    x = inputs = keras.Input((20,))
    for kind in kinds:
        x = layers.Dense(48, activation="relu", kernel_constraint=kind)(x)
    return keras.Model(inputs, layers.Dense(5, bias_constraint="non_neg")(x)), normal(20)


def norm_before_activation():
    return with_layers(layers.BatchNormalization, layers.ReLU, use_bias=False)


def norm_after_activation():
    return with_layers(layers.ReLU, layers.BatchNormalization)


def layer_norm():
    return with_layers(layers.LayerNormalization, partial(layers.Activation, "gelu"))


def group_norm():
    return with_layers(partial(layers.GroupNormalization, 8), partial(layers.Activation, "silu"))


def rms_norm():
    return with_layers(layers.RMSNormalization, partial(layers.Activation, "gelu"))


def spectral():
    x = inputs = keras.Input((20,))
    for _ in range(5):
        x = layers.SpectralNormalization(layers.Dense(48, activation="leaky_relu"))(x)
    return keras.Model(inputs, layers.Dense(1)(x)), normal(20)


def half_precision(policy):
    x = inputs = keras.Input((20,))
    for _ in range(6):
        x = layers.Dense(48, activation="gelu", dtype=policy)(x)
        x = layers.LayerNormalization(dtype=policy)(x)
    outputs = layers.Dense(5, dtype="float32")(x)
    return keras.Model(inputs, outputs), normal(20)


def regularized():
    penalty = keras.regularizers.L1L2(1e-4, 1e-4)
    return chain("relu", kernel_regularizer=penalty, activity_regularizer="l2")


def own_biases():
    ones = keras.initializers.RandomUniform(0.0, 0.2, seed=3)
    return chain("relu", bias_initializer=ones)


def wide_and_narrow():
    x = inputs = keras.Input((400,))
    for width in (8, 256, 4, 128, 2, 64):
        x = layers.Dense(width, activation="tanh")(x)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x)), normal(400)


MODELS = {
    "mlp relu": partial(chain, "relu"),
    "mlp gelu": partial(chain, "gelu"),
    "mlp tanh": partial(chain, "tanh"),
    "mlp sine": partial(chain, ops.sin),
    "mlp steep tanh": partial(chain, steep_tanh),
    "mlp exponential": partial(chain, "exponential", depth=2),
    "mlp relu, 40 layers": partial(chain, "relu", depth=40, width=32),
    "mlp sigmoid": partial(chain, "sigmoid", head="sigmoid"),
    "mlp selu": selu,
    "mlp prelu": partial(with_layers, layers.PReLU),
    "mlp mixed activations": mixed_activations,
    "mlp dropout everywhere": dropout_everywhere,
    "mlp noise": gaussian_noise,
    "mlp constraints": constrained,
    "mlp batch norm before": norm_before_activation,
    "mlp batch norm after": norm_after_activation,
    "mlp layer norm": layer_norm,
    "mlp group norm": group_norm,
    "mlp rms norm": rms_norm,
    "mlp spectral norm": spectral,
    "mlp mixed_float16": partial(half_precision, "mixed_float16"),
    "mlp mixed_bfloat16": partial(half_precision, "mixed_bfloat16"),
    "mlp regularized": regularized,
    "mlp biases": own_biases,
    "mlp bottlenecks": wide_and_narrow,
}
