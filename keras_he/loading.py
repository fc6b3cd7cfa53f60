"""Models that are built to be loaded: nothing is drawn that a file overwrites.

Three quarters of the time that a large model takes to load goes into random kernels that live until
the file is read. Inside `skip_init` they start as zeros. Which of them the file held is known from
what was assigned, not from values: a file may hold zeros. What was not assigned is drawn at the end
of the block, so that no kernel is ever left at zero.

Nothing public tells which variable an initializer was called for, so `keras.Variable`'s `__init__`
and `assign` are wrapped while a block is open in some thread. A block acts on the variables that
its own thread (or task) makes.
"""

import gc
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from contextvars import ContextVar
from functools import wraps
from typing import Any

import keras
import numpy as np

from keras_he.errors import KerasHeError, invalid
from keras_he.sampling import STORAGE, aligned_empty
from keras_he.tensors import is_tracing, to_tensor

_RANDOM = (  # their subclasses too: Keras' Glorot and Lecun, and keras_he's, scale a variance
    keras.initializers.Orthogonal,
    keras.initializers.RandomNormal,
    keras.initializers.RandomUniform,
    keras.initializers.TruncatedNormal,
    keras.initializers.VarianceScaling,
)
_MODES = ("raise", "draw")
_NAMED = 20  # variables that an error names


class NotLoaded(KerasHeError, ValueError):
    """Variables that were made inside `skip_init` and got no value there."""


class skip_init(ContextDecorator):  # noqa: N801 - used like a function, as contextlib's are
    """Builds models whose kernels start as zeros, for values that are loaded right after.

    Inside the block, a variable whose initializer is keras_he's or a random one of Keras (or of a
    subclass of either) starts as zeros, and nothing is drawn. At the end of the block, what was
    assigned is kept, whatever its values; what was not is drawn by its initializer after all, and
    is named in an error unless that is asked for. So no kernel stays at zero in silence.

    Blocks nest, each answering for the variables that it made. A block acts on its own thread. An
    error inside passes through, after what was built and not loaded has been drawn. Initializers
    of other kinds (constants, functions, your own classes) run as always.

    Args:
        missing: What to do at the end about variables that got no value: `"raise"` draws them and
            names them in an error, `"draw"` draws them.

    Raises:
        InvalidArgument: If `missing` is neither.
        NotLoaded: At the end of the block, if `missing="raise"` and a variable got no value.

    Example:
        >>> import keras, keras_he
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> with keras_he.skip_init():
        ...     copy = keras.models.clone_model(model)
        ...     copy.set_weights(model.get_weights())
    """

    def __init__(self, missing: str = "raise") -> None:
        if missing not in _MODES:
            raise invalid("missing", " or ".join(f'"{mode}"' for mode in _MODES), missing)
        self._missing = missing

    def __enter__(self) -> None:
        if is_tracing():
            raise invalid("skip_init", "entered outside of compiled code", "a traced call")
        _open_blocks.set((*_open_blocks.get(), _Block()))
        _hook()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        *outer, block = _open_blocks.get()
        _open_blocks.set(tuple(outer))
        _unhook()
        left = block.end()
        for variable, initializer in left:
            variable.assign(initializer(tuple(variable.shape), dtype=variable.dtype))
        if left and kind is None and self._missing == "raise":
            raise _not_loaded([variable for variable, _ in left])


def _not_loaded(variables: Sequence[Any]) -> NotLoaded:
    named = [f"{one.path} {tuple(one.shape)}" for one in variables[:_NAMED]]
    more = f", and {len(variables) - _NAMED} more" if len(variables) > _NAMED else ""
    return NotLoaded(
        "Every random variable that is made inside `skip_init` must get its value there. None was "
        f"assigned to {', '.join(named)}{more}: drawn by their initializers now.\n"
        "Load weights for them inside the block. If a model is meant to have variables that are in "
        'no file, write `skip_init(missing="draw")`.'
    )


class _Block:
    """One entered `skip_init`."""

    open = True

    def end(self) -> list[tuple[Any, Any]]:
        """Returns the variables that it made and nobody wrote to, with their initializers."""
        self.open = False
        if any(one.block is self for one in [*_waiting.values()]):
            gc.collect()  # layers that a loader made and dropped hold themselves in cycles
        mine = [(key, one) for key, one in [*_waiting.items()] if one.block is self]
        for key, _ in mine:
            del _waiting[key]
        alive = [(one.variable(), one.initializer) for _, one in mine]
        # What is no longer zero was written past `assign`, as TensorFlow's checkpoints do.
        return [pair for pair in alive if pair[0] is not None and _is_zero(pair[0])]


class _Later:
    """The initializer of a variable that a block made: zeros in the block, its own after it.

    Keras may put off a variable's first value beyond the end of the block.
    """

    def __init__(self, variable: Any, initializer: Any, block: _Block) -> None:
        self.variable = weakref.ref(variable)
        self.initializer = initializer
        self.block = block

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        if not self.block.open:
            return self.initializer(shape, dtype=dtype)
        _waiting[id(self.variable())] = self
        if dtype not in STORAGE or is_tracing():
            return keras.ops.zeros(shape, dtype=dtype)
        # Memory that the system hands out as zeros costs nothing until it is written to.
        return to_tensor(aligned_empty(shape, STORAGE[dtype], np.zeros), dtype)


def _is_zero(variable: Any) -> bool:
    return not bool(keras.ops.any(keras.ops.not_equal(variable.value, 0)))


def _is_stateless() -> bool:
    """Returns whether assignments go to a `keras.StatelessScope`, and not to the variable."""
    with keras.StatelessScope(initialize_variables=False) as scope:
        return scope.original_scope is not None


_open_blocks: ContextVar[tuple[_Block, ...]] = ContextVar("keras_he.skip_init", default=())
_waiting: dict[int, _Later] = {}  # by identity of the variable, in all threads
_lock = threading.Lock()
_hooked = 0  # open blocks in all threads
_own: dict[str, Any] = {}  # what `keras.Variable` itself had in place of a hook


def _hook() -> None:
    global _hooked
    with _lock:
        _hooked += 1
        if _hooked == 1:
            for name, hook in (("__init__", _init_hook), ("assign", _assign_hook)):
                _own[name] = vars(keras.Variable).get(name)
                setattr(keras.Variable, name, hook(getattr(keras.Variable, name)))


def _unhook() -> None:
    global _hooked
    with _lock:
        _hooked -= 1
        if not _hooked:
            for name, own in _own.items():
                if own is None:  # inherited
                    delattr(keras.Variable, name)
                else:
                    setattr(keras.Variable, name, own)


def _init_hook(init: Callable[..., None]) -> Callable[..., None]:
    @wraps(init)
    def hook(self: Any, initializer: Any, *args: Any, **kwargs: Any) -> None:
        blocks = _open_blocks.get()
        if isinstance(initializer, str):
            initializer = keras.initializers.get(initializer)
        if blocks and isinstance(initializer, _RANDOM):
            initializer = _Later(self, initializer, blocks[-1])
        try:
            init(self, initializer, *args, **kwargs)
        except BaseException:
            _waiting.pop(id(self), None)  # it never came to be
            raise

    return hook


def _assign_hook(assign: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(assign)
    def hook(self: Any, value: Any) -> Any:
        assigned = assign(self, value)
        if not _is_stateless():
            _waiting.pop(id(self), None)
        return assigned

    return hook
