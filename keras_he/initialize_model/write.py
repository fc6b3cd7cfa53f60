"""The only writer: a plan becomes weights and initializers, all of them or none."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_he.initialize_model.planned_variable import PlannedVariable
from keras_he.initialize_model.records import Plan
from keras_he.notes import Note

Assignment = tuple[Any, str, Any]  # a layer, an attribute, and the initializer that it gets


def apply(plan: Plan, initializers: list[Assignment]) -> None:
    """Writes a plan. After any exception, an interrupt included, the model is as it was."""
    finals = ((one.variable, plan.final(one)) for one in plan.variables)
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
        one.seed
        for one in plan.variables
        if one.is_set
        and not one.shared_attribute
        and f": {one.seed}" in config
        # A layer applies its constraint in training, not when it is built.
        and not one.is_constrained(plan.settings)
    }


def assignments(plan: Plan) -> list[Assignment]:
    """Returns the initializers that the layers get."""
    state = random.getstate()  # Keras takes the seed of an unseeded initializer from here
    try:
        return [
            (one.layer, one.initializer_attribute, _initializer(plan, one))
            for one in plan.variables
            if one.is_set and one.initializer_attribute is not None
        ]
    finally:
        random.setstate(state)


def _initializer(plan: Plan, one: PlannedVariable) -> Any:
    assert one.gain is not None  # every kernel that is set has one
    # One seed for several kernels would make them equal in a clone, so they get none.
    return one.initializer(plan.settings, one.gain, seeded=not one.shared_attribute)


@contextmanager
def _attributes(assignments: list[Assignment], *, kept: bool) -> Iterator[None]:
    """Sets attributes of layers, and takes them back unless they are kept and all went well."""
    before = [(layer, name, getattr(layer, name)) for layer, name, _ in assignments]
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
