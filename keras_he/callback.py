"""A Keras callback that looks at the signal while a model is trained."""

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
    """Logs what `keras_he.audit` sees every `every` steps, into the logs that Keras keeps.

    The figures of the last look stand in the logs of each epoch, so `History`, `CSVLogger`,
    `TensorBoard` and `EarlyStopping` have them, if they come after it in the list of callbacks:

    | key | what |
    |---|---|
    | `signal_spread` | decades between the extremes of the second moments of pre-activations |
    | `gradient_spread` | decades between those of the gradient by pre-activations |
    | `dead` | largest share of dead units behind a kernel |
    | `saturated` | largest share of saturated values behind a kernel |
    | `update_ratio` | largest root mean square of the gradient by a kernel, over the kernel's |
    | `findings` | number of findings |
    | `signal/PATH`, `gradient/PATH`, `update/PATH` | of the kernels that `kernels` names |

    Each look costs an audit of `data`: on two cores, with a batch of 32 in both, 5 compiled
    training steps of ResNet50 at 64×64, 9 of a small convolutional network and 28 of a hundred
    dense layers, so that `every=100` adds 5 %, 9 % and 28 %. A smaller batch costs less.

    Args:
        data: The batch to look with, always the same; as for `keras_he.audit`, `None` included.
        every: Steps between two looks; the first is before training.
        loss: As for `keras_he.audit`.
        backward: Whether to look at the gradient too.
        kernels: Paths of kernels to log one by one: shell patterns, or a function of a path.

    Attributes:
        reports: From the number of steps done to the report of that look.

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
        """Takes the model that is trained; Keras calls it first."""
        if is_keras_2(model):
            raise invalid("model", "a Keras model", model, hint(model))
        super().set_model(model)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Looks before the first step."""
        self._steps = 0
        self.reports.clear()
        self._look()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks after every so many steps."""
        # Keras counts a batch of `steps_per_execution` as one call, by the last one's number.
        before, self._steps = self._steps, max(self._steps + 1, self._epoch_start + batch + 1)
        if self._steps // self.every > before // self.every:
            self._look()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Notes the step that an epoch begins with."""
        self._epoch_start = self._steps

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Puts the figures of the last look into the logs of the epoch."""
        if logs is not None:
            logs.update(self._figures)

    def _look(self) -> None:
        # Within an epoch, on JAX, the variables are behind what is trained.
        synchronize = getattr(self.model, "jax_state_sync", None)
        if callable(synchronize) and self._steps:
            synchronize()
        report = audit(self.model, self._data, loss=self._loss, backward=self._backward)
        self.reports[self._steps] = report
        self._figures = figures(report, self._kernels)


def figures(report: AuditReport, kernels: Any) -> dict[str, float]:
    """Returns the figures of a report by key, with those of some kernels one by one."""
    rows = [row for row in report.kernels if row.figures]
    told = {
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
            told[f"signal/{row.path}"] = row.moment or 0.0
            told[f"gradient/{row.path}"] = row.figures.gradient or 0.0
            told[f"update/{row.path}"] = row.figures.update_ratio or 0.0
    return told


def _largest(rows: list[Row], name: str) -> float:
    return max((getattr(row.figures, name) or 0.0 for row in rows), default=0.0)
