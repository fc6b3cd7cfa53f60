"""A Keras callback that audits a model while it is trained."""

import warnings
from collections.abc import Mapping
from typing import Any

import keras

from keras_he.audit_model.audit import audit
from keras_he.backend.foreign import hint, is_keras_2
from keras_he.backend.keras_private import call_first
from keras_he.errors import invalid
from keras_he.layers.path_patterns import selected
from keras_he.passes.inputs import has_targets
from keras_he.reports.audit_report import AuditReport
from keras_he.reports.data import Row
from keras_he.theory.kernel_geometry import integer


class SignalLogger(keras.callbacks.Callback):
    """Runs `keras_he.audit` every `every` steps, and adds its figures to the logs of each epoch.

    `History`, `CSVLogger`, `TensorBoard` and `EarlyStopping` receive the figures of the last audit,
    in any order of the callbacks: when training begins, this one moves to the front. A decade is a
    factor of ten.

    The gradient is that of the loss with which the model is compiled, if `data` has targets: as
    `(inputs, targets)` or a dataset of both. A callback does not see the batches of `fit`, so
    without targets, and without a compiled loss, the gradient is that of the sum of all outputs,
    weighted by standard normal draws.

    | key | figure |
    |---|---|
    | `signal_spread` | decades between the largest and smallest second moment of pre-activations |
    | `gradient_spread` | the same of the gradient with respect to pre-activations |
    | `dead` | largest share of dead units after a kernel |
    | `saturated` | largest share of saturated values after a kernel |
    | `update_ratio` | largest ratio of a kernel's gradient to the kernel, both root mean squares |
    | `findings` | number of findings |
    | `signal/PATH`, `gradient/PATH`, `update/PATH` | of each kernel that `kernels` selects |

    The audit costs as much as 5 compiled training steps of ResNet50 at 64×64, 9 of a small
    convolutional network and 28 of a hundred dense layers (two cores, batches of 32 in both), so
    `every=100` adds 5 %, 9 % and 28 %. A smaller batch costs less.

    Args:
        data: The batch that every audit uses; as for `keras_he.audit`, `None` included.
        every: Steps between two audits. The first audit is before training.
        loss: As for `keras_he.audit`; in place of the compiled loss.
        loss_weights: As for `keras_he.audit`, for this `loss`.
        backward: Whether to measure the gradient too.
        kernels: Paths of kernels to log one by one: shell patterns, or a function of a path.

    Attributes:
        reports: The report of each audit, by the number of steps before it.

    Example:
        >>> import keras, keras_he, numpy as np
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> logger = keras_he.SignalLogger(every=2)
        >>> x, y = np.ones((32, 8)), np.ones((32, 1))
        >>> history = model.fit(x, y, batch_size=8, verbose=0, callbacks=[logger])
        >>> sorted(logger.reports), "signal_spread" in history.history
        ([0, 2, 4], True)
    """

    def __init__(
        self,
        data: Any = None,
        *,
        every: int = 100,
        loss: Any = None,
        loss_weights: Any = None,
        backward: bool = True,
        kernels: Any = (),
    ) -> None:
        super().__init__()
        try:
            self.every = integer(every)
        except TypeError:
            self.every = 0
        if self.every < 1:
            raise invalid("every", "a number of steps, at least 1", every)
        self._data, self._backward = data, backward
        self._loss, self._loss_weights = loss, loss_weights
        self._taken = (loss, loss_weights)
        self._kernels = kernels
        self._steps = 0
        self._figures: dict[str, float] = {}
        self.reports: dict[int, AuditReport] = {}

    def set_model(self, model: Any) -> None:
        """Sets the model; Keras calls this first."""
        if is_keras_2(model):
            raise invalid("model", "a Keras model", model, hint(model))
        super().set_model(model)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Audits the model before the first step."""
        call_first(self)
        self._taken = (self._loss, self._loss_weights)
        if self._loss is None and self._backward and has_targets(self.model, self._data):
            self._taken = _compiled_loss(self.model)
        self._steps = 0
        self.reports.clear()
        self._audit()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Audits the model after every `every` steps."""
        # With `steps_per_execution`, `batch` is the last of the steps that were executed.
        before, self._steps = self._steps, max(self._steps + 1, self._epoch_start + batch + 1)
        if self._steps // self.every > before // self.every:
            self._audit()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Remembers the number of steps before this epoch."""
        self._epoch_start = self._steps

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the figures of the last audit to the logs of the epoch."""
        if logs is not None:
            logs.update(self._figures)

    def _audit(self) -> None:
        # `self.model` also updates the variables, which Keras leaves behind on JAX within an epoch.
        loss, weights = self._taken
        report = audit(
            self.model, self._data, loss=loss, loss_weights=weights, backward=self._backward
        )
        self.reports[self._steps] = report
        self._figures = figures(report, self._kernels)


def _compiled_loss(model: Any) -> tuple[Any, Any]:
    """Returns the loss with which a model is compiled, and its weights; `None` without one."""
    if getattr(model, "loss", None) is None:
        return None, None
    with warnings.catch_warnings():  # Keras warns of functions in the config, which is not kept
        warnings.simplefilter("ignore")
        return model.loss, model.get_compile_config().get("loss_weights")


def figures(report: AuditReport, kernels: Any) -> dict[str, float]:
    """Returns the figures of a report by key, and those of the selected kernels."""
    rows = [row for row in report.kernels if row.figures]
    found = {
        "signal_spread": report.forward_spread,
        "gradient_spread": report.gradient_spread or 0.0,
        "dead": _largest(rows, "dead"),
        "saturated": _largest(rows, "saturated"),
        "update_ratio": _largest(rows, "update_ratio"),
        "findings": float(len(report.findings)),
    }
    known = dict.fromkeys(row.path for row in rows)
    paths = selected(known, kernels, None) if kernels else set()
    for row in rows:
        if row.path in paths and row.figures is not None:
            found[f"signal/{row.path}"] = row.moment or 0.0
            found[f"gradient/{row.path}"] = row.figures.gradient or 0.0
            found[f"update/{row.path}"] = row.figures.update_ratio or 0.0
    return found


def _largest(rows: list[Row], name: str) -> float:
    return max((getattr(row.figures, name) or 0.0 for row in rows), default=0.0)
