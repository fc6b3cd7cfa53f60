"""Measures the time of `keras_he.audit` as a multiple of one forward and backward pass.

    python -m pip install -e ".[tensorflow,benchmark]"    # in a checkout of keras_he
    python benchmarks/audit.py

Networks have eight samples; ResNet50 and the others of Keras' applications 64×64 images.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

import architectures
import autodiff
import keras
import numpy as np

import keras_he

NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "ResNet50": lambda: architectures.application("ResNet50"),
    "MobileNetV2": lambda: architectures.application("MobileNetV2"),
    "VGG16": lambda: architectures.application("VGG16"),
    "100 dense, relu": lambda: architectures.dense_chain("relu"),
    "transformer, 6 blocks": lambda: architectures.transformer(6),
}


def interleaved(*functions: Callable[[], object], count: int = 5) -> list[float]:
    """Returns the median seconds of each function, called in turn."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(count):
        for each, function in zip(times, functions, strict=True):
            start = time.perf_counter()
            function()
            each.append(time.perf_counter() - start)
    return [statistics.median(each) for each in times]


def main() -> None:
    """Prints the table."""
    print(f"keras_he {keras_he.__version__}, Keras {keras.__version__}, {keras.backend.backend()}")
    titles = ("forward and backward", "audit", "times", "without backward")
    print(" " * 24 + "".join(f"{title:>22}" for title in titles))
    for name, build in NETWORKS.items():
        keras.utils.set_random_seed(0)
        model = build()
        shape = (8, *model.inputs[0].shape[1:])
        batch = np.random.default_rng(1).normal(size=shape).astype("float32")

        def both(model: keras.Model = model, batch: np.ndarray = batch) -> object:
            return autodiff.kernel_gradients(
                model, batch, lambda y: keras.ops.sum(keras.ops.square(y))
            )

        def look(model: keras.Model = model, batch: np.ndarray = batch) -> object:
            return keras_he.audit(model, batch)

        def forward(model: keras.Model = model, batch: np.ndarray = batch) -> object:
            return keras_he.audit(model, batch, backward=False)

        both(), look()
        passes, took, halved = interleaved(both, look, forward)
        cells = (
            f"{passes:.3f} s",
            f"{took:.3f} s",
            f"{took / passes:.1f}",
            f"{halved / passes:.1f}",
        )
        print(f"{name:<24}" + "".join(f"{cell:>22}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
