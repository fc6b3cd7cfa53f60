"""Which weights of a layer are kernels, and how it uses each: a table from layer types to rules.

A rule is about the weights that a layer holds itself; `walk` finds the layers inside a layer and
applies their own rules. Rules are inherited, but not for the weights that a subclass adds.
"""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_he.backend.foreign import hint, is_keras_2
from keras_he.errors import InvalidArgument, invalid

# From an attribute that holds a kernel to the arguments of `fans` for it, or from a name to a layer
# inside, which stands under that name.
Kernels = Mapping[str, "Mapping[str, Any] | keras.layers.Layer"]
Rule = Callable[[Any], Kernels]


def register_kernels(layer_class: type, function: Rule) -> None:
    """Declares which weights of your own layer are kernels, and how the layer uses them.

    Args:
        layer_class: The layer's class. Its subclasses inherit the rule.
        function: Takes a built layer and returns a dict from the attribute that holds a kernel to
            the arguments of `keras_he.fans` for it, `{}` for a dense kernel or a plain convolution.
            Other trainable weights count as biases, scales and the like. Layers inside the layer
            have rules of their own.

    Raises:
        InvalidArgument: If `layer_class` is not a layer class, or `function` cannot be called.

    Example:
        >>> import keras, keras_he
        >>> class Upsample(keras.layers.Layer):
        ...     def build(self, shape):
        ...         self.taps = self.add_weight(shape=(4, 4, 8, shape[-1]), name="taps")
        ...     def call(self, x):
        ...         return keras.ops.conv_transpose(x, self.taps, strides=2, padding="same")
        >>> rule = lambda layer: {"taps": {"geometry": "transpose", "strides": 2}}
        >>> keras_he.register_kernels(Upsample, rule)
        >>> layer = Upsample()
        >>> layer.build((None, 8, 8, 16))
        >>> keras_he.layer_fans(layer)
        {'taps': Fans(fan_in=64.0, fan_out=128.0)}
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        accepted = "a subclass of `keras.layers.Layer`"
        wrong = hint(layer_class) if is_keras_2(layer_class) else ""
        raise invalid("layer_class", accepted, layer_class, wrong)
    if not callable(function):
        raise invalid("function", "a function from a layer to a dict of its kernels", function)
    RULES[layer_class] = function


def no_kernels(layer: Any) -> Kernels:
    """Returns the rule's answer for a layer whose weights are no kernels."""
    return {}


def _einsum(layer: keras.layers.EinsumDense) -> Kernels:
    inputs, rest = layer.equation.replace(" ", "").split(",")
    kernel, outputs = rest.split("->")
    alone = set(inputs) - set(kernel) - set(outputs) - {"."}
    if alone:
        raise InvalidArgument(
            f"the equation {layer.equation!r} sums over {', '.join(sorted(alone))}, which is no "
            "axis of the kernel, so its length, a factor of fan_in, is not known from the layer."
        )
    return {
        "kernel": {
            "input_axes": [i for i, axis in enumerate(kernel) if axis not in outputs],
            "output_axes": [i for i, axis in enumerate(kernel) if axis not in inputs],
        }
    }


def _convolution(layer: Any) -> Kernels:
    return {"kernel": {"strides": layer.strides, "groups": layer.groups}}


def _depthwise(layer: Any) -> Kernels:
    return {"kernel": {"geometry": "depthwise", "strides": layer.strides}}


def _separable(layer: Any) -> Kernels:
    depthwise = {"geometry": "depthwise", "strides": layer.strides}
    return {"depthwise_kernel": depthwise, "pointwise_kernel": {}}


def _transposed(layer: Any) -> Kernels:
    return {"kernel": {"geometry": "transpose", "strides": layer.strides}}


_LOOKUP = {"input_axes": (), "output_axes": (1,)}  # an output unit reads one row


def _reversible(layer: Any) -> Kernels:
    # Tied, the one matrix is a lookup first; its second use, as a dense kernel, is not counted.
    lookup: Kernels = {"embeddings": _LOOKUP}
    if layer.tie_weights:
        return lookup
    if layer.quantization_mode == "int4":
        raise InvalidArgument("an int4 kernel is packed, so its shape does not tell its fans.")
    return {**lookup, "reverse_embeddings": {}}


def _recurrent(gates: int) -> Rule:
    return lambda cell: {"kernel": {"gates": gates}, "recurrent_kernel": {"gates": gates}}


def _convolutional_recurrent(layer: Any) -> Kernels:
    # The class of the cell is not public: it is known from the layer that holds it.
    RULES.setdefault(type(layer.cell), _convolutional_cell)
    return {"": layer.cell}


def _convolutional_cell(cell: Any) -> Kernels:
    return {"kernel": {"strides": cell.strides, "gates": 4}, "recurrent_kernel": {"gates": 4}}


def _additive_attention(layer: Any) -> Kernels:
    # A score is the sum of `scale * tanh(query + key)` over the channels.
    return {"scale": {"input_axes": (0,), "output_axes": ()}} if layer.use_scale else {}


def _bidirectional(layer: keras.layers.Bidirectional) -> Kernels:
    return {"forward_layer": layer.forward_layer, "backward_layer": layer.backward_layer}


_BUILT_IN: dict[str, Rule] = {
    "Dense": lambda layer: {"kernel": {}},
    "TernaryDense": lambda layer: {"kernel": {}},  # Keras after 3.15
    "EinsumDense": _einsum,
    "Embedding": lambda layer: {"embeddings": _LOOKUP},
    "ReversibleEmbedding": _reversible,
    "SimpleRNNCell": _recurrent(1),
    "GRUCell": _recurrent(3),
    "LSTMCell": _recurrent(4),
    "RNN": lambda layer: {"": layer.cell},
    "StackedRNNCells": lambda layer: {str(i): cell for i, cell in enumerate(layer.cells)},
    "Bidirectional": _bidirectional,
    "Wrapper": lambda layer: {"layer": layer.layer},
    **dict.fromkeys(["Conv1D", "Conv2D", "Conv3D"], _convolution),
    **dict.fromkeys(["Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"], _transposed),
    **dict.fromkeys(["DepthwiseConv1D", "DepthwiseConv2D"], _depthwise),
    **dict.fromkeys(["SeparableConv1D", "SeparableConv2D"], _separable),
    **dict.fromkeys(["ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"], _convolutional_recurrent),
    "AdditiveAttention": _additive_attention,
    "Attention": no_kernels,  # its `scale` is a factor of the scores, one number
    "BatchNormalization": no_kernels,
    "GroupNormalization": no_kernels,
    "LayerNormalization": no_kernels,
    "PReLU": no_kernels,
    "RMSNormalization": no_kernels,
}

# A layer that this Keras does not have yet needs no rule.
RULES: dict[type, Rule] = {
    getattr(keras.layers, name): rule
    for name, rule in _BUILT_IN.items()
    if hasattr(keras.layers, name)
}
