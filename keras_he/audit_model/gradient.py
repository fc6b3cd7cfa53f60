"""The gradient of an audited model: one differentiated pass, and the cause of exact zeros."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras

from keras_he.audit_model.kernel_facts import ObservedVariable
from keras_he.audit_model.observe import Observation
from keras_he.backend.tensors import second_moments
from keras_he.passes.backward import Gradients
from keras_he.passes.losses import Loss

_SEED = 0  # of what takes the place of zeros


class Look(NamedTuple):
    """What a differentiated pass is given.

    Attributes:
        model: The model.
        inputs: What it is called with.
        loss: What is differentiated.
        seed: Seed of the random numbers of the pass.
        samples: The number of samples.
        backward: What differentiates: `passes.backward`.
    """

    model: Any
    inputs: Any
    loss: Loss
    seed: int
    samples: int
    backward: Callable[..., Gradients]


def look_back(
    look: Look,
    watcher: Observation,
    kernels: Sequence[ObservedVariable],
    zeros: Sequence[ObservedVariable],
    progress: Any,
) -> None:
    """Adds the gradients to the kernels.

    Args:
        look: What the pass is given.
        watcher: What observed the signal.
        kernels: The kernels that were reached.
        zeros: Variables that are zero by their author's choice.
        progress: Called after each layer.
    """
    floats = [one for one in kernels if keras.backend.is_float_dtype(one.variable.dtype)]
    found = _gradients(look, watcher, [one.variable for one in floats], progress)
    last = {id(kernel.layer): kernel for kernel in kernels} | watcher.standing
    seen = [(last[key], each) for key, each in found.activations.items() if key in last]
    for kernel, moment in zip(floats, second_moments(found.variables), strict=True):
        kernel.kernel_gradient = moment
    for kernel, each in seen:
        kernel.gradient = second_moments(each)
        sizes = [math.prod(one.shape) for one in each]
        kernel.energy = sum(map(math.prod, zip(kernel.gradient, sizes, strict=True))) / look.samples
    lost = [kernel for kernel in kernels if kernel.gets_no_gradient]
    if lost and zeros:
        _explain(look, watcher, lost, zeros)


def _gradients(
    look: Look,
    watcher: Observation,
    variables: Sequence[Any],
    progress: Any = lambda: None,
    state: Sequence[tuple[Any, Any]] = (),
) -> Gradients:
    return look.backward(
        look.model,
        look.inputs,
        watcher.calls,
        look.loss,
        look.seed,
        state=state,
        variables=variables,
        progress=progress,
        hidden=watcher.hidden,
    )


def _explain(
    look: Look,
    watcher: Observation,
    lost: Sequence[ObservedVariable],
    zeros: Sequence[ObservedVariable],
) -> None:
    """Marks the kernels that get a gradient once the zeros of the author are other numbers."""
    state = [(one.variable, _other(one, place)) for place, one in enumerate(zeros)]
    names = {id(one) for one in zeros}
    asked = [one for one in lost if id(one) not in names]
    found = _gradients(look, watcher, [one.variable for one in asked], state=state)
    for kernel, moment in zip(asked, second_moments(found.variables), strict=True):
        kernel.stopped_by_design = moment > 0.0


def _other(one: ObservedVariable, place: int) -> Any:
    drawn = keras.random.normal(one.shape, dtype="float32", seed=_SEED + place)
    return keras.ops.cast(drawn, one.variable.dtype)
