"""Trainings in any number of processes, forked from one that has imported all: `python -m tests.sft.forked FILE`.

The file names them in order: a job, its number of processes, and how it ends by itself: `kill` (every process by -9
when a state is complete) or `term` (the last process gets SIGTERM) at a step; `slow` is how many seconds the first
process takes to upload a file. As many run at once as fit into `AT_ONCE` processes, but none before the trainings
named by its `after` have ended. Exit codes come back in a file.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from components.core.errors import MotionEnhancerError
from components.models.vlm.model import load_vlm
from components.runtime.launch import die_with_parent
from components.sft.loop import Job, train
from components.sft.processes import RENDEZVOUS
from components.sft.state import ResumeStates
from components.sft.tracking import TrainingLog
from components.store.entries import Store
from components.store.file import FileBackend

AT_ONCE = 6


def ends(job, end, at):
    """End this process when the log takes the step `at`, before it does so (`kill`) or after (`term`)."""
    add = TrainingLog.add

    def watched(self, row, *rest):
        if row["step"] == at and end == "kill":
            states = ResumeStates(Store(job.store).backend, job.key)
            while not states.complete():
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        add(self, row, *rest)
        if row["step"] == at and int(os.environ["RANK"]) + 1 == int(os.environ["WORLD_SIZE"]):
            os.kill(os.getpid(), signal.SIGTERM)

    TrainingLog.add = watched


def child(job, one, rank):
    os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(one["count"]), RENDEZVOUS: f"{job.out}/rendezvous"})
    tempfile.tempdir = job.out  # what a killed one leaves there goes with it
    die_with_parent()
    if one.get("end"):
        ends(job, one["end"], one["at"])
    if one.get("slow") and rank == 0:
        put_file = FileBackend.put_file
        FileBackend.put_file = lambda self, *where: (time.sleep(one["slow"]), put_file(self, *where))
    try:
        train(job)
    except MotionEnhancerError as error:
        Path(f"{job.out}/error-{rank}.txt").write_text(str(error))
        return error.exit_code
    return 0


def job_of(one):
    return Job.model_validate_json(Path(one["job"]).read_bytes())


def start(one):
    """Fork the processes of a training; return their ids."""
    job = job_of(one)
    pids = []
    for rank in range(one["count"]):
        if not (pid := os.fork()):
            code = 1
            try:
                code = child(job, one, rank)
            finally:  # whatever comes out of it, a fork never goes on as its parent
                if sys.exc_info()[0] is not None:
                    sys.excepthook(*sys.exc_info())
                os._exit(code)
        pids.append(pid)
    return pids


def main(file):
    logging.basicConfig(level="INFO")
    torch.set_num_threads(1)
    plan = json.loads(Path(file).read_text())
    for path in {job_of(one).vlm for one in plan}:  # what a library remembers of a family, every fork finds
        load_vlm(Path(path), torch.float32, "cpu", rows=False)
    waiting, running, codes = list(range(len(plan))), {}, {}
    begin = time.monotonic()
    while waiting or running:
        for number in list(waiting):
            one = plan[number]
            left = set(one["after"]) & {*waiting, *(index for index, _ in running.values())}
            if not left and (not running or len(running) + one["count"] <= AT_ONCE):
                waiting.remove(number)
                codes[number] = [None] * one["count"]
                running |= {pid: (number, rank) for rank, pid in enumerate(start(one))}
        pid, status = os.wait()
        number, rank = running.pop(pid)
        codes[number][rank] = os.waitstatus_to_exitcode(status)
        if None not in codes[number]:
            print(plan[number]["job"], codes[number], f"after {time.monotonic() - begin:.1f} s", flush=True)
    Path(file).with_suffix(".codes").write_text(json.dumps([codes[number] for number in range(len(plan))]))


if __name__ == "__main__":
    main(sys.argv[1])
