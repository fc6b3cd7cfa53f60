"""The only writer: a plan becomes weights and initializers, all of them or none."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_he.initialize_model.plan import Plan
from keras_he.initialize_model.planned_variable import Entry
from keras_he.layers.variables import initializer_attribute
from keras_he.notes import Note

Assignment = tuple[Any, str, Any]  # a layer, an attribute, and the initializer that it gets


def apply(plan: Plan, initializers: list[Assignment]) -> None:
    """Writes a plan. After any exception, an interrupt included, the model is as it was."""
    finals = ((entry.slot.variable, plan.final(entry)) for entry in plan.entries)
    values = [(variable, value) for variable, value in finals if value is not None]
    undo: list[tuple[Any, Any]] = []
    try:
        with _attributes(initializers, kept=True):
            for position, (variable, value) in enumerate(values):
                undo.append((variable, keras.ops.copy(variable.value)))
                variable.assign(value)
                values[position] = (None, None)  # so that no third copy of the model stays
    except BaseException:
        for variable, old in undo:
            variable.assign(old)
        raise


def reproduced(model: Any, plan: Plan, initializers: list[Assignment]) -> set[int]:
    """Returns the seeds of the kernels that a clone of the model, once initialized, has again.

    They are those that stand in the model's config, and it is asked: a layer may keep an
    initializer and leave it out of its config. A model that has none is noted in the plan.
    """
    with _attributes(initializers, kept=False):
        try:
            config = repr(model.get_config())
        except Exception as error:  # the user's own code, which may raise anything
            text = f"no clone can be made: get_config raised {type(error).__name__}"
            plan.notes.append(Note("no-clone", text))
            return set()
    return {
        entry.seed
        for entry in plan.entries
        if entry.is_set and not entry.slot.shared_attribute and f": {entry.seed}" in config
    }


def assignments(plan: Plan) -> list[Assignment]:
    """Returns the initializers that the layers get."""
    state = random.getstate()  # Keras takes the seed of an unseeded initializer from here
    try:
        return [
            (entry.slot.layer, attribute, _initializer(plan, entry))
            for entry in plan.entries
            if entry.is_set and (attribute := initializer_attribute(entry.slot)) is not None
        ]
    finally:
        random.setstate(state)


def _initializer(plan: Plan, entry: Entry) -> Any:
    settings, gain = plan.settings, entry.gain
    assert gain is not None  # every kernel that is set has one
    # One seed for several kernels would make them equal in a clone, so they get none.
    return entry.initializer(
        settings.law, settings.mode, gain, seeded=not entry.slot.shared_attribute
    )


@contextmanager
def _attributes(assignments: list[Assignment], *, kept: bool) -> Iterator[None]:
    """Sets attributes of layers, and takes them back unless they are kept and all went well."""
    before = [(layer, name, vars(layer)[name]) for layer, name, _ in assignments]
    done = False
    try:
        for layer, name, value in assignments:
            setattr(layer, name, value)
        yield
        done = True
    finally:
        if not (kept and done):
            for layer, name, value in before:
                setattr(layer, name, value)
