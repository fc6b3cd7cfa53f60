"""Trains a model from given weights: one compiled step, called for every run of the model."""

import math
import time
from typing import Any, NamedTuple

import jax
import keras
import numpy as np

import keras_he

from .data import VALIDATION
from .tasks import Task

LAST = 10  # steps whose mean loss is the final loss


class Start(NamedTuple):
    """Weights before training, and the decades over which the signal spreads with them."""

    trainable: list[Any]
    others: list[Any]
    spread: float


def start(task: Task, initializer: str, seed: int) -> Start:
    """Returns the weights of a new model."""
    keras.utils.set_random_seed(seed)
    model, sample = task.build(), task.sample()
    batch = sample if len(sample) > 1 else sample[0]
    arguments, change = task.weights[initializer]
    if arguments is not None:
        keras_he.initialize(model, batch, seed=seed, **arguments)
    change(model)
    report = keras_he.audit(model, batch, backward=False)
    return Start(
        [np.array(one) for one in model.trainable_variables],
        [np.array(one) for one in model.non_trainable_variables],
        report.forward_spread,
    )


class Trainer:
    """What trains and validates a model of a task.

    Args:
        task: The task.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.model = task.build()
        self.optimizer = keras.optimizers.Adam()
        self.optimizer.build(self.model.trainable_variables)
        data = task.data()
        self.training = data.take(slice(None, -VALIDATION))
        self.validation = data.take(slice(-VALIDATION, None))
        self._step = jax.jit(self._stepped)
        self._validate = jax.jit(lambda *given: self._loss(*given, training=False)[0])

    @property
    def parameters(self) -> int:
        """Trainable numbers of the model."""
        return sum(math.prod(one.shape) for one in self.model.trainable_variables)

    def run(self, begin: Start, seed: int, learning_rate: float, steps: int) -> dict[str, Any]:
        """Returns the losses of a run.

        Args:
            begin: The weights.
            seed: Decides the order of the data, and nothing else.
            learning_rate: Of Adam, the same at every step.
            steps: How many.
        """
        began = time.perf_counter()
        trainable, others, state = begin.trainable, begin.others, self._state(learning_rate)
        losses = []
        for rows in self._batches(seed, steps):
            batch = self.training.take(rows)
            loss, trainable, others, state = self._step(trainable, others, state, *batch)
            losses.append(loss)
        taken = [float(loss) for loss in losses]
        return {
            "first": taken[0],
            "training": sum(taken[-LAST:]) / LAST,
            "validation": float(self._validate(trainable, others, *self.validation)),
            "curve": [float(f"{loss:.4g}") for loss in taken[:: max(1, steps // 20)]],
            "seconds": round(time.perf_counter() - began, 2),
        }

    def _batches(self, seed: int, steps: int) -> Any:
        """Yields which samples each step gets: all of them once, in random order, then again."""
        generator, size = np.random.default_rng([7, seed]), self.task.batch
        order = np.zeros(0, int)
        for _ in range(steps):
            if len(order) < size:
                order = generator.permutation(len(self.training.targets))
            rows, order = order[:size], order[size:]
            yield rows

    def _state(self, learning_rate: float) -> list[Any]:
        """Returns the variables of the optimizer before the first step."""
        return [
            np.float32(learning_rate) if one.name == "learning_rate" else np.array(one)
            for one in self.optimizer.variables
        ]

    def _loss(
        self, trainable: Any, others: Any, inputs: Any, targets: Any, training: bool
    ) -> tuple[Any, Any]:
        """Returns the loss, and the weights that are not trained as the pass leaves them."""
        left = others

        def predict(*given: Any) -> Any:
            nonlocal left
            arguments = list(given) if len(given) > 1 else given[0]
            outputs, updated = self.model.stateless_call(
                trainable, others, arguments, training=training
            )
            left = updated if updated else left
            return outputs

        return self.task.objective(predict, inputs, targets), left

    def _stepped(self, trainable: Any, others: Any, state: Any, inputs: Any, targets: Any) -> Any:
        """Returns the loss of a step, and what the step makes of the weights and the optimizer."""

        def loss(weights: Any) -> tuple[Any, Any]:
            return self._loss(weights, others, inputs, targets, training=True)

        (value, others), gradients = jax.value_and_grad(loss, has_aux=True)(trainable)
        trainable, state = self.optimizer.stateless_apply(state, gradients, trainable)
        return value, trainable, others, state
