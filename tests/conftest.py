"""What all tests share: annotated shapes are checked as the code runs, and twins have one home.

The hook stands before any import of `components`: jaxtyping rewrites a module as it is imported, so that beartype
checks each call against its annotations (`Float[Tensor, "h P F F"]`), for tests alone. It covers the modules that
annotate shapes.
"""

import gc
from pathlib import Path

import jaxtyping
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHAPED = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in sorted((ROOT / "components").rglob("*.py"))
    if "from jaxtyping import" in file.read_text(encoding="utf-8")
]
# as for mypy, an integer is good where a float is wanted
jaxtyping.install_import_hook(SHAPED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

LONGEST = (
    "test_engine.py",
    "test_local_run.py",
    "test_docs.py",
    "test_launch.py",
    "test_loop.py",
    "test_run_folder.py",
)


def pytest_collection_modifyitems(config, items):
    """Begin with the files that take longest: a process that began one of them at the end would finish alone.

    Tests marked `gpu` are left out where there is none.
    """
    items.sort(key=lambda item: [*LONGEST, item.path.name].index(item.path.name))
    others = [item for item in items if not item.get_closest_marker("gpu")]
    if len(others) < len(items):
        import torch

        if not torch.cuda.is_available():
            config.hook.pytest_deselected(items=[item for item in items if item not in others])
            items[:] = others


def pytest_collection_finish():
    """Keep what imports and collection left behind out of garbage collection, which would go through it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def unchecked(monkeypatch):
    """The code as it runs outside of tests, for a test of what a value of the wrong type meets there."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """As the steps on a CPU: with two threads sums differ in the last bit."""
    import torch

    torch.set_num_threads(1)


# Twins and data; a module has its own, so that nothing it does reaches another ----------------------------------------


VDM_TWINS = ["tiny-cogvideox", "tiny-cogvideox1.5", "tiny-hunyuanvideo"]


@pytest.fixture(scope="module", params=VDM_TWINS)
def vdm_folder(request, tmp_path_factory):
    """A tiny video model of each family, and of each patch layout."""
    from components.models.registry import TINY

    family = TINY[request.param]
    return family.make_tiny(tmp_path_factory.mktemp("tiny") / request.param, family.tiny[request.param])


@pytest.fixture(scope="module")
def vdm(vdm_folder):
    """The same, loaded."""
    from components.models.video import load_vdm

    return load_vdm(vdm_folder, "float32", "cpu")


@pytest.fixture(scope="module", params=["tiny-qwen2.5-vl", "tiny-internvl3", "tiny-qwen3-vl"])
def vlm(request):
    """A tiny vision-language model of each family, loaded."""
    from tests.models.vlm.cases import load

    return load(request.param)


@pytest.fixture(scope="module")
def made_priors(tmp_path_factory):
    """A folder with a store and synthetic clips, the lines of their prior set, and the set's artifact."""
    from tests.vlm_attention import made

    folder = tmp_path_factory.mktemp("priors")
    lines = made.prior_lines(folder / "set", folder / "store")
    return folder, lines, made.prior_set(folder / "artifact", lines, folder / "store")
