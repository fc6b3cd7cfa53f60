"""The gradient of the model as it will be: one more pass, and notes on where it is lost."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_he.backend.keras_private import layers_inside
from keras_he.initialize_model.planned_variable import PlannedVariable
from keras_he.initialize_model.records import Pass, Plan
from keras_he.initialize_model.verify import Verification, backward_moments
from keras_he.notes import Note, listed
from keras_he.passes.backward import extremes
from keras_he.reports.data import GRADIENT_LIMIT


def measure_gradient(
    plan: Plan, given: Pass, state: list[tuple[Any, Any]], verified: Verification
) -> None:
    """Measures the gradient of a random output by the pre-activations, and notes what is wrong.

    Args:
        plan: The plan; its variables get their gradients.
        given: The arguments of the passes.
        state: What the variables will hold.
        verified: The pass that measured the same model in training mode.
    """
    shapes = verified.calls
    try:
        moments = backward_moments(
            given.model, given.inputs, state, shapes, given.seed, verified.hidden
        )
    except Exception as error:  # layers of the user's own, which may not be differentiable
        text = f"the gradient could not be measured: {type(error).__name__}: {str(error)[:200]}"
        plan.notes.append(Note("gradient-unknown", text))
        return
    last = {id(one.layer): one for one in plan.variables if one.moments}
    for layer in verified.called.values():
        if isinstance(layer, keras.layers.RNN):
            inside = {id(one) for one in layers_inside(layer)}
            for one in plan.variables:
                if one.moments and id(one.layer) in inside:
                    last[id(layer)] = one
    for key, each in moments.items():
        if key in last:
            last[key].gradient = each[0]
    inputs = [one for one in keras.tree.flatten(given.inputs) if one is not None]
    samples = max(map(len, inputs))
    seen = [(last[key], moments[key], shapes[key]) for key in moments if key in last]
    seen.sort(key=lambda each: each[0].order or 0)
    energies = [
        sum(moment * math.prod(shape) for moment, shape in zip(found, sizes, strict=True)) / samples
        for _, found, sizes in seen
    ]
    paths = [one.path for one, _, _ in seen]
    plan.notes += _gradient_notes(paths, energies, _zero_factors(plan))


def _zero_factors(plan: Plan) -> list[str]:
    """Returns the paths of variables by which a model stops the gradient on purpose, being 0."""
    others = [one for one in plan.variables if not one.is_set and one.role != "statistic"]
    return [one.path for one in others if one.name not in ("beta", "bias") and _is_zero_float(one)]


def _is_zero_float(one: PlannedVariable) -> bool:
    is_float = keras.backend.is_float_dtype(one.variable.dtype)
    return is_float and one.value_range == (0.0, 0.0)


def _gradient_notes(
    paths: Sequence[str], energies: Sequence[float], zero_factors: Sequence[str]
) -> Iterator[Note]:
    """Yields notes about a gradient that vanishes, explodes or is zero on its way back."""
    zeros = sum(one == 0.0 for one in energies)
    if zeros:
        text = f"the gradient is zero at {zeros} of {len(energies)} kernels"
        if zero_factors:
            text += f", and {listed(zero_factors)} are zero by design"
        yield Note("zero-by-design" if zero_factors else "zero-gradient", text)
    for one in extremes(energies, GRADIENT_LIMIT):
        text = (
            f"{one.verdict} gradient: its squared length is {energies[one.largest]:.3g} at "
            f"{paths[one.largest]}, but at most {energies[one.best]:.3g} "
            f"{'before' if one.verdict == 'vanishing' else 'from'} {paths[one.culprit]}"
            f"{'' if one.verdict == 'vanishing' else ' on'}; the activations there or their number "
            "are the cause, which no kernel of the right size mends"
        )
        yield Note("gradient", text)
