"""What a container does: read KFP's executor input, run the step, check its outputs, write KFP's answer."""

from __future__ import annotations

import gc
import json
import logging
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.core.errors import MotionEnhancerError, ParameterError
from components.core.job import start_logging
from components.core.records import Json
from components.runtime.context import Context, artifact_path
from components.runtime.declaration import Step, declared
from components.runtime.ending import Ending, note_end
from components.runtime.launch import die_with_parent, leave_error
from components.runtime.side_by_side import Part, PartDone, own_part
from components.runtime.varied import VariedTask, is_varied

log = logging.getLogger(__name__)


def execute(step: Step[Any], task: str, executor_input: Json) -> None:
    """Run one task in this process; in its varied form the step runs once for each case.

    Raises:
        MotionEnhancerError: anything a person can fix; the subclass holds the exit code.
        AssertionError: the step did not write an output that it declares.
    """
    if not is_varied(step, executor_input):
        _execute_one(step, task, executor_input)
        return
    work = step.work
    key = None if work is None else lambda request: work(Context(step, task, request))
    with tempfile.TemporaryDirectory(prefix="variants-") as scratch:
        varied = VariedTask(step, task, executor_input, artifact_path, Path(scratch), key)
        varied.run(lambda request: _execute_one(step, task, request))


def _execute_one(step: Step[Any], task: str, executor_input: Json) -> None:
    context = Context(step, task, executor_input)
    step.run(context)
    context.close()


def run_step(
    step: Step[Any],
    out: Path,
    values: Mapping[str, Any],
    inputs: Mapping[str, Sequence[Path]] | None = None,
    task: str = "",
) -> dict[str, Path]:
    """Run one step in this process with the same contract as its container; errors come out as the step raised them.

    Args:
        step: the declaration.
        out: folder of the outputs.
        values: KFP's parameter values: `params`, `rerun` and the shared parameters of the step's form.
        inputs: folders of the input artifacts by name, in order.
        task: name of the task; the step's own unless given.

    Returns:
        The path of each output: a folder for an artifact, a file for a page or an output parameter.
    """
    request = executor_input(step, out, values, inputs or {})
    execute(step, task or step.name, request)
    return {name: out.absolute() / name for kind in ("artifacts", "parameters") for name in request["outputs"][kind]}


def executor_input(step: Step[Any], out: Path, values: Mapping[str, Any], inputs: Mapping[str, Sequence[Path]]) -> Json:
    """Return KFP's executor input for a step whose outputs go to the folder `out`; the rest as in `run_step`."""
    out, form = out.absolute(), step.form_for([*values, *inputs])
    given = {name: [{"uri": str(folder.absolute())} for folder in folders] for name, folders in inputs.items()}
    made = {name: [{"name": name, "uri": str(out / name), "metadata": {}}] for name in (*step.outputs, *step.pages)}
    outputs = {
        "artifacts": {name: {"artifacts": items} for name, items in made.items()},
        "parameters": {name: {"outputFile": str(out / name)} for name in form.values},
        "outputFile": str(out / "executor_output.json"),
    }
    artifacts = {name: {"artifacts": items} for name, items in given.items()}
    return {"inputs": {"parameterValues": dict(values), "artifacts": artifacts}, "outputs": outputs}


def run_task(step: Step[Any], task: str, given: str) -> int:
    """Run one task as its container does and return the exit code; `given` is KFP's executor input as JSON."""
    start, request, ending = time.monotonic(), {}, None
    try:
        request = json.loads(given)
        if step.device == "cpu":
            # what a step reads stays until it ends: searching it for cycles took a fifth of an import of 25 000 videos;
            # not on a GPU, where a cycle may hold tensors
            gc.set_threshold(100_000, 20, 20)
        execute(step, task, request)
    except MotionEnhancerError as error:
        log.error("%s: %s", task, error)
        ending = Ending.of(error)
    except Exception as error:  # noqa: BLE001 - anything else is a bug and is shown whole
        ending, what = Ending.of_bug(error), "a bug in this project"
        if (full := _memory_error(task, error)) is not None:
            ending, what = Ending.of(full), f"{full.problem}: {full.remedy}"
        log.error("%s: %s\n%s", task, what, traceback.format_exc())
    note_end(task, request, ending)
    code = 0 if ending is None else ending.code
    log.info("%s: exit %d after %.1f s", task, code, time.monotonic() - start)
    return code


def run_part(step: Step[Any], task: str, given: str, part: Part) -> int:
    """Run one of several processes of a task and return its exit code; its error is the task's own to report."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the task's own process hears it, too, and ends this one
    start = time.monotonic()
    try:
        execute(step, task, json.loads(given))
    except PartDone:
        log.info("%s: %d units done after %.1f s", task, len(part.keys), time.monotonic() - start)
        return 0
    except MotionEnhancerError as error:
        leave_error(error, part.left)
        return error.exit_code
    except Exception as error:
        if (full := _memory_error(task, error)) is None:
            raise  # a bug: its traceback is printed
        log.error("%s: %s", task, traceback.format_exc())
        leave_error(full, part.left)
        return full.exit_code
    raise AssertionError(f"{task} ended without the work of this process: {sorted(part.keys)}")


def _memory_error(task: str, error: Exception) -> ParameterError | None:
    """Return the error to report where the GPU's memory was not enough; None: it was something else."""
    torch = sys.modules.get("torch")  # where no step has imported it, nothing of it was raised
    if torch is None or not isinstance(error, torch.OutOfMemoryError):
        return None
    remedy = "lower num_frames, height or width, or take a larger one"
    return ParameterError("the GPU has too little memory", source=f"parameters of {task}", remedy=remedy)


def main(arguments: Sequence[str]) -> int:
    """Run `python -m components STEP TASK EXECUTOR_INPUT`, a container's command; return the exit code."""
    part = own_part()
    start_logging(part.name if part else "")
    if len(arguments) != 3:
        log.error("usage: python -m components STEP TASK EXECUTOR_INPUT (see `motion-enhancer step --help`)")
        return 2
    name, task, given = arguments
    try:
        step = declared(name)
    except MotionEnhancerError as error:
        log.error("%s: %s", task, error)
        return error.exit_code
    return run_task(step, task, given) if part is None else run_part(step, task, given, part)
