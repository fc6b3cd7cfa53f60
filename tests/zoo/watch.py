"""One eager pass over a model, in which each layer with kernels shows what its kernels make.

`call` and the activations of single layer objects are replaced for a while. Recurrent layers run
step by step in a loop of this module, because their own is compiled or scanned.
"""

import contextlib
from collections import defaultdict

import keras
from keras import layers, ops

FAMILY = (
    layers.Dense,
    layers.EinsumDense,
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
CELLS = (layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell)
CONVOLUTIONAL = (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
# Their weights may have many axes, and are factors and slopes all the same.
NO_KERNELS = (
    layers.BatchNormalization,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.RMSNormalization,
    layers.PReLU,
)
FIRST_HALF = "/depthwise_kernel"  # of a separable convolution, after the key of its layer


def holders(model):
    """Returns the layers that hold trainable weights with several axes themselves, by key.

    A key is the path of the layer, and a number after it where layers share a path.
    """
    found = {}
    for layer in model._flatten_layers():
        if isinstance(layer, NO_KERNELS) or not kernels(layer):
            continue
        key, number = layer.path or layer.name, 1
        while key in found:
            number += 1
            key = f"{layer.path or layer.name}#{number}"
        found[key] = layer
    return found


def kernels(layer):
    """Returns the trainable weights with several axes that a layer holds itself, without biases."""
    inside = layer._flatten_layers(include_self=False, recursive=False)
    theirs = {id(one) for inner in inside for one in inner.variables}
    return [
        one
        for one in layer.trainable_variables
        if id(one) not in theirs and len(one.shape) > 1 and "bias" not in one.name
    ]


@contextlib.contextmanager
def replaced(owner, attribute, value):
    """Puts a value in place of an attribute of one object, past Keras' tracking, for a while."""
    held = vars(owner)
    missing = attribute not in held
    before = held.get(attribute)
    held[attribute] = value
    try:
        yield
    finally:
        if missing:
            del held[attribute]
        else:
            held[attribute] = before


class Watch(contextlib.ExitStack):
    """Shows `see(key, number of the call, value)` what each layer with kernels is measured at.

    What `see` returns is passed on. With a scope, values are shown without their bias, and passed
    on as they are.
    """

    def __init__(self, model, see, scope=None):
        super().__init__()
        self._see = see
        self._scope = scope
        self._calls = defaultdict(int)  # finished calls, by key
        self._seen = 0  # values, of all layers
        self._loops = 0  # that are going on
        self._inside = set()  # the keys that were called in the loop
        self._muted = False
        for layer in dict.fromkeys(model._flatten_layers()):
            if isinstance(layer, layers.RNN):
                self._replace(layer, "inner_loop", self._steps(layer))
                self._replace(layer, "call", self._loop(layer.call, muted=True))
            if isinstance(layer, layers.TimeDistributed):
                self._replace(layer, "call", self._loop(layer.call))
        cells = [
            layer.cell for layer in model._flatten_layers() if isinstance(layer, CONVOLUTIONAL)
        ]
        for key, layer in holders(model).items():
            is_cell = isinstance(layer, CELLS) or any(layer is cell for cell in cells)
            watch = self._watch_cell if is_cell else self._watch_layer
            watch(key, layer)

    def _replace(self, layer, attribute, value):
        self.enter_context(replaced(layer, attribute, value))

    def _note(self, key, value, bias=None):
        if self._muted:
            return value
        self._seen += 1
        if bias is None or self._scope is None:
            return self._see(key, self._calls[key], value)
        self._see(key, self._calls[key], value - ops.cast(bias, value.dtype))
        return value

    def _close(self, key):
        """Ends a call of a layer; those within one loop are one."""
        if self._loops:
            self._inside.add(key)
        else:
            self._calls[key] += 1

    def _loop(self, run, muted=False):
        """Returns a call that runs others in a loop; what precedes the loop may be muted."""

        def call(*args, **kwargs):
            before, self._muted = self._muted, muted or self._muted
            self._loops += 1
            output = run(*args, **kwargs)
            self._loops -= 1
            self._muted = before
            if not self._loops:
                for key in self._inside:
                    self._calls[key] += 1
                self._inside.clear()
            return output

        return call

    def _watch_layer(self, key, layer):
        family = isinstance(layer, FAMILY)
        run = self._halves(key, layer) if isinstance(layer, SEPARABLE) else layer.call
        if family:
            activation = self._noting(key, layer.activation, getattr(layer, "bias", None))
            self._replace(layer, "activation", activation)

        def call(*args, **kwargs):
            before = self._seen
            output = run(*args, **kwargs)
            if not family or self._seen == before:
                first, *others = keras.tree.flatten(output)
                offset = self._without_kernels(layer, run, *args, **kwargs)
                first = self._note(key, first, offset)
                output = keras.tree.pack_sequence_as(output, [first, *others])
            self._close(key)
            return output

        self._replace(layer, "call", call)

    def _halves(self, key, layer):
        """Returns the call of a separable convolution, which shows its first half too."""

        def call(inputs):
            first = self._note(key + FIRST_HALF, _depthwise(layer, inputs))
            self._close(key + FIRST_HALF)
            kernel = ops.cast(layer.pointwise_kernel, first.dtype)
            second = ops.conv(first, kernel, data_format=layer.data_format)
            if layer.use_bias:
                second = second + ops.cast(layer.bias, second.dtype)
            return layer.activation(second)

        return call

    def _without_kernels(self, layer, run, *args, **kwargs):
        """Returns the first output of a call with a kernel of zeros; `None` if biases count."""
        held = kernels(layer)
        if self._scope is None or len(held) > 1:
            return None
        state, muted = dict(self._scope.state_mapping), self._muted
        self._muted = True
        self._scope.add_update((held[0], ops.zeros_like(held[0].value)))
        output = run(*args, **kwargs)
        self._scope.state_mapping.clear()
        self._scope.state_mapping.update(state)
        self._muted = muted
        return keras.tree.flatten(output)[0]

    def _noting(self, key, activation, bias=None):
        return lambda value: activation(self._note(key, value, bias))

    def _watch_cell(self, key, cell):
        run = cell.call
        used = []  # whether `activation` was called in this step
        activation = cell.activation

        def first(value):
            # An LSTM calls it again, with its state, which no kernel has made.
            if used:
                return activation(value)
            used.append(True)
            return activation(self._note(key, value))

        def call(*args, **kwargs):
            used.clear()
            output = run(*args, **kwargs)
            self._close(key)
            return output

        self._replace(cell, "activation", first)
        if hasattr(cell, "recurrent_activation"):
            gate = self._noting(key, cell.recurrent_activation)
            self._replace(cell, "recurrent_activation", gate)
        self._replace(cell, "call", call)

    def _steps(self, layer):
        """Returns the loop of a recurrent layer over its steps, as plain Python."""

        def inner_loop(sequences, initial_state, mask, training=False):
            before, self._muted = self._muted, False
            states = initial_state
            count = sequences.shape[1]
            order = range(count - 1, -1, -1) if layer.go_backwards else range(count)
            outputs = []
            for step in order:
                arguments = _arguments(layer.cell, training)
                output, new = layer.cell(sequences[:, step], states, **arguments)
                new = new if keras.tree.is_nested(new) else [new]
                if mask is not None:
                    keep = mask[:, step]
                    last = outputs[-1] if outputs else ops.zeros_like(output)
                    output = _where(keep, output, last)
                    new = [
                        _where(keep, one, old)
                        for one, old in zip(
                            keras.tree.flatten(new), keras.tree.flatten(states), strict=True
                        )
                    ]
                    new = keras.tree.pack_sequence_as(states, new)
                outputs.append(output)
                states = new
            self._muted = before
            return outputs[-1], ops.stack(outputs, axis=1), states

        return inner_loop


def _arguments(cell, training):
    return {"training": training} if cell._call_has_training_arg else {}


def _where(mask, new, old):
    mask = ops.reshape(ops.cast(mask, "bool"), (-1, *[1] * (len(new.shape) - 1)))
    return ops.where(mask, new, old)


def _depthwise(layer, inputs):
    """Returns the output of the first half of a separable convolution."""
    padding = layer.padding
    if padding == "causal":
        inputs, padding = layer._compute_causal_padding(inputs), "valid"
    return ops.depthwise_conv(
        inputs,
        ops.cast(layer.depthwise_kernel, inputs.dtype),
        strides=layer.strides,
        padding=padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )
