"""Measures the peak memory of a draw, and of building a layer, as a multiple of the tensor's size.

A part of `benchmarks/run.py`, on Linux. Backends keep freed memory, so each figure has its own
process, in which a smaller draw ran first.

    python benchmarks/memory.py KaimingNormal float32 1000000    # prints bytes
"""

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

WARM, LARGE = 3 * 10**6, 8192 * 8192
SIZES = (10**4, 10**6, 10**7, 25 * 10**7)
BUILD = "Dense.build, "
STATUS = Path("/proc/self/status")


def peaks(quick: bool) -> list[dict[str, Any]]:
    """Returns the peak memory by law, dtype and size; for one size in a layer, and Keras'."""
    import sampler

    laws = list(sampler.ours())[: 1 if quick else None]
    layers = [BUILD + law for law in laws]
    cases = [(what, LARGE) for what in (*laws, *layers, "keras HeNormal")]
    if not quick:
        cases += [(law, size) for law in laws for size in SIZES]
    rows = []
    for dtype in sampler.DTYPES if STATUS.exists() else ():
        for what, size in cases:
            command = [sys.executable, __file__, what, dtype, str(size)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            taken = json.loads(done.stdout.splitlines()[-1])
            of = {"what": what, "dtype": dtype, "size": size, "bytes": taken}
            tensor = size * (4 if dtype == "float32" else 2)
            rows.append({"table": "memory", "backend": sampler.BACKEND, "tensor": tensor, **of})
    return rows


def resident(field: str) -> int:
    """Returns `VmRSS` or `VmHWM`, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def made(what: str, dtype: str, size: int) -> Any:
    """Returns a drawn kernel, or a dense layer of a square one."""
    import keras
    import sampler

    import keras_he

    if not what.startswith(BUILD):
        draw = {**sampler.ours(), **sampler.peers()}[what]
        return draw((100, size // 100), dtype)
    side = int(size**0.5)
    drawn = getattr(keras_he, what.removeprefix(BUILD))()
    layer = keras.layers.Dense(side, kernel_initializer=drawn, use_bias=False, dtype=dtype)
    layer.build((None, side))
    return layer


def main() -> None:
    """Prints how many bytes one draw takes at most, beyond what was there before."""
    what, dtype, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
    small = made(what, dtype, WARM)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    large = made(what, dtype, size)
    print(resident("VmHWM") - before)
    del small, large


if __name__ == "__main__":
    main()
