"""The package that scripts import: its names are those of `components`, and importing it takes no torch."""

import pytest

import motion_enhancer
from components.attention_capture import capture
from components.cli.look import look
from components.prior_set.reading import read_priors
from tests.command import python


def test_names_are_those_of_the_components():
    assert motion_enhancer.capture_attention is capture.capture_attention
    assert motion_enhancer.CaptureSpec is capture.CaptureSpec
    assert motion_enhancer.read_priors is read_priors
    assert motion_enhancer.look is look
    assert set(motion_enhancer.__all__) == set(dir(motion_enhancer))
    with pytest.raises(AttributeError, match="no attribute 'capture'"):
        _ = motion_enhancer.capture


def test_importing_takes_no_torch():
    code = "import motion_enhancer as m, sys; print(m.__version__, {'torch', 'kfp', 'pydantic'} & {*sys.modules})"
    assert python("-c", code).stdout.split() == [motion_enhancer.__version__, "set()"]
