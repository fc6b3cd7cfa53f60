"""Before a pass: whether a model can be measured, its layers, and the bar that shows progress."""

import time
from contextlib import AbstractContextManager
from typing import Any

import keras

from keras_he.backend.foreign import hint
from keras_he.backend.framework import framework
from keras_he.backend.keras_private import layers_inside
from keras_he.backend.randomness import randomness, torch_generators_kept
from keras_he.backend.tensors import as_tensors
from keras_he.errors import invalid
from keras_he.layers.walk import Place, places

_PATIENCE = 5.0  # seconds until the bar is shown


def check_model(model: Any) -> None:
    """Raises an error for anything but a model, and inside compiled code."""
    if not isinstance(model, keras.layers.Layer):
        raise invalid("model", "a Keras model", model, hint(model))
    if framework.is_tracing():
        raise invalid("model", "looked at in eager code, not in a compiled function", model)


def survey_of(model: Any, batch: Any, seed: int | None = None) -> list[Place]:
    """Returns the places of a model, which is built first if it is not built.

    Args:
        model: The model.
        batch: What an unbuilt model is called with.
        seed: Seed of whatever that call draws. `None` draws from the generators of the process, as
            the first call of a model does: models that an audit builds do not get equal weights.
    """
    if batch is not None:
        build(model, batch, seed)
    elif not model.built and any(map(_lacks_weights, layers_inside(model))):
        raise invalid("model", "built where no data is given", model, "Call it once, or give data.")
    return list(places(model))


def build(model: Any, batch: Any, seed: int | None = None) -> None:
    """Calls a model on a batch if a layer in it may lack weights; see `survey_of`."""
    if any(map(_lacks_weights, layers_inside(model))):
        drawn = torch_generators_kept() if seed is None else _seeded(model, seed)
        with framework.apart(), drawn:
            model(as_tensors(batch))


def _seeded(model: Any, seed: int) -> AbstractContextManager[None]:
    return randomness(seed, layers_inside(model), writes=True)


def _lacks_weights(layer: Any) -> bool:
    """Returns whether a layer may add variables at its first call."""
    return not layer.built and type(layer).build is not keras.layers.Layer.build


class Progress:
    """Counts calls of layers, and shows a bar if they take long."""

    def __init__(self, layers: int) -> None:
        self._begin, self._layers, self._done, self._shown = time.monotonic(), layers, 0, False
        self._bar = keras.utils.Progbar(layers, unit_name="layer")

    def step(self) -> None:
        """Counts one call."""
        self._done += 1
        self._shown = self._shown or time.monotonic() - self._begin > _PATIENCE
        if self._shown and self._done < self._layers:
            self._bar.update(self._done)

    def close(self) -> None:
        """Ends the line of the bar."""
        if self._shown:
            self._bar.update(self._layers)
