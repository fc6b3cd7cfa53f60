"""Texts with a kind: the warnings of a report, and the reasons why a variable was left.

A person reads the text, which may be reworded at any time; code asks for the kind.
"""

from collections.abc import Sequence
from typing import Any, Literal

# Of the warnings of a report.
WarningKind = Literal[
    "not-built",  # a layer has no weights yet
    "activations-unknown",  # the pass that tells preceding activations failed
    "dead-input",  # a kernel is given zeros only
    "zeros",  # a layer returns zeros only
    "constraint",  # a constraint does not allow the scale that keeps the signal
    "merges",  # a merge other than a sum, whose branches are not scaled
    "unseen-layers",  # a layer whose inner layers the pass did not see
    "growing-trunk",  # a residual trunk that no kernel can scale
    "gradient",  # it vanishes or explodes on its way back
    "gradient-unknown",  # it could not be measured
    "zero-gradient",  # it is zero at some kernels
    "zero-by-design",  # it is, behind factors that are zero by design
    "statistics",  # moving statistics of the batch do not fit other data
    "depth",  # errors of the signal grow over depth
    "no-clone",  # the model cannot be cloned
    "optimizer-state",  # the optimizer holds the state of steps that were taken
    "not-audited",  # weights that an audit does not see: quantized, adapted, integers
    "single-sample",  # a batch of one sample, and normalizations over the batch
    "trained",  # the model was trained
]
# Of both: a warning of an audit, or of what follows from a choice; and a reason.
ChoiceKind = Literal["by-design"]  # constant by the choice of the model's author
# Of the reasons for which a variable is left as it is, or was not seen.
ReasonKind = Literal[
    "not-selected",  # by `only` or `skip`
    "frozen",  # not trainable, by the user's choice
    "not-trained",  # not trainable, by its layer's choice
    "quantized",
    "lora",
    "integers",
    "lookup-table",
    "slope",  # of a PReLU
    "no-rule",  # nothing says how its layer uses it
    "rule-failed",
    "not-built",
    "parameter",  # no kernel, bias or parameter of a normalization
    "not-seen",  # an audit reached its layer and could not see its pre-activation
    "not-reached",  # the pass of an audit did not call its layer
]
Kind = Literal[WarningKind, ReasonKind, ChoiceKind, ""]


class Note(str):
    """A text that says what a person should know, with its kind.

    It is a `str`: it is printed, compared and searched as one.

    Args:
        kind: What the note is about.
        text: The text.

    Attributes:
        kind: What the note is about, such as `"frozen"` or `"dead-input"`; empty of an empty note.
            Kinds stay the same when texts are reworded.

    Example:
        >>> import keras, keras_he
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.layers[0].trainable = False
        >>> row = keras_he.initialize(model, seed=1).rows[0]
        >>> row.left, row.left.kind
        ('frozen', 'frozen')
    """

    kind: Kind

    def __new__(cls, kind: Kind, text: str) -> "Note":
        """Returns the text as a note."""
        note = super().__new__(cls, text)
        note.kind = kind
        return note

    def __getnewargs__(self) -> Any:
        """Returns the arguments that make the note again when it is copied or unpickled."""
        return self.kind, str(self)


NO_NOTE = Note("", "")


def listed(names: Sequence[str]) -> str:
    """Returns the first names, and how many more there are."""
    different = list(dict.fromkeys(names))
    more = f" and {len(different) - 8} more" if len(different) > 8 else ""
    return ", ".join(different[:8]) + more
