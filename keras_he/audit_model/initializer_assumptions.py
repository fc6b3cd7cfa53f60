"""What an initializer assumes of its kernel, compared with the kernel, and the corrected argument.

Known are the initializers whose variance follows from fans, Keras' and our own, and those whose
standard deviation is one of their arguments. Nothing is assumed of any other.
"""

import math
from typing import Any, NamedTuple

import keras

from keras_he.backend.keras_private import tells_axes
from keras_he.errors import KerasHeError
from keras_he.initializers.activation_argument import LINEAR, RELU, read_activation
from keras_he.initializers.kaiming import Kaiming
from keras_he.initializers.names import meanings
from keras_he.layers.variables import ModelVariable
from keras_he.sampling.laws import LAWS, TRUNCATED_STD, LawName
from keras_he.theory.activations import Activation
from keras_he.theory.activations import gain as moments_gain
from keras_he.theory.kernel_geometry import DEFAULTS, Fans, geometry_fans, standard_deviation


class Claim(NamedTuple):
    """What an initializer assumes.

    Attributes:
        initializer: The initializer.
        attribute: The argument of the layer that takes it.
        std: Standard deviation of its values; `None` if it is not known.
        fans: The fans that it assumes; `None` if it uses none.
        mode: The mode, of initializers that use fans.
        gain: The gain, of initializers that use fans: the standard deviation times `sqrt(fan)`.
        activation: The activation that it compensates for; `None` if it names none.
        law: The law, as keras_he calls it.
    """

    initializer: Any
    attribute: str
    std: float | None = None
    fans: Fans | None = None
    mode: str = "fan_in"
    gain: float | None = None
    activation: Activation | None = None
    law: LawName = "normal"


def claim(kernel: ModelVariable) -> Claim | None:
    """Returns what the initializer of a variable assumes, `None` where its layer keeps none."""
    attribute = kernel.initializer_attribute or _attribute_of_others(kernel)
    initializer = getattr(kernel.layer, attribute, None) if attribute else None
    if attribute is None or not isinstance(initializer, keras.initializers.Initializer):
        return None
    shape = kernel.shape
    if isinstance(initializer, Kaiming):
        return _ours(initializer, attribute, shape)
    if isinstance(initializer, keras.initializers.VarianceScaling):
        return _variance_scaling(initializer, attribute, kernel)
    return Claim(initializer, attribute, _fixed_std(initializer, shape))


def _attribute_of_others(kernel: ModelVariable) -> str | None:
    """Returns the attribute that makes what is no kernel: a bias, a table."""
    name = f"{kernel.name}_initializer"
    return name if hasattr(kernel.layer, name) else None


def _ours(initializer: Any, attribute: str, shape: tuple[int, ...]) -> Claim:
    try:
        fans = geometry_fans(shape, initializer.kernel_geometry)
    except KerasHeError:  # a vector, or a kernel of another rank
        return Claim(initializer, attribute)
    std = initializer.standard_deviation(fans)
    found = None
    if initializer.activation is not None:
        found = read_activation(initializer.activation, initializer.negative_slope)
    return Claim(
        initializer,
        attribute,
        std,
        fans,
        initializer.mode,
        initializer.gain,
        found,
        initializer.law,
    )


def _variance_scaling(initializer: Any, attribute: str, kernel: ModelVariable) -> Claim:
    shape = kernel.shape
    fans = keras_fans(shape)
    if isinstance(kernel.layer, keras.layers.EinsumDense) and kernel.geometry and tells_axes():
        fans = geometry_fans(shape, kernel.geometry)
    axes = getattr(initializer, "input_axes", None), getattr(initializer, "output_axes", None)
    if axes[0] is not None and axes[1] is not None:
        fans = Fans(
            float(math.prod(shape[axis] for axis in axes[0])),
            float(math.prod(shape[axis] for axis in axes[1])),
        )
    gain = math.sqrt(initializer.scale)
    gained = {1.0: LINEAR, 2.0: RELU}.get(initializer.scale)
    uniform = initializer.distribution == "uniform"
    return Claim(
        initializer,
        attribute,
        standard_deviation(gain, fans, initializer.mode) if min(fans) > 0 else None,
        fans,
        initializer.mode,
        gain,
        gained,
        "uniform" if uniform else "normal",
    )


def keras_fans(shape: tuple[int, ...]) -> Fans:
    """Returns the fans that Keras counts from a shape alone: those of a plain convolution."""
    if len(shape) < 2:
        size = float(shape[0]) if shape else 1.0
        return Fans(size, size)
    field = math.prod(shape[:-2])
    return Fans(float(field * shape[-2]), float(field * shape[-1]))


def _fixed_std(initializer: Any, shape: tuple[int, ...]) -> float | None:
    """Returns the standard deviation that stands in an initializer's arguments."""
    kinds = keras.initializers
    if isinstance(initializer, kinds.RandomUniform):
        return float(initializer.maxval - initializer.minval) / math.sqrt(12.0)
    if isinstance(initializer, kinds.TruncatedNormal):
        return float(initializer.stddev) * TRUNCATED_STD
    if isinstance(initializer, kinds.RandomNormal):
        return float(initializer.stddev)
    if isinstance(initializer, kinds.Orthogonal) and len(shape) > 1:
        longer = max(math.prod(shape[:-1]), shape[-1])
        return float(initializer.gain) / math.sqrt(longer)
    if isinstance(initializer, (kinds.Zeros, kinds.Ones, kinds.Constant)):
        return 0.0
    return None


def written(
    claimed: Claim,
    kernel: ModelVariable,
    activation: Activation,
    *,
    mode: str | None = None,
    target: float = 1.0,
    fits: bool = False,
) -> str:
    """Returns the argument that gives a kernel the right initializer, as it is written in code.

    Args:
        claimed: What its initializer assumes; the law and the mode are kept.
        kernel: The kernel.
        activation: The activation that matters: it precedes the kernel, or follows it.
        mode: A mode in place of the claimed one.
        target: The second moment that the kernel is to give, below 1 before a residual sum.
        fits: Whether the axes of an einsum kernel are left out, since Keras gives them.
    """
    mode = mode or claimed.mode
    gain = None
    if activation.name is None or target != 1.0:
        gain = moments_gain(activation.moments, mode) * math.sqrt(target)
    suffix = LAWS[claimed.law].suffix + ("" if mode == "fan_in" else f"_{mode}")
    geometry = _differences(kernel, fits=fits or tells_axes())
    kinds = dict(geometry)
    if kinds.get("geometry") == "depthwise" and mode == "fan_in":
        kinds.pop("strides", None)  # its fan-in knows none
    if mode == "fan_in" and "geometry" not in kinds:
        kinds.pop("strides", None)
        kinds.pop("groups", None)  # the shape has them
        kinds.pop("gates", None)
    plain = kinds == {"geometry": "depthwise"} or not kinds
    name = f"he_{activation.name}{suffix}{'_depthwise' if kinds else ''}"
    if plain and gain is None and _is_default_slope(activation) and name in meanings():
        return f'{claimed.attribute}="{name}"'
    arguments = [repr(activation.name) if gain is None else f"gain={gain:.6g}"]
    if mode != "fan_in":
        arguments.append(f'mode="{mode}"')
    if gain is None and not _is_default_slope(activation):
        arguments.append(f"negative_slope={activation.negative_slope:.6g}")
    arguments += [f"{key}={value!r}" for key, value in kinds.items()]
    made = f"keras_he.{LAWS[claimed.law].class_name}({', '.join(arguments)})".replace("'", '"')
    return f"{claimed.attribute}={made}"


def _differences(kernel: ModelVariable, *, fits: bool) -> dict[str, Any]:
    """Returns what is special about how a kernel is used."""
    assert kernel.geometry is not None
    geometry = dict(kernel.arguments)
    if geometry["input_axes"] is not None:
        # A matrix is the same by its rank; Keras 3.15 gives the axes of any other by itself.
        if fits or len(kernel.shape) == 2:
            return {}
        return {key: geometry[key] for key in ("input_axes", "output_axes")}
    strides = kernel.geometry.strides
    geometry["strides"] = strides[0] if len(set(strides)) == 1 else strides
    return {key: value for key, value in geometry.items() if value != DEFAULTS[key]}


def _is_default_slope(activation: Activation) -> bool:
    return activation.name is None or (
        activation.negative_slope == read_activation(activation.name).negative_slope
    )
