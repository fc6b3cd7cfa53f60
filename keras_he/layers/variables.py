"""The variables of a model, each once: its path, its role, and whether it may change.

The role of a variable follows from the layer that holds it: kernels by the table of `rules`, biases
and the parameters of normalisations by the initializer that the layer keeps for them. Any other
variable is left as it is, with the reason.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import keras

from keras_he.backend.randomness import randomness
from keras_he.layers.kinds import ATTENTIONS, STATISTICS, is_normalisation
from keras_he.layers.walk import Place
from keras_he.notes import NO_NOTE, Note
from keras_he.theory.kernel_geometry import Fans, Geometry

_TABLES = ("embed", "position", "table", "token")  # parts of names of lookup tables and positions
# Initializers that draw nothing.
_CONSTANT = (keras.initializers.Zeros, keras.initializers.Ones, keras.initializers.Constant)
# One initializer attribute of these is for the kernels of several layers inside.
_SHARING = (keras.layers.Bidirectional, *ATTENTIONS)


@dataclass(eq=False, kw_only=True)
class ModelVariable:
    """A variable of a model; `initialize` and `audit` add what they find to this record.

    Attributes:
        path: Names of the layers on the way to it, and its own name.
        key: The same without automatic names: its seed depends on this.
        layer: The layer that holds it.
        name: Its name in the layer.
        variable: The Keras variable.
        shape: Its shape.
        role: `"kernel"`, `"remade"` (by an initializer of the layer), `"statistic"`, `"unknown"`
            (it may be a kernel, and no rule tells), or `"other"`: a matrix of one row, such as a
            class token, is none.
        geometry: How the layer uses it, of kernels.
        arguments: The same as arguments of `keras_he.fans` and of initializers.
        fans: The fans of a kernel.
        initializer_attribute: The attribute of the layer that holds its initializer, if one does.
        left: Why it must not be changed; empty where it may be.
        unseen: Why a forward pass cannot observe its pre-activation; empty where it can.
        shared_attribute: Whether the initializer attribute is for other kernels too.
        beside_kernel: Whether its layer holds a kernel itself.
    """

    path: str
    key: str
    layer: keras.layers.Layer
    name: str
    variable: Any
    shape: tuple[int, ...]
    role: str
    geometry: Geometry | None
    arguments: dict[str, Any]
    fans: Fans | None
    initializer_attribute: str | None
    left: Note
    unseen: str
    shared_attribute: bool
    beside_kernel: bool

    @property
    def configured_layer(self) -> str:
        """The path of the layer that takes the initializer as an argument."""
        layer = self.path.rpartition("/")[0]
        if self.shared_attribute and isinstance(self.layer, keras.layers.EinsumDense):
            layer = layer.rpartition("/")[0] or layer  # a projection of an attention
        return layer or self.layer.name


Record = TypeVar("Record", bound=ModelVariable)


def variables(
    model: keras.layers.Layer, survey: Iterable[Place], record: type[Record]
) -> list[Record]:
    """Returns a record of each variable of a model, without those of metrics and optimizers.

    The survey is the model's `places`.
    """
    found: dict[int, Record] = {}
    taken: set[str] = set()
    metrics = {id(variable) for variable in getattr(model, "metrics_variables", ())}
    for place in survey:
        for variable in place.variables:
            if id(variable) not in found and id(variable) not in metrics:
                one = _record(place, variable, taken, record)
                taken.add(one.path)
                found[id(variable)] = one
    return list(found.values())


def _record(place: Place, variable: Any, taken: set[str], record: type[Record]) -> Record:
    attribute, kernel = next(
        ((name, one) for name, one in place.kernels.items() if one.variable is variable),
        (variable.name, None),
    )
    prefix, number, unique = f"{place.path}/" if place.path else "", 1, attribute
    while prefix + unique in taken:
        number += 1
        unique = f"{attribute}_{number}"
    role = "kernel" if kernel else _role(place, variable, attribute)
    geometry = kernel.geometry if kernel else None
    return record(
        path=prefix + unique,
        key=f"{place.key}/{unique}" if place.key else unique,
        layer=place.layer,
        name=attribute,
        variable=variable,
        shape=tuple(variable.shape),
        role=role,
        geometry=geometry,
        arguments=kernel.arguments if kernel else {},
        fans=kernel.fans if kernel else None,
        initializer_attribute=_initializer_attribute(place, attribute, geometry),
        left=_left(place, variable, role, attribute),
        unseen=_unseen(place.outer),
        shared_attribute=any(isinstance(layer, _SHARING) for layer in place.outer),
        beside_kernel=bool(place.kernels),
    )


def _initializer_attribute(place: Place, name: str, geometry: Geometry | None) -> str | None:
    """Returns the attribute of a layer that holds the initializer of a variable, if there is one.

    Keras calls it `kernel_initializer` for `kernel`, `recurrent_initializer` for
    `recurrent_kernel`, and `depthwise_initializer` for the `kernel` of a depthwise convolution.
    """
    candidates = [f"{name}_initializer", f"{name.removesuffix('_kernel')}_initializer"]
    if geometry is not None and geometry.kind == "depthwise":
        candidates.insert(0, "depthwise_initializer")
    return next((one for one in candidates if one in place.attributes), None)


def _role(place: Place, variable: Any, name: str) -> str:
    layer = place.layer
    if isinstance(layer, keras.layers.BatchNormalization) and name in STATISTICS:
        return "statistic"
    remade = name == "bias" or (name in ("beta", "gamma", "scale") and is_normalisation(layer))
    if remade and remade_initializer(layer, name) is not None:
        return "remade"
    table = any(part in name for part in _TABLES)
    rows = math.prod(variable.shape[:-1])
    matrix = variable.trainable and len(variable.shape) > 1 and rows > 1 and not table
    return "unknown" if place.problem and matrix else "other"


def remade_value(one: ModelVariable, seed: int) -> Any:
    """Returns a bias or a parameter of a normalisation as its layer makes it, drawn by a seed."""
    make = remade_initializer(one.layer, one.name, seed)
    assert make is not None  # its role says so
    with drawn_by(seed, one.layer, one.name):
        values = make(one.shape, dtype=one.variable.dtype)
        return keras.ops.convert_to_tensor(values, dtype=one.variable.dtype)


def remade_initializer(layer: Any, name: str, seed: int | None = None) -> Callable[..., Any] | None:
    """Returns the initializer by which a layer makes a bias or a parameter of a normalisation.

    Args:
        layer: The layer.
        name: The name of the variable.
        seed: Seed of an initializer that was given none. Keras gives it one by chance.
    """
    found = getattr(layer, f"{name}_initializer", None)
    if seed is not None:
        found = _seeded(found, seed % 2**31)  # as many bits as every backend takes
    if hasattr(layer, "unit_forget_bias") and hasattr(layer, "recurrent_initializer"):
        return partial(_forget_gate_bias, layer, found)
    if isinstance(layer, keras.layers.RMSNormalization):
        return keras.initializers.Ones()
    return found if callable(found) else None


@contextmanager
def drawn_by(seed: int, layer: Any, name: str) -> Iterator[None]:
    """Sets what an initializer of a layer may draw from, and puts it back.

    Args:
        seed: An integer.
        layer: The layer.
        name: The name of the variable that the initializer is for.
    """
    initializer = getattr(layer, f"{name}_initializer", None)
    if initializer is None or isinstance(initializer, _CONSTANT):
        yield
        return
    with randomness(seed, [initializer]), keras.StatelessScope():
        yield


def _seeded(initializer: Any, seed: int) -> Any:
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    if config.get("seed", 0) is not None:
        return initializer
    return type(initializer).from_config({**config, "seed": seed})


def _forget_gate_bias(cell: Any, initializer: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """Returns an LSTM's bias: with `unit_forget_bias` it is 1 for the second of the four gates."""
    if not cell.unit_forget_bias:
        return initializer(shape, dtype=dtype)
    units = shape[0] // 4
    return keras.ops.concatenate(
        [
            initializer((units,), dtype=dtype),
            keras.ops.ones((units,), dtype=dtype),
            initializer((2 * units,), dtype=dtype),
        ]
    )


def _left(place: Place, variable: Any, role: str, name: str) -> Note:
    """Returns why a variable must not be changed, or an empty note."""
    layer = place.layer
    if getattr(layer, "quantization_mode", None):
        return Note("quantized", f"quantized ({layer.quantization_mode})")
    if not keras.backend.is_float_dtype(variable.dtype):
        return Note("integers", "holds integers")
    if getattr(layer, "lora_enabled", False):
        return Note("lora", "LoRA is enabled")
    if role == "statistic":
        return NO_NOTE if layer.trainable else Note("frozen", "frozen")
    if not variable.trainable:
        own = role in ("kernel", "remade")
        return Note("frozen", "frozen") if own else Note("not-trained", "not trained")
    if role in ("kernel", "remade"):
        table = name == "embeddings"
        return Note("lookup-table", "a lookup table") if table else NO_NOTE
    if place.problem:
        return place.problem
    if isinstance(layer, keras.layers.PReLU):
        return Note("slope", "a slope of PReLU")
    text = f"no kernel, bias or normalisation: a parameter of {type(layer).__name__}"
    return Note("parameter", text)


def _unseen(outer: tuple[keras.layers.Layer, ...]) -> str:
    for layer in outer:
        if isinstance(layer, keras.layers.RNN):
            return "recurrent"
        if isinstance(layer, keras.layers.SpectralNormalization):
            return "SpectralNormalization sets its size"
    return ""
