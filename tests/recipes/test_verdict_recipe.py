"""A toy verdict, added as ARCHITECTURE.md says, is in all reports and known everywhere."""

import json

import pytest
from package_copy import PackageCopy, modules_of_recipe

import keras_he
from keras_he.cli import main

CHECK = '''
def _tiny(subject: Subject) -> Iterator[Finding]:
    """Yields kernels that are far too small."""
    for kernel in subject.kernels:
        if kernel.std < subject.thresholds["tiny"]:
            evidence = f"the standard deviation is {kernel.std:.3g}"
            yield subject.finding("tiny-kernel", kernel, evidence, subject.initialize())
'''

AUDITS = """
import keras, keras_he
small = keras.initializers.RandomNormal(stddev=8e-3, seed=1)
model = keras.Sequential([
    keras.Input((64,)),
    keras.layers.Dense(64, "relu", name="first"),
    keras.layers.Dense(4, kernel_initializer=small, name="small"),
])
model.save("model.keras")
report = keras_he.audit(model)
assert [one.verdict for one in report.findings] == ["tiny-kernel"]
assert report.findings[0].layer == "small"
print(report)
report.to_html("report.html")
open("report.json", "w").write(report.to_json())
try:
    report.check()
except keras_he.errors.ReportProblem as error:
    print("check:", error)
lenient = keras_he.audit(model, thresholds={"tiny": 1e-5})
assert lenient.findings == ()
lenient.check()
print("compared:", report.compare(lenient))
try:
    keras_he.audit(model, thresholds={"tyni": 1e-5})
except ValueError as error:
    print("refused:", error)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    copy = PackageCopy(tmp_path_factory.mktemp("verdict"))
    record = '    Verdict("tiny-kernel", {"tiny": 0.01}),'
    copy.insert("audit_model/verdicts", after='    Verdict("unscaled-residual"', text=record)
    listed = "    yield from _tiny(subject)"
    copy.insert("audit_model/signal_checks", after="    yield from depth(subject)", text=listed)
    copy.append("audit_model/signal_checks", CHECK)
    return copy


@pytest.fixture(scope="module")
def told(package):
    return package.run(AUDITS)


def test_the_recipe_names_all_that_was_changed(package):
    assert package.changed <= modules_of_recipe("a verdict")
    assert len(modules_of_recipe("a verdict")) <= 4


def test_the_verdict_is_in_the_text_the_check_and_the_comparison(told):
    assert "✗1 tiny-kernel: small" in told
    assert "check: The report must show no problems.\ntiny-kernel: small: the standard" in told
    assert "✓ gone: tiny-kernel: small" in told
    assert "residual, tiny. Received: thresholds='tyni'" in told


def test_the_verdict_is_on_the_page_and_in_the_json(package, told):
    page = (package.folder / "report.html").read_text("utf-8")
    assert "<b>tiny-kernel</b> · small" in page
    assert 'data-value="tiny-kernel"' in page
    (finding,) = json.loads((package.folder / "report.json").read_text("utf-8"))["findings"]
    assert (finding["verdict"], finding["paths"]) == ("tiny-kernel", ["small/kernel"])


def test_the_verdict_is_known_to_the_command_line(package, told):
    assert "tiny-kernel" in package.run(command=["audit", "--help"])
    arguments = ["audit", "model.keras", "--fail-on", "tiny-kernel"]
    assert "tiny-kernel" in package.run(command=arguments, code_expected=1)
    refused = package.run(command=["audit", "x.keras", "--fail-on", "tiny"], code_expected=2)
    assert "tiny-kernel" in refused


def test_an_unknown_verdict_and_threshold_are_refused(capsys):
    assert main(["audit", "x.keras", "--fail-on", "tiny-kernel"]) == 2
    assert "knows no 'tiny-kernel'" in capsys.readouterr().err
    with pytest.raises(keras_he.errors.InvalidArgument, match="thresholds"):
        keras_he.audit(None, thresholds={"tiny": 1.0})
