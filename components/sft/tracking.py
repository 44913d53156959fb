"""What a training says of itself: one row of results per step, and how fast it was, which is no result.

*Results* (losses, norms, rates) follow from the work's key: they are rows of `log.jsonl`, which every process has.
*Speed* (samples per second, memory …) differs from run to run: it never enters the log. The main process shows both in
TensorBoard and in one more tracker at choice, and keeps the speed as `speed.jsonl` beside TensorBoard's files. These
are copied to `<store>/sft/<key>/tensorboard/`: for people, part of no result.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.tracking import GeneralTracker, MLflowTracker, WandBTracker
from accelerate.utils import is_mlflow_available, is_wandb_available

from components.core.errors import ParameterError
from components.core.records import canonical_json
from components.sft.settings import Tracker
from components.store.backend import Backend

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)
Row = dict[str, Any]
PROJECT = "motion-enhancer"  # W&B's project, MLflow's experiment
_PRINTED_EVERY = 60.0  # seconds between printed rows
_SPEED_FILE = "speed.jsonl"


def check_tracker(tracker: Tracker) -> None:
    """Look whether a tracker can work here, before anything is loaded.

    Raises:
        ParameterError: its package is missing, or what it writes would be lost with the training's scratch folder.
    """
    source = f"params_sft.tracker={tracker}"
    there = {"none": True, "wandb": is_wandb_available(), "mlflow": is_mlflow_available()}[tracker]
    if not there:
        remedy = "pip install 'motion-enhancer[tracking]' where the step runs, or set tracker=none"
        raise ParameterError(f"the package of {tracker} is not installed", source=source, remedy=remedy)
    if tracker == "mlflow" and "MLFLOW_TRACKING_URI" not in os.environ:
        remedy = "set MLFLOW_TRACKING_URI, or tracker=none"
        raise ParameterError("MLflow has no place to write to", source=source, remedy=remedy)
    if tracker == "wandb" and os.environ.get("WANDB_MODE") == "offline" and "WANDB_DIR" not in os.environ:
        problem, remedy = "W&B's offline files would go with the step's scratch", "set WANDB_DIR to a folder that stays"
        raise ParameterError(problem, source=source, remedy=remedy)


class TrainingLog:
    """The rows of one training, in every process; files and trackers in the main one.

    Args:
        backend: the store that TensorBoard's files are copied to.
        key: the work's key, which names the run.
        main: whether this is the process that prints, writes files and feeds the tracker.
        folder: for TensorBoard's files and the speed.
        tracker: shows the same numbers; W&B and MLflow read their own environment variables.
        config: what the training was asked for, shown by the tracker.

    Raises:
        ParameterError: as `check_tracker`, in every process; or the tracker does not start.
    """

    def __init__(
        self, backend: Backend, key: str, *, main: bool, folder: Path, tracker: Tracker, config: Mapping[str, Any]
    ) -> None:
        check_tracker(tracker)
        if main:
            folder.mkdir(parents=True, exist_ok=True)
        self.rows: list[Row] = []
        self.backend, self.prefix, self.folder, self.main = backend, f"sft/{key}/tensorboard", folder, main
        self.board: SummaryWriter | None = None
        self.speeds: list[Row] = []
        self.tracker = _start(tracker, key, folder, config) if main else None
        self._printed = time.monotonic()
        # files go to the store beside the training: the other processes must not wait for this one
        self._uploads = ThreadPoolExecutor(1, "log-upload")
        self._upload: Future[None] | None = None

    def add(self, row: Row, speed: Mapping[str, float] | None = None) -> None:
        """Append a step's row of results, and show it with the step's speed.

        A row with validation losses is printed and brings the files to the store; others are printed once a minute.
        """
        self.rows.append(row)
        if not self.main:
            return
        results = {name: value for name, value in row.items() if name != "step"}
        numbers = results | {f"speed/{name}": value for name, value in (speed or {}).items()}
        for name, value in numbers.items():
            self._writer(row["step"]).add_scalar(name, value, row["step"])
        if self.tracker is not None:
            _show(self.tracker, numbers, row["step"])
        if speed:
            self.speeds.append({"step": row["step"], **speed})
        validated = any(name.startswith("val_") for name in row)
        if validated or time.monotonic() - self._printed > _PRINTED_EVERY:
            self._printed = time.monotonic()
            shown = ", ".join(f"{name} {value:.4g}" for name, value in (results | dict(speed or {})).items())
            log.info("step %d: %s", row["step"], shown)
        if validated:
            self._keep()

    def read(self, data: bytes) -> None:
        """Take the rows of a written log, and of the speed what belongs to them."""
        self.rows = _parse(data)
        if self.main and (kept := self.backend.get(f"{self.prefix}/{_SPEED_FILE}")) is not None:
            last = self.rows[-1]["step"]
            self.speeds = [speed for speed in _parse(kept) if speed["step"] <= last]

    def text(self) -> bytes:
        """Return the rows as JSON lines."""
        return _lines(self.rows)

    def close(self, failed: bool = False) -> None:
        """Bring all files to the store and end the tracker's run; it may be called again."""
        if self.board is not None:
            self._keep(wait=True)
            self.board.close()
            self.board = None
        self._uploads.shutdown()
        if self.tracker is not None:
            _finish(self.tracker, failed)
            self.tracker = None

    def _writer(self, step: int) -> SummaryWriter:
        """Return TensorBoard's writer; a resumed run's hides what an earlier one wrote of this step and later ones."""
        if self.board is None:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(self.folder), purge_step=step)
        return self.board

    def _keep(self, wait: bool = False) -> None:
        """Bring the files to the store, unless an earlier call is still at it; `wait` until they are there."""
        assert self.board is not None
        self.board.flush()
        if self._upload is not None:
            if not wait and not self._upload.done():
                return
            self._upload.result()
        (self.folder / _SPEED_FILE).write_bytes(_lines(self.speeds))
        self._upload = self._uploads.submit(self._put)
        if wait:
            self._upload.result()

    def _put(self) -> None:
        for file in self.folder.iterdir():
            if file.is_file():  # a tracker's own files lie in folders
                self.backend.put_file(f"{self.prefix}/{file.name}", file)


def _parse(data: bytes) -> list[Row]:
    return [json.loads(line) for line in data.decode().splitlines()]


def _lines(rows: list[Row]) -> bytes:
    return b"".join(canonical_json(row) + b"\n" for row in rows)


# Trackers, through accelerate's classes -------------------------------------------------------------------------------


def _start(tracker: Tracker, key: str, folder: Path, config: Mapping[str, Any]) -> GeneralTracker | None:
    """Begin a run; one of its own after a resume, as steps may come twice: W&B's have the key as their group."""
    if tracker == "none":
        return None
    PartialState(cpu=not torch.cuda.is_available())  # accelerate's trackers want it; an engine has it already
    if tracker == "wandb":
        from wandb import Error

        project, place = os.environ.get("WANDB_PROJECT", PROJECT), os.environ.get("WANDB_DIR", str(folder))
        Path(place).mkdir(parents=True, exist_ok=True)  # W&B would go on in the system's temporary folder
        made = WandBTracker(project, name=key, group=key, dir=place, config=dict(config))
    else:
        from mlflow.exceptions import MlflowException as Error

        made = MLflowTracker(PROJECT, run_name=key)
    try:
        made.start()
        if tracker == "mlflow":
            made.store_init_configuration(dict(config))
    except Error as error:
        remedy = f"check the environment's {tracker.upper()}_… variables, or set tracker=none"
        problem = f"{tracker} does not start: {error}"
        raise ParameterError(problem, source=f"params_sft.tracker={tracker}", remedy=remedy) from error
    return made


def _show(tracker: GeneralTracker, numbers: Mapping[str, float], step: int) -> None:
    """Hand numbers over without waiting for a server: one that is gone is logged as an error and stops no training."""
    if isinstance(tracker, WandBTracker):
        tracker.log(dict(numbers), step=step)
    else:  # accelerate's `log` waits for each answer; mlflow's `log_metrics` reads the run first
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        metrics = [Metric(name, value, int(time.time() * 1000), step) for name, value in numbers.items()]
        MlflowClient().log_batch(tracker.tracker.info.run_id, metrics, synchronous=False)


def _finish(tracker: GeneralTracker, failed: bool) -> None:
    """End a run when all its numbers have arrived, as finished or failed (accelerate's `finish` knows no failure)."""
    if isinstance(tracker, WandBTracker):
        import wandb

        tracker.run.finish(exit_code=int(failed))
        wandb.teardown(int(failed))  # its service's process ends; before, the run's file need not be whole
    else:
        import mlflow

        try:  # waits for the numbers on their way
            mlflow.end_run("FAILED" if failed else "FINISHED")
        except mlflow.MlflowException as error:  # the training itself is done
            log.error("MLflow's run stays open: %s", error)
