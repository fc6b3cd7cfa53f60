"""The verdicts of an audit, the thresholds that they have, and what they are given to judge."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_he.audit_model.initializer_assumptions import Claim
from keras_he.audit_model.kernel_facts import ObservedVariable
from keras_he.errors import did_you_mean, invalid
from keras_he.layers.kinds import has_fixed_threshold
from keras_he.reports.data import Finding

# Each with its reason in docs/audit.md.
THRESHOLDS: dict[str, float] = {
    "signal": 1e3,
    "gradient": 1e8,
    "dead": 0.9,
    "saturated": 0.5,
    "fan": 1.5,
    "gain": 1.03,
    "slope": 0.01,
    "depth": 10.0,
    "distinct": 0.2,
    "residual": 8.0,
}


def checked_thresholds(given: Any) -> dict[str, float]:
    """Returns all thresholds, those that were given among them."""
    if given is None:
        return dict(THRESHOLDS)
    if not isinstance(given, Mapping):
        raise invalid("thresholds", "a dict from names to numbers above 0", given)
    for name, value in given.items():
        if name not in THRESHOLDS:
            known = ", ".join(THRESHOLDS)
            raise invalid("thresholds", f"of {known}", name, did_you_mean(name, THRESHOLDS))
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise invalid(f"thresholds[{name!r}]", "a number above 0", value)
    return {**THRESHOLDS, **{name: float(value) for name, value in given.items()}}


@dataclass
class Subject:
    """A model as the checks see it.

    Attributes:
        kernels: Those that were reached, in order of execution.
        others: Variables that are no kernels, and what their initializers assume.
        biases: The biases among them.
        broken: Layers that make NaN or infinity of finite numbers, where it comes to the outputs.
        batch_finite: Whether the inputs, and the targets if there are any, are finite.
        single: Whether the batch has one sample, and is normalised over.
        trained: Whether the model was trained.
        silent: Normalisations whose factor is zero everywhere.
        bad_weights: Slots with values that are not finite.
        runs: What was seen of trunks.
        data: How the data are written in a remedy, `""` or `", data"`.
        cleaned: The line that takes NaN and infinity out of the data.
        thresholds: See `THRESHOLDS`.
    """

    kernels: list[ObservedVariable]
    others: list[tuple[ObservedVariable, Claim]]
    biases: list[ObservedVariable]
    broken: list[str]
    batch_finite: bool
    single: bool
    trained: bool
    bad_weights: list[ObservedVariable]
    silent: list[ObservedVariable]
    runs: list[Any]
    data: str
    cleaned: str
    thresholds: dict[str, float]

    def initialize(self, *paths: str) -> str:
        """Returns the line that initializes the model, or some of its variables."""
        only = ""
        if paths:
            listed = ", ".join(f'"{path}"' for path in paths)
            only = f", only=[{listed}]"
        fixed = [one.path for one in self.kernels if has_fixed_threshold(one.layer)]
        if fixed:
            listed = ", ".join(f'"{path}"' for path in fixed)
            only += f", skip=[{listed}]"
        return f"keras_he.initialize(model{self.data}{only})"

    def finding(
        self, verdict: str, kernel: ObservedVariable, evidence: str, remedy: str
    ) -> Finding:
        """Returns a finding about a kernel."""
        return Finding(verdict, kernel.configured_layer, evidence, remedy, (kernel.path,))
