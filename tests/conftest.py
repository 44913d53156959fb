"""What all tests share: annotated shapes are checked as the code runs, and twins are made once.

The hook stands before any import of `components`: jaxtyping rewrites a module as it is imported, so that beartype checks each call
against its annotations (`Float[Tensor, "h P F F"]`), for tests alone. It covers the modules that annotate shapes.
"""

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


@pytest.fixture
def unchecked(monkeypatch):
    """The code as it runs outside of tests, for a test of what a value of the wrong type meets there."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)

