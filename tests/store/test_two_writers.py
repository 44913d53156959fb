"""Two processes that write one piece of work at the same moment, on both backends."""

import os
import subprocess
import sys

from components.kubeflow.tree import ROOT

KEY, ROUNDS = "a" * 32, 12
WRITER = f"""
import sys, time
from components.store.entries import Store, WorkFolder
from pathlib import Path
uri, writer, start = sys.argv[1:]
store = Store(uri)
print("ready", flush=True)
while not Path(start).exists():
    time.sleep(0.001)
for number in range({ROUNDS}):
    folder = WorkFolder(store, "attention_capture", "1", "{KEY}", {{writer: f"force{{number}}"}})
    for role in ("maps", "statistics"):
        folder.put(role, "bin", f"{{role}} of {{writer}} {{number}}".encode() * 20_000)
    entry = folder.finish("unit", {{"read": "b" * 32}}, {{"writer": writer, "number": number}})
    assert store.damaged(entry) == []
"""


def test_both_complete_and_the_entry_is_whole_and_true_at_every_moment(store, tmp_path):
    start = tmp_path / "start"
    given = {"env": {**os.environ, "PYTHONPATH": str(ROOT)}, "stdout": subprocess.PIPE}
    commands = [[sys.executable, "-c", WRITER, store.uri, writer, str(start)] for writer in ("one", "two")]
    writers = [subprocess.Popen(command, **given) for command in commands]
    for process in writers:
        assert process.stdout.readline() == b"ready\n"
    start.touch()
    seen = set()
    while any(process.poll() is None for process in writers) or not seen:
        if (entry := store.entry("attention_capture", KEY)) is not None:
            assert store.damaged(entry) == []
            wanted = f"maps of {entry.numbers['writer']} {entry.numbers['number']}"
            assert store.backend.get(entry.files["maps"].path).startswith(wanted.encode())
            seen.add(entry.numbers["writer"])
    assert [process.wait() for process in writers] == [0, 0]
    last = store.entry("attention_capture", KEY)
    assert last.numbers["number"] == ROUNDS - 1
    assert last.forced[last.numbers["writer"]] == f"force{ROUNDS - 1}"
    assert store.damaged(last) == []
