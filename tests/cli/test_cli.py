"""The command line where it is called wrongly, and how a run ends whose task was killed."""

import signal
import sys

import pytest

from components.kubeflow.local import Journal, ProcessEngine
from tests.command import motion_enhancer


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nope",), "no step 'nope'"),
        (("ddim_inversion", "--params", "{bad"), "no JSON object: {bad"),
        (("ddim_inversion", "--params", "[1]"), "no JSON object: [1]"),
        (("ddim_inversion", "--in", "clips=/tmp"), "no input 'clips=/tmp'"),
        (("ddim_inversion", "--in", "videos"), "NAME one of videos"),
    ],
)
def test_a_step_called_wrongly(tmp_path, capsys, arguments, told):
    code = motion_enhancer("step", *arguments, "--store", tmp_path.as_uri(), "--out", tmp_path / "out")
    assert (code, told in capsys.readouterr().err) == (2, True)


def test_a_step_without_its_input(tmp_path, caplog):
    given = ("--set", "vdm=tiny-cogvideox", "--set", "num_steps=2", "--set", "shard=0/1")
    assert (
        motion_enhancer("step", "ddim_inversion", *given, "--store", tmp_path.as_uri(), "--out", tmp_path / "out") == 2
    )
    assert "no input 'videos'" in caplog.text


def test_a_killed_task_has_failed(tmp_path):
    """As a shell says it: 128 and the signal's number."""
    journal = Journal(tmp_path)
    run = journal.start("sft")
    assert journal.failed is run  # not ended yet
    command = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    journal.end(run, ProcessEngine().start("", command, {}, {}, run.log).finish())
    assert (journal.failed, run.code) == (run, 128 + signal.SIGKILL)
