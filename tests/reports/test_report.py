"""The report: what a person reads, and what a program keeps."""

import copy
import json
import math
import pickle
import re

import architectures
import keras
import pytest
from architectures import batch_for
from keras import layers

import keras_he

EXPECTED = """\
small has 3 of 3 kernels set: normal, fan_in, seed 1.
kernel  shape  in front  gain  std  E[y²]  rule
─
first/kernel  3×3×3×8  linear  #  #  #  measured
second/kernel  3×3×8×8  relu  #  #  #  measured
head/kernel  288×4  linear  #  #  #  measured
Second moment of the signal over depth: spread # decades about its targets.
Second moment of the gradient over depth: # decades predicted.
Made again: 3 by bias_initializer."""


def small():
    return keras.Sequential(
        [
            keras.Input((10, 10, 3)),
            layers.Conv2D(8, 3, activation="relu", name="first"),
            layers.Conv2D(8, 3, name="second"),
            layers.Flatten(),
            layers.Dense(4, name="head"),
        ],
        name="small",
    )


def masked(text):
    """Returns the text with measured numbers as #, and columns as wide as they need not be."""
    lines = []
    for line in text.splitlines():
        line = re.sub(r"(?<= )\d+(\.\d+)?(?=  | decades|$)", "#", line)
        lines.append("─" if line.startswith("─") else re.sub(" {2,}", "  ", line))
    return "\n".join(lines)


def test_the_whole_report_reads_so():
    assert masked(str(keras_he.initialize(small(), seed=1))) == EXPECTED


@pytest.mark.parametrize("name", architectures.SMALL)
def test_every_variable_stands_in_a_row_and_the_table_fits(name):
    model = architectures.SMALL[name]()
    report = keras_he.initialize(model, batch_for(model), seed=1)
    assert len(report.rows) == len({row.path for row in report.rows})
    assert len(report.rows) == len({id(one) for one in model.variables})
    for row in report.rows:
        assert bool(row.rule) != bool(row.left)
    assert max(len(line) for line in str(report).splitlines()) <= 100


def test_a_report_is_plain_values():
    report = keras_he.initialize(small(), seed=1)
    told = json.loads(report.to_json())
    assert told["rows"][0]["path"] == "first/kernel"
    assert told["rows"][0]["fans"] == [27.0, 72.0]
    assert told["forward_spread"] == report.forward_spread
    assert report == keras_he.initialize(small(), seed=1)
    assert report != keras_he.initialize(small(), seed=2)


def test_check_sees_a_spread_that_is_too_large():
    report = keras_he.initialize(architectures.unet(), seed=1, mode="fan_out")
    assert report.forward_spread > 0.5
    with pytest.raises(keras_he.KerasHeError, match=r"spread \d.\d\d is above 0.18 decades"):
        report.check()
    report.check(spread=math.inf)


def test_a_kernel_that_was_not_reached_is_told():
    class Idle(layers.Layer):
        def __init__(self):
            super().__init__()
            self.used, self.unused = layers.Dense(8), layers.Dense(8, name="unused")

        def build(self, shape):
            self.used.build(shape)
            self.unused.build(shape)

        def call(self, x):
            return self.used(x)

    model = keras.Sequential([keras.Input((8,)), Idle()])
    report = keras_he.initialize(model, seed=1)
    row = next(row for row in report.kernels if "unused" in row.path)
    assert (row.rule, row.gain) == ("analytic, not reached", 1.0)
    with pytest.raises(keras_he.KerasHeError, match="unused/kernel was not reached"):
        report.check()


# Of seed 20151206, from TensorFlow; equal on every backend, to one unit of the third digit.
GAINS = {
    "unet": [1.06, 1.36, 1.18, 1.46, 1.13, 1.54, 1.09, 1.42, 1.26, 1.35, 1.23, 1.1, 1.17, 1.14],
    "separable": [1.09, 0.98, 1.43, 0.966, 1.95, 0.998],
    "post-norm": [
        *(1.03, 0.957, 0.993, 2.31, 1.0, 1.51),
        *(0.987, 1.09, 1.04, 1.58, 1.01, 1.53, 1.27),
    ],
    "residual": [1.05, 1.53, 0.888, 1.22, 0.75, 1.16, 0.833, 1.62],
}


@pytest.mark.parametrize("name", GAINS)
def test_gains_are_equal_on_every_backend(name):
    report = keras_he.initialize(architectures.SMALL[name](), seed=20151206)
    for row, gain in zip(report.kernels, GAINS[name], strict=True):
        unit = 10 ** (math.floor(math.log10(gain)) - 2)
        assert row.gain == pytest.approx(gain, abs=1.01 * unit)


def test_the_seeds_of_variables_are_frozen():
    model = small()
    keras_he.initialize(model, seed=20151206, data=False)
    assert model.get_layer("first").kernel_initializer.get_config()["seed"] == 9082430385166737889


def test_reasons_and_warnings_are_texts_with_a_kind():
    model = small()
    model.get_layer("first").trainable = False
    model.get_layer("first").kernel.assign(model.get_layer("first").kernel * 0.0)
    report = keras_he.initialize(model, seed=1)
    (left,) = {row.left for row in report.rows if row.left}
    assert (left, left.kind) == ("frozen", "frozen")
    assert {note.kind for note in report.warnings} == {"dead-input"}
    for copied in (copy.deepcopy(report), pickle.loads(pickle.dumps(report))):
        assert copied == report
        assert [note.kind for note in copied.warnings] == [note.kind for note in report.warnings]
    told = json.loads(report.to_json())
    assert told["rows"][0]["left_kind"] == "frozen"
    assert told["notes"] == [
        {"kind": note.kind, "text": text}
        for note, text in zip(report.warnings, told["warnings"], strict=True)
    ]
