"""Networks that the tests of whole models share, by name."""

import keras
import numpy as np
from keras import layers


def dense_chain(activation, depth=100, width=128):
    """Returns a chain of dense layers; `activation` is a name, or makes a layer."""
    x = inputs = keras.Input((width,))
    for _ in range(depth):
        if callable(activation):
            x = activation()(layers.Dense(width)(x))
        else:
            x = layers.Dense(width, activation=activation)(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def prelu(shared_axes=None, seed=0):
    """Returns a maker of PReLU layers with one slope per channel, drawn from 0 to 0.5."""
    slopes = keras.initializers.RandomUniform(0.0, 0.5, seed=seed)
    return lambda: layers.PReLU(alpha_initializer=slopes, shared_axes=shared_axes)


def conv_prelu(depth=30):
    x = inputs = keras.Input((16, 16, 3))
    for _ in range(depth):
        x = prelu(shared_axes=[1, 2])()(layers.Conv2D(32, 3, padding="same")(x))
    return keras.Model(inputs, x)


def separable_blocks(depth=30, parts=False):
    """Returns depthwise-separable blocks without normalisation."""
    x = inputs = keras.Input((16, 16, 32))
    for _ in range(depth):
        if parts:
            x = layers.DepthwiseConv2D(3, padding="same")(x)
            x = layers.Conv2D(32, 1, activation="relu")(x)
        else:
            x = layers.SeparableConv2D(32, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, x)


def decoder(depth=20):
    """Returns transposed convolutions, of which every fifth doubles the image."""
    x = inputs = keras.Input((2, 2, 32))
    for position in range(depth):
        strides = 2 if position % 5 == 0 else 1
        x = layers.Conv2DTranspose(32, 4, strides=strides, padding="same", activation="relu")(x)
    return keras.Model(inputs, x)


def transformer(depth=6, norm="pre", width=32, attention=layers.MultiHeadAttention):
    x = inputs = keras.Input((12, width))
    for _ in range(depth):
        for part in ("attention", "mlp"):
            branch = layers.LayerNormalization()(x) if norm == "pre" else x
            if part == "attention":
                made = (
                    attention(4, width // 4)
                    if attention is layers.MultiHeadAttention
                    else attention(width // 4, 4, 2)
                )
                branch = made(branch, branch)
            else:
                branch = layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(branch))
            x = layers.Add()([x, branch])
            if norm == "post":
                x = layers.LayerNormalization()(x)
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


def residual_blocks(depth=20, width=32):
    """Returns residual blocks of two convolutions without normalisation."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(width, 3, padding="same")(inputs)
    for _ in range(depth):
        branch = layers.Conv2D(width, 3, padding="same")(layers.ReLU()(x))
        branch = layers.Conv2D(width, 3, padding="same")(layers.ReLU()(branch))
        x = layers.Add()([x, branch])
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def unet():
    inputs = keras.Input((32, 32, 3))
    skips, x = [], inputs
    for width in (16, 32, 64):
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(128, 3, padding="same", activation="relu")(x)
    for width, skip in zip((64, 32, 16), reversed(skips), strict=True):
        x = layers.Conv2DTranspose(width, 2, strides=2)(x)
        x = layers.Concatenate()([x, skip])
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))


def recurrent():
    inputs = keras.Input((10, 8))
    x = layers.Bidirectional(layers.LSTM(16, return_sequences=True))(inputs)
    x = layers.GRU(12, return_sequences=True)(x)
    x = layers.TimeDistributed(layers.Dense(12, activation="relu"))(x)
    x = layers.RNN([layers.SimpleRNNCell(6), layers.LSTMCell(5)], return_sequences=True)(x)
    return keras.Model(inputs, layers.Dense(3)(layers.LSTM(7)(x)))


def recurrent_convolutions():
    inputs = keras.Input((4, 8, 8, 3))
    x = layers.ConvLSTM2D(6, 3, padding="same", return_sequences=True)(inputs)
    x = layers.ConvLSTM2D(4, 3, padding="same")(x)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


@keras.saving.register_keras_serializable("architectures")
class Block(layers.Layer):
    """A residual block that holds layers, as users write it."""

    def __init__(self, width, plain_sum=False, **kwargs):
        super().__init__(**kwargs)
        self.width, self.plain_sum = width, plain_sum
        self.first = layers.Conv2D(width, 3, padding="same", use_bias=False)
        self.norm = layers.BatchNormalization()
        self.second = layers.Conv2D(width, 3, padding="same")
        self.add = layers.Add()

    def build(self, shape):
        inner = (*shape[:-1], self.width)
        self.first.build(shape)
        self.norm.build(inner)
        self.second.build(inner)
        self.add.build([inner, inner])

    def call(self, x, training=None):
        y = keras.ops.relu(self.norm(self.first(x), training=training))
        y = self.second(y)
        return x + y if self.plain_sum else self.add([x, y])

    def get_config(self):
        return {**super().get_config(), "width": self.width, "plain_sum": self.plain_sum}


@keras.saving.register_keras_serializable("architectures")
class SubclassedResNet(keras.Model):
    def __init__(self, depth=4, width=16, plain_sum=False):
        super().__init__()
        self.stem = layers.Conv2D(width, 3, padding="same")
        self.blocks = [Block(width, plain_sum) for _ in range(depth)]
        self.pool = layers.GlobalAveragePooling2D()
        self.drop = layers.Dropout(0.1)
        self.head = layers.Dense(10)

    def call(self, x, training=None):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(self.drop(self.pool(x), training=training))


def subclassed(**kwargs):
    model = SubclassedResNet(**kwargs)
    model(keras.ops.zeros((1, 16, 16, 3)))
    return model


def nested():
    """Returns models in models, three deep."""
    inner = keras.Sequential([keras.Input((24,)), layers.Dense(24, "relu"), layers.Dense(24)])
    middle_in = keras.Input((24,))
    middle = keras.Model(middle_in, layers.Dense(24, "gelu")(layers.ReLU()(inner(middle_in))))
    outer = keras.Sequential([keras.Input((24,)), middle, layers.Dense(24, "relu")])
    inputs = keras.Input((24,))
    return keras.Model(inputs, layers.Dense(3)(outer(inputs)))


def shared(times=10):
    """Returns one dense layer that is called ten times."""
    layer = layers.Dense(64, activation="relu", name="shared")
    x = inputs = keras.Input((64,))
    for _ in range(times):
        x = layer(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def several_inputs():
    """Returns a model with a dict of inputs, tokens among them, and two outputs."""
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    numbers = keras.Input((5,), name="numbers")
    x = layers.Flatten()(layers.Embedding(50, 8)(tokens))
    x = layers.Concatenate()([x, layers.Dense(16, "relu")(numbers)])
    x = layers.Dense(32, activation="silu")(x)
    outputs = {"a": layers.Dense(2)(x), "b": layers.Dense(3, "softmax")(x)}
    return keras.Model({"tokens": tokens, "numbers": numbers}, outputs)


def llama():
    """Returns KerasHub's Llama, four small blocks."""
    import keras_hub

    return keras_hub.models.LlamaBackbone(
        vocabulary_size=50,
        num_layers=4,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=64,
        intermediate_dim=128,
    )


APPLICATIONS = (
    "VGG16 ResNet50 ResNet50V2 MobileNet MobileNetV2 MobileNetV3Small EfficientNetB0 "
    "EfficientNetV2B0 DenseNet121 Xception NASNetMobile"
).split()


def application(name):
    """Returns a network of keras.applications without weights, for small images."""
    size = 71 if name == "Xception" else 64
    options = {"weights": None, "input_shape": (size, size, 3)}
    if name == "NASNetMobile":
        options["include_top"] = False
    if name in ("MobileNetV3Small", "EfficientNetV2B0"):
        options["include_preprocessing"] = False
    return getattr(keras.applications, name)(**options)


SMALL = {
    "dense": lambda: dense_chain("relu", depth=5, width=32),
    "conv_prelu": lambda: conv_prelu(3),
    "separable": lambda: separable_blocks(3),
    "decoder": lambda: decoder(4),
    "pre-norm": lambda: transformer(2),
    "post-norm": lambda: transformer(2, "post"),
    "residual": lambda: residual_blocks(3),
    "unet": unet,
    "recurrent": recurrent,
    "recurrent convolutions": recurrent_convolutions,
    "subclassed": subclassed,
    "nested": nested,
    "shared": shared,
    "several inputs": several_inputs,
}


def batch_for(model, samples=32, seed=20151206):
    """Returns normal draws, or small integers, that fit a model's inputs."""
    rng = np.random.default_rng(seed)
    if isinstance(model, SubclassedResNet):
        return rng.normal(size=(samples, 16, 16, 3)).astype("float32")

    def values(symbol):
        shape = (samples, *(size or 12 for size in symbol.shape[1:]))
        if "int" in symbol.dtype:
            return rng.integers(0, 2 if "segment" in symbol.name else 50, size=shape)
        return rng.normal(size=shape).astype("float32")

    symbols = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return keras.tree.map_structure(values, symbols)


def numbers(model):
    """Returns the values of all variables of a model."""
    return [np.array(keras.ops.convert_to_numpy(one)) for one in model.variables]
