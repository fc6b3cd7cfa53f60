"""Measures whole models: building them, loading them, and `keras_he.initialize`.

A part of `benchmarks/run.py`. Networks are built from the same config, with Keras' initializers or
with keras_he strings.
"""

import copy
import gc
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import initialize as spreads  # the networks, and their batches
import keras
from timing import interleaved, ready, row

import keras_he

BACKEND = keras.backend.backend()
DEPTHS = (100, 300, 900)  # Keras walks deeper ones into the limit of recursion
PARAMETERS = 72_000_000
COMPARED = ("100 dense, relu", "30 conv, PReLU per channel", "MobileNetV2")


def chain(depth: int, width: int = 64) -> keras.Model:
    """Returns many layers of small kernels; not a Sequential, which is rebuilt for each of them."""
    x = inputs = keras.Input((width,))
    for _ in range(depth):
        x = keras.layers.Dense(width, activation="relu")(x)
    return keras.Model(inputs, x)


def renamed(config: Any, kernel: str, depthwise: str) -> Any:
    """Returns a model's config with strings in place of the initializers of kernels."""
    if isinstance(config, list):
        return [renamed(one, kernel, depthwise) for one in config]
    if not isinstance(config, dict):
        return config
    names = {"kernel_initializer": kernel, "depthwise_initializer": depthwise}
    return {key: names.get(key) or renamed(config[key], kernel, depthwise) for key in config}


def networks(quick: bool) -> dict[str, tuple[Callable[[], keras.Model], str]]:
    """Returns what makes each network, and the string that suits it."""
    applications = keras.applications
    found = {
        "VGG16": (partial(applications.VGG16, weights=None), "he_relu"),
        "EfficientNetB7": (partial(applications.EfficientNetB7, weights=None), "he_silu"),
    }
    found |= {f"{n} layers of (64, 64)": (partial(chain, n), "he_relu") for n in DEPTHS}
    if quick:
        del found["EfficientNetB7"], found["900 layers of (64, 64)"]
    return found


def built(kind: type, config: Any) -> keras.Model:
    """Returns a model of a config, with all its kernels there."""
    model = kind.from_config(copy.deepcopy(config))
    for weight in model.weights:
        ready(weight.value)
    return model


def forgotten() -> None:
    """Frees what was built, which holds itself, so that the next one finds as much memory."""
    keras.backend.clear_session()
    gc.collect()


def building(quick: bool) -> list[dict[str, Any]]:
    """Returns the time of building networks with Keras' initializers and with keras_he's."""
    rows, full = [], BACKEND == "tensorflow" and not quick
    for name, (make, string) in networks(quick).items():
        model = make()
        kind, config = type(model), model.get_config()
        configs = {"Keras' defaults": config}
        for law in ("", "_truncated", "_uniform") if full else ("",):
            configs[f"he_*{law}"] = renamed(config, string + law, f"{string}{law}_depthwise")
        if full:
            configs["zeros"] = renamed(config, "zeros", "zeros")
        del model
        cases = {what: partial(built, kind, c) for what, c in configs.items()}
        for what, times in interleaved(cases, 3 if quick else 7, 60.0, before=forgotten).items():
            rows.append(row("build", BACKEND, what, times, network=name))
    return rows


def loading(quick: bool) -> list[dict[str, Any]]:
    """Returns the time of `load_model`, with and without `skip_init`."""
    width = int((PARAMETERS / (20 if quick else 2)) ** 0.5)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cases: dict[str, Callable[[], object]] = {}
        for string in ("he_normal", "he_relu"):
            path = Path(folder) / f"{string}.keras"
            dense = [keras.layers.Dense(width, kernel_initializer=string) for _ in range(2)]
            keras.Sequential([keras.Input((width,)), *dense]).save(path)
            cases[string] = partial(keras.saving.load_model, path)
            cases[f"{string}, skip_init"] = partial(skipped, path)
        for what, times in interleaved(cases, 3 if quick else 5, 90.0, before=forgotten).items():
            rows.append(row("load", BACKEND, what, times, parameters=2 * width * (width + 1)))
    return rows


def skipped(path: Path) -> keras.Model:
    """Returns a loaded model whose kernels were not drawn first."""
    with keras_he.skip_init():
        return keras.saving.load_model(path)


def initializing(quick: bool) -> list[dict[str, Any]]:
    """Returns the time of `keras_he.initialize` beside anyinit's two modes and a forward pass."""
    import anyinit

    rows = []
    for name in COMPARED[: 1 if quick else None]:
        model = spreads.fresh(name)
        batch = spreads.batch_for(model)
        shapes = keras.tree.map_structure(lambda one: tuple(one.shape), batch)
        model(batch, training=True)
        cases = {
            "forward pass": partial(model, batch, training=True),
            "keras_he.initialize": partial(keras_he.initialize, model, batch, seed=1),
            "anyinit analytic": partial(anyinit.initialize, model, "analytic", shapes),
        }
        times = interleaved(cases, 3 if quick else 5, 30.0)
        # Minutes a call: once is enough, and nothing beside it would change the picture.
        slow = {"anyinit measured": partial(anyinit.initialize, model, "empirical", batch)}
        times |= interleaved(slow, 1, warm=0)
        rows += [row("initialize", BACKEND, n, t, network=name) for n, t in times.items()]
    return rows
