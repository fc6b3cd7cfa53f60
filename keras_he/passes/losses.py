"""The number whose gradient is taken: a loss of the outputs, and of targets if there are any.

A loss as `model.compile` takes it is compiled in a model of its own, so what it means, for several
outputs too, is what it means in training.
"""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from keras_he.backend.framework import framework
from keras_he.backend.tensors import float_tensors
from keras_he.errors import InvalidArgument, invalid
from keras_he.sampling.stream import draw

Loss = Callable[[Any], Any]
_LOSSES = "a Keras loss, its name, a dict or list of them by output, a function, or None"


def random_direction(seed: int) -> Loss:
    """Returns a loss: the sum of all outputs, weighted by standard normal draws."""

    def total(outputs: Any) -> Any:
        result: Any = 0.0
        for position, output in enumerate(float_tensors(outputs)):
            normal = draw("normal", tuple(output.shape), 1.0, (seed, position), "float32")
            weights = keras.ops.convert_to_tensor(normal)
            result = result + keras.ops.sum(keras.ops.cast(output, "float32") * weights)
        return result

    return total


def read_loss(loss: Any, weights: Any, model: Any, seed: int) -> tuple[Any, bool]:
    """Returns a loss as a function, and whether it takes targets.

    Args:
        loss: The loss.
        weights: The weights of several losses, or `None`.
        model: The model, whose outputs have names.
        seed: Seed of the weights of a random direction.
    """
    if isinstance(loss, (dict, list, tuple)) or _is_keras_loss(loss):
        for one in keras.tree.flatten(loss):
            _check_leaf(one)
        return _compiled(loss, weights, model), True
    if weights is not None:
        raise invalid("loss_weights", "None without Keras losses", weights)
    if loss is None:
        return random_direction(seed), False
    if not callable(loss):
        raise invalid("loss", _LOSSES, loss)
    required = _required(loss)
    if required not in (1, 2):
        raise invalid("loss", "a function of (targets, outputs), or of the outputs", loss)
    return (loss, True) if required == 2 else (averaged(loss), False)


def _is_keras_loss(loss: Any) -> bool:
    is_class = isinstance(loss, type) and issubclass(loss, keras.losses.Loss)
    return is_class or isinstance(loss, (str, keras.losses.Loss))


def _check_leaf(loss: Any) -> None:
    """Refuses what is no loss of one output."""
    if isinstance(loss, str):
        try:
            keras.losses.get(loss)
        except ValueError:
            raise invalid("loss", "the name of a Keras loss", loss) from None
    elif not (loss is None or _is_keras_loss(loss) or (callable(loss) and _required(loss) == 2)):
        raise invalid("loss", _LOSSES, loss)


def _required(function: Callable[..., Any]) -> int:
    """Returns the number of arguments that a function must get."""
    return sum(
        one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        for one in inspect.signature(function).parameters.values()
    )


def _compiled(loss: Any, weights: Any, model: Any) -> Callable[[Any, Any], Any]:
    """Returns a function of targets and outputs that gives what a compiled model minimizes."""
    judge = keras.Model()
    judge.output_names = getattr(model, "output_names", None)
    try:
        judge.compile(loss=loss, loss_weights=weights)
    except ValueError as error:
        raise invalid("loss_weights", "weights as `model.compile` takes them", weights) from error

    def total(targets: Any, outputs: Any) -> Any:
        # Keras divides a loss by the number of replicas, of which each has a part of the batch.
        return judge.compute_loss(y=targets, y_pred=outputs) * framework.replicas()

    return total


def check_loss(loss: Loss, outputs: Any) -> None:
    """Refuses a loss that the outputs do not fit, before it is differentiated."""
    try:
        float(keras.ops.convert_to_numpy(loss(outputs)))
    except Exception as error:  # the user's own function, on outputs of any structure
        shapes = keras.tree.map_structure(lambda one: getattr(one, "shape", one), outputs)
        raise InvalidArgument(
            f"`loss` must give numbers of the model's outputs and the targets. Received: outputs "
            f"of {shapes}, for which it raised {type(error).__name__}: {str(error)[:200]}\nFor "
            "several outputs give a dict or list of losses, with targets of the same structure, or "
            "a function of the outputs."
        ) from error


def averaged(function: Callable[[Any], Any]) -> Loss:
    """Returns a loss that is the mean of what a function returns."""
    return lambda outputs: keras.ops.mean(keras.ops.cast(function(outputs), "float32"))
