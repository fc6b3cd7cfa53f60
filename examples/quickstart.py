"""Trains, saves, loads and serves a network whose kernels say `kernel_initializer="he_prelu"`.

    python -m pip install ".[tensorflow,examples]"    # in a checkout of keras_he
    python examples/quickstart.py

It recognizes scikit-learn's handwritten digits. The trained network is loaded in a fresh Python,
and its export is loaded and run by the TensorFlow C++ SavedModel loader that TensorFlow Serving
uses. If either gives other probabilities than the network itself, the script says so and exits
with 1.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

# Set before the import of TensorFlow; no log level hides the notice of oneDNN.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_he  # noqa: F401 - registers the strings

SERVE = Path(__file__).resolve().with_name("serve_without_keras.py")
PREDICT = """
import sys
import keras_he  # a saved network names its initializers
import keras
import numpy as np

saved, inputs, outputs = sys.argv[1:]
images = np.load(inputs)
model = keras.saving.load_model(saved)
np.save(outputs, model.predict(images, batch_size=len(images), verbose=0))
"""
SERVED = """\
The export, loaded and run by the TensorFlow C++ SavedModel loader that TensorFlow Serving uses,
with no Keras and no keras_he in the process,"""
# Another order of 576 products changes their sum by about sqrt(576) · 6e-8 = 1.4e-6 of its size.
# In four layers, with scores up to 20, this is 1.1e-4 in a score, and half of it in a probability.
TOLERANCE = 1e-4


def prelu() -> keras.layers.Layer:
    slope = keras.initializers.Constant(0.25)
    return keras.layers.PReLU(alpha_initializer=slope, shared_axes=[1, 2])


def network() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            # No activation precedes this kernel, so its gain is 1.
            keras.layers.Conv2D(32, 3, padding="same", kernel_initializer="he_linear"),
            prelu(),
            keras.layers.Conv2D(
                filters=32,
                kernel_size=3,
                padding="same",
                kernel_initializer="he_prelu",  # slope 0.25; for PReLU() of slope 0: "he_relu"
            ),
            prelu(),
            keras.layers.Conv2D(64, 3, strides=2, kernel_initializer="he_prelu"),
            prelu(),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax", kernel_initializer="he_prelu"),
        ]
    )


def trained(images: np.ndarray, digits: np.ndarray) -> keras.Model:
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, digits, epochs=6, verbose=2)  # a line per epoch, in a log too
    return model


def in_fresh_process(folder: Path, *command: str | Path) -> np.ndarray:
    """Runs a Python command in a folder; its last argument names the array that it writes there."""
    subprocess.run([sys.executable, *command], cwd=folder, check=True)
    return np.load(folder / command[-1])


def compare(what: str, probabilities: np.ndarray, expected: np.ndarray) -> bool:
    difference = float(np.abs(probabilities - expected).max())
    if np.array_equal(probabilities, expected):
        print(f"{what} gives the same probabilities, bit for bit: largest difference 0.")
        return True
    same = difference <= TOLERANCE  # False for NaN
    verdict = "the same probabilities, but for roundings" if same else "OTHER PROBABILITIES"
    print(f"{what} gives {verdict}: largest difference {difference:.1e}.")
    return same


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # keeps the output of all processes in order
    keras.utils.set_random_seed(0)
    data = load_digits()
    images = data.images[..., np.newaxis].astype("float32") / 8  # 0 to 16, mean square near 1 now
    labels = data.target.astype("int32")  # JAX has no int64 by default
    split = train_test_split(images, labels, test_size=0.25, random_state=0)
    seen_images, images, seen_digits, digits = split
    model = trained(seen_images, seen_digits)

    # One batch, as for the export: batches of another size may be summed in another order.
    expected = model.predict(images, batch_size=len(images), verbose=0)
    right = int((expected.argmax(axis=1) == digits).sum())
    share = right / len(digits)
    print(f"The network reads {right} of {len(digits)} new digits right: accuracy {share:.3f}.")

    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        np.save(folder / "inputs.npy", images)
        model.save(folder / "digits.keras")
        arguments = ("digits.keras", "inputs.npy", "loaded.npy")
        loaded = in_fresh_process(folder, "-c", PREDICT, *arguments)
        same = compare("The saved .keras file, loaded in a fresh process,", loaded, expected)
        if keras.backend.backend() == "tensorflow":
            model.export(folder / "digits", verbose=False)
            served = in_fresh_process(folder, SERVE, "digits", "inputs.npy", "served.npy")
            same &= compare(SERVED, served, expected)
        else:
            print("The export through the C++ loader is for the TensorFlow backend: left out here.")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
