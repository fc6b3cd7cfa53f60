"""The versions that a run of the tests was made for are the versions that it has.

`KERAS_HE_LEG` says them, as `.ci/run` does for each of its legs: `python==3.13.*, numpy>=2.5`. The
names are those of packages, and `python`; a leg that quietly got other versions fails here.
"""

import importlib.metadata
import os
import platform

import keras
import pytest
from packaging.requirements import Requirement

LEG = [part.strip() for part in os.environ.get("KERAS_HE_LEG", "").split(",") if part.strip()]


def installed(name):
    if name == "python":
        return platform.python_version()
    return importlib.metadata.version(name)


@pytest.mark.skipif(not LEG, reason="KERAS_HE_LEG asks for no versions")
@pytest.mark.parametrize("wanted", LEG)
def test_the_leg_has_the_version_that_it_is_for(wanted):
    requirement = Requirement(wanted)
    version = installed(requirement.name)
    assert requirement.specifier.contains(version, prereleases=True), f"{wanted}: {version}"


@pytest.mark.skipif(not LEG, reason="KERAS_HE_LEG asks for no versions")
def test_the_leg_says_what_differs_between_legs():
    names = {Requirement(one).name.removesuffix("-nightly") for one in LEG}
    backend = {"tensorflow": "tensorflow-cpu"}.get(keras.backend.backend())
    assert {"python", "keras", "numpy", backend or keras.backend.backend()} <= names


def test_another_version_would_be_seen():
    assert not Requirement("python==2.7.*").specifier.contains(installed("python"))
