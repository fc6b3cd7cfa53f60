"""What an audit can find: the one table of verdicts, with the thresholds that decide.

It knows no Keras, so that the command line lists the verdicts before Keras is imported.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from keras_he.errors import did_you_mean, invalid
from keras_he.reports.data import GRADIENT_LIMIT, Finding


class Verdict(NamedTuple):
    """A verdict, and the defaults of the thresholds that its check uses.

    `docs/audit.md` says what each verdict means, and gives a reason for each threshold.
    """

    name: str
    thresholds: Mapping[str, float] = {}


_SIZE = {"signal": 1e3, "gradient": GRADIENT_LIMIT}

# In the order in which findings are listed.
VERDICTS = (
    Verdict("vanishing", _SIZE),
    Verdict("exploding", _SIZE),
    Verdict("dead", {"dead": 0.9}),
    Verdict("saturated", {"saturated": 0.5}),
    Verdict("constant"),
    Verdict("nonfinite"),
    Verdict("identical"),
    Verdict("wrong-fan", {"fan": 1.5}),
    Verdict("wrong-gain", {"gain": 1.03}),
    Verdict("wrong-slope", {"slope": 0.01}),
    Verdict("unsafe-depth", {"depth": 10.0}),
    Verdict("misplaced"),
    Verdict("low-precision", {"distinct": 0.2}),
    Verdict("unscaled-residual", {"residual": 8.0}),
)
VERDICT_NAMES = tuple(verdict.name for verdict in VERDICTS)
THRESHOLDS = {name: value for one in VERDICTS for name, value in one.thresholds.items()}


def in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Returns findings in the order of the table."""
    return tuple(sorted(findings, key=lambda finding: VERDICT_NAMES.index(finding.verdict)))


def checked_thresholds(given: Any) -> dict[str, float]:
    """Returns all thresholds, those that were given among them."""
    if given is None:
        return dict(THRESHOLDS)
    if not isinstance(given, Mapping):
        raise invalid("thresholds", "a dict from names to numbers above 0", given)
    for name, value in given.items():
        if name not in THRESHOLDS:
            known = ", ".join(THRESHOLDS)
            raise invalid("thresholds", f"of {known}", name, did_you_mean(name, THRESHOLDS))
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise invalid(f"thresholds[{name!r}]", "a number above 0", value)
    return {**THRESHOLDS, **{name: float(value) for name, value in given.items()}}
