"""One forward pass that plans every kernel: what a kernel makes is measured and scaled in flight.

A pre-activation, without its bias, is linear in its kernel. The kernel is drawn with gain 1; the
pre-activation's second moment says which gain makes it 1, and the pre-activation is passed on with
that gain, so that every later kernel is measured on what it will be given. The first call decides
for a layer that is called several times. Gains keep three significant digits, and the rounded one
is what is passed on.

What cannot be seen gets the analytic rule: the gain of the activation in front.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import keras

from keras_he.backend.keras_private import holds, layers_inside
from keras_he.backend.tensors import float_tensors, mean_square
from keras_he.errors import NotMeasurable
from keras_he.initialize_model.planned_variable import Entry
from keras_he.layers.variables import is_random
from keras_he.notes import Note
from keras_he.passes.moving_statistics import MovingStatistics
from keras_he.passes.output_checks import check_output
from keras_he.passes.preceding_activation import analytic_gain
from keras_he.passes.special_layers import SEPARABLE, all_steps, depthwise_half
from keras_he.passes.tensor_origins import Origin, Trace
from keras_he.sampling.laws import LawName
from keras_he.theory.standard_deviation import Mode

_LINEAR = 0.05  # by which a second moment may miss the square of its kernel's gain


class Settings(NamedTuple):
    """What holds for every kernel of a plan."""

    law: LawName
    mode: Mode


@dataclass
class _Call:
    """A call of a layer that is going on: whether its pre-activation was measured, or is proven."""

    layer: Any
    inputs: list[Origin]
    measured: bool = False
    verifies: bool = False
    moment: float = math.nan


class Measurement:
    """The watcher of the pass, which fills in the entries.

    Args:
        entries: The variables of the model.
        settings: Law and mode of the kernels.
        scope: The scope of the pass, with kernels of gain 1, and biases 0.
        trace: The trace of the pass, which knows the model's inputs.
        paths: Paths of the layers, by their identity.
        factors: Factors of the kernels that end branches, by the identity of their variable.
        measures: Whether to measure; otherwise every gain is analytic.
        progress: Called after each layer.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        settings: Settings,
        scope: keras.StatelessScope,
        trace: Trace,
        paths: dict[int, str],
        factors: dict[int, float],
        *,
        measures: bool = True,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings, self._scope, self._trace = settings, scope, trace
        self._factors, self._measures = factors, measures
        self._progress, self._paths = progress, paths
        self._kernels: dict[int, list[Entry]] = {}
        self._biases: dict[int, Entry] = {}
        for entry in entries:
            if entry.slot.role == "kernel":
                self._kernels.setdefault(id(entry.slot.layer), []).append(entry)
            elif entry.adds_bias:
                self._biases[id(entry.slot.layer)] = entry
        self._calls: list[_Call] = []  # of layers with kernels, the innermost last
        self._holding: dict[int, bool] = {}
        self._reached = 0
        self.statistics = MovingStatistics(scope)
        self.random_layers: list[str] = []
        self.notes: list[Note] = []

    def on_call(self, layer: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Runs a layer, measures its kernels, and records where its outputs came from."""
        tensors = float_tensors((args, kwargs))
        inputs = self._trace.origins(self._path(layer), tensors)
        kernels = self._kernels.get(id(layer), [])
        if isinstance(layer, keras.layers.RNN):
            self._recur(layer, inputs)
        elif kernels and not all(entry.slot.unseen for entry in kernels):
            return self._finish(layer, inputs, self._kernel_call(layer, call, args, kwargs, inputs))
        for entry in kernels:
            self._analytic(entry, _in_front(inputs))
        if isinstance(layer, keras.layers.BatchNormalization):
            call = partial(self.statistics.call, layer, call)
            return self._finish(layer, inputs, call(args, kwargs))
        if isinstance(layer, keras.layers.TimeDistributed):
            call = partial(all_steps, layer, call)
        return self._finish(layer, inputs, call(*args, **kwargs))

    def on_activation(self, layer: Any, activation: Callable[[Any], Any], value: Any) -> Any:
        """Measures a pre-activation, and applies the activation to what it will be."""
        open_call = self._calls[-1] if self._calls else None
        if open_call is not None and open_call.layer is layer:
            if open_call.verifies:
                open_call.moment = mean_square(value)
                return activation(value)
            open_call.measured = True
            kernels = self._kernels[id(layer)]
            value = self._with_bias(layer, self._scaled(kernels, value, open_call.inputs))
            self._trace.kernel_output(value, open_call.inputs, self._keys(kernels))
        (source,) = self._trace.origins(self._path(layer), [value])
        result = activation(value)
        self._trace.activated(result, source, None if _is_linear(activation) else activation)
        return result

    def _kernel_call(
        self, layer: Any, call: Callable[..., Any], args: Any, kwargs: Any, inputs: list[Origin]
    ) -> Any:
        """Returns the outputs of a layer that holds kernels of its own."""
        kernels = self._kernels[id(layer)]
        for entry in kernels:
            self._reach(entry)
            # Nothing stands between the halves of a separable convolution.
            inner = isinstance(layer, SEPARABLE) and entry is kernels[-1]
            entry.activation = None if inner else _in_front(inputs)
        if not self._measures:
            for entry in kernels:
                self._analytic(entry, entry.activation)
            return call(*args, **kwargs)
        if isinstance(layer, SEPARABLE):
            self._scaled(kernels[:1], depthwise_half(layer, args[0]), inputs)
        elif len(kernels) > 1:
            for entry in kernels:
                self._analytic(entry, entry.activation)
                self._place(entry)
            return call(*args, **kwargs)
        self._calls.append(_Call(layer, inputs))
        outputs = call(*args, **kwargs)
        measured = self._calls.pop().measured
        entry = kernels[-1]
        if type(layer).__module__.startswith("keras."):
            if not measured:  # such as the scale of an additive attention
                self._analytic(entry, entry.activation)
            return outputs
        if len(kernels) > 1 or not entry.is_set:
            return outputs
        return self._proven_linear(entry, layer, partial(call, *args, **kwargs), outputs, measured)

    def _proven_linear(
        self, entry: Entry, layer: Any, call: Callable[[], Any], outputs: Any, measured: bool
    ) -> Any:
        """Returns the outputs of a user's layer, and refuses one that is not linear in its kernel.

        One that has no activation of its own is measured by what it returns. What it returns with a
        kernel of zeros is its bias, and is subtracted.
        """
        variable, again = entry.slot.variable, _Call(layer, [], verifies=True)
        unit = self._scope.get_current_value(variable)
        offset: Any = 0.0
        if not measured:
            bias = self._biases.get(id(layer))
            if bias is not None:
                self._scope.add_update((bias.slot.variable, bias.planned))
                outputs = call()
            self._scope.add_update((variable, keras.ops.zeros_like(unit)))
            offset = call()
            self._scaled([entry], outputs - offset, again.inputs)
        self._scope.add_update((variable, unit * _gain(entry)))
        self._calls.append(again)
        final = call()
        self._calls.pop()
        self._scope.add_update((variable, unit))
        moment = again.moment if measured else mean_square(final - offset)
        if not abs(moment - entry.moments[-1]) <= _LINEAR * entry.moments[-1]:
            raise NotMeasurable(
                f"`{entry.slot.path}` must be linear in its kernel to be measured. With a gain "
                f"that would make the second moment {entry.moments[-1]:.3g} it is {moment:.3g}. "
                f'Leave it out with `skip="{entry.slot.path}"`.'
            )
        return outputs if measured else final

    def _scaled(self, kernels: Sequence[Entry], value: Any, inputs: list[Origin]) -> Any:
        """Returns what a kernel makes, scaled; of several kernels the last is measured here."""
        entry = kernels[-1]
        if not entry.moments:
            entry.behind = max((origin.kernels for origin in inputs), default=0)
            entry.input_size = sum(math.prod(origin.tensor.shape) for origin in inputs)
            entry.output_shape = tuple(value.shape)
        before = math.prod(_gain(earlier) for earlier in kernels[:-1])
        if before != 1.0:
            value = value * before
        moment = mean_square(value)
        if not math.isfinite(moment):
            raise NotMeasurable(f"`{entry.slot.path}` makes NaN or infinity of what it is given.")
        if moment == 0.0:
            if any(mean_square(origin.tensor) for origin in inputs) and not _is_zero(entry):
                raise NotMeasurable(
                    f"`{entry.slot.path}` makes zeros of what it is given, so it has no gain."
                )
        elif entry.is_set and entry.gain is None:
            entry.rule = "measured"
            entry.target = self._factors.get(id(entry.slot.variable), 1.0) ** 2
            entry.gain = _rounded(math.sqrt(entry.target / moment))
        gain = _gain(entry)
        entry.moments.append(moment * gain * gain)
        return value if gain == 1.0 else value * gain

    def _with_bias(self, layer: Any, value: Any) -> Any:
        """Returns a pre-activation with its bias, which is 0 in the scope."""
        bias = self._biases.get(id(layer))
        if bias is None or bias.range == (0.0, 0.0):
            return value
        added = keras.ops.cast(bias.planned, value.dtype)
        if getattr(layer, "data_format", None) == "channels_first" and len(value.shape) > 2:
            added = keras.ops.reshape(added, (-1, *[1] * (len(value.shape) - 2)))
        return value + added

    def _analytic(self, entry: Entry, activation: Any) -> None:
        """Gives a kernel the gain of the activation in front."""
        self._reach(entry)
        if not entry.is_set or entry.gain is not None:
            return
        entry.activation = activation
        if entry.recurrent:
            entry.rule, entry.gain = "orthogonal per gate", 1.0
        else:
            entry.rule = "analytic"
            entry.gain = analytic_gain(entry.activation, self._settings.mode)

    def give_up(self, entry: Entry) -> None:
        """Gives the analytic gain to a kernel that was given zeros at every call."""
        text = f"dead input: {entry.slot.path} is given zeros only"
        self.notes.append(Note("dead-input", text))
        self._analytic(entry, entry.activation)

    def _reach(self, entry: Entry) -> None:
        if entry.order is None:
            entry.order = self._reached
            self._reached += 1

    def _place(self, entry: Entry) -> None:
        """Puts the final values of a kernel that is not measured in place of those of gain 1."""
        if entry.is_set:
            values = entry.draw(self._settings.law, self._settings.mode, _gain(entry))
            self._scope.add_update((entry.slot.variable, values))

    def _recur(self, layer: Any, inputs: Sequence[Origin]) -> None:
        """Gives recurrent kernels their final values: their pre-activations cannot be observed."""
        cells = getattr(layer.cell, "cells", [layer.cell])
        for position, cell in enumerate(cells):
            for inner in layers_inside(cell):
                for entry in self._kernels.get(id(inner), []):
                    if entry.order is not None:
                        continue
                    self._analytic(entry, _in_front(inputs) if position == 0 else None)
                    self._place(entry)

    def _finish(self, layer: Any, inputs: list[Origin], outputs: Any) -> Any:
        """Checks the outputs of a layer, and records where they came from."""
        if is_random(layer) and self._path(layer) not in self.random_layers:
            self.random_layers.append(self._path(layer))
        for tensor in float_tensors(outputs):
            if self._trace.knows(tensor):
                continue
            moment = 0.0
            if self._measures and isinstance(layer, keras.layers.Layer):
                moment = check_output(self._path(layer), layer, inputs, tensor)
            elif self._measures:
                moment = mean_square(tensor)  # masks have infinities, and states begin at zero
            kernels = self._kernels.get(id(layer))
            if kernels:
                self._trace.kernel_output(tensor, inputs, self._keys(kernels))
            elif self._holds_kernels(layer):
                self._trace.composed(self._path(layer), tensor, inputs)
            else:
                self._trace.passed(layer, tensor, inputs, moment)
        self._progress()
        return outputs

    def _path(self, layer: Any) -> str:
        return self._paths.get(id(layer)) or str(layer.name)

    def _holds_kernels(self, layer: Any) -> bool:
        """Returns whether layers inside a layer have kernels."""
        if id(layer) not in self._holding:
            self._holding[id(layer)] = holds(layer, self._kernels)
        return self._holding[id(layer)]

    def _keys(self, kernels: Sequence[Entry]) -> list[int]:
        """Returns the key of the kernel that sets the size of what comes out, if it may change."""
        entry = kernels[-1]
        seen = entry.is_set and not entry.slot.unseen
        return [id(entry.slot.variable)] if seen else []


def _in_front(inputs: Sequence[Origin]) -> Any:
    """Returns the activation that a layer's first input passed last."""
    return inputs[0].activation if inputs else None


def _is_zero(entry: Entry) -> bool:
    """Returns whether a kernel that is left is zero itself."""
    return not entry.is_set and not mean_square(entry.slot.variable.value)


def _gain(entry: Entry) -> float:
    """Returns the gain of a kernel drawn with gain 1; 1 of one that is left."""
    return 1.0 if entry.gain is None else entry.gain


def _rounded(number: float) -> float:
    return float(f"{number:.3g}")


def _is_linear(activation: Any) -> bool:
    return activation is keras.activations.linear
