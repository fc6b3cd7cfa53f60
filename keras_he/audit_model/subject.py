"""What the checks of an audit are given."""

from dataclasses import dataclass
from typing import Any

from keras_he.audit_model.initializer_assumptions import Claim
from keras_he.audit_model.kernel_facts import ObservedVariable
from keras_he.layers.kinds import has_fixed_threshold
from keras_he.reports.data import Finding


@dataclass
class Subject:
    """A model as the checks see it; what is known of a kernel is in `kernel_facts`.

    Attributes:
        kernels: The kernels that the pass used, in order of execution.
        others: Variables that are not kernels, and what their initializers assume.
        biases: The biases among them.
        broken: Layers that return NaN or infinity for finite inputs, if the outputs are not finite.
        batch_finite: Whether the inputs, and the targets if there are any, are finite.
        single: Whether the batch has one sample, and a layer normalizes over the batch.
        trained: Whether the model was trained.
        silent: Factors of normalizations that are zero everywhere.
        bad_weights: Variables with values that are not finite.
        runs: The residual trunks.
        data: How a remedy writes the data, `""` or `", data"`.
        cleaned: The line of code that takes NaN and infinity out of the data.
        thresholds: All thresholds by name.
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
        """Returns the line of code that initializes the model, or some of its variables."""
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
