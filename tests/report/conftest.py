import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # `world` is a helper of these tests


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run, its report made once."""
    import world

    from components.report.step import STEP
    from components.runtime.runner import execute

    torch.set_num_threads(1)
    made = world.build(tmp_path_factory.mktemp("run"), tilt=0.35, questions=48)
    made.out = made.folder / "out"
    execute(STEP, "report", made.request(made.out))
    return made


@pytest.fixture(scope="session")
def page(run):
    from components.core.artifacts import Report, load_manifest

    report = load_manifest(run.out / "report", Report)
    return run.store.read(report.page).decode()
