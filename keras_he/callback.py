"""A Keras callback that audits a model while it is trained."""

from collections.abc import Mapping
from typing import Any

import keras

from keras_he.audit_model.audit import audit
from keras_he.backend.foreign import hint, is_keras_2
from keras_he.errors import invalid
from keras_he.layers.path_patterns import selected
from keras_he.reports.audit_report import AuditReport
from keras_he.reports.data import Row
from keras_he.theory.kernel_geometry import integer


class SignalLogger(keras.callbacks.Callback):
    """Runs `keras_he.audit` every `every` steps, and adds its figures to the logs of each epoch.

    `History`, `CSVLogger`, `TensorBoard` and `EarlyStopping` receive the figures of the last audit
    if they follow this callback in the list of callbacks. A decade is a factor of ten.

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
        loss: As for `keras_he.audit`.
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
        self._data, self._loss, self._backward = data, loss, backward
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
        report = audit(self.model, self._data, loss=self._loss, backward=self._backward)
        self.reports[self._steps] = report
        self._figures = figures(report, self._kernels)


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
    paths = selected([row.path for row in rows], kernels, None) if kernels else set()
    for row in rows:
        if row.path in paths and row.figures is not None:
            found[f"signal/{row.path}"] = row.moment or 0.0
            found[f"gradient/{row.path}"] = row.figures.gradient or 0.0
            found[f"update/{row.path}"] = row.figures.update_ratio or 0.0
    return found


def _largest(rows: list[Row], name: str) -> float:
    return max((getattr(row.figures, name) or 0.0 for row in rows), default=0.0)
