"""The table of models: how each is built, its data, its objective and its learning rates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from . import data, objectives, others, vision

FACTOR = 3.0  # between the learning rates of a grid


class Task(NamedTuple):
    """A model and how it is trained.

    Attributes:
        build: Returns the model, with weights as Keras draws them.
        data: Returns its data.
        objective: What is minimized.
        learning_rate: The middle one of the three that are tried.
        batch: Samples of a step.
        residual: Whether sums have branches that `keras_he.initialize` scales by depth.
    """

    build: Callable[[], keras.Model]
    data: Callable[[], data.Data]
    objective: Callable[..., Any] = objectives.cross_entropy
    learning_rate: float = 3e-3
    batch: int = 32
    residual: bool = False

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


TASKS = {
    "cct": Task(vision.cct, data.shapes, residual=True),
    "deit": Task(vision.deit, data.taught_digits, objectives.distillation, residual=True),
    "mixer": Task(vision.mixer, data.shapes, residual=True),
    "convnext": Task(vision.convnext, data.shapes, residual=True),
    "transformer": Task(others.transformer, data.sentences, residual=True),
    "tcn": Task(others.tcn, data.additions, objectives.squared_error, 5e-3, residual=True),
    # The branches of its sums end in products, which are not scaled.
    "moe": Task(others.moe, data.digits, learning_rate=1e-3),
    "pointnet": Task(others.pointnet, data.point_clouds),
    "nerf": Task(others.nerf, data.rays, objectives.rendering, 5e-3, batch=64),
    "critic": Task(vision.critic, data.images_and_blurred, objectives.wasserstein),
    "unet": Task(vision.unet, data.scenes, learning_rate=5e-3),
    "seq2seq": Task(others.seq2seq, data.reversals, learning_rate=5e-3, batch=64),
    "gat": Task(others.gat, data.graphs, learning_rate=1e-2),
}
