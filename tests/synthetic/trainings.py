"""What the trainings of both small models are held to."""

import json


def assert_same_training(one, other, updates):
    """Two checkpoints have the same files, bit for bit, and the same log of so many updates."""
    for file in one.rglob("*"):
        if file.is_file():
            assert (other / file.relative_to(one)).read_bytes() == file.read_bytes(), file.name
    logs = [(path.with_name(f"{path.name}-states") / "log.jsonl").read_text() for path in (one, other)]
    assert logs[0] == logs[1]
    assert [json.loads(line)["step"] for line in logs[0].splitlines()] == [*range(1, 1 + updates)]
