"""Measures the time of `keras_he.audit` as a multiple of one forward and backward pass.

    python -m pip install -e ".[tensorflow,benchmark]"    # in a checkout of keras_he
    python benchmarks/audit.py

Networks have eight samples; ResNet50 and the others of Keras' applications 64×64 images.
"""

import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

import architectures
import autodiff
import keras
import numpy as np
from timing import interleaved

import keras_he

NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "ResNet50": lambda: architectures.application("ResNet50"),
    "MobileNetV2": lambda: architectures.application("MobileNetV2"),
    "VGG16": lambda: architectures.application("VGG16"),
    "100 dense, relu": lambda: architectures.dense_chain("relu"),
    "transformer, 6 blocks": lambda: architectures.transformer(6),
}


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

        def loss(outputs: Any) -> Any:
            return keras.ops.sum(keras.ops.square(outputs))

        cases = {
            "both passes": partial(autodiff.kernel_gradients, model, batch, loss),
            "audit": partial(keras_he.audit, model, batch),
            "audit forward": partial(keras_he.audit, model, batch, backward=False),
        }
        passes, took, halved = map(statistics.median, interleaved(cases, 5).values())
        cells = (
            f"{passes:.3f} s",
            f"{took:.3f} s",
            f"{took / passes:.1f}",
            f"{halved / passes:.1f}",
        )
        print(f"{name:<24}" + "".join(f"{cell:>22}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
