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
from keras_he.reports import columns

EXPECTED = """\
small: 3 of 3 kernels initialized (normal, fan_in, seed 1), measured on 64 drawn samples: standard
  normal values.
kernel  shape  activation  gain  std  E[y²]  E[∇²]  rule
─
first/kernel  3×3×3×8  linear  #  #  #  #  measured
second/kernel  3×3×8×8  relu  #  #  #  #  measured
head/kernel  288×4  linear  #  #  #  #  measured
Signal over depth: spread # decades about the targets, # in inference mode (a decade is a
  factor of 10).
Gradient over depth: spread # decades.
Re-initialized: 3 by bias_initializer."""


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
        line = re.sub(r"(?<= )\d+(\.\d+)?(?=  | decades| in inference|$)", "#", line)
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
    assert {note.kind for note in report.warnings} == {"dead-input", "zero-by-design"}
    for copied in (copy.deepcopy(report), pickle.loads(pickle.dumps(report))):
        assert copied == report
        assert [note.kind for note in copied.warnings] == [note.kind for note in report.warnings]
    told = json.loads(report.to_json())
    assert told["rows"][0]["left_kind"] == "frozen"
    assert told["notes"] == [
        {"kind": note.kind, "text": text}
        for note, text in zip(report.warnings, told["warnings"], strict=True)
    ]


def test_each_call_returns_a_report_of_its_own_with_its_own_attributes():
    model = small()
    done, seen = keras_he.initialize(model, seed=1), keras_he.audit(model)
    assert isinstance(done, keras_he.InitializationReport)
    assert isinstance(seen, keras_he.AuditReport)
    assert isinstance(done, keras_he.Report)
    assert isinstance(seen, keras_he.Report)
    for name in ("mode", "law", "seed", "written"):
        assert (hasattr(done, name), hasattr(seen, name)) == (True, False)
    for name in ("findings", "end_to_end", "depth_growth"):
        assert (hasattr(seen, name), hasattr(done, name)) == (True, False)
    assert [json.loads(one.to_json())["audited"] for one in (done, seen)] == [False, True]


def test_an_initialization_and_an_audit_are_compared_by_their_numbers():
    model = small()
    done, seen = keras_he.initialize(model, seed=1), keras_he.audit(model)
    told = done.compare(seen)
    assert told.gone == told.new == ()
    for one in told.to_dict()["kernels"]:
        assert one["before"]["std"] == pytest.approx(one["after"]["std"], rel=0.2)
        assert one["before"]["gradient"] > 0.0
        assert one["after"]["gradient"] > 0.0
    assert "findings" not in str(told)
    with pytest.raises(keras_he.KerasHeError, match="`other` must be a report"):
        seen.compare(model)


@pytest.mark.parametrize("first", [0.0, 1.0], ids=["zeros first", "signal first"])
def test_the_first_call_that_is_given_a_signal_counts_everywhere(first):
    shared = layers.Dense(8, name="shared")
    inputs = keras.Input((8,))
    calls = [shared(inputs * first), shared(inputs * (1.0 - first))]
    model = keras.Model(inputs, layers.Concatenate()(calls))
    done = keras_he.initialize(model, seed=1)
    for report in (done, keras_he.audit(model)):
        (row,) = report.kernels
        assert sorted(row.moments)[0] == 0.0
        assert row.moment == max(row.moments) > 0.5
        (line,) = (line for line in str(report).splitlines() if line.startswith("shared"))
        assert f"{row.moment:.3g} ×2" in line
        (told,) = report.compare(report).to_dict()["kernels"]
        assert told["before"]["moment"] == row.moment
        (signal,) = (one for one in report.plot().axes[0].lines if one.get_marker() == "o")
        assert list(signal.get_ydata()) == [row.moment]


def test_what_was_not_measured_is_not_told_as_a_number():
    model = small()
    assert "no kernel was set by measurement" in str(keras_he.initialize(model, data=False))
    model.get_layer("first").kernel.assign(model.get_layer("first").kernel * 0.0)
    assert "(E[y²] is 0 at 3 of 3)" in str(keras_he.audit(model))


def test_text_page_and_comparison_have_the_columns_of_one_table(tmp_path, monkeypatch):
    model = small()
    reports = {"initialization": keras_he.initialize(model, seed=1), "audit": keras_he.audit(model)}
    for job, report in reports.items():
        for width, medium in ((80, "narrow"), (100, "wide")):
            monkeypatch.setenv("COLUMNS", str(width))
            titles = [one.title for one in columns.columns_of(job, medium)]
            assert " ".join(titles).split() in [line.split() for line in str(report).splitlines()]
            assert max(len(line) for line in str(report).splitlines()) <= width
        report.to_html(tmp_path / "report.html")
        page = (tmp_path / "report.html").read_text("utf-8")
        titles = [one.title for one in columns.columns_of(job, "page")]
        assert re.findall(r"<th[^>]*><button>(.*?)</button>", page) == titles
        assert re.findall(r"<dt>(.*?)</dt>", page) == titles
    compared = str(reports["audit"].compare(reports["audit"])).splitlines()[0]
    keys = [one for one in columns.COLUMNS if one.key]
    assert compared.split() == ["kernel", *(part for one in keys for part in (one.title, "→"))]
    assert all(one.meaning.endswith(".") for one in columns.COLUMNS)


def test_one_line_checks_both_kinds_of_report():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    for report in (keras_he.initialize(model, seed=1), keras_he.audit(model)):
        report.check(spread=0.1, skipped=True)


def test_the_page_of_a_model_with_a_colon_in_its_name_repeats_no_name(tmp_path):
    dense = keras.layers.Dense(4)
    model = keras.Sequential([keras.Input((8,)), dense], name="a: b")
    keras_he.initialize(model, seed=1).to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "1 of 1 kernels initialized" in page
    assert "b: 1 of 1" not in page


def test_an_audit_says_at_how_many_kernels_the_gradient_is_zero():
    sizes = [keras.layers.Dense(8, "relu", name="in"), keras.layers.Dense(8, "relu", name="mid")]
    head = keras.layers.Dense(2, kernel_initializer="zeros")
    report = keras_he.audit(keras.Sequential([keras.Input((8,)), *sizes, head]))
    gradients = [row.figures.gradient for row in report.kernels]
    assert gradients[:2] == [0.0, 0.0]  # a head of zeros passes no gradient on
    assert gradients[2] > 0.0
    assert "gradient E[∇²] 0.00 decades (E[∇²] is 0 at 2 of 3)" in " ".join(str(report).split())
