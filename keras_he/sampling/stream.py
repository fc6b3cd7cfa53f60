"""Random arrays, addressed by element: the only random stage of keras_he.

Element `i`, in row-major order, is the quantile of the `i`-th 32-bit word of one generator, which
the seed and the shape key. So a value depends on the seed, the shape and the law only. It does not
depend on the backend, the number of threads, the dtype (values are drawn in float32 and rounded
last), or earlier draws. Two shapes under one seed are independent streams. A change of any value
that a seed produces is a *Numbers* entry in the change log.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_he.errors import invalid
from keras_he.sampling.laws import Fill, Law, Words, law_named

# What a dtype is stored in. NumPy has no bfloat16: its bits are returned as uint16.
STORAGE: dict[str, type[np.generic]] = {
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float32": np.float32,
    "float64": np.float64,
}
LARGEST = {"float16": 65504.0, "bfloat16": 3.3e38, "float32": 3.4e38, "float64": 3.4e38}

THREADS_VARIABLE = "KERAS_HE_NUM_THREADS"
ALIGNMENT = 64  # bytes; TensorFlow and JAX require it of memory that they take over

# Elements whose arithmetic stays in a core's cache. With fewer, threads wait more for each other.
_CHUNK = 2**17
_BLOCK = 2**20  # the most elements that a thread takes at a time

Seed = int | tuple[int, ...]
Memory = Callable[[Sequence[int], type[np.generic]], NDArray[Any]]
Reader = Callable[[int, int], Words]  # takes the number of the first word, and how many

_UINT32 = {number: np.array(number, np.uint32) for number in (1, 16, 0x7FFF)}


def aligned_empty(
    shape: Sequence[int], dtype: type[np.generic], allocate: Callable[..., Any] = np.empty
) -> NDArray[Any]:
    """Returns a C-contiguous array whose address is a multiple of `ALIGNMENT` bytes."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory: NDArray[Any] = allocate(size + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)


def draw(
    law: str,
    shape: Sequence[int],
    std: float,
    seed: Seed,
    dtype: str,
    *,
    threads: int | None = None,
    memory: Memory = aligned_empty,
) -> NDArray[Any]:
    """Returns an array of independent values of mean 0 and standard deviation `std`.

    Args:
        law: Name of a law of `keras_he.sampling.laws`, other than the orthogonal one.
        shape: Shape of the array; an axis may have length 0.
        std: Standard deviation of the values, at least 0.
        seed: A non-negative integer, or several, which key the stream together with the shape.
        dtype: `"float16"`, `"bfloat16"` (returned as its bits, uint16), `"float32"` or
            `"float64"`, which holds the float32 draw of unit size times the float64 `std`.
        threads: Number of threads; `None` is `thread_count()`. It never changes a value.
        memory: Returns the C-contiguous array to fill, from its shape and NumPy dtype.

    Raises:
        InvalidArgument: If the law is unknown, or values of this `std` do not fit into `dtype`.
    """
    known = law_named(law)
    check_std(std, dtype, known.furthest)
    values = memory(shape, STORAGE[dtype])
    fill_values(values, known, std, dtype, partial(word_reader, seed, shape), threads)
    return values


def fill_values(
    values: NDArray[Any],
    law: Law,
    std: float,
    dtype: str,
    make_reader: Callable[[], Reader],
    threads: int | None,
) -> None:
    """Fills a C-contiguous array as `draw` does; each block has a reader of words of its own."""
    flat = values.reshape(-1)
    fill, factor = _filler(law, std, dtype)
    threads = thread_count() if threads is None else threads
    if 0 < flat.size <= _CHUNK:  # one block: small draws would wait for what several blocks need
        _fill_block(fill, make_reader(), 0, flat, dtype, factor)
        return
    # Blocks of whole chunks, four for each thread where there are as many.
    size = min(_BLOCK, max(1, flat.size // (4 * threads * _CHUNK)) * _CHUNK)

    def block(first: int) -> None:
        out = flat[first : first + size]
        _fill_block(fill, make_reader(), first, out, dtype, factor)

    in_blocks(block, range(0, flat.size, size), threads)


def _filler(law: Law, std: float, dtype: str) -> tuple[Fill, float]:
    """Returns what fills values from words, and the factor by which they are stored."""
    if law.fill is None:
        raise invalid("law", "one that is drawn element by element", law.name)
    # Within these limits `std` goes into the law's float32 coefficients and costs nothing.
    folded = dtype != "float64" and 2.0**-60 <= std <= 2.0**30
    return _made(law.fill, std if folded else 1.0), 1.0 if folded else std


@lru_cache(maxsize=64)  # networks have many kernels of one standard deviation
def _made(make: Callable[[float], Fill], std: float) -> Fill:
    return make(std)


def word_reader(seed: Seed, shape: Sequence[int]) -> Reader:
    """Returns a function that reads words of an array's stream."""
    generator, position = np.random.PCG64DXSM(_stream(seed, shape)), 0

    def read(first: int, count: int) -> Words:
        nonlocal position
        start, stop = first // 2, (first + count + 1) // 2  # one 64-bit output holds two words
        if start != position:
            generator.advance(start - position)
        position = stop
        words = generator.random_raw(stop - start).astype("<u8", copy=False).view("<i4")
        return words[first - 2 * start :][:count]

    return read


def _stream(seed: Seed, shape: Sequence[int]) -> np.random.SeedSequence:
    """Returns the key of an array's stream."""
    if isinstance(seed, int) and seed < 2**128 and max(shape, default=0) < 2**32:
        # The same key as that of the last line, in half of its time.
        low = 2**32 - 1
        parts = (seed & low, seed >> 32 & low, seed >> 64 & low, seed >> 96)
        return np.random.SeedSequence(np.array((*parts, len(shape), *shape), np.uint32))
    return np.random.SeedSequence(seed, spawn_key=(len(shape), *shape))


def in_blocks(block: Callable[[int], None], starts: range, threads: int) -> None:
    """Calls `block` for all `starts`, in this thread and in helpers."""
    helpers = min(threads, len(starts)) - 1
    if helpers <= 0:
        for start in starts:
            block(start)
        return
    pending = deque(starts)

    def work() -> None:
        while pending:
            try:
                start = pending.popleft()
            except IndexError:  # another thread took the last one
                return
            block(start)

    pool = ThreadPoolExecutor(helpers, thread_name_prefix="keras_he")
    tasks = []
    try:
        with suppress(RuntimeError):  # no thread can start while Python shuts down
            tasks = [pool.submit(work) for _ in range(helpers)]
        work()
    finally:
        pending.clear()
        pool.shutdown(wait=False)
    for task in tasks:
        if not task.cancel():  # a task that has not begun has nothing left to do
            task.result()


def thread_count() -> int:
    """Returns the number of threads of a draw: `KERAS_HE_NUM_THREADS`, else the usable cores."""
    setting = os.environ.get(THREADS_VARIABLE)
    if setting is None:
        affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
        return len(affinity(0)) if affinity else os.cpu_count() or 1
    if not (setting.isascii() and setting.isdigit() and int(setting) > 0):
        raise invalid(THREADS_VARIABLE, "a positive integer", setting)
    return int(setting)


def check_std(std: float, dtype: str, furthest: float) -> None:
    """Refuses a standard deviation if a value `furthest` times its size overflows `dtype`."""
    if not (math.isfinite(std) and std * furthest <= LARGEST[dtype]):
        raise invalid(
            "std",
            f"small enough for values of {furthest:.3g} times its size to fit into {dtype}",
            std,
            "It is the gain over the square root of the fan: use a smaller `gain=`.",
        )


def store(
    values: NDArray[np.float32],
    out: NDArray[Any],
    dtype: str,
    factor: float = 1.0,
    scratch: NDArray[np.float32] | None = None,
) -> None:
    """Writes `values * factor` to `out`, rounded to `dtype` last; bfloat16 as its bits.

    `scratch`, an array of at least their length, saves an allocation for bfloat16.
    """
    if dtype == "float64":
        np.multiply(values, factor, out=out, dtype=np.float64)
        return
    if factor != 1.0:
        values = np.multiply(values, np.float32(factor))
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        # To nearest, ties to even: half a unit is added, minus one where the last bit kept is 0.
        work = None if scratch is None else scratch[: len(values)].view(np.uint32)
        rounded = np.right_shift(bits, _UINT32[16], work)
        rounded &= _UINT32[1]
        rounded += _UINT32[0x7FFF]
        rounded += bits
        rounded >>= _UINT32[16]
        out[...] = rounded
    else:
        out[...] = values


def _fill_block(
    fill: Fill, read: Reader, first: int, out: NDArray[Any], dtype: str, factor: float
) -> None:
    """Fills `out` with the elements of a stream from `first` on."""
    scratch = np.empty((2 if dtype == "float32" else 3, min(_CHUNK, len(out))), np.float32)
    places, tail = [], []
    for start in range(0, len(out), _CHUNK):
        target = out[start : start + _CHUNK]
        words = read(first + start, len(target))
        values = target if dtype == "float32" else scratch[2, : len(target)]
        outer = fill.centre(words, values, scratch)
        if values is not target or factor != 1.0:
            store(values, target, dtype, factor, scratch[0])
        if outer is not None:
            tail.append(words[outer])
            places.append(outer + start if start else outer)
        del words  # the next chunk reuses their memory
    del values, scratch  # the tail reuses their memory
    if places:
        at = places[0] if len(places) == 1 else np.concatenate(places)
        values = fill.tail(tail[0] if len(tail) == 1 else np.concatenate(tail))
        stored = values
        if dtype != "float32" or factor != 1.0:
            stored = np.empty(len(values), out.dtype)
            store(values, stored, dtype, factor)
        out[at] = stored
