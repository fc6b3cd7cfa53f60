"""What a user passes as `activation`, read into a known name, a slope, or plain moments.

Strings of the fixed table, functions of `keras.activations`, activation layers (with their
parameters) and any callable that acts element by element are accepted. A config holds only a known
name; everything else becomes its gain when the initializer is built, so that nothing in a saved
file is looked up, imported or called.
"""

from collections.abc import Callable
from typing import Any

import keras

from keras_he.backend.foreign import hint, is_keras_2
from keras_he.backend.framework import framework
from keras_he.errors import invalid
from keras_he.theory import activations
from keras_he.theory.activations import (
    Activation,
    DepthFactors,
    named,
    root_mean_square,
    with_slope,
)
from keras_he.theory.kernel_geometry import Mode, checked_mode
from keras_he.theory.quadrature import moments_of


def gain(activation: Any, *, negative_slope: Any = None, mode: Mode = "fan_in") -> float:
    """Returns the gain of an activation: the factor over `1 / sqrt(fan)` in a kernel's std.

    | mode | gain |
    |---|---|
    | `"fan_in"` | `1 / sqrt(E[f(z)²])`, for the activation that precedes the kernel |
    | `"fan_out"` | `1 / sqrt(E[f'(z)²])`, for the activation that follows the kernel |
    | `"fan_avg"` | `sqrt(2 / (E[f(z)²] + E[f'(z)²]))`, for equal fans |

    with `z` standard normal. The derivative is that of automatic differentiation: a jump passes no
    gradient.

    Args:
        activation: A name, a function of `keras.activations`, an activation layer (its own
            parameters count), or any callable on NumPy arrays or tensors that acts element by
            element; `None` is `"relu"`.
        negative_slope: Slope below zero of `"leaky_relu"` or `"prelu"`: a number, or one per
            channel, which count by their root mean square.
        mode: `"fan_in"`, `"fan_out"` or `"fan_avg"`.

    Returns:
        A number above 0. Known activations are exact to 1e-9, callables to 1e-7 if they compute in
        float64 and to 1e-4 if they compute in float32.

    Raises:
        InvalidArgument: If the activation is unknown, acts across elements, has no finite moments
            or a moment of 0, or has no such slope.

    Example:
        >>> import keras_he
        >>> round(keras_he.gain("gelu"), 4)
        1.5335
        >>> round(keras_he.gain(lambda x: x**3), 4)  # 1 / sqrt(15)
        0.2582

    Reference:
        He et al. (2015), arXiv:1502.01852, equations 10 and 14. Their factor 1/2 is the rectifier's
        moment; this function computes the moment of any activation.
    """
    mode = checked_mode(mode)
    return activations.gain(read_activation(activation, negative_slope).moments, mode)


def depth_factors(activation: Any, *, negative_slope: Any = None) -> DepthFactors:
    """Returns the factors of one more layer on an error of the signal, and on the gradient.

    `signal = E[z·f(z)·f'(z)] / E[f(z)²]` is the factor by which a relative error in the second
    moment of the pre-activations grows per layer: above 1 it grows with depth, below 1 it shrinks.
    `gradient = E[f'(z)²] / E[f(z)²]` is the factor by which the gradient's second moment changes
    per layer of equal fans, from the last layer to the first, where the signal is kept
    (`mode="fan_in"`). Both are 1 for the rectifier family, whatever its slope.

    Args:
        activation: As for `keras_he.gain`.
        negative_slope: As for `keras_he.gain`.

    Raises:
        InvalidArgument: As `keras_he.gain`.

    Example:
        >>> import keras_he
        >>> signal, gradient = keras_he.depth_factors("tanh")
        >>> round(signal, 2), round(gradient, 2)
        (0.46, 1.18)

    Reference:
        The slopes of the length and gradient maps of Poole et al. (2016), arXiv:1606.05340, and
        Schoenholz et al. (2017), arXiv:1611.01232, at second moment 1.
    """
    return activations.depth_factors(read_activation(activation, negative_slope).moments)


def read_activation(activation: Any, negative_slope: Any = None) -> Activation:
    """Returns the activation's name in the table, its slope, and its second moments.

    The arguments, and the errors about them, are those of `keras_he.gain`.
    """
    found = _read(activation)
    if negative_slope is None:
        return found
    has_slope = isinstance(activation, str) or activation is keras.activations.leaky_relu
    return with_slope(found if has_slope else found._replace(name=None), negative_slope)


LINEAR, RELU = named("linear"), named("relu")


def _read(activation: Any) -> Activation:
    if activation is None:
        return RELU
    if isinstance(activation, str):
        return named(activation)
    cls: Any = type(activation)
    for layer_type, read in _LAYERS.items():
        # A subclass with a `call` of its own is another function.
        if issubclass(cls, layer_type) and cls.call is layer_type.call:
            return read(activation)
    for function, name in _BUILT_IN:
        if activation is function:
            return named(name)
    if isinstance(activation, type) or not callable(activation) or is_keras_2(activation):
        raise invalid(
            "activation",
            "a name, a function, an activation layer or a callable on arrays",
            activation,
            "Pass an instance, such as `keras.layers.LeakyReLU(0.1)`."
            if isinstance(activation, type) and not is_keras_2(activation)
            else hint(activation),
        )
    return Activation(None, None, moments_of(_OnArrays(activation)))


def _parametric(layer: keras.layers.PReLU) -> Activation:
    """Returns PReLU with its slopes, or those that it will have when it is built."""
    if layer.built:
        slopes = keras.ops.convert_to_numpy(layer.alpha)
        return named("prelu", root_mean_square("PReLU.alpha", slopes))
    initializer = layer.alpha_initializer
    if isinstance(initializer, keras.initializers.Zeros):
        return named("prelu", 0.0)
    if isinstance(initializer, keras.initializers.Ones):
        return named("prelu", 1.0)
    if isinstance(initializer, keras.initializers.Constant):
        return named("prelu", root_mean_square("alpha_initializer", initializer.value))
    raise invalid(
        "activation",
        "a PReLU that is built, or whose `alpha_initializer` is a constant",
        layer,
        'Build it first, or write activation="prelu" and give `negative_slope=`.',
    )


def _rectified(layer: keras.layers.ReLU) -> Activation:
    slope, threshold = float(layer.negative_slope or 0.0), float(layer.threshold or 0.0)
    limit = None if layer.max_value is None else float(layer.max_value)
    if limit is None and threshold == 0.0:
        return named("leaky_relu", slope) if slope else RELU
    found = activations.moments("relu", negative_slope=slope, max_value=limit, threshold=threshold)
    return Activation(None, None, found)


def _exponential(layer: keras.layers.ELU) -> Activation:
    return Activation(None, None, activations.moments("elu", alpha=float(layer.alpha)))


# The first type that fits decides, so subclasses come before their bases.
_LAYERS: dict[Any, Callable[[Any], Activation]] = {
    keras.layers.PReLU: _parametric,
    keras.layers.LeakyReLU: lambda layer: named("leaky_relu", float(layer.negative_slope)),
    keras.layers.ReLU: _rectified,
    keras.layers.ELU: _exponential,
    keras.layers.Softmax: lambda layer: _read("softmax"),
    keras.layers.Activation: lambda layer: _read(layer.activation),
}

_BUILT_IN: list[tuple[Any, str]] = [
    (getattr(keras.activations, name), name)
    for name in (*activations.NAMES, *activations.REFUSED)
    if hasattr(keras.activations, name)
]


class _OnArrays:
    """A function on NumPy arrays that wraps a function of arrays, or of the backend's tensors.

    Of a layer it is `call`: `__call__` would round to the dtype of its policy, and build the layer
    for shapes that are not the user's.
    """

    def __init__(self, function: Any) -> None:
        self.wrapped = function
        self.is_layer = isinstance(function, keras.layers.Layer)
        self.function = function.call if self.is_layer else function
        self.takes_arrays = True

    def __call__(self, x: Any) -> Any:
        with framework.double_precision():
            if self.takes_arrays:
                try:
                    return _as_array(self.function(x))
                except (AttributeError, RuntimeError, TypeError, ValueError):  # PyTorch's
                    self.takes_arrays = False
            try:
                return _as_array(self.function(keras.ops.convert_to_tensor(x)))
            except AttributeError as error:
                if self.is_layer and not self.wrapped.built:
                    raise ValueError(f"{error}. Build the layer first.") from error
                raise

    def __repr__(self) -> str:  # errors show what the user passed
        return repr(self.wrapped)


def _as_array(values: Any) -> Any:
    return keras.ops.convert_to_numpy(values) if keras.ops.is_tensor(values) else values
