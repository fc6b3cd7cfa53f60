"""The number whose gradient is taken: a loss of the outputs, and of targets if there are any."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from keras_he.backend.tensors import float_tensors
from keras_he.errors import InvalidArgument, invalid
from keras_he.sampling.stream import draw

Loss = Callable[[Any], Any]


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


def read_loss(loss: Any, seed: int) -> tuple[Any, bool]:
    """Returns a loss as a function, and whether it takes targets."""
    if loss is None:
        return random_direction(seed), False
    if isinstance(loss, (str, keras.losses.Loss)):
        try:
            return keras.losses.get(loss), True
        except ValueError:
            raise invalid("loss", "the name of a Keras loss", loss) from None
    if not callable(loss):
        raise invalid("loss", "a Keras loss, its name, a function, or None", loss)
    required = [
        one
        for one in inspect.signature(loss).parameters.values()
        if one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    if len(required) not in (1, 2):
        raise invalid("loss", "a function of (targets, outputs), or of the outputs", loss)
    return (loss, True) if len(required) == 2 else (averaged(loss), False)


def check_loss(loss: Loss, outputs: Any) -> None:
    """Refuses a loss that the outputs do not fit, before it is differentiated."""
    try:
        float(keras.ops.convert_to_numpy(loss(outputs)))
    except Exception as error:  # the user's own function, on outputs of any structure
        shapes = keras.tree.map_structure(lambda one: getattr(one, "shape", one), outputs)
        raise InvalidArgument(
            f"`loss` must give numbers of the model's outputs and the targets. Received: outputs "
            f"of {shapes}, for which it raised {type(error).__name__}: {str(error)[:200]}\nFor "
            "several outputs give a function of them."
        ) from error


def averaged(function: Callable[[Any], Any]) -> Loss:
    """Returns a loss that is the mean of what a function returns."""
    return lambda outputs: keras.ops.mean(keras.ops.cast(function(outputs), "float32"))
