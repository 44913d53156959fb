"""Pages that are cut down until they fit, and their sections."""

import pytest

from components.core.errors import DataError
from components.pages.page import fit


def test_fit_takes_pictures_away_until_it_fits():
    assert fit(lambda count: "x" * (10 + 100 * count), 8, 430) == "x" * 410
    assert fit(lambda count: "x" * (10 + 100 * count), 8, 12) == "x" * 10
    with pytest.raises(DataError, match="without pictured samples"):
        fit(lambda count: "x" * 500, 3, 400)
