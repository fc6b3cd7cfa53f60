"""What the report of `initialize` says of the zoo's models is what is measured from outside."""

import math
import re

import compare
import keras
import outside
import pytest
import registration
import zoo

import keras_he

registration.register()

BAND = math.log10(1.5)
# The first has a small last kernel by its author's choice; the others begin with an embedding whose
# numbers are small, and keep what it gives them.
BY_CHOICE = ("policy", "sequence to sequence", "recurrent bidirectional", "recurrent masked")
APART = 0.1  # decades by which the two accounts may differ


def spread(model, batch, report, training):
    """Returns the outside spread of the kernels that the report has figures of, over all calls."""
    found = compare.pairs(model, batch, report, training)
    return outside.decades(
        moment / one.target
        for one in found
        if one.was_set and one.reported
        for moment in one.measured
        if moment
    )


@pytest.fixture(scope="module", params=zoo.MODELS)
def initialized(request):
    """Returns a model, its batch, and the report of `initialize`."""
    model, batch = zoo.build(request.param)
    return model, batch, keras_he.initialize(model, batch, seed=0)


@pytest.mark.quick(20)
def test_the_report_agrees_with_what_is_measured_from_outside(initialized):
    model, batch, report = initialized
    told = {True: report.forward_spread, False: report.inference_spread}
    for training in (True, False):
        seen = spread(model, batch, report, training)
        # Outside, other random numbers fall; most of the zoo's models have few units.
        apart = 0.35 if training and report.random_layers else APART
        assert told[training] == pytest.approx(seen, abs=apart)
        if abs(seen - BAND) > apart:
            raised = _spread_is_refused(report, training)
            assert raised is (seen > BAND)


def _spread_is_refused(report, training):
    """Returns whether `check` raises because of a spread."""
    try:
        report.check(spread=BAND, inference_spread=BAND)
    except keras_he.errors.ReportProblem as error:
        text = r"^forward spread \d" if training else r"^forward spread in inference"
        return re.search(text, str(error), re.MULTILINE) is not None
    return False


@pytest.mark.quick(20)
def test_an_audit_after_initialize_does_not_tell_to_call_it(initialized):
    model, batch, _ = initialized
    report = keras_he.audit(model, batch)
    assert [one for one in report.findings if "keras_he.initialize(" in one.remedy] == []


@pytest.mark.quick(20)
@pytest.mark.parametrize("name", zoo.MODELS)
def test_an_audit_finds_each_signal_that_is_lost_as_built(name):
    model, batch = zoo.build(name)
    holders = outside.holders(model)
    moments = [
        found[0]
        for key, found in outside.measure(model, batch, True).items()
        if not isinstance(holders.get(key), keras.layers.Embedding) and "positions" not in key
    ]
    if outside.decades(one for one in moments if one) > 3.0 and name not in BY_CHOICE:
        assert keras_he.audit(model, batch).findings
