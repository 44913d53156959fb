"""Copies of clips with a few bytes changed, and clean clips of many codecs: what decoders report."""

from types import SimpleNamespace

import numpy as np
import pytest
from av import logging

from components.core.errors import DataError
from components.media.damage import Damage
from components.media.video import probe
from tests.media.made import VARIANTS, encode, moving, spoil


def damaged(path, seed, count=20):
    """Change `count` bytes somewhere in the file."""
    rng, data = np.random.default_rng(seed), bytearray(path.read_bytes())
    for place in rng.integers(0, len(data), count):
        data[place] ^= int(rng.integers(1, 256))
    copy = path.with_name(f"damaged-{path.name}")
    copy.write_bytes(data)
    return copy


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("clip") / "clip.mp4", moving(100))


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_copy_is_refused_or_counted(seed, clip):
    try:
        found = probe(damaged(clip, seed))
    except DataError:
        return
    assert 0 < found.corrupt <= found.num_frames


@pytest.mark.parametrize("name", ["mjpeg.avi", "mpeg4.avi", "mpeg2.ts", "flv1.flv"])
def test_other_decoders_report_as_well(name, tmp_path):
    path = encode(tmp_path / name, moving(50), **VARIANTS[name])
    for seed in range(5):
        try:
            assert probe(damaged(path, seed)).corrupt, seed
        except DataError:
            continue


@pytest.mark.parametrize("name", VARIANTS)
def test_clean_clips_are_clean(name, tmp_path):
    level = logging.get_level()
    info = probe(encode(tmp_path / name, moving(40), **VARIANTS[name]))
    assert (info.num_frames, info.corrupt) == (40, 0)
    assert logging.get_level() == level


def test_errors_count_once_where_they_are_found():
    def frame(key=False, marked=False):
        return SimpleNamespace(key_frame=key, is_corrupt=marked)

    errors = []
    damage = Damage(errors)
    for found in (frame(key=True), frame(), frame(marked=True), frame(), frame(key=True), frame()):
        damage.add(found)
    assert damage.frames == 2
    errors.append("concealing")
    for found in (frame(key=True), frame(), frame(key=True)):
        damage.add(found)
    assert damage.frames == 4
    damage.end()
    assert damage.frames == 4
    errors.append("behind the last one")
    damage.end()
    assert damage.frames == 5


def test_damage_spreads_to_the_next_key_frame(tmp_path):
    """One broken frame of the second of four groups: all that build on it count, and no frame of the other groups."""
    path = encode(tmp_path / "clip.mp4", moving(40), g=10, bf=0)
    spoil(path, 13)
    assert probe(path).corrupt == 7
