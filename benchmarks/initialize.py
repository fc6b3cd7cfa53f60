"""Measures the time of `keras_he.initialize` and the spreads after it, compared with anyinit.

    python -m pip install -e ".[tensorflow,benchmark]"    # in a checkout of keras_he
    python -m pip install --no-deps keras-hub             # for Llama
    python benchmarks/initialize.py            # all of it, half an hour
    python benchmarks/initialize.py --quick    # without anyinit's slow mode on large networks

Three tables: the time of a call as a multiple of one forward pass; how it grows with depth; and the
decades between the largest and the smallest second moment of pre-activations and of gradients.
"""

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

import architectures
import keras
import numpy as np
import signals
from timing import interleaved

import keras_he


def residual_single(depth: int = 20) -> keras.Model:
    """Returns residual blocks of one convolution each."""
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(32, 3, padding="same")(inputs)
    for _ in range(depth):
        branch = layers.Conv2D(32, 3, padding="same")(layers.ReLU()(x))
        x = layers.Add()([x, branch])
    return keras.Model(inputs, x)


def stride_decoder() -> keras.Model:
    """Returns a decoder whose every transposed convolution doubles the image."""
    x = inputs = keras.Input((2, 2, 64))
    for width in (64, 64, 32, 32, 16):
        x = keras.layers.Conv2DTranspose(width, 4, strides=2, padding="same", activation="relu")(x)
    return keras.Model(inputs, x)


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "100 dense, relu": lambda: architectures.dense_chain("relu"),
    "100 dense, gelu": lambda: architectures.dense_chain("gelu"),
    "100 dense, tanh": lambda: architectures.dense_chain("tanh"),
    "30 conv, PReLU per channel": architectures.conv_prelu,
    "30 depthwise-separable blocks": lambda: architectures.separable_blocks(parts=True),
    "decoder, stride-2 transposed": stride_decoder,
    "20 residual conv blocks": residual_single,
    "U-Net": architectures.unet,
    "VGG16": lambda: architectures.application("VGG16"),
    "ResNet50": lambda: architectures.application("ResNet50"),
    "MobileNetV2": lambda: architectures.application("MobileNetV2"),
    "EfficientNetB0": lambda: architectures.application("EfficientNetB0"),
    "NASNetMobile": lambda: architectures.application("NASNetMobile"),
    **({"Llama": architectures.llama} if find_spec("keras_hub") else {}),
}
SLOW = ("ResNet50", "VGG16", "EfficientNetB0", "NASNetMobile")  # minutes in the measured peer


def batch_for(model: keras.Model, samples: int = 16) -> Any:
    """Returns standard normal draws that fit a model, or tokens and their mask."""
    rng = np.random.default_rng(11)
    if isinstance(model.input, dict):
        tokens = rng.integers(0, 50, (samples, 16)).astype("int32")
        return {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    shape = (samples, *model.inputs[0].shape[1:])
    return rng.normal(size=shape).astype("float32")


def seconds(function: Callable[[], object], count: int = 3) -> float:
    """Returns the median time of a call."""
    return statistics.median(interleaved({"": function}, count, warm=0)[""])


def he_normal_everywhere(model: keras.Model) -> None:
    """Draws every kernel by Keras' `he_normal`, each by a seed of its own."""
    for seed, weight in enumerate(model.trainable_variables):
        if weight.name in ("kernel", "depthwise_kernel", "pointwise_kernel"):
            weight.assign(keras.initializers.HeNormal(seed=seed)(weight.shape))


def spreads(model: keras.Model, batch: Any) -> str:
    """Returns the decades of pre-activations and of gradients over depth, in training mode."""
    forward = signals.factor(one[0] for one in signals.second_moments(model, batch).values())
    backward = signals.factor(signals.gradient_moments(model, batch))
    return f"{math.log10(forward):.1f} / {math.log10(backward):.1f}"


def fresh(name: str) -> keras.Model:
    """Returns a network as Keras builds it, the same each time."""
    keras.utils.set_random_seed(0)
    return NETWORKS[name]()


def anyinit_columns(name: str, batch: Any, quick: bool) -> tuple[str, str, float]:
    """Returns the spreads of anyinit's two modes, and the seconds of the measured one."""
    try:
        import anyinit
    except ImportError:
        return "not installed", "", math.nan
    columns, took = [], math.nan
    shapes = keras.tree.map_structure(lambda one: tuple(one.shape), batch)
    for mode, given in (("analytic", shapes), ("empirical", batch)):
        if mode == "empirical" and quick:
            columns.append("left out")
            continue
        model = fresh(name)
        start = time.perf_counter()
        try:
            anyinit.initialize(model, mode, given)
        except Exception as error:  # a peer's failure is a result
            columns.append(f"raises {type(error).__name__}")
            continue
        took = time.perf_counter() - start if mode == "empirical" else took
        columns.append(spreads(model, batch))
    return columns[0], columns[1], took


def cost(name: str, samples: int = 16) -> tuple[float, float]:
    """Returns the seconds of a forward pass and of `initialize`."""
    model = fresh(name)
    batch = batch_for(model, samples)
    model(batch, training=True)
    keras_he.initialize(model, batch, seed=1)
    forward = seconds(lambda: model(batch, training=True), 5)
    return forward, seconds(lambda: keras_he.initialize(model, batch, seed=1))


def draws(name: str) -> float:
    """Returns the seconds in which all kernels of a network are drawn once."""
    model = fresh(name)
    kernels = [tuple(one.shape) for one in model.trainable_variables if len(one.shape) > 1]
    normal = keras_he.KaimingNormal(gain=1.0, seed=1)
    return seconds(lambda: [normal(shape) for shape in kernels])


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave the slow peer out")
    quick = parser.parse_args().quick

    print(
        f"keras_he {keras_he.__version__}, Keras {keras.__version__} on {keras.backend.backend()}"
    )
    print(
        "\nOne call, as multiples of one eager forward pass (16 samples), and the draws it makes:"
    )
    ours: dict[str, float] = {}
    for name in NETWORKS:
        forward, ours[name] = cost(name)
        drawn = draws(name)
        print(
            f"  {name:<32}{forward:7.3f} s forward {ours[name]:7.3f} s initialize, "
            f"{ours[name] / forward:4.1f} times; "
            f"{(ours[name] - 2 * drawn) / forward:4.1f} without its two draws",
            flush=True,
        )

    print("\nGrowth with depth, dense layers of 128, gelu:")
    for depth in (100, 200, 400):
        model = architectures.dense_chain("gelu", depth=depth)
        batch = batch_for(model, 32)
        keras_he.initialize(model, batch, seed=1)
        took = seconds(lambda m=model, b=batch: keras_he.initialize(m, b, seed=1))
        print(f"  {depth:4} layers {took:6.3f} s, {1e3 * took / depth:5.2f} ms a layer")

    print("\nDecades over depth of the signal / of the gradient:")
    titles = (
        "Keras default",
        "he_normal",
        "anyinit analytic",
        "anyinit measured",
        "keras_he",
    )
    print(" " * 34 + "".join(f"{title:<18}" for title in titles) + "time against anyinit measured")
    for name in NETWORKS:
        model = fresh(name)
        batch = batch_for(model)
        default = spreads(model, batch)
        he_normal_everywhere(model)
        plain = spreads(model, batch)
        model = fresh(name)
        keras_he.initialize(model, batch, seed=1)
        mine = spreads(model, batch)
        analytic, measured, took = anyinit_columns(name, batch, quick and name in SLOW)
        ratio = "" if math.isnan(took) else f"{took / ours[name]:.0f} times faster"
        cells = (default, plain, analytic, measured, mine)
        print(f"  {name:<32}" + "".join(f"{cell:<18}" for cell in cells) + ratio, flush=True)


if __name__ == "__main__":
    main()
