"""One forward pass that plans every kernel: each pre-activation is measured and scaled on the way.

A pre-activation, without its bias, is linear in its kernel. The kernel is drawn with gain 1. The
gain that gives the pre-activation the second moment 1 follows from what is measured, and the
pre-activation is passed on with that gain, so that every later kernel is measured on the input that
it will have. The first call decides for a layer that is called several times. Gains are rounded to
three significant digits, and the rounded gain is what is passed on.

A kernel whose pre-activation cannot be observed gets the gain of the preceding activation.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras

from keras_he.backend.keras_private import is_of_keras, layers_inside, own
from keras_he.backend.tensors import mean_square, number
from keras_he.errors import NotMeasurable
from keras_he.initialize_model import constraints
from keras_he.initialize_model.planned_variable import PlannedVariable, Settings
from keras_he.layers.constants import is_zero
from keras_he.layers.kinds import first_kernel_output, is_normalisation
from keras_he.notes import Note
from keras_he.passes.kernel_watcher import LayerCall, OriginWatcher
from keras_he.passes.moving_statistics import MovingStatistics
from keras_he.passes.preceding_activation import analytic_gain
from keras_he.passes.tensor_origins import Origin
from keras_he.passes.zeros import Zeros

_LINEAR = 0.05  # by which a second moment may miss the square of its kernel's gain


class Measurement(OriginWatcher):
    """The watcher of the pass, which fills in the records of the plan.

    Args:
        found: The variables of the model.
        settings: Law and mode of the kernels.
        scope: The scope of the pass, with kernels of gain 1, and biases 0.
        inputs: The input tensors of the model.
        paths: Paths of the layers, by their identity.
        factors: Factors of the kernels that end branches, by the identity of their variable.
        measures: Whether to measure; otherwise every gain is analytic.
        progress: Called after each layer.
    """

    special = (keras.layers.RNN, keras.layers.BatchNormalization)

    def __init__(
        self,
        found: Sequence[PlannedVariable],
        *,
        settings: Settings,
        scope: keras.StatelessScope,
        inputs: Iterable[Any],
        paths: Mapping[int, str],
        factors: Mapping[int, float],
        measures: bool,
        progress: Callable[[], None],
    ) -> None:
        self._settings, self._scope = settings, scope
        self._factors, self._measures = factors, measures
        self._biases = {id(one.layer): one for one in found if one.adds_bias}
        super().__init__([one for one in found if one.role == "kernel"], inputs, paths, progress)
        self.statistics = MovingStatistics(scope)
        chosen = [one for one in found if one.left.kind == "by-design"]
        self.zeros = Zeros(one.layer for one in chosen if is_zero(one))
        self._silenced: set[int] = set()  # kernels that are given zeros by choice
        self.notes: list[Note] = []

    def run(self, call: LayerCall) -> Any:
        """Runs a layer, and measures its kernels."""
        layer, kernels = call.layer, call.kernels
        if isinstance(layer, keras.layers.RNN):
            self._place_recurrent(call)
        elif kernels and not all(kernel.unseen for kernel in kernels):
            return self._kernel_call(call)
        for kernel in kernels:
            self._analytic(kernel, call.activation)
        if isinstance(layer, keras.layers.BatchNormalization):
            return self.statistics.run(call)
        return call.run()

    def kernel_output(self, call: LayerCall, value: Any) -> Any:
        """Returns a pre-activation as it will be."""
        value = self._with_bias(call.layer, self._scaled(call.kernels, value, call.inputs))
        if call.kernels[-1].moments[-1] == 0.0 == mean_square(value):
            self.zeros.returned(call, value)
        return value

    def activated(
        self, layer: Any, activation: Any, value: Any, result: Any, source: Origin
    ) -> None:
        """Follows zeros through an activation."""
        self.zeros.activated(value, result)

    def size_keys(self, call: LayerCall) -> list[int]:
        """Returns the key of the kernel that sets the size of the output, if it may change."""
        kernel = call.kernels[-1]
        return [id(kernel.variable)] if kernel.is_set and not kernel.unseen else []

    def output(self, call: LayerCall, tensor: Any) -> float:
        """Returns the second moment of an output; refuses NaN, and takes note of zeros."""
        if not self._measures:
            return 0.0
        moment, is_layer = mean_square(tensor), isinstance(call.layer, keras.layers.Layer)
        if moment:
            self.zeros.heard(call.layer)
        elif call.inputs and 0 not in tensor.shape:
            self.zeros.returned(call, tensor, self._zeros(call) if is_layer else None)
        if not is_layer:
            return moment  # masks have infinities, and states begin at zero
        if not math.isfinite(moment):
            raise NotMeasurable(f"`{self.path(call.layer)}` returns NaN or infinity.")
        return moment

    def _zeros(self, call: LayerCall) -> Note | None:
        """Returns the note about a layer that returns zeros, `None` of one with a reason."""
        if _may_be_zero(call):
            return None
        hint = " Give samples that differ: it subtracts their mean."
        return Note(
            "zeros",
            f"zeros: `{self.path(call.layer)}` returns zeros only, so what follows it alone cannot "
            "be measured." + (hint if is_normalisation(call.layer) else ""),
        )

    def _kernel_call(self, call: LayerCall) -> Any:
        """Returns the outputs of a layer that holds kernels of its own."""
        layer, kernels = call.layer, call.kernels
        first_output = first_kernel_output(layer) if len(kernels) > 1 else None
        for kernel in kernels:
            # No activation stands between two kernels that follow one another.
            second = first_output is not None and kernel is kernels[-1]
            kernel.activation = None if second else call.activation
        if not self._measures:
            for kernel in kernels:
                self._analytic(kernel, kernel.activation)
            return call.run()
        if first_output is not None:
            self._fit(kernels[0], lambda: mean_square(first_output(layer, call.args[0])))
            self._scaled(kernels[:1], first_output(layer, call.args[0]), call.inputs)
        elif len(kernels) > 1:
            for kernel in kernels:
                self._analytic(kernel, kernel.activation)
                self._place(kernel)
            return call.run()
        kernel = kernels[-1]
        if is_of_keras(layer):
            self._fit(kernel, lambda: self._probed(call))
        outputs = self.observe(call)
        if is_of_keras(layer):
            if not call.observed:  # such as the scale of an additive attention
                self._analytic(kernel, kernel.activation)
            return outputs
        if len(kernels) > 1 or not kernel.is_set:
            return outputs
        return self._proven_linear(kernel, call, outputs)

    def _fit(self, kernel: PlannedVariable, measured: Callable[[], float]) -> None:
        """Gives a kernel with a constraint the gain that it allows."""
        constraints.fit(
            kernel,
            self._settings._replace(mode="fan_in"),
            self._target(kernel),
            lambda values: self._scope.add_update((kernel.variable, values)),
            measured,
        )

    def _probed(self, call: LayerCall) -> float:
        """Returns the second moment of a pre-activation, of which nothing is recorded."""
        probe = replace(call, verified=[])
        self.observe(probe)
        before = math.prod(_gain(earlier) for earlier in call.kernels[:-1])
        return probe.verified[-1] * before**2 if probe.verified else 0.0

    def _target(self, kernel: PlannedVariable) -> float:
        """Returns the second moment that the pre-activation of a kernel is to have."""
        return self._factors.get(id(kernel.variable), 1.0) ** 2

    def _proven_linear(self, kernel: PlannedVariable, call: LayerCall, outputs: Any) -> Any:
        """Returns the outputs of a user's layer, and refuses one that is not linear in its kernel.

        Of a layer without an activation of its own the output is measured. Its output with a kernel
        of zeros is its bias, and is subtracted.
        """
        unit = self._scope.get_current_value(kernel.variable)
        offset: Any = 0.0
        if not call.observed:
            bias = self._biases.get(id(call.layer))
            if bias is not None:
                self._scope.add_update((bias.variable, bias.planned))
                outputs = call.run()
            self._scope.add_update((kernel.variable, keras.ops.zeros_like(unit)))
            offset = call.run()
            self._scaled([kernel], outputs - offset, ())
        self._scope.add_update((kernel.variable, unit * _gain(kernel)))
        final_call = replace(call, verified=[])
        final = self.observe(final_call)
        self._scope.add_update((kernel.variable, unit))
        verified = final_call.verified if call.observed else None
        moment = verified[-1] if verified else mean_square(final - offset)
        if not abs(moment - kernel.moments[-1]) <= _LINEAR * kernel.moments[-1]:
            raise NotMeasurable(
                f"`{kernel.path}` must be linear in its kernel to be measured. With a gain "
                f"that would make the second moment {kernel.moments[-1]:.3g} it is {moment:.3g}. "
                f'Leave it out with `skip="{kernel.path}"`.'
            )
        return outputs if call.observed else final

    def _scaled(
        self, kernels: Sequence[PlannedVariable], value: Any, inputs: Sequence[Origin]
    ) -> Any:
        """Returns the output of a kernel, scaled; of several kernels the last is measured here."""
        kernel = kernels[-1]
        if not kernel.moments:
            kernel.kernels_before = max((origin.kernels for origin in inputs), default=0)
            kernel.input_size = sum(math.prod(origin.tensor.shape) for origin in inputs)
            kernel.output_shape = tuple(value.shape)
        before = math.prod(_gain(earlier) for earlier in kernels[:-1])
        if before != 1.0:
            value = value * before
        moment = mean_square(value)
        if not math.isfinite(moment):
            raise NotMeasurable(f"The pre-activation of `{kernel.path}` is NaN or infinity.")
        if moment == 0.0:
            if self.zeros.explains(kernel.layer, inputs):
                self._silenced.add(id(kernel))
            elif any(mean_square(origin.tensor) for origin in inputs) and not _is_zero(kernel):
                text = f"zeros: the pre-activation of `{kernel.path}` is zero for other inputs"
                self.zeros.add(kernel.layer, Note("zeros", text))
        elif kernel.is_set and kernel.gain is None and kernel.scale_is_fixed:
            kernel.rule, kernel.gain = constraints.RULE, 1.0
        elif kernel.is_set and kernel.gain is None:
            kernel.rule = "measured"
            kernel.target = self._target(kernel)
            kernel.gain = constraints.rounded_gain(1.0, kernel.target / moment)
        gain = _gain(kernel)
        kernel.moments.append(moment * gain * gain)
        return value if gain == 1.0 else value * gain

    def _with_bias(self, layer: Any, value: Any) -> Any:
        """Returns a pre-activation with its bias, which is 0 in the scope."""
        bias = self._biases.get(id(layer))
        if bias is None or bias.value_range == (0.0, 0.0):
            return value
        added = keras.ops.cast(bias.planned, value.dtype)
        if getattr(layer, "data_format", None) == "channels_first" and len(value.shape) > 2:
            added = keras.ops.reshape(added, (-1, *[1] * (len(value.shape) - 2)))
        return value + added

    def _analytic(self, kernel: PlannedVariable, activation: Any) -> None:
        """Gives a kernel the gain of the preceding activation."""
        if not kernel.is_set or kernel.gain is not None:
            return
        kernel.activation = activation
        if kernel.scale_is_fixed:
            kernel.rule, kernel.gain = constraints.RULE, 1.0
        elif kernel.recurrent:
            kernel.rule, kernel.gain = "orthogonal per gate", 1.0
        else:
            kernel.rule = "analytic"
            kernel.gain = analytic_gain(kernel.activation, self._settings.mode)

    def give_up(self, kernel: PlannedVariable) -> None:
        """Gives the analytic gain to a kernel whose inputs were zero at every call."""
        text = f"dead input: {kernel.path} receives only zeros"
        if id(kernel) in self._silenced:
            self.notes.append(Note("by-design", f"{text}, from a kernel that is kept as zeros"))
        else:
            self.notes.append(Note("dead-input", text))
        self._analytic(kernel, kernel.activation)

    def _place(self, kernel: PlannedVariable) -> None:
        """Gives a kernel that is not measured its final values for the rest of the pass."""
        if kernel.is_set:
            values = kernel.draw(self._settings, _gain(kernel))
            self._scope.add_update((kernel.variable, values))

    def _place_recurrent(self, call: LayerCall) -> None:
        """Gives recurrent kernels their final values: their pre-activations cannot be observed."""
        cells = getattr(call.layer.cell, "cells", [call.layer.cell])
        for position, cell in enumerate(cells):
            for inner in layers_inside(cell):
                kernels = self.kernels_of(inner)
                for kernel in kernels if self.reach(kernels) else ():
                    self._analytic(kernel, None if position else call.activation)
                    self._place(kernel)


def _is_zero(kernel: PlannedVariable) -> bool:
    """Returns whether a kernel that is left is zero itself."""
    return not kernel.is_set and not mean_square(kernel.variable.value)


def _gain(kernel: PlannedVariable) -> float:
    """Returns the gain of a kernel drawn with gain 1; 1 of one that is left, or is placed."""
    return 1.0 if kernel.gain is None or kernel.placed else kernel.gain


def _may_be_zero(call: LayerCall) -> bool:
    """Returns whether a layer returns zeros for a reason: zero inputs, a mask, a zero factor."""
    layer = call.layer
    if not all(mean_square(origin.tensor) for origin in call.inputs):
        return True
    if not is_of_keras(layer):
        # A user's layer, such as a mask, or a branch with a factor that starts at zero.
        factors = [one for one in own(layer).weights if one.name != "bias"]
        return not layer.weights or any(not mean_square(one.value) for one in factors)
    if is_normalisation(layer):
        scale = getattr(layer, "gamma", getattr(layer, "scale", None))
        return scale is not None and keras.ops.is_tensor(scale.value) and not mean_square(scale)
    rectifiers = (keras.layers.Activation, keras.layers.PReLU, keras.layers.ReLU)
    return isinstance(layer, rectifiers) and number(keras.ops.max(call.inputs[0].tensor)) <= 0.0
