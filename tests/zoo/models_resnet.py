"""Convolutional networks with residual trunks, dense blocks, and the mobile families."""

from functools import partial

import keras
import own_layers as own
from batches import images, normal
from keras import layers, ops


def head(inputs, x, classes=4):
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


def norm_relu(x):
    return layers.ReLU()(layers.BatchNormalization()(x))


def resnet_v1(groups=1, blocks=3):
    inputs = keras.Input((16, 16, 3))
    x = norm_relu(layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs))
    for position in range(blocks):
        strides = 2 if position == 1 else 1
        options = {"padding": "same", "use_bias": False, "groups": groups}
        width = 16 if position == 0 else 32
        branch = norm_relu(layers.Conv2D(width, 3, strides=strides, **options)(x))
        branch = layers.BatchNormalization()(layers.Conv2D(width, 3, **options)(branch))
        if strides > 1:
            x = layers.BatchNormalization()(layers.Conv2D(width, 1, strides=strides)(x))
        x = layers.ReLU()(layers.Add()([x, branch]))
    return head(inputs, x), normal(16, 16, 3)


def resnet_v2(blocks=4):
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, padding="same")(inputs)
    for _ in range(blocks):
        branch = layers.Conv2D(16, 3, padding="same", use_bias=False)(norm_relu(x))
        x = layers.Add()([x, layers.Conv2D(16, 3, padding="same")(norm_relu(branch))])
    return head(inputs, norm_relu(x)), normal(16, 16, 3)


def without_norm(blocks=8):
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(16, 3, padding="same")(inputs)
    for _ in range(blocks):
        branch = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.ReLU()(x))
        x = x + layers.Conv2D(16, 3, padding="same")(branch)
    return head(inputs, x), normal(12, 12, 3)


def zero_gamma(blocks=3):
    """The last scale of each branch starts at 0."""
    inputs = keras.Input((12, 12, 3))
    x = norm_relu(layers.Conv2D(16, 3, padding="same")(inputs))
    for _ in range(blocks):
        branch = norm_relu(layers.Conv2D(16, 3, padding="same")(x))
        branch = layers.Conv2D(16, 3, padding="same")(branch)
        branch = layers.BatchNormalization(gamma_initializer="zeros")(branch)
        x = layers.ReLU()(layers.Add()([x, branch]))
    return head(inputs, x), normal(12, 12, 3)


def densenet():
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(16, 3, padding="same")(inputs)
    for block in range(2):
        for _ in range(3):
            branch = layers.Conv2D(16, 1)(norm_relu(x))
            branch = layers.Conv2D(8, 3, padding="same")(norm_relu(branch))
            x = layers.Concatenate()([x, branch])
        if block == 0:
            x = layers.AveragePooling2D(2)(layers.Conv2D(16, 1)(norm_relu(x)))
    return head(inputs, norm_relu(x)), normal(12, 12, 3)


def mobilenet(norm=True):
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu6")(inputs)
    for width, strides in ((16, 1), (32, 2), (32, 1)):
        x = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=not norm)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x) if norm else x)
        x = layers.Conv2D(width, 1, use_bias=not norm)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x) if norm else x)
    return head(inputs, x), normal(16, 16, 3)


def xception():
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, padding="same")(inputs)
    for _ in range(3):
        branch = x
        for _ in range(2):
            branch = layers.SeparableConv2D(16, 3, padding="same", use_bias=False)(
                layers.ReLU()(branch)
            )
            branch = layers.BatchNormalization()(branch)
        x = layers.Add()([x, branch])
    return head(inputs, x), normal(16, 16, 3)


def separable_without_norm():
    x = inputs = keras.Input((12, 12, 8))
    for strides in (1, 2, 1):
        x = layers.SeparableConv2D(
            16, 3, strides=strides, depth_multiplier=2, padding="same", activation="relu"
        )(x)
    return head(inputs, x), normal(12, 12, 8)


def excited(x, ratio=4, activation="sigmoid"):
    """Returns squeeze and excitation of x: a factor for each channel."""
    width = x.shape[-1]
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(max(width // ratio, 2), 1, activation="relu")(gate)
    return layers.Multiply()([x, layers.Conv2D(width, 1, activation=activation)(gate)])


def inverted(x, width, *, activation="relu6", excite=None, strides=1, drop=None):
    """Returns an inverted residual block: wider, depthwise, narrower, and a sum."""
    branch = layers.Conv2D(4 * x.shape[-1], 1, use_bias=False)(x)
    branch = layers.Activation(activation)(layers.BatchNormalization()(branch))
    branch = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(branch)
    branch = layers.Activation(activation)(layers.BatchNormalization()(branch))
    if excite:
        branch = excited(branch, activation=excite)
    branch = layers.BatchNormalization()(layers.Conv2D(width, 1, use_bias=False)(branch))
    if strides > 1 or width != x.shape[-1]:
        return branch
    if drop:
        branch = layers.Dropout(drop, noise_shape=(None, 1, 1, 1))(branch)
    return layers.Add()([x, branch])


def mobilenet_v2():
    inputs = keras.Input((16, 16, 3))
    x = norm_relu(layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs))
    for width, strides in ((8, 1), (12, 2), (12, 1), (12, 1)):
        x = inverted(x, width, strides=strides)
    return head(inputs, x), normal(16, 16, 3)


def mobilenet_v3():
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="hard_silu")(inputs)
    for width, strides in ((8, 1), (12, 2), (12, 1)):
        x = inverted(x, width, strides=strides, activation="hard_silu", excite="hard_sigmoid")
    return head(inputs, x), normal(16, 16, 3)


def efficientnet():
    """Rescaling and normalisation in the model; pixels from 0 to 255."""
    pixels = images()
    scaled = layers.Rescaling(1 / 255.0)(inputs := keras.Input((16, 16, 3)))
    normalization = layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.05, 0.05, 0.05])
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(normalization(scaled))
    x = layers.Activation("silu")(layers.BatchNormalization()(x))
    for width, strides in ((8, 1), (12, 2), (12, 1)):
        x = inverted(x, width, strides=strides, activation="silu", excite="sigmoid", drop=0.2)
    return head(inputs, layers.Dropout(0.2)(x)), pixels


def convnext(plain_sum=False):
    inputs = keras.Input((16, 16, 3))
    x = layers.LayerNormalization()(layers.Conv2D(16, 4, strides=4)(inputs))
    for position in range(4):
        branch = layers.DepthwiseConv2D(5, padding="same")(x)
        branch = layers.LayerNormalization(epsilon=1e-6)(branch)
        branch = layers.Dense(16)(layers.Dense(64, activation="gelu")(branch))
        branch = own.DropPath(0.05 * position)(own.LayerScale(1e-2)(branch))
        x = x + branch if plain_sum else layers.Add()([x, branch])
    return head(inputs, layers.LayerNormalization()(x)), normal(16, 16, 3)


class Bottleneck(layers.Layer):
    """A block of layers with the sum in `call`."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.parts = [
            layers.Conv2D(width // 2, 1, use_bias=False),
            layers.Conv2D(width // 2, 3, padding="same", use_bias=False),
            layers.Conv2D(width, 1, use_bias=False),
        ]
        self.norms = [layers.BatchNormalization() for _ in self.parts]

    def build(self, shape):
        for part, norm in zip(self.parts, self.norms, strict=True):
            part.build(shape)
            shape = part.compute_output_shape(shape)
            norm.build(shape)

    def call(self, x, training=None):
        branch = x
        for position, (part, norm) in enumerate(zip(self.parts, self.norms, strict=True)):
            branch = norm(part(branch), training=training)
            if position < 2:
                branch = ops.relu(branch)
        return ops.relu(x + branch)


def blocks_in_call():
    x = layers.Conv2D(16, 3, padding="same")(inputs := keras.Input((12, 12, 3)))
    for _ in range(3):
        x = Bottleneck(16)(x)
    return head(inputs, x), normal(12, 12, 3)


MODELS = {
    "resnet v1": resnet_v1,
    "resnet v2": resnet_v2,
    "resnext": partial(resnet_v1, groups=4),
    "resnet without norm": without_norm,
    "resnet zero gamma": zero_gamma,
    "densenet": densenet,
    "mobilenet": mobilenet,
    "mobilenet without norm": partial(mobilenet, norm=False),
    "xception": xception,
    "separable without norm": separable_without_norm,
    "mobilenet v2": mobilenet_v2,
    "mobilenet v3": mobilenet_v3,
    "efficientnet": efficientnet,
    "convnext": convnext,
    "convnext plain sums": partial(convnext, plain_sum=True),
    "blocks with sums in call": blocks_in_call,
}
