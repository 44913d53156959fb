"""What several tests of reading need."""

import pytest

from components.media import seeking


@pytest.fixture
def seeks(monkeypatch):
    """Indices that were sought."""
    found, seek = [], seeking._Walk._seek
    monkeypatch.setattr(seeking._Walk, "_seek", lambda walk, index: found.append(index) or seek(walk, index))
    return found
