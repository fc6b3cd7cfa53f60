"""Initializes VGG16 with one call, and compares its training with Keras' default.

    python examples/initialize_a_model.py

VGG16 has no normalisation. With Keras' default the signal becomes smaller from layer to layer, and
the network learns nothing in a few steps. After `keras_he.initialize` every layer gets a signal of
the same size. The data are scikit-learn's handwritten digits, enlarged.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_he

SEED = 1
STEPS = 30


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns images of (32, 32, 3) with mean 0 and mean square 1, and labels, split in two."""
    data = load_digits()
    images = np.repeat(np.repeat(data.images, 4, axis=1), 4, axis=2)[..., None]
    images = ((images - images.mean()) / images.std()).astype("float32")
    labels = data.target.astype("int32")  # JAX has no int64 by default
    return train_test_split(np.repeat(images, 3, axis=-1), labels, test_size=450, random_state=0)


def accuracy_after_a_few_steps(model: keras.Model, data: tuple[np.ndarray, ...]) -> float:
    """Trains a model for `STEPS` steps and returns its accuracy on new digits."""
    x, x_new, y, y_new = data
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9, clipnorm=1.0),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    batches = np.random.default_rng(0).integers(0, len(x), size=(STEPS, 32))
    for rows in batches:
        loss = model.train_on_batch(x[rows], y[rows])[0]
    accuracy = model.evaluate(x_new, y_new, verbose=0)[1]
    print(f"  loss of the last step {float(loss):.3f}, accuracy on new digits {accuracy:.3f}")
    return float(accuracy)


def build() -> keras.Model:
    """Returns VGG16 as Keras builds it, with random weights and a head for ten digits."""
    keras.utils.set_random_seed(SEED)
    body = keras.applications.VGG16(
        weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg"
    )
    return keras.Sequential([keras.Input((32, 32, 3)), body, keras.layers.Dense(10, "softmax")])


def same_weights(model: keras.Model, other: keras.Model) -> bool:
    """Returns whether two models have the same weights, bit for bit."""
    return all(map(np.array_equal, model.get_weights(), other.get_weights()))


def main() -> None:
    """Trains both, and prints the report of `initialize`."""
    data = digits()
    print(f"VGG16 as Keras builds it, {STEPS} steps:")
    before = accuracy_after_a_few_steps(build(), data)

    model = build()
    report = keras_he.initialize(model, data[0], seed=SEED)
    report.check()  # raises an error if a kernel is not set or the signal is not kept
    print(f"\n{report}\n")
    clone = keras.models.clone_model(model)
    print(f"A clone of the model draws the same weights: {same_weights(model, clone)}.\n")

    print(f"VGG16 after keras_he.initialize, {STEPS} steps:")
    after = accuracy_after_a_few_steps(model, data)
    if after < before + 0.2:
        raise SystemExit("It learned no faster than before.")


if __name__ == "__main__":
    main()
