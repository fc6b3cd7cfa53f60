"""The Keras initializers: one class per law, all of them `VarianceScaling` with other variances.

They subclass `keras.initializers.VarianceScaling` because Keras gives the axes of einsum kernels
(`EinsumDense`, attention) to its subclasses only. A config holds what is not the default: a known
activation's name or a number, never an object; see `activation_argument`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import keras
import numpy as np

from keras_he.backend.framework import framework
from keras_he.errors import did_you_mean, invalid
from keras_he.initializers.activation_argument import read_activation
from keras_he.sampling.laws import LAWS, LawName, law_named
from keras_he.sampling.orthogonal import draw_orthogonal, largest_element
from keras_he.sampling.regions import WHOLE, Part, cut_region, draw_region, empty_region
from keras_he.sampling.stream import STORAGE, Seed, check_std
from keras_he.theory import kernel_geometry as geometries
from keras_he.theory.activations import gain as moments_gain
from keras_he.theory.kernel_geometry import Mode, checked_mode, standard_deviation
from keras_he.theory.quadrature import Moments

_LONGEST_LIST = 64  # NumPy arrays have no more axes
_LARGEST_SEED = 2**128 - 1  # what the generator's key takes in whole

_DEFAULTS = {"mode": "fan_in", **geometries.DEFAULTS}  # what a config leaves out
_CONFIG_KEYS = ("activation", "negative_slope", "gain", "seed", *_DEFAULTS)


class Kaiming(keras.initializers.VarianceScaling):
    """Everything that the initializers share, except the law. Use one of its subclasses."""

    law: ClassVar[LawName]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        law_named(cls.law)  # an unknown one is an error

    def __init__(
        self,
        activation: Any = None,
        mode: Mode = "fan_in",
        *,
        gain: float | None = None,
        negative_slope: float | Sequence[float] | None = None,
        geometry: geometries.GeometryKind | None = None,
        strides: int | Sequence[int] = 1,
        groups: int = 1,
        gates: int = 1,
        seed: Any = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
    ) -> None:
        """Takes how the layer uses the kernel; the kernel's shape comes with the call.

        Args:
            activation: The function whose gain the kernel compensates for: the activation that
                precedes the kernel for `mode="fan_in"`, that follows it for `"fan_out"`. A name, a
                function of `keras.activations`, an activation layer, or any callable that acts
                element by element; `None` is `"relu"`.
            mode: `"fan_in"` keeps the signal's second moment, `"fan_out"` the gradient's,
                `"fan_avg"` the mean of both conditions.
            gain: A number above 0, instead of the activation's gain.
            negative_slope: Slope of `"leaky_relu"` (0.2 unless given) or `"prelu"` (0.25) below
                zero: a number, or one per channel, which count by their root mean square.
            geometry: How the kernel is used: `None` (dense or convolution), `"depthwise"` or
                `"transpose"`; see `keras_he.fans`.
            strides: Strides of the convolution, one number or one per spatial axis.
            groups: Groups of the convolution.
            gates: Gates side by side in the kernel's last axis: 4 for an LSTM, 3 for a GRU.
            seed: An integer from 0 to 2**128 - 1, or a `keras.random.SeedGenerator`. With an
                integer, or with none, every call for one shape returns the same values; a
                generator moves on with each call.
            input_axes: Axes of the kernel that are summed over. Together with `output_axes`, they
                replace `geometry`, `strides`, `groups` and `gates`. `EinsumDense` and attention
                set both by themselves (Keras 3.15 and newer).
            output_axes: Axes of the kernel that are new in the output.

        Raises:
            InvalidArgument: If an argument is out of range, or excludes another.
        """
        if gain is not None:
            _refuse_beside_gain(activation, negative_slope)
            gain = _checked_gain(gain)
        seed = _checked_seed(seed)
        mode = checked_mode(mode)
        self.kernel_geometry = geometries.make_geometry(
            geometry, strides, groups, gates, input_axes=input_axes, output_axes=output_axes
        )
        self.activation: str | None = None
        self.negative_slope: float | None = None
        if gain is None:
            found = read_activation(activation, negative_slope)
            self.gain = moments_gain(found.moments, mode)
            self.activation, self.negative_slope = found.name, found.negative_slope
            # Without a name, the config keeps only the gain.
            self._factor: float | Moments = self.gain if found.name is None else found.moments
        else:
            self.gain = self._factor = gain
        super().__init__(
            scale=self.gain**2, mode=mode, distribution="untruncated_normal", seed=seed
        )
        self.distribution = "untruncated_normal" if self.law == "normal" else self.law
        self.geometry, strides, self.groups, self.gates, *axes = self.kernel_geometry
        self.strides = strides[0] if len(strides) == 1 else strides
        self.input_axes, self.output_axes = axes  # Keras before 3.15 has no such arguments

    @framework.untraced
    def __call__(self, shape: Sequence[int], dtype: Any = None, layout: Any = None) -> Any:
        """Returns a kernel.

        Args:
            shape: Shape of the kernel, as the layer stores it.
            dtype: `"float16"`, `"bfloat16"`, `"float32"` or `"float64"`; `None` is
                `keras.config.floatx()`. Values are drawn in float32 and rounded last.
            layout: How the kernel is divided among several devices, on JAX: a
                `keras.distribution.TensorLayout` or a `jax.sharding.Sharding`. Keras gives it
                under a `keras.distribution` (Keras 3.15 and newer). It changes no value.

        Returns:
            A tensor of the Keras backend.

        Raises:
            InvalidArgument: If the shape does not fit the geometry, for any other dtype or
                layout, or if the values would overflow the dtype.
        """
        dtype = _checked_dtype(dtype)
        shape = geometries.checked_shape(shape)
        fans = geometries.geometry_fans(shape, self.kernel_geometry)
        if 0 not in shape:
            std = standard_deviation(self._factor, fans, self.mode)
            key = self.seed
            if isinstance(key, keras.random.SeedGenerator):
                # Before the generator moves on:
                check_std(std, dtype, self._furthest(shape))
                key = _next_key(key, layout)
            part = self._draw(shape, std, key, dtype)
        else:
            part = partial(empty_region, shape, dtype=dtype)
        if layout is None:
            return framework.to_tensor(part(WHOLE), dtype)
        return framework.to_sharded(part, shape, dtype, layout)

    def standard_deviation(self, fans: geometries.Fans) -> float:
        """Returns the standard deviation of the values of a kernel with these fans."""
        return standard_deviation(self._factor, fans, self.mode)

    def _draw(self, shape: tuple[int, ...], std: float, key: Seed, dtype: str) -> Part:
        """Returns the function that returns any region of the kernel."""
        if LAWS[self.law].fill is None:
            matrices = geometries.matrix_axes(shape, self.kernel_geometry)
            return partial(cut_region, draw_orthogonal(matrices, shape, std, key, dtype))
        return lambda region: draw_region(
            self.law, shape, region, std, key, dtype, memory=framework.empty
        )

    def _furthest(self, shape: tuple[int, ...]) -> float:
        """Returns the largest distance of a kernel's values from 0, in standard deviations."""
        if LAWS[self.law].fill is None:
            return largest_element(geometries.matrix_axes(shape, self.kernel_geometry))
        return LAWS[self.law].furthest

    def get_config(self) -> dict[str, Any]:
        """Returns what is not the default, as plain JSON; `from_config` is its inverse."""
        config: dict[str, Any] = {}
        if self.activation is None:
            config["gain"] = self.gain
        elif self.activation != "relu":
            config["activation"] = self.activation
        if self.negative_slope is not None:
            config["negative_slope"] = self.negative_slope
        for argument, default in _DEFAULTS.items():
            value = getattr(self, argument)
            if value != default:
                config[argument] = list(value) if isinstance(value, tuple) else value
        seed = super().get_config()["seed"]  # the one that was given, if any
        return config if seed is None else {**config, "seed": seed}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Kaiming":
        """Returns the initializer of a config, and refuses what `get_config` never writes."""
        return cls(**_checked_config(config))

    def __repr__(self) -> str:
        arguments = (f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({', '.join(arguments)})"

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state for `copy` and `pickle`; a generator, which has neither, as numbers."""
        if not isinstance(self.seed, keras.random.SeedGenerator):
            return self.__dict__
        frozen = (self.seed.get_config(), keras.ops.convert_to_numpy(self.seed.state))
        return {k: frozen if v is self.seed else v for k, v in self.__dict__.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        frozen = state["seed"]
        if isinstance(frozen, tuple):
            seed = keras.random.SeedGenerator.from_config(frozen[0])
            seed.state.assign(frozen[1])
            state = {k: seed if v is frozen else v for k, v in state.items()}
        self.__dict__.update(state)


@keras.saving.register_keras_serializable("keras_he")
class KaimingNormal(Kaiming):
    """Draws kernels from `N(0, std²)`, `std = gain / sqrt(fan)`, as He et al. and torch do.

    Keras' `he_normal` is the truncated law, for ReLU and fan-in only, and miscounts the fans of
    depthwise, transposed, grouped and gated kernels.

    As a string: `"he_relu"`; `"he_prelu"` (slope 0.25; Keras' `PReLU()` starts at slope 0: use
    `"he_relu"`); `"he_leaky_relu"` (slope 0.2; Keras' `LeakyReLU()` has 0.3: use
    `KaimingNormal(keras.layers.LeakyReLU())`); and the others in `keras_he.names()`.

    Example:
        >>> import keras, keras_he
        >>> layer = keras.layers.Dense(64, kernel_initializer="he_prelu")
        >>> layer.kernel_initializer
        KaimingNormal(activation='prelu', negative_slope=0.25)
        >>> keras_he.KaimingNormal(keras.layers.LeakyReLU(0.1), mode="fan_out", seed=1)
        KaimingNormal(activation='leaky_relu', negative_slope=0.1, mode='fan_out', seed=1)

    Reference:
        He et al. (2015), arXiv:1502.01852, equations 10 and 14, and 15 for the slope.
    """

    law = "normal"


@keras.saving.register_keras_serializable("keras_he")
class KaimingUniform(Kaiming):
    """Draws kernels uniformly from `±sqrt(3)·std`, `std = gain / sqrt(fan)`.

    As a string: `"he_relu_uniform"`, `"he_prelu_uniform"`, and so on.

    Reference:
        He et al. (2015), arXiv:1502.01852, equations 10 and 14, for the variance.
    """

    law = "uniform"


@keras.saving.register_keras_serializable("keras_he")
class KaimingTruncatedNormal(Kaiming):
    """Draws kernels from a normal law cut at two of its standard deviations.

    The law is widened by `1 / 0.87962566`, so that `std = gain / sqrt(fan)` is the standard
    deviation of what is drawn, as in Keras' `he_normal`.

    As a string: `"he_relu_truncated"`, `"he_prelu_truncated"`, and so on.

    Reference:
        He et al. (2015), arXiv:1502.01852, equations 10 and 14, for the variance.
    """

    law = "truncated_normal"


@keras.saving.register_keras_serializable("keras_he")
class KaimingOrthogonal(Kaiming):
    """Draws orthogonal kernels whose elements have the mean square `(gain / sqrt(fan))²`.

    A kernel is a matrix `Q·std·sqrt(n)`, with `n` its longer side. Its rows are the inputs of one
    output unit, its columns the output channels. Depthwise kernels have one matrix per channel,
    grouped kernels one per group, and recurrent kernels one per gate. Unlike
    `keras.initializers.Orthogonal`, it follows the fans: `gain=1` keeps the second moment of a
    linear layer that has more outputs than inputs, too. It is always drawn as a whole, also if a
    process holds only a part of it.

    As a string: `"he_relu_orthogonal"`, `"he_prelu_orthogonal"`, and so on.

    Reference:
        Saxe et al. (2014), arXiv:1312.6120.
    """

    law = "orthogonal"


CLASSES: dict[str, type[Kaiming]] = {cls.law: cls for cls in Kaiming.__subclasses__()}
for _class in CLASSES.values():
    _class.__module__ = "keras_he"  # where users, pickles and saved files find it


def _next_key(seed: keras.random.SeedGenerator, layout: Any) -> Seed:
    """Returns the next state of a generator, which moves on."""
    if framework.is_tracing():
        raise invalid(
            "seed",
            "an integer or None where shapes are inferred or code is compiled",
            seed,
            "Or call the model once on a batch before `fit`, which creates its kernels.",
        )
    with framework.as_computed(layout):
        words = keras.ops.convert_to_numpy(seed.next())
    return tuple(int(word) % 2**64 for word in words)


def _checked_seed(seed: Any) -> Any:
    accepted = f"an integer from 0 to {_LARGEST_SEED}, a `keras.random.SeedGenerator`, or None"
    if seed is None or isinstance(seed, keras.random.SeedGenerator):
        return seed
    if isinstance(seed, Mapping):
        return _generator(seed, accepted)
    try:
        number = geometries.integer(seed)
    except TypeError:
        number = -1
    if not 0 <= number <= _LARGEST_SEED:
        raise invalid("seed", accepted, seed)
    return number


def _generator(serialized: Mapping[str, Any], accepted: str) -> keras.random.SeedGenerator:
    """Returns the SeedGenerator of a config, without looking up any other class."""
    config = serialized.get("config")
    if (
        serialized.get("class_name") == "SeedGenerator"
        and serialized.get("registered_name") is None
        and isinstance(config, Mapping)
        and set(config) <= {"seed", "name"}
        and isinstance(config.get("name", ""), str)
        and type(config.get("seed")) in (int, type(None))
    ):
        try:
            return keras.random.SeedGenerator(**config)
        except (ValueError, OverflowError, RuntimeError):  # backends take different integers
            pass
    raise invalid("seed", accepted, serialized)


def _checked_gain(gain: Any) -> float:
    try:
        number = np.asarray(gain)
    except (TypeError, ValueError, RuntimeError):  # tensors without values, such as symbolic ones
        number = np.asarray(None)
    real = number.dtype.kind in "iuf" or number.dtype.name == "bfloat16"
    value = float(number) if number.ndim == 0 and real else 0.0
    # Its square is Keras' `scale`, which has to be a positive number too.
    if not 1e-150 < value < 1e150:
        raise invalid("gain", "a finite number above 0", gain)
    return value


def _refuse_beside_gain(activation: Any, negative_slope: Any) -> None:
    given = {"activation": activation, "negative_slope": negative_slope}
    for argument, value in given.items():
        if value is not None:
            raise invalid(
                argument,
                "None where `gain` is given",
                value,
                "A gain replaces the activation: give one or the other.",
            )


def _checked_dtype(dtype: Any) -> str:
    name = keras.backend.standardize_dtype(keras.config.floatx() if dtype is None else dtype)
    if name not in STORAGE:
        raise invalid("dtype", "one of " + ", ".join(f'"{known}"' for known in STORAGE), dtype)
    return str(name)


def _checked_config(config: Any) -> dict[str, Any]:
    """Returns a config that holds known keys with names, numbers and short lists, no objects."""
    if not isinstance(config, Mapping):
        raise invalid("config", "a dict as `get_config` returns it", config)
    for key, value in config.items():
        if key not in _CONFIG_KEYS:
            raise invalid(
                "config",
                f"a dict with keys among {', '.join(_CONFIG_KEYS)}",
                key,
                did_you_mean(key, _CONFIG_KEYS)
                or "If the file comes from a newer keras_he, upgrade this one.",
            )
        if key == "activation" and not (value is None or isinstance(value, str)):
            raise invalid("activation", "a name in a config", value)
        if key == "negative_slope" and not (value is None or isinstance(value, (int, float))):
            raise invalid("negative_slope", "a number in a config", value)
        if isinstance(value, (list, tuple)) and len(value) > _LONGEST_LIST:
            raise invalid(key, f"a list of at most {_LONGEST_LIST} numbers in a config", value)
    return dict(config)
