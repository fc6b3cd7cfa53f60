"""One forward pass that plans every kernel: each pre-activation is measured and scaled on the way.

A pre-activation, without its bias, is linear in its kernel. The kernel is drawn with gain 1. The
gain that gives the pre-activation the second moment 1 follows from what is measured, and the
pre-activation is passed on with that gain, so that every later kernel is measured on the input that
it will have. Gains are rounded to three significant digits, and the rounded gain is what is passed
on. Of a layer that is called several times the first call decides, and the plan runs the pass again
where the calls as a whole miss the target.

Kernels whose pre-activations cannot be observed are solved together, from what their layer returns
(`joint`), or from what the activations of a recurrent cell are given, step by step. Where that does
not set the size either, they get the gain of the preceding activation.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import keras

from keras_he.backend.framework import framework
from keras_he.backend.keras_private import is_of_keras, layers_inside
from keras_he.backend.randomness import rewound
from keras_he.backend.tensors import float_tensors, mean_square
from keras_he.errors import NotMeasurable
from keras_he.initialize_model import constraints
from keras_he.initialize_model.joint import solve
from keras_he.initialize_model.planned_variable import JOINTLY, PlannedVariable, Settings
from keras_he.layers.constants import is_zero
from keras_he.layers.kinds import first_kernel_output, is_normalisation
from keras_he.notes import Note
from keras_he.passes.kernel_watcher import LayerCall, OriginWatcher
from keras_he.passes.moving_statistics import MovingStatistics
from keras_he.passes.preceding_activation import analytic_gain
from keras_he.passes.recurrent import ALL_STEPS, cell_moments, cells
from keras_he.passes.tensor_origins import Origin
from keras_he.passes.zeros import Zeros, may_be_zero

_STEPS = 24  # of a sequence that the search for a cell's gains runs first
_GROWN = 1.5  # by which all steps may miss what these steps gave
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
            self._recurrent_call(call)
        elif kernels and not all(kernel.unseen for kernel in kernels):
            return self._kernel_call(call)
        for kernel in kernels:
            self._analytic(kernel, call.activation)
        if isinstance(layer, keras.layers.BatchNormalization):
            return self.statistics.run(call)
        return call.run()

    def kernel_output(self, call: LayerCall, value: Any) -> Any:
        """Returns a pre-activation as it will be."""
        if call.final:
            return value
        scaled = self._scaled(call.kernels, value, call.inputs)
        bias = self._biases.get(id(call.layer))
        value = scaled if bias is None else scaled + bias.beside(value)
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
        if may_be_zero(call):
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
            return self._joint_call(call)
        kernel = kernels[-1]
        if is_of_keras(layer):
            self._fit(kernel, lambda: self._probed(call))
        outputs = self.observe(call)
        if is_of_keras(layer):
            if not call.observed:  # such as the scale of an additive attention
                self._analytic(kernel, kernel.activation)
            return outputs
        if call.observed and self._is_linear(kernel, call):
            return outputs
        return self._joint_call(call) if kernel.is_set else outputs

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

    def _is_linear(self, kernel: PlannedVariable, call: LayerCall) -> bool:
        """Returns whether the pre-activation of a user's layer is linear in its kernel."""
        if not kernel.is_set:
            return True
        unit = self._scope.get_current_value(kernel.variable)
        self._scope.add_update((kernel.variable, unit * _gain(kernel)))
        again = replace(call, verified=[])
        with rewound(self._scope):
            self.observe(again)
        self._scope.add_update((kernel.variable, unit))
        moment, expected = (again.verified or [0.0])[-1], kernel.moments[-1]
        linear = abs(moment - expected) <= _LINEAR * expected
        if not linear:
            kernel.moments.clear()
            kernel.rule, kernel.gain = "", None
        return linear

    def _joint_call(self, call: LayerCall) -> Any:
        """Returns the outputs of a layer whose kernels are solved together, by what it returns."""
        kernels = [one for one in call.kernels if one.is_set]
        if not any(one.gain is None for one in kernels):
            return call.run()
        offset = self._offset(call, kernels)
        target = min(map(self._target, kernels))

        def moment() -> float:
            again = replace(call, verified=[])
            with rewound(self._scope):
                outputs = float_tensors(self.observe(again))
            if again.verified:
                return again.verified[-1]
            return mean_square(outputs[0] - offset) if outputs else 0.0

        self._solved(kernels, target, call.activation, moment)
        for one in kernels:
            one.target = target
        call.final = True
        outputs = self.observe(call)
        found = float_tensors(outputs)
        if found and not call.observed:
            for one in kernels:
                one.has_offset = keras.ops.is_tensor(offset) and mean_square(offset) > 0.0
            added = self.trace.equal(offset, call.inputs)
            if added is not None:
                branch = found[0] - offset
                self.trace.added(found[0], added, branch, call.inputs, self.size_keys(call))
        return outputs

    def _offset(self, call: LayerCall, kernels: Sequence[PlannedVariable]) -> Any:
        """Returns what a layer returns with kernels of zeros: its bias, or what it adds to."""
        self._set_to_zero(kernels)
        with rewound(self._scope):
            outputs = float_tensors(call.run())
        finite = outputs and math.isfinite(mean_square(outputs[0]))
        return outputs[0] if finite else 0.0

    def _set_to_zero(self, kernels: Sequence[PlannedVariable]) -> None:
        for one in kernels:
            zeros = keras.ops.zeros(one.shape, dtype=one.variable.dtype)
            self._scope.add_update((one.variable, zeros))

    def _solved(
        self,
        kernels: Sequence[PlannedVariable],
        target: float,
        activation: Any,
        moment: Callable[[], float],
        candidates: Sequence[int] | None = None,
    ) -> None:
        """Gives kernels the gains by which a second moment is reached, or analytic ones."""
        starts = [1.0 if one.recurrent else analytic_gain(activation, "fan_in") for one in kernels]
        unit = self._settings._replace(mode="fan_in")

        def gains(factors: Sequence[float]) -> list[float]:
            pairs = zip(starts, factors, strict=True)
            return [float(f"{start * factor:.3g}") for start, factor in pairs]

        def moment_of(factors: Sequence[float]) -> float:
            for one, gain in zip(kernels, gains(factors), strict=True):
                self._scope.add_update((one.variable, one.draw(unit, gain)))
            return moment()

        solution = solve(moment_of, len(kernels), target, candidates)
        for place, one in enumerate(kernels):
            if place in solution.sets_size:
                one.rule = JOINTLY if len(kernels) > 1 else "measured"
                one.gain = gains(solution.factors)[place]
                self._scope.add_update((one.variable, one.draw(unit, one.gain)))
            else:
                self._analytic(one, activation)
                self._place(one)

    def _scaled(
        self, kernels: Sequence[PlannedVariable], value: Any, inputs: Sequence[Origin]
    ) -> Any:
        """Returns the output of a kernel, scaled; of several kernels the last is measured here."""
        kernel = kernels[-1]
        if not kernel.moments:
            kernel.kernels_before = max((origin.kernels for origin in inputs), default=0)
            kernel.input_size = sum(math.prod(origin.tensor.shape) for origin in inputs)
            kernel.output_shape = tuple(value.shape)
        else:
            kernel.chained |= any(id(kernel.variable) in origin.sources for origin in inputs)
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

    def _recurrent_call(self, call: LayerCall) -> None:
        """Gives the kernels of the cells of a recurrent layer their final values."""
        for position, cell in enumerate(cells(call.layer)):
            activation = None if position else call.activation
            for inner in layers_inside(cell):
                kernels = self.kernels_of(inner)
                self.reach(kernels)
                new = [one for one in kernels if one.is_set and one.gain is None]
                if new and self._measures and framework.runs_cells:
                    self._solve_cell(call, inner, new, activation)
                for kernel in new:
                    self._analytic(kernel, activation)
                    self._place(kernel)

    def _cell_moment(self, call: LayerCall, inner: Any, steps: int) -> float:
        with rewound(self._scope):
            return cell_moments(call, steps).of(inner)

    def _solve_cell(
        self, call: LayerCall, inner: Any, kernels: Sequence[PlannedVariable], activation: Any
    ) -> None:
        """Solves the kernels of a cell, or of a layer inside, by what its activations are given.

        The kernels of its input alone are scaled first, on a few steps. If the state grows over all
        steps, the recurrent kernels are scaled with them.
        """
        self._set_to_zero(kernels)
        biases = self._cell_moment(call, inner, _STEPS)
        target = 1.0 - biases if biases < 0.5 else 1.0

        def moment(steps: int) -> float:
            return max(self._cell_moment(call, inner, steps) - biases, 0.0)

        inputs = [place for place, one in enumerate(kernels) if not one.recurrent]
        for steps, candidates in ((_STEPS, inputs), (ALL_STEPS, list(range(len(kernels))))):
            for one in kernels:
                one.rule, one.gain = "", None
            self._solved(kernels, target, activation, partial(moment, steps), candidates)
            if target / _GROWN < moment(ALL_STEPS) < target * _GROWN:
                break


def _is_zero(kernel: PlannedVariable) -> bool:
    """Returns whether a kernel that is left is zero itself."""
    return not kernel.is_set and not mean_square(kernel.variable.value)


def _gain(kernel: PlannedVariable) -> float:
    """Returns the gain of a kernel drawn with gain 1; 1 of one that is left, or is placed."""
    return 1.0 if kernel.gain is None or kernel.placed else kernel.gain
