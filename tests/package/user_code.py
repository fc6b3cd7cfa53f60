"""Code as users write it: each public name, used rightly and wrongly.

`make lint` checks this file with mypy in strict mode. A wrong use has a `type: ignore` with the
expected error code, so mypy fails where it refuses a right use and where it accepts a wrong one.
"""

import json
from collections.abc import Mapping

import keras
import numpy as np

import keras_he
from keras_he import (
    AuditReport,
    Comparison,
    DepthFactors,
    Fans,
    Figures,
    Finding,
    InitializationReport,
    KaimingNormal,
    KaimingOrthogonal,
    KaimingTruncatedNormal,
    KaimingUniform,
    KerasHeError,
    Note,
    Report,
    Row,
    SignalLogger,
)
from keras_he.errors import (
    InvalidArgument,
    NotEager,
    NotLoaded,
    NotMeasurable,
    NotPortable,
    ReportProblem,
)

print(keras_he.nothing)  # type: ignore[attr-defined]


class Scale(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    pass


def scale_kernels(layer: Scale) -> Mapping[str, Mapping[str, object]]:
    return {"kernel": {"geometry": "depthwise"}}


def initializers() -> list[keras.initializers.Initializer]:
    KaimingNormal("prelu", "fan_in", negative_slope=[0.1, 0.2], seed=keras.random.SeedGenerator(1))
    KaimingNormal(lambda x: x * keras.ops.tanh(x))
    KaimingUniform(geometry="transpose", strides=(2, 2))
    KaimingTruncatedNormal(gain=1.5, groups=4, gates=3)
    KaimingOrthogonal(input_axes=(0,), output_axes=[1, 2])
    KaimingNormal("relu", "fan_in", 1.0)  # type: ignore[call-arg]
    KaimingNormal(strides="2")  # type: ignore[arg-type]
    KaimingNormal(mode="fan")  # type: ignore[arg-type]
    KaimingNormal(geometry="depth")  # type: ignore[arg-type]
    KaimingNormal(slope=0.1)  # type: ignore[call-arg]
    config: dict[str, object] = KaimingNormal("gelu").get_config()
    same = KaimingNormal.from_config(config)
    std: float = same.standard_deviation(Fans(9.0, 9.0))
    same((3, 3, 8, 8), dtype=f"{std:.0f}")
    return [keras_he.get("he_prelu"), keras_he.get({"class_name": "KaimingNormal", "config": {}})]


def numbers() -> tuple[float, ...]:
    gain: float = keras_he.gain("gelu", mode="fan_avg")
    keras_he.gain(keras.layers.LeakyReLU(0.1))
    keras_he.gain("prelu", negative_slope=np.full(8, 0.1))
    keras_he.gain("gelu", "fan_in")  # type: ignore[call-arg]
    keras_he.gain("gelu", mode="fan")  # type: ignore[arg-type]
    factors: DepthFactors = keras_he.depth_factors("tanh")
    signal, gradient = factors
    fans: Fans = keras_he.fans((3, 3, 64, 1), geometry="depthwise", strides=2)
    keras_he.fans(64)  # type: ignore[arg-type]
    keras_he.fans((3, 3), geometry="depth")  # type: ignore[arg-type]
    print(fans.fan_mean)  # type: ignore[attr-defined]
    return gain, signal, gradient, factors.gradient, fans.fan_in


def layers(layer: keras.layers.Layer) -> float:
    keras_he.register_kernels(Scale, scale_kernels)
    keras_he.register_kernels(Scale, 3)  # type: ignore[arg-type]
    keras_he.register_kernels(Scale(), scale_kernels)
    found: dict[str, Fans] = keras_he.layer_fans(layer)
    return found["kernel"].fan_out


def strings() -> list[str]:
    keras_he.register()
    every: tuple[str, ...] = keras_he.names()
    keras_he.names(3)  # type: ignore[arg-type]
    return [*sorted(every), *keras_he.names("he_prelu*"), json.dumps(every), keras_he.__version__]


def whole_model(model: keras.Model, x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> str:
    report: InitializationReport = keras_he.initialize(
        model, x, mode="fan_in", law="uniform", seed=1
    )
    keras_he.initialize(model, x, "fan_in")  # type: ignore[call-arg]
    keras_he.initialize(model, seed="1")  # type: ignore[arg-type]
    keras_he.initialize(model, law="cauchy")  # type: ignore[arg-type]
    keras_he.initialize(model, mode="fan")  # type: ignore[arg-type]
    keras_he.initialize(model, residual="width")  # type: ignore[arg-type]
    keras_he.initialize(model, scheme="he")  # type: ignore[call-arg]
    keras_he.initialize(model, residual=None, statistics="initial", only="head/*", dry_run=True)
    report.check(spread=0.3)
    before: AuditReport = keras_he.audit(model, (x, x), loss="mse", thresholds={"dead": 0.5})
    keras_he.audit(model, thresholds=0.5)  # type: ignore[arg-type]
    keras_he.audit(model, x, "mse")  # type: ignore[call-arg]
    comparison: Comparison = before.compare(keras_he.audit(model, backward=False))
    before.compare(model.name)
    before.compare("report.json")  # type: ignore[arg-type]
    before.check(spread=0.3, skipped=True)
    print(report.findings, before.seed)  # type: ignore[attr-defined]
    both: list[Report] = [report, before]
    both[0].check()
    report.to_html("report.html")
    spread: float = report.forward_spread
    notes: list[Note] = [*report.warnings, *(row.left for row in report.rows)]
    print([note for note in notes if note.kind == "dead-input"])
    print([note for note in notes if note.kind == "dead"])  # type: ignore[comparison-overlap]
    paths: list[str] = [row.path for row in before.kernels]
    findings: tuple[Finding, ...] = before.findings
    verdicts: list[str] = [finding.verdict for finding in findings]
    rows: tuple[Row, ...] = before.kernels
    measured: list[Figures | None] = [row.figures for row in rows]
    moments: list[float | None] = [row.moment for row in rows]
    print(measured, moments)
    return "\n".join([*paths, *verdicts, f"{spread}", str(comparison), before.to_json(indent=1)])


def training(model: keras.Model) -> None:
    logger = SignalLogger(every=10, kernels=["dense/*"])
    SignalLogger(every="10")  # type: ignore[arg-type]
    SignalLogger(None, 10)  # type: ignore[call-arg]
    model.fit(callbacks=[logger])
    steps: list[int] = list(logger.reports)
    reports: list[AuditReport] = [logger.reports[step] for step in steps]
    print(reports)


def files(model: keras.Model) -> None:
    for replaced in keras_he.make_portable(model):
        print(replaced.layer, replaced.note)
    with keras_he.skip_init():
        keras.models.load_model("model.keras")
    with keras_he.skip_init(missing="draw"):
        keras.models.load_model("model.keras")

    @keras_he.skip_init()
    def load(path: str) -> keras.Model:
        return keras.models.load_model(path)

    load("model.keras")
    load(3)  # type: ignore[arg-type]


def errors(model: keras.Model) -> str:
    try:
        keras_he.initialize(model)
    except (NotEager, NotMeasurable, NotLoaded, NotPortable, ReportProblem) as error:
        same: KerasHeError = error
        value: ValueError = error
        return f"{same} {value}"
    except InvalidArgument as error:
        return str(error)
    except KerasHeError as error:
        wrong: ValueError = error  # type: ignore[assignment]
        return str(wrong)
    return ""
