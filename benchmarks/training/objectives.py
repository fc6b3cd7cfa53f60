"""What is minimized: functions of a prediction function, the inputs of the model, and targets."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .data import SAMPLES

Predict = Callable[..., Any]


def cross_entropy(predict: Predict, inputs: Any, targets: Any) -> Any:
    """Returns the mean cross-entropy of logits with labels."""
    return _cross_entropy(predict(*inputs), targets)


def _cross_entropy(logits: Any, labels: Any) -> Any:
    logs = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(logs, labels[..., None], axis=-1).mean()


def distillation(predict: Predict, inputs: Any, targets: Any) -> Any:
    """Returns the mean of two heads' cross-entropies, with labels and with a teacher's labels."""
    logits = predict(*inputs).reshape(-1, 2, 10)
    return _cross_entropy(logits, targets)


def squared_error(predict: Predict, inputs: Any, targets: Any) -> Any:
    """Returns the mean squared error."""
    return jnp.square(predict(*inputs) - targets).mean()


def rendering(predict: Predict, inputs: Any, targets: Any) -> Any:
    """Returns the mean squared error of the colours that a radiance field shows along rays."""
    outputs = predict(*inputs)
    colour, density = jax.nn.sigmoid(outputs[..., :3]), jax.nn.softplus(outputs[..., 3])
    passed = jnp.exp(-jnp.cumsum(density, axis=1) * 2.4 / SAMPLES)
    before = jnp.concatenate([jnp.ones_like(passed[:, :1]), passed[:, :-1]], axis=1)
    shown = ((before - passed)[..., None] * colour).sum(axis=1)
    return jnp.square(shown - targets).mean()


def wasserstein(predict: Predict, inputs: Any, targets: Any) -> Any:
    """Returns the loss of a critic with gradient penalty, on pairs of real and false images.

    Args:
        predict: Returns the score of each image.
        inputs: The pairs.
        targets: Where between the two the gradient is taken, in (0, 1).
    """
    real, fake = inputs[0][:, 0], inputs[0][:, 1]
    share = targets[:, None, None, None]
    between = share * real + (1 - share) * fake
    slope = jax.grad(lambda images: predict(images).sum())(between)
    norm = jnp.sqrt(jnp.square(slope).sum(axis=(1, 2, 3)) + 1e-12)
    return predict(fake).mean() - predict(real).mean() + 10 * jnp.square(norm - 1).mean()
