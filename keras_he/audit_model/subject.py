"""What the checks of an audit are given."""

from dataclasses import dataclass, field
from typing import Any

from keras_he.audit_model.initializer_assumptions import Claim
from keras_he.audit_model.kernel_facts import ObservedVariable
from keras_he.audit_model.observe import Silence
from keras_he.backend.tensors import mean_square
from keras_he.initializers.kaiming import Kaiming
from keras_he.layers.kinds import has_fixed_threshold, is_normalisation
from keras_he.layers.variables import remade_initializer
from keras_he.reports.data import Finding

NORMALIZED = "x = keras.layers.LayerNormalization()(x)  # before this layer"
_WIDER = "x = keras.layers.Dense(32)(x)  # more values to normalize over, before this layer"
ZERO_BIAS = 'bias_initializer="zeros"'
OTHER_ACTIVATION = 'activation="relu"'


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
        silences: Layers that return zeros for other inputs.
        bad_weights: Variables with values that are not finite.
        runs: The residual trunks.
        data: How a remedy writes the data, `""` or `", data"`.
        cleaned: The line of code that takes NaN and infinity out of the data.
        thresholds: All thresholds by name.
        initialized: Whether the kernels are as `initialize` set them, so that another call of it
            changes nothing.
        ratios: Second moments over their targets, by the identity of the kernel's variable.
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
    silences: list[Silence]
    runs: list[Any]
    data: str
    cleaned: str
    thresholds: dict[str, float]
    initialized: bool = False
    ratios: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Looks whether `initialize` has set the kernels."""
        told = [one for one in self.kernels if one.initializer_attribute and not one.chosen]
        told = [one for one in told if not one.left]
        self.initialized = bool(told) and all(map(_is_set, told))

    def line(self, otherwise: str) -> str:
        """Returns the line that initializes the model, or another one if that was done already."""
        return otherwise if self.initialized else self.initialize()

    @property
    def beyond(self) -> str:
        """What evidence says of a model that `initialize` has set already."""
        return ", and kernels of the right size do not mend it" if self.initialized else ""

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

    def has_large_bias(self, kernel: ObservedVariable) -> bool:
        """Returns whether the initializer of a kernel's bias returns values that are too large."""
        for bias in self.biases:
            make = remade_initializer(kernel.layer, "bias") if bias.layer is kernel.layer else None
            if make is not None and mean_square(make(bias.shape, dtype=bias.variable.dtype)) > 1.0:
                return True
        return False

    def cause_of(self, silence: Silence) -> tuple[str, str]:
        """Returns why a layer returns zeros, and the line that ends it."""
        factor = next((one for one in self.silent if one.layer is silence.layer), None)
        if factor is not None:
            return f"{factor.path} is zero", f'{factor.name}_initializer="ones"'
        if is_normalisation(silence.layer):
            return "it normalizes over one value, which leaves 0", _WIDER
        text = f"it returns zeros for inputs whose second moment is {silence.given:.3g}"
        return text, self.line(NORMALIZED)

    def finding(
        self, verdict: str, kernel: ObservedVariable, evidence: str, remedy: str
    ) -> Finding:
        """Returns a finding about a kernel."""
        return Finding(verdict, kernel.configured_layer, evidence, remedy, (kernel.path,))


def _is_set(kernel: ObservedVariable) -> bool:
    """Returns whether a kernel has the initializer that `initialize` gives it, and its size.

    One initializer of an attention is for kernels of several sizes.
    """
    made = kernel.claim.initializer if kernel.claim is not None else None
    by_number = isinstance(made, Kaiming) and made.activation is None
    return by_number and (kernel.shared_attribute or kernel.as_drawn)
