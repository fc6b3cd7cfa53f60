"""A block in which every source of randomness is set from a seed, and after which it is put back.

What a source is set to depends on the seed and on the place of the source among all, never on what
was drawn before, nor on names. Generators of Keras are set where they are used first.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from typing import Any

import keras
import numpy as np

from keras_he.backend.keras_private import (
    keras_seeds,
    tensorflow_seeds,
    without_new_global_generator,
)
from keras_he.backend.random_sources import (
    global_sources,
    held,
    held_sources,
    is_generator,
    is_known,
    torch_sources,
)

_USED: list[dict[int, Any]] = []  # the generators that each open block has set, the innermost last


@contextmanager
def randomness(seed: int, holders: Iterable[Any] = (), *, writes: bool = False) -> Iterator[None]:
    """Sets every source of randomness, and puts each back, also after an exception.

    Args:
        seed: An integer.
        holders: The layers, and other objects, whose generators are set.
        writes: Whether the block may write to variables and attributes. Otherwise it runs in a
            `keras.StatelessScope`, which keeps the states of Keras' generators as they are, and
            numbers, arrays and generators stay in their attributes: a layer may keep a key of JAX
            there, and replace it at each call.
    """
    holders = list(holders)
    with ExitStack() as stack:
        for one in () if writes else holders:
            stack.callback(_put_back, one, _kept(one))
        for place, source in enumerate([*global_sources(), *held_sources(holders)]):
            stack.callback(source.restore, source.state())
            source.start(_derived(seed, f"{place}"))
        stack.enter_context(tensorflow_seeds(_derived(seed, "TensorFlow")))
        stack.enter_context(without_new_global_generator())
        stack.enter_context(_keras_generators(seed, writes))
        yield


@contextmanager
def torch_generators_kept() -> Iterator[None]:
    """Puts PyTorch's generators back, which no seed generator of Keras does."""
    with ExitStack() as stack:
        for source in torch_sources():
            stack.callback(source.restore, source.state())
        yield


@contextmanager
def rewound(scope: keras.StatelessScope) -> Iterator[None]:
    """Runs layers once more: what follows draws from Keras' generators as if this had not run.

    The updates of variables that the block makes are taken back too.

    Args:
        scope: The scope of the pass.
    """
    used = _USED[-1] if _USED else {}
    kept, values = dict(used), dict(scope.state_mapping)
    try:
        yield
    finally:
        for held, before in ((used, kept), (scope.state_mapping, values)):
            held.clear()
            held.update(before)


def _derived(seed: int, place: str) -> int:
    """Returns the seed of a source: 31 bits, which every generator takes."""
    digest = blake2b(f"keras_he {seed} source {place}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def _keras_generators(seed: int, writes: bool) -> Iterator[None]:
    """Sets each `keras.random.SeedGenerator` where it is used first, whoever holds it."""
    used: dict[int, Any] = {}
    _USED.append(used)
    written: list[tuple[Any, Any]] = []

    def first(generator: Any) -> None:
        if id(generator) in used:
            return
        used[id(generator)] = generator
        state = generator.state
        if writes:
            written.append((state, keras.ops.convert_to_numpy(state)))
        start = _derived(seed, f"Keras {len(used)}")
        state.assign(np.array([start, 0], keras.backend.standardize_dtype(state.dtype)))

    try:
        with keras_seeds(_in_this_thread(first)):
            yield
    finally:
        _USED.pop()
        for state, value in written:
            state.assign(value)


def _in_this_thread(function: Callable[[Any], None]) -> Callable[[Any], None]:
    """Returns the function as one that does nothing in other threads, such as a data loader's."""
    thread = threading.get_ident()
    return lambda argument: function(argument) if threading.get_ident() == thread else None


def _kept(one: Any) -> dict[str, Any]:
    """Returns the attributes that may decide what an object of a user draws next."""
    if is_known(type(one)) or not getattr(one, "built", True):  # `build` sets attributes
        return {}
    return {name: value for name, value in held(one).items() if _may_decide(value)}


def _put_back(one: Any, kept: dict[str, Any]) -> None:
    attributes = held(one)
    for name, value in kept.items():
        if attributes.get(name) is not value:
            attributes[name] = value


def _may_decide(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_may_decide, value))
    if isinstance(value, bool) or value is None:
        return False
    numbers = isinstance(value, (int, float, np.ndarray, np.generic))
    return numbers or bool(keras.ops.is_tensor(value)) or is_generator(value)
