"""Everything that keras_he relies on and Keras does not promise; no other module does.

A Keras version that changes something private is a change of this file alone. Each row has a test
of its name in `tests/backend/test_keras_private.py`. "All" are the oldest supported Keras, the
newest and the nightly one: 3.12.4, 3.15.1 and 3.16.0.dev2026102704.

| name | what for | tried on Keras |
|---|---|---|
| `Layer._flatten_layers` | the layers directly inside a layer | all |
| `Layer._trainable_variables` | trainable weights, frozen ones included | all |
| `vars(layer)` | the attributes that hold initializers, without properties | all |
| `_kernel_initializer` | attributes of attention that keep an argument under another name | all |
| `layer.call`, `layer.activation` | attributes of a layer that shadow those of its class | all |
| `Model.operations` | operations of functional models that are no layers | all |
| `keras.src.ops` | classes of operations, which are known by their names | all |
| `keras.` | modules of Keras' own layers begin with it | all |
| `lora_` | the names of the weights that LoRA adds | all |
| `Variable.__init__`, `Variable.assign` | which variable is initialized, or assigned | all |
| `VarianceScaling(input_axes=)` | whether initializers are told the axes of einsum kernels | all |
| `ALL_OBJECTS_DICT` | strings, where `keras.initializers.get` knows no custom ones | nightly |
| `SeedGenerator.next` | which generator is used, and when first | all |
| `global_seed_generator` | the generator that Keras draws from without a seed | all |
| `random_seed.get_seed` | operations of TensorFlow that draw without a state | all |
| `context()._seed`, `context()._rng` | the seed of TensorFlow, and how far it was used | all |
| `global_generator` | the generator of TensorFlow, if there is one | all |
| `CallbackList.callbacks`, callers | the list in which Keras calls a callback | all |
| `config.json`, `metadata.json` | the parts of a .keras file | all |
| `model_config`, `keras_version` | the attributes of an .h5 file | all |
| messages of `load_model` | why a file does not load | all |

The command line looks at files before Keras is imported, so Keras is imported where it is used.
"""

import inspect
import json
import sys
import threading
import zipfile
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any, NamedTuple

_MISSING = object()


def sublayers(layer: Any) -> list[Any]:
    """Returns the layers directly inside `layer`, each once, in the order they were set."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def layers_inside(layer: Any, closed: tuple[type, ...] = ()) -> list[Any]:
    """Returns a layer and all layers inside it, each once, but nothing inside `closed` types."""
    found: dict[int, Any] = {}
    waiting = [layer]
    while waiting:
        one = waiting.pop()
        if id(one) not in found:
            found[id(one)] = one
            if not isinstance(one, closed):
                waiting.extend(reversed(sublayers(one)))
    return list(found.values())


def holds(layer: Any, found: Container[int]) -> bool:
    """Returns whether a layer, or one inside it, has its identity in `found`; operations do not."""
    import keras

    if not isinstance(layer, keras.layers.Layer):
        return False
    return any(id(inner) in found for inner in layers_inside(layer))


class Own(NamedTuple):
    """What a layer holds itself, without the layers inside.

    Attributes:
        layers: The layers directly inside.
        variables: Its variables, the states of seed generators included.
        weights: Its trainable weights, frozen ones included.
        attributes: See `attributes`.
    """

    layers: list[Any]
    variables: list[Any]
    weights: list[Any]
    attributes: dict[str, Any]


def own(layer: Any) -> Own:
    """Returns what a layer holds itself."""
    inside = sublayers(layer)
    inner = {id(variable) for one in inside for variable in one.variables}
    return Own(
        inside,
        [variable for variable in layer.variables if id(variable) not in inner],
        [weight for weight in layer._trainable_variables if id(weight) not in inner],
        attributes(layer),
    )


def own_of_all(layer: Any) -> dict[int, Own]:
    """Returns, by identity, what a layer and each layer inside it hold themselves."""
    return {id(one): own(one) for one in layers_inside(layer)}


def is_lora(weight: Any) -> bool:
    """Returns whether a weight is one of the pair that LoRA adds to a kernel."""
    return bool(weight.name.startswith("lora_"))


def attributes(layer: Any) -> dict[str, Any]:
    """Returns what a layer holds by attribute, without what its properties return."""
    held: dict[str, Any] = vars(layer)
    return held


def argument_of(attribute: str) -> str:
    """Returns the argument of a layer that an attribute keeps."""
    return attribute.lstrip("_")


@contextmanager
def shadowed(hooks: Iterable[tuple[Any, str, Callable[..., Any]]]) -> Iterator[None]:
    """Shadows attributes of layers, past Keras' tracking of them, and takes the shadows away.

    A hook is a layer or an operation, the name of an attribute, and what shadows it.
    """
    saved = []
    try:
        for one, name, hook in list(hooks):
            held = vars(one)
            saved.append((held, name, held.get(name, _MISSING)))
            held[name] = hook
        yield
    finally:
        for held, name, value in reversed(saved):
            if value is _MISSING:
                del held[name]
            else:
                held[name] = value


def own_activations(layers: Iterable[Any]) -> list[tuple[Any, Callable[..., Any]]]:
    """Returns the layers that apply an activation to their output, each with the activation.

    An activation layer does nothing else, and the activation of a recurrent layer is its cell's:
    both are left out.
    """
    import keras

    other = (keras.layers.RNN, keras.layers.Activation)
    own = [one for one in layers if isinstance(one, keras.layers.Layer)]
    found = [(one, getattr(one, "activation", None)) for one in own if not isinstance(one, other)]
    return [(one, activation) for one, activation in found if callable(activation)]


def unhooked_call(layer: Any) -> Callable[..., Any]:
    """Returns the `call` of a layer or operation, also where it is shadowed."""
    return partial(type(layer).call, layer)


def operations(model: Any) -> list[Any]:
    """Returns the layers and operations of a functional model, and nothing of other models."""
    return list(getattr(model, "operations", ()))


def operation_name(operation: Any) -> str:
    """Returns the name of what is no layer in a functional model, such as "expanddims"."""
    import keras

    is_layer = isinstance(operation, keras.layers.Layer)
    return "" if is_layer else type(operation).__name__.lower()


def is_of_keras(layer: Any) -> bool:
    """Returns whether the class of a layer or an operation is one of Keras, not of a package."""
    return type(layer).__module__.startswith("keras.")


def wrap_variables(**wrappers: Callable[[Callable[..., Any]], Any]) -> Callable[[], None]:
    """Wraps methods of `keras.Variable`, and returns the function that takes the wrappers away.

    A wrapper stands under the name of its method, and is a function of the method.
    """
    import keras

    own = {name: vars(keras.Variable).get(name, _MISSING) for name in wrappers}
    for name, wrapper in wrappers.items():
        setattr(keras.Variable, name, wrapper(getattr(keras.Variable, name)))

    def unwrap() -> None:
        for name, method in own.items():
            if method is _MISSING:  # it is inherited
                delattr(keras.Variable, name)
            else:
                setattr(keras.Variable, name, method)

    return unwrap


@contextmanager
def keras_seeds(before: Callable[[Any], None]) -> Iterator[None]:
    """Calls a function with each `keras.random.SeedGenerator` before a seed is drawn from it."""
    import keras

    classes: list[type] = [keras.random.SeedGenerator]
    for cls in classes:
        classes += cls.__subclasses__()
    own = [(cls, vars(cls)["next"]) for cls in dict.fromkeys(classes) if "next" in vars(cls)]

    def told(method: Callable[..., Any]) -> Callable[..., Any]:
        original = inspect.unwrap(method)  # past a block outside of this one

        @wraps(original)
        def drawn(generator: Any, *args: Any, **kwargs: Any) -> Any:
            before(generator)
            return original(generator, *args, **kwargs)

        return drawn

    try:
        for cls, method in own:
            cls.next = told(method)  # type: ignore[attr-defined]
        yield
    finally:
        for cls, method in own:
            cls.next = method  # type: ignore[attr-defined]


@contextmanager
def without_new_global_generator() -> Iterator[None]:
    """Takes away the generator that Keras draws from without a seed, if the block made one."""
    from keras.src.backend.common import global_state

    known = global_state.get_global_attribute("global_seed_generator")
    try:
        yield
    finally:
        global_state.set_global_attribute("global_seed_generator", known)


@contextmanager
def tensorflow_seeds(seed: int) -> Iterator[None]:
    """Sets TensorFlow's seed, if it is imported, and puts it back.

    The seed is set where this thread asks for one first. TensorFlow forgets the states of its
    operations then, which nothing can put back: an operation with a seed of its own starts again.
    Generators that are made in the block get the seed, where they would get one by chance.
    """
    prefix = "tensorflow.python"
    seeds: Any = sys.modules.get(f"{prefix}.framework.random_seed")
    generators: Any = sys.modules.get(f"{prefix}.ops.stateful_random_ops")
    if seeds is None or generators is None:
        yield
        return
    context = sys.modules[f"{prefix}.eager.context"].context()
    get_seed, known = seeds.get_seed, generators.global_generator
    by_chance = vars(generators.Generator)["from_non_deterministic_state"]
    before: list[tuple[Any, Any]] = []
    thread = threading.get_ident()
    original = inspect.unwrap(get_seed)  # past a block outside of this one

    @wraps(original)
    def seeded(op_seed: Any) -> Any:
        if not before and threading.get_ident() == thread:
            before.append((context._seed, getattr(context, "_rng", None)))
            context._set_global_seed(seed)
        return original(op_seed)

    try:
        seeds.get_seed = seeded
        made = partial(generators.Generator.from_seed, seed)
        generators.Generator.from_non_deterministic_state = made
        yield
    finally:
        seeds.get_seed, generators.global_generator = get_seed, known
        generators.Generator.from_non_deterministic_state = by_chance
        if before:
            context._seed, context._rng = before[0]


def tells_axes() -> bool:
    """Returns whether Keras tells initializers the axes of einsum kernels, as from 3.15 on."""
    import keras

    return "input_axes" in inspect.signature(keras.initializers.VarianceScaling).parameters


def built_in_initializers() -> dict[str, Any] | None:
    """Returns the table in which `keras.initializers.get` looks strings up, `None` without one."""
    import keras

    function = inspect.unwrap(keras.initializers.get)
    table = getattr(function, "__globals__", {}).get("ALL_OBJECTS_DICT")
    return table if isinstance(table, dict) else None


def call_first(callback: Any) -> None:
    """Makes Keras call a callback before the others of its list; called from one of its methods.

    Nothing public leads from a callback to its list, so it is searched among the callers. Without
    one, such as where a callback of a user calls it, nothing changes.
    """
    import keras

    frame = inspect.currentframe()
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, keras.callbacks.CallbackList):
            others = [one for one in found.callbacks if one is not callback]
            if len(others) < len(found.callbacks):
                # In place: Keras is going through this list, and goes on after the same place.
                found.callbacks[:] = [callback, *others]
            return
        frame = frame.f_back


def is_model_archive(names: Container[str]) -> bool:
    """Returns whether the parts of a zip archive are those of a .keras file."""
    return "config.json" in names


def is_model_hdf5(attributes: Container[str]) -> bool:
    """Returns whether the attributes of an HDF5 file are those of a whole model."""
    return "model_config" in attributes


def keras_version(path: Path) -> str | None:
    """Returns the version of Keras that wrote the file of a model, `None` if it does not say."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return str(json.loads(archive.read("metadata.json"))["keras_version"])
        import h5py

        with h5py.File(path) as file:
            return str(file.attrs["keras_version"])
    except Exception:  # whatever is wrong with it, it does not say
        return None


def is_about_code(message: str) -> bool:
    """Returns whether a file does not load because a Lambda layer in it holds code."""
    return "lambda" in message.lower() and "safe" in message.lower()


def is_about_unknown_classes(message: str) -> bool:
    """Returns whether a file does not load because classes in it are not known."""
    return "custom" in message.lower() or "Could not locate" in message


def without_arguments(message: str) -> str:
    """Returns the message of an error of a layer without the arguments of its call."""
    return message.partition("Arguments received by")[0]
