"""The processes of one training: who this one is, what they tell each other, and how long they wait.

One process is a group of its own, so that the same code runs on one CPU and on many GPUs. Small numbers travel on the
CPU (gloo), tensors of a GPU by NCCL. A collective ends with an error after `timeout`; what may take longer than that (a
model that one process reads) is waited for in the rendezvous store, which has no such limit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, HashStore, PrefixStore, Store, TCPStore

from components.core.errors import TryAgainError

RENDEZVOUS = "SFT_RENDEZVOUS"  # a file that the processes of one node meet in; other launchers give MASTER_ADDR
_LONG = timedelta(hours=12)


@dataclass(frozen=True)
class Processes:
    """This process (`rank` of `count`), its device, and the store that all of them see."""

    rank: int
    count: int
    device: torch.device
    store: Store

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.rank == 0

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Return the sums over all processes, in double precision."""
        values = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(values)
        return values.tolist()

    def any(self, mine: bool) -> bool:
        """Return whether it holds in any process."""
        return self.sum([float(mine)])[0] > 0

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value (small: it is pickled)."""
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def from_first(self, value: Any) -> Any:
        """Return the first process's value (small: it is pickled)."""
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def mark(self, name: str) -> None:
        """Tell the processes that wait for `name` to go on."""
        self.store.set(name, "1")

    def wait(self, name: str) -> None:
        """Wait until another process marked `name`, however long its work takes."""
        self.store.wait([name], _LONG)


@contextmanager
def joined(timeout_minutes: float) -> Iterator[Processes]:
    """Join the training's other processes, as the environment names them, for the length of the block.

    Raises:
        TryAgainError: the others did not come within the time.
    """
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    cuda, timeout = torch.cuda.is_available(), timedelta(minutes=timeout_minutes)
    device = torch.device("cpu")
    if cuda:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False  # PyTorch's default is True: the aligner's convolutions are fp32
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    try:
        store = _store(rank, count, timeout)
        group = PrefixStore("group", store)
        dist.init_process_group(backend, store=group, rank=rank, world_size=count, timeout=timeout)
    except dist.DistError as error:
        problem = f"process {rank} of {count} met not all others: {error}"
        remedy = "run again; or raise params_sft.collective_timeout"
        raise TryAgainError(problem, source="training processes", remedy=remedy) from error
    try:
        yield Processes(rank, count, device, PrefixStore("project", store))
    finally:
        dist.destroy_process_group()


def _store(rank: int, count: int, timeout: timedelta) -> Store:
    if count == 1:
        return HashStore()
    if file := os.environ.get(RENDEZVOUS):
        return FileStore(file, count)
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torchrun's own agent listens there already
    listens = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    return TCPStore(address, port, count, listens, timeout)
