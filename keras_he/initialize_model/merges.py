"""Notes about merges: those that are left as they are, and trunks that grow all the same."""

from collections.abc import Iterator

from keras_he.notes import Note, listed
from keras_he.passes.tensor_origins import Trace

# By which the second moment of a trunk may grow: 4, or half as much again as sums of independent
# branches of size 1, such as those that end in normalisations, make of it.
_STEADY, _PER_SUM = 4.0, 1.5


def merges(trace: Trace) -> list[Note]:
    """Returns the notes about merges that are left as they are."""
    notes = []
    if trace.left:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(trace.left.items()))
        notes.append(Note("merges", f"merges whose branches are not scaled: {counts}"))
    if trace.hidden:
        where = listed(trace.hidden)
        text = f"not seen: sums of the layers inside {where}; they are not scaled"
        notes.append(Note("unseen-layers", text))
    return notes


def growing_trunks(trace: Trace) -> Iterator[Note]:
    """Yields a note for each residual trunk that grows by more than its branches explain."""
    for run in trace.runs:
        # A trunk that begins small, as with an embedding, may come to the size of its branches.
        grows = max(run.moments) / max(min(run.moments), 1.0)
        if grows > max(_STEADY, _PER_SUM * (run.sums + 1)):
            text = (
                f"the residual trunk of {run.sums} sums grows by a factor of {grows:.2g}: its "
                "branches have a mean, or add the trunk itself, which no kernel can scale"
            )
            yield Note("growing-trunk", text)
