"""The variables of a model, each once: where it stands, what it is for, and whether it may change.

What a variable is for follows from the layer that holds it: kernels by the rules of
`rules`, biases and the parameters of normalisations by the initializer that the layer keeps for
them. Whatever else a layer holds is left as it is, and named with the reason.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras

from keras_he.backend.keras_private import own_variables
from keras_he.layers.rules import Kernel, Place, join
from keras_he.notes import NO_NOTE, Note

STATISTICS = ("moving_mean", "moving_variance")  # of a BatchNormalization
_TABLES = ("embed", "position", "table", "token")  # of names of what is looked up or added
_NORMALISATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    keras.layers.UnitNormalization,
    keras.layers.Normalization,
)
ATTENTIONS = (keras.layers.GroupQueryAttention, keras.layers.MultiHeadAttention)
# One attribute of these makes the kernels of several layers inside.
_SHARING = (keras.layers.Bidirectional, *ATTENTIONS)


class Slot(NamedTuple):
    """A variable of a model, where it stands.

    Attributes:
        path: Names of the layers on the way, and the variable's own.
        key: The same without automatic names: what the variable's seed follows.
        layer: The layer that holds it.
        name: Its name in the layer.
        variable: The Keras variable.
        role: `"kernel"`, `"remade"` (by an initializer of the layer), `"statistic"`, `"unknown"`
            (it may be a kernel, and no rule says so), or `"other"`.
        kernel: How it is used, of kernels.
        left: Why it must not be changed, or nothing.
        unseen: Why a forward pass does not see its layer at work, or nothing.
        shared_attribute: Whether the attribute that made it made other kernels too.
        beside_kernel: Whether its layer holds a kernel itself.
    """

    path: str
    key: str
    layer: keras.layers.Layer
    name: str
    variable: Any
    role: str
    kernel: Kernel | None
    left: Note
    unseen: str
    shared_attribute: bool
    beside_kernel: bool


def is_normalisation(layer: Any) -> bool:
    """Returns whether a layer sets the size of what passes it."""
    return isinstance(layer, _NORMALISATIONS)


def is_random(layer: Any) -> bool:
    """Returns whether a layer draws random numbers in training mode."""
    has_generator = getattr(layer, "seed_generator", None) is not None
    return has_generator and bool(getattr(layer, "rate", getattr(layer, "dropout", 1.0)))


def slots(model: keras.layers.Layer, survey: Iterable[Place]) -> list[Slot]:
    """Returns all variables of a model, those of metrics and optimizers aside, each once.

    Args:
        model: The model.
        survey: Its `places`.
    """
    found: dict[int, Slot] = {}
    taken: set[str] = set()
    metrics = {id(variable) for variable in getattr(model, "metrics_variables", ())}
    for place in survey:
        # Nothing inside a closed layer is visited, so what is there counts as its own.
        held = place.layer.variables if place.closed else own_variables(place.layer)
        for variable in held:
            if id(variable) not in found and id(variable) not in metrics:
                slot = _slot(place, variable, taken)
                taken.add(slot.path)
                found[id(variable)] = slot
    return list(found.values())


def layer_paths(survey: Iterable[Place]) -> dict[int, str]:
    """Returns the path of each layer in a model by its identity, the first of several."""
    paths: dict[int, str] = {}
    for place in survey:
        paths.setdefault(id(place.layer), place.path or place.layer.name)
    return paths


def not_built(survey: Iterable[Place]) -> list[Note]:
    """Returns a note for each layer that has no weights yet."""
    problems = {place.path: place.problem for place in survey if place.problem.kind == "not-built"}
    return [Note("not-built", f"not built: {path}: {why}") for path, why in problems.items()]


def initializer_attribute(slot: Slot) -> str | None:
    """Returns the attribute of the layer that holds the initializer of the variable, if one does.

    Keras calls it `kernel_initializer` for `kernel`, `recurrent_initializer` for
    `recurrent_kernel`, and `depthwise_initializer` for the `kernel` of a depthwise convolution.
    """
    stem = slot.name.removesuffix("_kernel")
    candidates = [f"{slot.name}_initializer", f"{stem}_initializer"]
    if slot.kernel is not None and slot.kernel.geometry.kind == "depthwise":
        candidates.insert(0, "depthwise_initializer")
    return next((name for name in candidates if name in vars(slot.layer)), None)


def maker(slot: Slot) -> str:
    """Returns the path of the layer that takes the initializer of a variable as an argument."""
    layer = slot.path.rpartition("/")[0]
    if slot.shared_attribute and isinstance(slot.layer, keras.layers.EinsumDense):
        layer = layer.rpartition("/")[0] or layer  # a projection of an attention
    return layer or slot.layer.name


def _slot(place: Place, variable: Any, taken: set[str]) -> Slot:
    attribute = next(
        (name for name, kernel in place.kernels.items() if kernel.variable is variable), None
    )
    name = attribute or variable.name
    unique, copies = name, 1
    while join(place.path, unique) in taken:
        copies += 1
        unique = f"{name}_{copies}"
    kernel = place.kernels[attribute] if attribute else None
    role = _role(place, variable, name, kernel)
    return Slot(
        join(place.path, unique),
        join(place.key, unique),
        place.layer,
        name,
        variable,
        role,
        kernel,
        _left(place, variable, role, name),
        _unseen(place.outer),
        any(isinstance(layer, _SHARING) for layer in place.outer),
        bool(place.kernels),
    )


def _role(place: Place, variable: Any, name: str, kernel: Kernel | None) -> str:
    layer = place.layer
    if kernel is not None:
        return "kernel"
    if isinstance(layer, keras.layers.BatchNormalization) and name in STATISTICS:
        return "statistic"
    remade = name == "bias" or (name in ("beta", "gamma", "scale") and is_normalisation(layer))
    if remade and remade_initializer(layer, name) is not None:
        return "remade"
    table = any(part in name for part in _TABLES)
    matrix = variable.trainable and len(variable.shape) > 1 and not table
    return "unknown" if place.problem and matrix else "other"


def remade_initializer(layer: Any, name: str) -> Callable[..., Any] | None:
    """Returns what makes a bias, or a parameter of a normalisation, as the layer itself does."""
    if isinstance(layer, keras.layers.LSTMCell) or _is_convolutional_lstm_cell(layer):
        return lambda shape, dtype: _forgetting_bias(layer, shape, dtype)
    if isinstance(layer, keras.layers.RMSNormalization):
        return keras.initializers.Ones()
    found: Callable[..., Any] | None = getattr(layer, f"{name}_initializer", None)
    return found if callable(found) else None


def _is_convolutional_lstm_cell(layer: Any) -> bool:
    return hasattr(layer, "unit_forget_bias") and hasattr(layer, "recurrent_initializer")


def _forgetting_bias(cell: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """Returns an LSTM's bias: 1 for the forget gate, the second of four, if the cell says so."""
    if not cell.unit_forget_bias:
        return cell.bias_initializer(shape, dtype=dtype)
    units = shape[0] // 4
    return keras.ops.concatenate(
        [
            cell.bias_initializer((units,), dtype=dtype),
            keras.ops.ones((units,), dtype=dtype),
            cell.bias_initializer((2 * units,), dtype=dtype),
        ]
    )


def _left(place: Place, variable: Any, role: str, name: str) -> Note:
    """Returns why a variable must not be changed, or nothing."""
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
        return Note("lookup-table", "a table that is looked up") if table else NO_NOTE
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
