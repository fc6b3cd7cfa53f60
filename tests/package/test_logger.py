"""SignalLogger: what training logs of the signal."""

import csv

import keras
import numpy as np
import pytest
from keras import layers

import keras_he

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 12)).astype("float32")
Y = RNG.normal(size=(64, 3)).astype("float32")


def model(optimizer="sgd"):
    keras.utils.set_random_seed(1)
    made = keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(16, activation="relu", name="first"),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Dense(3, name="last"),
        ]
    )
    made.compile(optimizer, "mse")
    return made


def fit(made, *callbacks, epochs=2, **kwargs):
    return made.fit(
        X,
        Y,
        batch_size=8,
        epochs=epochs,
        verbose=0,
        shuffle=False,
        callbacks=[*callbacks],
        **kwargs,
    )


def test_history_and_csv_have_the_figures(tmp_path):
    file = tmp_path / "log.csv"
    logger = keras_he.SignalLogger(X[:16], every=3, kernels="first/*")
    history = fit(model(), logger, keras.callbacks.CSVLogger(str(file)))
    keys = {"signal_spread", "gradient_spread", "dead", "saturated", "update_ratio", "findings"}
    keys |= {"signal/first/kernel", "gradient/first/kernel", "update/first/kernel"}
    assert keys <= set(history.history)
    with file.open(encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == 2
    assert float(rows[1]["signal_spread"]) == pytest.approx(history.history["signal_spread"][1])


def test_it_looks_before_training_and_every_so_many_steps():
    logger = keras_he.SignalLogger(X[:16], every=3)
    fit(model(), logger)
    assert list(logger.reports) == [0, 3, 6, 9, 12, 15]


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch runs steps one by one")
def test_steps_that_run_together_count_each():
    made = model()
    made.compile("sgd", "mse", steps_per_execution=4)
    logger = keras_he.SignalLogger(X[:16], every=8)
    fit(made, logger)
    assert list(logger.reports) == [0, 8, 16]


def test_the_figures_are_those_of_an_audit_of_the_weights_at_that_step():
    made = model()
    logger = keras_he.SignalLogger(X[:16], every=8)
    fit(made, logger, epochs=1)
    assert logger.reports[8].rows == keras_he.audit(made, X[:16]).rows
    assert logger.reports[8].rows != logger.reports[0].rows


def test_training_is_the_same_with_it_and_without():
    plain, watched = model("adam"), model("adam")
    for made, callbacks in ((plain, []), (watched, [keras_he.SignalLogger(every=2)])):
        keras.utils.set_random_seed(2)  # PyTorch's dropout draws from its one generator
        fit(made, *callbacks)
    for one, other in zip(plain.get_weights(), watched.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_loss_of_targets_can_be_looked_at():
    logger = keras_he.SignalLogger((X[:16], Y[:16]), every=100, loss="mse")
    fit(model(), logger, epochs=1)
    again = keras_he.audit(model(), (X[:16], Y[:16]), loss="mse")
    assert logger.reports[0].kernels == again.kernels


def test_csv_has_the_figures_in_either_order(tmp_path):
    file = tmp_path / "log.csv"
    fit(model(), keras.callbacks.CSVLogger(str(file)), keras_he.SignalLogger(X[:16], every=3))
    with file.open(encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == 2
    assert float(rows[1]["signal_spread"]) >= 0.0


def test_each_callback_is_still_called_once():
    calls = []

    class Counter(keras.callbacks.Callback):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def on_train_begin(self, logs=None):
            calls.append(self.name)

    logger = keras_he.SignalLogger(X[:16])
    fit(model(), Counter("a"), Counter("b"), logger, Counter("c"), epochs=1)
    assert calls == ["a", "b", "c"]
    assert list(logger.reports) == [0]


def test_the_gradient_is_that_of_the_compiled_loss_where_targets_are_given():
    logger = keras_he.SignalLogger((X[:16], Y[:16]))
    fit(model(), logger, epochs=1)
    expected = keras_he.audit(model(), (X[:16], Y[:16]), loss="mse")
    assert logger.reports[0].kernels == expected.kernels
    without = keras_he.SignalLogger(X[:16])
    fit(model(), without, epochs=1)
    assert without.reports[0].kernels == keras_he.audit(model(), X[:16]).kernels
    assert without.reports[0].kernels != expected.kernels


@pytest.mark.parametrize("every", [0, -1, 1.5, "often", True])
def test_a_bad_number_of_steps_is_refused(every):
    with pytest.raises(keras_he.KerasHeError, match="`every` must be a number of steps"):
        keras_he.SignalLogger(every=every)
