"""Measures the peak memory of a draw, and of building a layer, over the tensor's own.

A part of `benchmarks/run.py`, on Linux: the kernel counts the largest resident memory of a process
since it was last reset. Backends keep memory that they have freed, which would hide a later peak,
so what is ours comes first, and Keras' last.
"""

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import sampler

import keras_he

STATUS = Path("/proc/self/status")


def resident(field: str) -> int:
    """Returns `VmRSS` or `VmHWM`, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak(function: Callable[[], Any]) -> int:
    """Returns the bytes that a call takes at most, beyond what was there before."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    result = function()
    taken = resident("VmHWM") - before
    del result
    return taken


def built(size: int, dtype: str, initializer: Any) -> Any:
    """Returns a dense layer of a square kernel."""
    side = int(size**0.5)
    layer = keras.layers.Dense(side, kernel_initializer=initializer, use_bias=False, dtype=dtype)
    layer.build((None, side))
    return layer


def peaks(quick: bool) -> list[dict[str, Any]]:
    """Returns the peak memory by law, dtype and size; of Keras' HeNormal for one size."""
    if not STATUS.exists():
        return []
    rows = []
    sizes = (8192 * 8192,) if quick else (*sampler.SIZES[:4], 8192 * 8192, sampler.SIZES[-1])

    def add(what: str, dtype: str, size: int, function: Callable[[], Any]) -> None:
        rows.append(
            {
                "table": "memory",
                "backend": sampler.BACKEND,
                "what": what,
                "dtype": dtype,
                "size": size,
                "bytes": peak(function),
                "tensor": size * (4 if dtype == "float32" else 2),
            }
        )

    for draw in (*sampler.ours().values(), *sampler.peers().values()):  # whatever is set up once
        for dtype in sampler.DTYPES:
            draw((100, 100), dtype)
            built(10**4, dtype, keras_he.KaimingNormal(seed=1))
    for dtype in sampler.DTYPES:
        for size in sizes:
            for name, draw in sampler.ours().items():
                add(name, dtype, size, partial(draw, (size // 1000, 1000), dtype))
        size = 8192 * 8192
        initializer = keras_he.KaimingNormal(seed=1)
        add("Dense.build, KaimingNormal", dtype, size, partial(built, size, dtype, initializer))
    draw = sampler.peers()["keras HeNormal"]
    for dtype in reversed(sampler.DTYPES):
        add("keras HeNormal", dtype, 8192 * 8192, partial(draw, (8192, 8192), dtype))
    return rows
