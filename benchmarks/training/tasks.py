"""The table of models: how each is built, its data, its objective and its learning rates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from . import data, objectives, others, vision
from .layers import Positions

FACTOR = 3.0  # between the learning rates of a grid


class Weights(NamedTuple):
    """How a model gets its weights before training.

    Attributes:
        arguments: Of `keras_he.initialize`; `None` leaves the model as Keras made it.
        change: What is done to the model then.
    """

    arguments: dict[str, Any] | None = None
    change: Callable[[keras.Model], None] = lambda model: None


class Task(NamedTuple):
    """A model and how it is trained.

    Attributes:
        build: Returns the model, with weights as Keras draws them.
        data: Returns its data.
        objective: What is minimized.
        learning_rate: The middle one of the three that are tried.
        batch: Samples of a step.
        residual: Whether sums have branches that `keras_he.initialize` scales by depth.
        causes: More weights, which show why the others train as they do.
    """

    build: Callable[[], keras.Model]
    data: Callable[[], data.Data]
    objective: Callable[..., Any] = objectives.cross_entropy
    learning_rate: float = 3e-3
    batch: int = 32
    residual: bool = False
    causes: dict[str, Weights] = {}  # noqa: RUF012 - a field, which nothing changes

    @property
    def weights(self) -> dict[str, Weights]:
        """The weights that are compared, by name; Keras' own are first."""
        whole = {"default": Weights(), "keras_he": Weights({})}
        unscaled = {"residual=None": Weights({"residual": None})} if self.residual else {}
        return {**whole, **unscaled, **self.causes}

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """The learning rates that are tried for each initializer."""
        middle = self.learning_rate
        return tuple(float(f"{rate:.3g}") for rate in (middle / FACTOR, middle, middle * FACTOR))

    def sample(self) -> list[Any]:
        """Returns inputs of the model: the first samples of the training data."""
        given = list(self.data().take(slice(0, 128)).inputs)
        if self.objective is objectives.wasserstein:
            return [pairs.reshape(-1, *pairs.shape[2:]) for pairs in given]
        return given


def scaled_positions(factor: float) -> Callable[[keras.Model], None]:
    """Returns what multiplies the vectors of positions and of extra tokens by a factor."""

    def change(model: keras.Model) -> None:
        for layer in model.layers:
            if isinstance(layer, Positions):
                for variable in layer.weights:
                    variable.assign(variable * factor)

    return change


def scaled_head(factor: float) -> Callable[[keras.Model], None]:
    """Returns what multiplies the last kernel of a model by a factor."""

    def change(model: keras.Model) -> None:
        kernel = model.layers[-1].kernel
        kernel.assign(kernel * factor)

    return change


POSITIONS = {
    "default, positions × 10": Weights(None, scaled_positions(10)),
    "keras_he, positions × 50": Weights({}, scaled_positions(50)),
}
HEAD = {"keras_he, head × 0.1": Weights({}, scaled_head(0.1))}
TASKS = {
    "cct": Task(vision.cct, data.shapes, residual=True),
    "deit": Task(
        vision.deit, data.taught_digits, objectives.distillation, residual=True, causes=POSITIONS
    ),
    "mixer": Task(vision.mixer, data.shapes, residual=True),
    "convnext": Task(vision.convnext, data.shapes, residual=True),
    "transformer": Task(others.transformer, data.sentences, residual=True),
    "tcn": Task(
        others.tcn, data.additions, objectives.squared_error, 5e-3, residual=True, causes=HEAD
    ),
    # The branches of its sums end in products, which are not scaled.
    "moe": Task(others.moe, data.digits, learning_rate=1e-3),
    "pointnet": Task(others.pointnet, data.point_clouds),
    "nerf": Task(others.nerf, data.rays, objectives.rendering, 5e-3, batch=64),
    "critic": Task(vision.critic, data.images_and_blurred, objectives.wasserstein),
    "unet": Task(vision.unet, data.scenes, learning_rate=5e-3),
    "seq2seq": Task(others.seq2seq, data.reversals, learning_rate=5e-3, batch=64),
    "gat": Task(others.gat, data.graphs, learning_rate=1e-2),
}
