"""What was done to a model, or seen of it, as a person reads it and as a program keeps it."""

import json
import math
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from keras_he.reports.comparison import Comparison
from keras_he.reports.data import Account
from keras_he.reports.figure import picture
from keras_he.reports.html import page
from keras_he.reports.text import table


@dataclass(frozen=True)
class Report(Account):
    """What `initialize` did or `audit` saw: a row for each variable, findings, and warnings.

    Attributes:
        model: Name of the model.
        mode: `"fan_in"`, `"fan_out"` or `"fan_avg"`; empty in an audit.
        law: Law of the kernels; empty in an audit.
        seed: The seed; given again, it draws the same weights.
        rows: One for each variable; in an audit those of kernels stand in order of execution.
        warnings: What a person should know.
        random_layers: Layers whose random numbers differ between backends, and with them what was
            measured behind them.
        gradient_spread: Decades between the largest and the smallest second moment that the
            gradient has on its way. After `initialize` it is what the fans and moments of a plain
            chain predict, `None` where the model branches; in an audit it is measured.
        written: Whether the model was changed; `False` after a dry run, and after an audit.
        findings: What is wrong, as an audit found it.
        end_to_end: Second moment of the model's outputs over that of its inputs, in an audit.
        depth_growth: The factor by which an error of the signal's second moment grows along the
            worst path without a normalisation, in an audit (`keras_he.depth_factors`).
        audited: Whether it is the report of an audit.
    """

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain values.

        `"notes"` has the kind and the text of each warning, `"left_kind"` of a row the kind of the
        reason in `"left"`; texts may be reworded, kinds stay.
        """
        told = asdict(self)
        for row, plain in zip(self.rows, told["rows"], strict=True):
            plain |= {"left": str(row.left), "left_kind": row.left.kind}
        return {
            **told,
            "warnings": tuple(str(note) for note in self.warnings),
            "notes": [{"kind": note.kind, "text": str(note)} for note in self.warnings],
            "forward_spread": self.forward_spread,
        }

    def to_json(self, **kwargs: Any) -> str:
        """Returns the report as JSON, what is not finite as a string; see `json.dumps`."""
        return json.dumps(_finite(self.to_dict()), allow_nan=False, **kwargs)

    def to_html(self, path: str | PathLike[str]) -> None:
        """Writes one page that needs nothing else: the figure, a table that sorts, and findings.

        Args:
            path: The file; it is replaced.

        Raises:
            ImportError: Without matplotlib (`python -m pip install matplotlib`).
        """
        Path(path).write_text(page(self), encoding="utf-8")

    def plot(self) -> Any:
        """Returns a matplotlib figure: second moments of signal and gradient over depth.

        The band is that of a factor of 10 about what is asked for; findings are marked.

        Raises:
            ImportError: Without matplotlib (`python -m pip install matplotlib`).
        """
        return picture(self)

    def compare(self, other: "Report") -> Comparison:
        """Returns what changed from this report to another one of the same model.

        Args:
            other: The later report.

        Example:
            >>> import keras, keras_he
            >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(64, "relu"),
            ...                           keras.layers.Dense(1, kernel_initializer="zeros")])
            >>> before = keras_he.audit(model)
            >>> _ = keras_he.initialize(model, seed=1)
            >>> [finding.verdict for finding in before.compare(keras_he.audit(model)).gone]
            ['constant']
        """
        return Comparison(self, other)

    def __str__(self) -> str:
        return table(self)


def _finite(value: Any) -> Any:
    """Returns plain values with "nan" and "inf" in place of what JSON has no numbers for."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
