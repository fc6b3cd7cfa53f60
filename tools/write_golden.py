"""Writes the golden files of this version: what it saves must load for ever.

    python tools/write_golden.py

Once a version is released its folder, `tests/files/golden/<version>`, is never written again. There
is a model for each class, with an initializer of every kind of argument, as `.keras` and `.h5`, and
an `.npz` with its weights, its initializers' configs, and what each of them draws. The weights are
not what any initializer draws, so a file that was not read is seen. Only layers whose own configs
the oldest supported Keras reads are used.
"""

import json
from pathlib import Path

import keras
import numpy as np

import keras_he

L = keras.layers
CLASSES = (
    keras_he.KaimingNormal,
    keras_he.KaimingUniform,
    keras_he.KaimingTruncatedNormal,
    keras_he.KaimingOrthogonal,
)


def network(cls: type) -> keras.Model:
    generator = keras.random.SeedGenerator(9, name="golden_seeds")
    layers = [
        L.Conv2D(4, 2, kernel_initializer=cls("prelu", seed=1)),
        L.DepthwiseConv2D(
            2, depthwise_initializer=cls("gelu", "fan_out", geometry="depthwise", seed=2)
        ),
        L.Conv2DTranspose(
            4,
            2,
            strides=2,
            kernel_initializer=cls(
                "leaky_relu",
                "fan_avg",
                negative_slope=0.1,
                geometry="transpose",
                strides=2,
                seed=2**128 - 1,
            ),
        ),
        L.Conv2D(4, 2, groups=2, kernel_initializer=cls(gain=1.5, groups=2, seed=0)),
        L.Reshape((-1, 4)),
        L.Conv1D(3, 2, kernel_initializer=cls(input_axes=(0, 1), output_axes=(2,), seed=3)),
        L.Conv1D(3, 1, kernel_initializer=cls("silu", seed=generator)),
        L.LSTM(
            2,
            kernel_initializer=cls("linear", "fan_avg", gates=4, seed=4),
            recurrent_initializer=cls("tanh", gates=4, seed=5),
        ),
    ]
    for number, layer in enumerate(layers):
        layer.name = f"layer_{number}"
    return keras.Sequential([keras.Input((6, 6, 4), name="image"), *layers], name="golden")


def drawn(model: keras.Model) -> list[tuple[dict, np.ndarray]]:
    """Returns the config of each initializer that a model made, and its first draw."""
    found = []
    for layer in model.layers:
        cell = getattr(layer, "cell", layer)
        for name in ("kernel", "depthwise", "recurrent"):
            initializer = getattr(cell, f"{name}_initializer", None)
            if isinstance(initializer, CLASSES):
                kernel = cell.recurrent_kernel if name == "recurrent" else cell.kernel
                again = keras.initializers.deserialize(keras.initializers.serialize(initializer))
                values = keras.ops.convert_to_numpy(again(tuple(kernel.shape), "float32"))
                found.append((keras.initializers.serialize(initializer), values))
    return found


def main() -> None:
    folder = (
        Path(__file__).resolve().parents[1] / "tests" / "files" / "golden" / keras_he.__version__
    )
    folder.mkdir(parents=True, exist_ok=True)
    for cls in CLASSES:
        model = network(cls)
        model.set_weights([weight + 0.5 for weight in model.get_weights()])
        arrays = {f"weight_{i:02}": one for i, one in enumerate(model.get_weights())}
        configs, draws = zip(*drawn(model), strict=True)
        arrays |= {f"draw_{i:02}": one for i, one in enumerate(draws)}
        model.save(folder / f"{cls.__name__}.keras")
        model.save(folder / f"{cls.__name__}.h5")
        np.savez_compressed(folder / f"{cls.__name__}.npz", configs=json.dumps(configs), **arrays)
    print(*sorted(f"{path.name} {path.stat().st_size}" for path in folder.iterdir()), sep="\n")


if __name__ == "__main__":
    main()
