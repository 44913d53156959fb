"""Annotated shapes are checked while the tests run (tests/conftest.py), in every module that has some."""

import importlib

import pytest
import torch
from jaxtyping import TypeCheckError

from components.token_selection.motion_score import motion_scores, per_frame
from tests.conftest import SHAPED


def test_a_wrong_shape_is_an_error():
    with pytest.raises(TypeCheckError, match="t2v_TFHW"):
        per_frame(torch.ones(2, 3, 4))
    with pytest.raises(TypeCheckError, match="t2f_TF"):
        motion_scores(torch.ones(2, 3, dtype=torch.int64))


@pytest.mark.usefixtures("unchecked")
def test_outside_of_tests_nothing_is_checked():
    assert per_frame(torch.ones(2, 3, 4)).shape == (2,)


@pytest.mark.parametrize("name", SHAPED)
def test_every_module_with_shapes_is_checked(name):
    assert type(importlib.import_module(name).__spec__.loader).__name__ == "_JaxtypingLoader"
