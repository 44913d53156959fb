"""The command line in this process, and Python in a process of its own."""

import os
import subprocess
import sys

import pytest

from components.kubeflow.tree import ROOT


def motion_enhancer(*arguments):
    """Run `motion-enhancer ARGUMENTS` in this process; return the exit code."""
    from components.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main([str(item) for item in arguments])
    return ended.value.code or 0


def python(*words, **options):
    """Run `python WORDS` as `process` does."""
    return process(sys.executable, *words, **options)


def process(*command, code=0, cwd=ROOT, **environment):
    """Run a command with this checkout's code; it must end with `code` unless that is None. Return what ran."""
    known = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=known, capture_output=True, text=True, check=False)
    assert code is None or done.returncode == code, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done
