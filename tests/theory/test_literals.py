"""The types of `mode` and `geometry` list what the code accepts."""

from typing import get_args

import pytest

import keras_he
from keras_he.theory import activations
from keras_he.theory.kernel_geometry import GEOMETRIES, MODES, GeometryKind, Mode


def test_every_mode_of_the_type_has_a_gain_and_a_standard_deviation():
    assert get_args(Mode) == MODES == tuple(activations._NEEDED)
    for mode in get_args(Mode):
        assert keras_he.gain("gelu", mode=mode) > 0
        assert keras_he.KaimingNormal(mode=mode).standard_deviation(keras_he.Fans(4.0, 9.0)) > 0


def test_every_geometry_of_the_type_has_fans_and_no_other_is_accepted():
    assert get_args(GeometryKind) == GEOMETRIES
    for geometry in GEOMETRIES:
        assert keras_he.fans((3, 3, 4, 5), geometry=geometry) != keras_he.fans((3, 3, 4, 5))
    with pytest.raises(keras_he.KerasHeError, match='None, "depthwise" or "transpose"'):
        keras_he.fans((3, 3, 4, 5), geometry="grouped")
