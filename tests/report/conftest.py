import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # `world` is a helper of these tests


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run, its report made once."""
    import world

    torch.set_num_threads(1)
    made = world.build(tmp_path_factory.mktemp("run"), tilt=0.35, questions=48)
    made.out = made.report(made.folder / "out")
    return made


@pytest.fixture(scope="session")
def page(run):
    return run.page(run.out)
