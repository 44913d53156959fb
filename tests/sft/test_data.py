"""What a training reads."""

import pytest

from components.core.artifacts import VlmLine
from components.core.errors import DataError
from components.sft.data import Samples, loaded
from components.sft.lines import SharedLines, write_lines
from components.sft.settings import SftSettings
from components.store.entries import Store
from tests.models.vlm.cases import NAMES, load


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_is_refused_by_name(made_priors, tmp_path, workers):
    folder, (line, *_), _ = made_priors
    still = line.video.model_copy(update={"kind": "image", "name": "cat.png"})
    write_lines(tmp_path, [VlmLine(**{**dict(line), "video": still}, token_map=line.prior, coverage=1.0)])
    lines = SharedLines.open(tmp_path)
    samples = Samples(lines, load(NAMES[0]), Store(str(folder / "store")), SftSettings(), aligned=True)
    with pytest.raises(DataError, match=r"an image has no motion: cat\.png"):
        list(loaded(samples, [0], workers))
