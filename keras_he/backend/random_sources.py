"""The generators of random numbers: those of the process, and those that objects hold.

A framework that nobody imported is not imported here.
"""

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple

import keras
import numpy as np

# From a layer to a generator that is found; a container, an object or a function is one step.
_STEPS = 4
_LARGEST = 1000  # containers of more elements hold data
_PLAIN = (str, int, float, type(None), keras.Variable)
# Packages whose code draws from generators that it is given, and from those of the process.
_KNOWN = {"builtins", "jax", "jaxlib", "keras", "keras_he", "numpy", "tensorflow", "torch"}


class Source(NamedTuple):
    """A generator: how its state is read, put back, and set from a seed of 31 bits."""

    state: Callable[[], Any]
    restore: Callable[[Any], Any]
    start: Callable[[int], Any]


def global_sources() -> Iterator[Source]:
    """Yields the generators of Python, NumPy, PyTorch and TensorFlow that belong to the process."""
    yield Source(random.getstate, random.setstate, random.seed)
    yield _legacy_source(np.random)
    yield from torch_sources()
    generator = getattr(_tensorflow_generators(), "global_generator", None)
    if generator is not None:
        yield _tensorflow_source(generator)


def torch_sources() -> Iterator[Source]:
    """Yields PyTorch's own generators: of the CPU, and of accelerators that are in use."""
    torch: Any = sys.modules.get("torch")
    if not hasattr(torch, "default_generator"):
        return
    yield _torch_source(torch.default_generator)
    for kind in ("cuda", "xpu"):
        module = getattr(torch, kind, None)
        if module is not None and module.is_initialized():
            yield from map(_torch_source, module.default_generators)
    if torch.backends.mps.is_available():
        yield Source(torch.mps.get_rng_state, torch.mps.set_rng_state, torch.mps.manual_seed)


def held_sources(holders: Iterable[Any]) -> list[Source]:
    """Returns the generators that objects hold, or that the code of their classes names.

    They are looked for in attributes, containers, other objects, closures and global variables.
    Layers inside a layer are holders of their own.
    """
    found: dict[int, Source] = {}
    seen: dict[int, Any] = {}
    reached = [part for one in holders for part in _contents(one)]
    for _ in range(_STEPS):
        following: list[Any] = []
        for one in reached:
            if isinstance(one, _PLAIN) or id(one) in seen:
                continue
            seen[id(one)] = one
            generator = getattr(one, "bit_generator", one) if _is_numpy(one) else one
            source = _source(generator)
            if source is not None:
                found.setdefault(id(generator), source)
            else:
                following += _parts(one)
        reached = following
    return list(found.values())


def is_generator(one: Any) -> bool:
    """Returns whether an object is a generator of random numbers, one of Keras included."""
    return _is_numpy(one) or isinstance(one, keras.random.SeedGenerator) or bool(_source(one))


def is_known(cls: type) -> bool:
    """Returns whether a class is one of Python, Keras or a framework, and not of a user."""
    return cls.__module__.partition(".")[0] in _KNOWN


def held(one: Any) -> dict[str, Any]:
    """Returns what an object holds by attribute; an empty dict of one without attributes."""
    found: Any = getattr(one, "__dict__", {})
    return found if isinstance(found, dict) else {}


def _source(one: Any) -> Source | None:
    """Returns how the state of a generator is read and set, `None` of what is no generator."""
    if isinstance(one, random.Random) and not isinstance(one, random.SystemRandom):
        return Source(one.getstate, one.setstate, one.seed)
    if isinstance(one, np.random.RandomState):
        return _legacy_source(one)
    if isinstance(one, np.random.BitGenerator):
        return _bits_source(one)
    if isinstance(one, getattr(sys.modules.get("torch"), "Generator", ())):
        return _torch_source(one)
    if isinstance(one, getattr(_tensorflow_generators(), "Generator", ())):
        return _tensorflow_source(one)
    return None


def _is_numpy(one: Any) -> bool:
    return isinstance(one, np.random.Generator)


def _bits_source(one: Any) -> Source:
    put = partial(setattr, one, "state")
    return Source(lambda: one.state, put, lambda seed: put(type(one)(seed).state))


def _legacy_source(one: Any) -> Source:
    """Returns the source of a `RandomState`, or of the global one, whatever gives it its bits."""
    state = partial(one.get_state, legacy=False)

    def start(seed: int) -> None:
        bits = getattr(np.random, state()["bit_generator"])(seed)
        one.set_state(np.random.RandomState(bits).get_state(legacy=False))

    return Source(state, one.set_state, start)


def _torch_source(one: Any) -> Source:
    return Source(one.get_state, one.set_state, one.manual_seed)


def _tensorflow_source(one: Any) -> Source:
    return Source(lambda: one.state.numpy(), one.reset, one.reset_from_seed)


def _tensorflow_generators() -> Any:
    """Returns TensorFlow's module of generators, `None` where nobody imported TensorFlow."""
    return sys.modules.get("tensorflow.python.ops.stateful_random_ops")


def _contents(one: Any) -> list[Any]:
    """Returns what an object holds by attribute, and what its classes hold, methods included."""
    classes = [cls for cls in type(one).__mro__ if not is_known(cls)]
    slots = [name for cls in classes for name in getattr(cls, "__slots__", ())]
    found = [*held(one).values(), *(getattr(one, name, None) for name in slots)]
    for cls in classes:
        found += cls.__dict__.values()
    return found


def _parts(one: Any) -> Iterable[Any]:
    """Returns what is one step away from an object that a holder leads to."""
    if isinstance(one, (dict, list, tuple)):
        if len(one) > _LARGEST:
            return ()
        return list(one.values()) if isinstance(one, dict) else one
    if isinstance(one, FunctionType):
        return _named(one)
    if isinstance(one, MethodType):
        return [one.__self__, one.__func__]
    if isinstance(one, (staticmethod, classmethod)):
        return [one.__func__]
    if isinstance(one, property):
        return [one.fget]
    if isinstance(one, partial):
        return [one.func, *one.args, *one.keywords.values()]
    if isinstance(one, (type, keras.layers.Layer)) or is_known(type(one)):
        return ()
    return _contents(one)


def _named(function: FunctionType) -> list[Any]:
    """Returns what the code of a user's function refers to: defaults, closure, and globals."""
    if function.__module__ is None or function.__module__.partition(".")[0] in _KNOWN:
        return []
    found = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # it is empty as yet
            continue
    codes = [function.__code__]
    for code in codes:
        codes += [one for one in code.co_consts if isinstance(one, CodeType)]
    names = dict.fromkeys(name for code in codes for name in code.co_names)
    return found + [function.__globals__[name] for name in names if name in function.__globals__]
