"""Models that are built to be loaded: values that a file overwrites are not drawn.

A large model takes three quarters of its loading time to draw random kernels that the file then
overwrites. Inside `skip_init` they start as zeros. Some of these are -0.0, in a pattern that marks
them: it tells zeros that were never overwritten from zeros that a file holds, whatever wrote them,
and also in a copy of a model that was not loaded yet. Variables that are still marked at the end of
the block are drawn, so that no kernel stays zero.

Keras has no public way to learn for which variable an initializer is called, so `__init__` and
`assign` of `keras.Variable` are wrapped while a block is open in some thread. A block acts on the
variables that its own thread (or task) creates.
"""

import gc
import math
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from contextvars import ContextVar
from functools import wraps
from typing import Any, Literal, get_args

import keras
import numpy as np
from numpy.typing import NDArray

from keras_he.backend.framework import framework
from keras_he.backend.keras_private import wrap_variables
from keras_he.backend.tensors import number
from keras_he.errors import NotLoaded, invalid
from keras_he.sampling.stream import STORAGE, aligned_empty, store

_RANDOM = (  # their subclasses too: Keras' Glorot and Lecun, and keras_he's, scale a variance
    keras.initializers.Orthogonal,
    keras.initializers.RandomNormal,
    keras.initializers.RandomUniform,
    keras.initializers.TruncatedNormal,
    keras.initializers.VarianceScaling,
)
Missing = Literal["raise", "draw"]
_NAMED = 20  # variables that an error names
_SIGNS = 0x9E3779B97F4A7C15  # 64 bits without a pattern of their own: the golden ratio's
_CERTAIN = 10  # marked elements; fewer may have the signs of the marks by chance


class skip_init(ContextDecorator):  # noqa: N801 - used like a function, as contextlib's are
    """Builds models whose kernels start as zeros, for values that are loaded right after.

    Inside the block, a variable whose initializer is keras_he's or a random one of Keras (or of a
    subclass of either) starts as zeros, and nothing is drawn. At the end of the block, variables
    that were written keep their values. The others are drawn by their initializers, and are named
    in an error unless `missing="draw"`. So no kernel silently stays zero.

    Blocks nest; each is responsible for the variables that it created. A block acts on its own
    thread. An error inside passes through, after the variables without a value have been drawn.
    Initializers of other kinds (constants, functions, your own classes) run as always. Compute
    nothing from kernels before they are loaded: for example, `quantize` a model after the block.

    Args:
        missing: What to do at the end with variables that got no value: `"raise"` draws them and
            names them in an error, `"draw"` draws them.

    Raises:
        InvalidArgument: If `missing` is neither, or the block is in code that is compiled.
        NotLoaded: At the end of the block, if `missing="raise"` and a variable got no value.

    Example:
        >>> import keras, keras_he
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> with keras_he.skip_init():
        ...     copy = keras.models.clone_model(model)
        ...     copy.set_weights(model.get_weights())
    """

    def __init__(self, missing: Missing = "raise") -> None:
        if missing not in get_args(Missing):
            raise invalid("missing", '"raise" or "draw"', missing)
        self._missing: Missing = missing
        self._entered: list[_Block] = []

    def _recreate_cm(self) -> "skip_init":
        return skip_init(self._missing)  # for a call of a decorated function, on whatever thread

    def __enter__(self) -> None:
        if framework.is_tracing():
            raise invalid("skip_init", "entered outside of compiled code", "a traced call")
        block = _Block()
        self._entered.append(block)
        _open_blocks.set((*_open_blocks.get(), block))
        _count_blocks(1)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        # A block may be left in another context than it was entered in.
        here = [block for block in _open_blocks.get() if block in self._entered]
        block = (here or self._entered)[-1]
        self._entered.remove(block)
        _open_blocks.set(tuple(one for one in _open_blocks.get() if one is not block))
        _count_blocks(-1)
        left = block.end()
        failures = [failure for one in left if (failure := _drawn(*one)) is not None]
        if failures and error is not None:  # which passes through
            told = f"{len(failures)} variables stay zero, because a draw failed: {failures[0]!r}"
            warnings.warn(told, stacklevel=2)
        elif failures:
            raise failures[0]
        elif left and error is None and self._missing == "raise":
            raise _not_loaded([variable for variable, _ in left])


def _drawn(variable: Any, initializer: Any) -> BaseException | None:
    """Draws a variable; returns the error if it fails, so that the others are drawn as well."""
    try:
        variable.assign(initializer(tuple(variable.shape), dtype=variable.dtype))
    except BaseException as error:
        return error
    return None


def _not_loaded(variables: Sequence[Any]) -> NotLoaded:
    named = [f"{one.path} {tuple(one.shape)}" for one in variables[:_NAMED]]
    more = f", and {len(variables) - _NAMED} more" if len(variables) > _NAMED else ""
    return NotLoaded(
        "Every random variable that is made inside `skip_init` must get a value inside it. No "
        f"value was assigned to {', '.join(named)}{more}: drawn by their initializers now.\n"
        "Load weights for them inside the block. If a model has variables on purpose that are in "
        'no file, write `skip_init(missing="draw")`.'
    )


class _Block:
    """One entered `skip_init`."""

    def __init__(self) -> None:
        self.open = True

    def end(self) -> list[tuple[Any, Any]]:
        """Returns its variables that were not written, with their initializers."""
        with _lock:
            self.open = False
            mine = {key: one for key, one in _made.items() if one.block is self}
            for key in mine:
                del _made[key]
        left = [one for one in mine.values() if one.is_left()]
        if left:
            gc.collect()  # layers that a loader made and dropped are in reference cycles
        pairs = [(one.variable(), one.initializer) for one in left]
        return [pair for pair in pairs if pair[0] is not None]


class _Later:
    """The initializer of a block's variable: marked zeros in the block, its own one afterwards.

    Keras may create a variable's first value after the end of the block.
    """

    def __init__(self, variable: Any, initializer: Any, block: _Block) -> None:
        self.variable = weakref.ref(variable)
        self.initializer = initializer
        self.block = block
        self.is_assigned = False

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        with _lock:
            if self.block.open and dtype in STORAGE:
                _made[id(self.variable())] = self
                return _marked_zeros(tuple(shape), dtype)
        return self.initializer(shape, dtype=dtype)

    def is_left(self) -> bool:
        """Returns whether the variable exists and still has its marked zeros."""
        variable = self.variable()
        if variable is None:
            return False
        pattern = _pattern(tuple(variable.shape))
        if self.is_assigned and pattern.size < _CERTAIN:
            return False
        value = keras.ops.convert_to_tensor(variable.value)
        signs = keras.ops.signbit(keras.ops.cast(value[_corner(pattern)], "float32"))
        if not number(keras.ops.all(keras.ops.equal(signs, pattern))):
            return False
        return not number(keras.ops.any(keras.ops.not_equal(value, 0)))


def _corner(pattern: NDArray[np.bool_]) -> tuple[Any, ...]:
    """Returns the index of the elements of a pattern, which gives a view of a scalar too."""
    return (*(slice(size) for size in pattern.shape), ...)


def _pattern(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Returns which of the first elements along each axis, at most 64, are -0.0."""
    corner: list[int] = []
    for size in reversed(shape):
        corner.insert(0, max(1, min(size, 64 // math.prod(corner))))
    signs = [_SIGNS >> bit & 1 for bit in range(math.prod(corner))]
    return np.array(signs, np.bool_).reshape(corner)


def _marked_zeros(shape: tuple[int, ...], dtype: str) -> Any:
    """Returns zeros, some of them -0.0."""
    if 0 in shape:
        return keras.ops.zeros(shape, dtype=dtype)
    pattern = _pattern(shape)
    marks = np.where(pattern, np.float32(-0.0), np.float32(0.0))
    if framework.is_tracing():
        zeros = keras.ops.zeros(shape, dtype=dtype)
        return keras.ops.slice_update(zeros, [0] * len(shape), keras.ops.cast(marks, dtype))
    # Zeroed memory costs nothing until it is written.
    values = aligned_empty(shape, STORAGE[dtype], np.zeros)
    store(marks, values[_corner(pattern)], dtype)
    return framework.to_tensor(values, dtype)


_made: dict[int, _Later] = {}  # variables of open blocks in all threads, by their identity
_open_blocks: ContextVar[tuple[_Block, ...]] = ContextVar("keras_he.skip_init", default=())
_lock = threading.RLock()
_open = 0  # open blocks in all threads
_unwrap: list[Callable[[], None]] = []  # while blocks are open: what takes the hooks away


def _count_blocks(more: int) -> None:
    """Counts the open blocks: the first wraps the methods of variables, the last unwraps them."""
    global _open
    with _lock:
        _open += more
        if _open and not _unwrap:
            _unwrap.append(wrap_variables(__init__=_init_hook, assign=_assign_hook))
        elif not _open:
            _unwrap.pop()()


def _init_hook(init: Callable[..., None]) -> Callable[..., None]:
    @wraps(init)
    def hook(self: Any, initializer: Any, *args: Any, **kwargs: Any) -> None:
        block = next((one for one in reversed(_open_blocks.get()) if one.open), None)
        if isinstance(initializer, str):
            initializer = keras.initializers.get(initializer)
        if block is not None and isinstance(initializer, _RANDOM):
            initializer = _Later(self, initializer, block)
        try:
            init(self, initializer, *args, **kwargs)
        except BaseException:
            _made.pop(id(self), None)  # the variable was not created
            raise

    return hook


def _assign_hook(assign: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(assign)
    def hook(self: Any, value: Any) -> Any:
        assigned = assign(self, value)
        if later := _made.get(id(self)):
            later.is_assigned = True
        return assigned

    return hook
