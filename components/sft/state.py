"""Resume states: torch's distributed checkpoint, kept in the store as safetensors and JSON.

`<store>/sft/<key>/resume/<try>/step-<n>-<save>/` holds what every process wrote of its own part, an index, and a mark
of each process, written last: a state counts once all marks are there, so saving needs no barrier. A process writes
its part to local scratch and goes on training; a thread uploads it. A reader takes from the store the byte ranges that
it needs, so any number of processes, on any number of nodes, reads what any other number wrote.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import shutil
import struct
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata
from torch.distributed._shard.sharded_tensor.metadata import TensorProperties as ShardedProperties
from torch.distributed._shard.sharded_tensor.shard import Shard
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save as save_parts
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from components.core.errors import DataError, MotionEnhancerError
from components.core.records import Json, canonical_json
from components.sft.engine import Interval
from components.sft.processes import Processes
from components.store.backend import Backend, disk_error

log = logging.getLogger(__name__)
_INDEX, _MARK = "index.json", "mark"
_FILE_BYTES = 1 << 30  # a part is written file by file, so that its copy on the CPU stays small
_READERS = 8


@dataclass(frozen=True)
class State:
    """A complete state in the store: its folder below the backend's root, and the step that it was saved after."""

    folder: str
    step: int


class ResumeStates:
    """The states of one training; `attempt` names the nonce of a forced rerun, whose states lie apart from others."""

    def __init__(self, backend: Backend, key: str, attempt: str = "") -> None:
        self.backend, self.root = backend, f"sft/{key}/resume"
        self.prefix = f"{self.root}/{attempt or 'first'}"

    def complete(self, kind: str = "step") -> list[State]:
        """Return the states of which every process wrote its part, by step; of a kind, `step` or `best`."""
        name = re.compile(re.escape(self.prefix) + rf"/({kind}-(\d+)-[0-9a-f]+)/({_INDEX}|{_MARK}-(\d+)-of-(\d+))$")
        found: dict[tuple[str, int], list[re.Match[str]]] = {}
        for item in self.backend.walk(self.prefix):
            if match := name.match(item.path):
                found.setdefault((match[1], int(match[2])), []).append(match)
        states = []
        for (folder, step), matches in found.items():
            marks = [match for match in matches if match[4] is not None]
            if marks and len(marks) == int(marks[0][5]) and len(matches) == len(marks) + 1:
                states.append(State(f"{self.prefix}/{folder}", step))
        return sorted(states, key=lambda state: (state.step, state.folder))

    def prune(self, keep_last: int, kind: str = "step") -> None:
        """Delete what is older than the newest `keep_last` complete states of a kind, parts of unfinished ones too."""
        kept = self.complete(kind)[-keep_last:]
        if not kept:
            return
        folders = {item.path.removeprefix(self.prefix + "/").split("/")[0] for item in self.backend.walk(self.prefix)}
        for folder in folders:
            match = re.match(rf"{kind}-(\d+)-", folder)
            if match and int(match[1]) <= kept[-1].step and f"{self.prefix}/{folder}" not in {s.folder for s in kept}:
                self._delete(f"{self.prefix}/{folder}")

    def begin(self) -> None:
        """Delete the states of all other tries, unless this one has saved something: it begins anew, once."""
        if next(self.backend.walk(self.prefix), None) is None:
            self.clear()

    def clear(self) -> None:
        """Delete all states of this training, whatever the try: it is finished."""
        self._delete(self.root)

    def _delete(self, prefix: str) -> None:
        # the marks go first: a state that is half deleted must not count
        paths = [item.path for item in self.backend.walk(prefix)]
        marks = [path for path in paths if f"/{_MARK}-" in path]
        self.backend.delete_all(marks)
        self.backend.delete_all(path for path in paths if f"/{_MARK}-" not in path)


class StateSaver:
    """Writes states of this process: at once to local scratch (TMPDIR), then from a thread to the store."""

    def __init__(self, states: ResumeStates, processes: Processes, keep_last: int) -> None:
        self.states, self.processes, self.keep_last = states, processes, keep_last
        self.scratch: Path | None = None  # made for the first state
        self._jobs: queue.Queue[tuple[Path, str] | None] = queue.Queue()
        self._problem: MotionEnhancerError | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether this process still uploads."""
        return self._jobs.unfinished_tasks > 0

    def save(
        self, step: int, parts: Mapping[str, Interval], numbers: Json, files: Mapping[str, bytes], kind: str
    ) -> None:
        """Write a state; the processes meet for its plan, never for its upload.

        Args:
            step: that it is saved after.
            parts: what lies here of each tensor.
            numbers: what else the state says.
            files: written by the first process.
            kind: `step` or `best`.

        Raises:
            TryAgainError: scratch is full, or an upload before this one failed.
        """
        self.check()
        name = self.processes.from_first(f"{kind}-{step:08d}-{uuid.uuid4().hex[:8]}")
        if self.scratch is None:
            self.scratch = Path(tempfile.mkdtemp(prefix="states-"))
        local = self.scratch / name
        local.mkdir(parents=True)
        with _own_errors():
            save_parts(tensors(parts, self.processes), storage_writer=_Writer(local, self.processes.rank, numbers))
        if self.processes.first:
            for file, data in files.items():
                _write(local / file, data)
        self._jobs.put((local, kind))
        if self._thread is None:
            self._thread = threading.Thread(target=self._upload, name="state-upload", daemon=True)
            self._thread.start()

    def check(self) -> None:
        """Raise what an upload ended with."""
        if self._problem is not None:
            raise self._problem

    def finish(self) -> None:
        """Wait until everything is uploaded."""
        self._jobs.join()
        self.check()

    def close(self) -> None:
        """Remove the scratch folder and end the upload; what is still on its way is given up."""
        self._closed = True
        self._jobs.put(None)
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _upload(self) -> None:
        while (job := self._jobs.get()) is not None:
            local, kind = job
            try:
                if self._problem is None and not self._closed:
                    self._upload_one(local, kind)
            except MotionEnhancerError as error:  # raised in the thread that trains
                self._problem = error
            finally:
                shutil.rmtree(local, ignore_errors=True)
                self._jobs.task_done()

    def _upload_one(self, local: Path, kind: str) -> None:
        backend, target = self.states.backend, f"{self.states.prefix}/{local.name}"
        for file in sorted(local.iterdir()):
            backend.put_file(f"{target}/{file.name}", file)
        mark = f"{_MARK}-{self.processes.rank:04d}-of-{self.processes.count:04d}"
        backend.put(f"{target}/{mark}", b"")
        if self.processes.first:
            # the newest whole state and the one that may still be on its way from other processes
            self.states.prune(self.keep_last if kind == "step" else 1, kind)


def read_numbers(backend: Backend, state: State) -> Json:
    """Return what a state says beside its tensors; a DataError where it is damaged."""
    return _index(backend, state.folder)["numbers"]  # type: ignore[no-any-return]


def read_tensors(backend: Backend, state: State, parts: Mapping[str, Interval], processes: Processes) -> None:
    """Fill the intervals with a state's values.

    Raises:
        DataError: the state lacks a tensor, or a file of it is missing or cut off.
    """
    with _own_errors():
        load(tensors(parts, processes), storage_reader=_Reader(backend, state.folder))


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise what a process raised as it was, in every process: torch wraps it."""
    try:
        yield
    except CheckpointException as error:
        for raised, _ in error.failures.values():
            if isinstance(raised, MotionEnhancerError):
                raise raised from error
        raise


def tensors(parts: Mapping[str, Interval], processes: Processes) -> dict[str, Any]:
    """Return the intervals as the distributed checkpoint knows them: flat tensors, in one part or one per process."""
    return {name: part.values if part.whole else _sharded(part, processes) for name, part in parts.items()}


def _sharded(part: Interval, processes: Processes) -> ShardedTensor:
    device = part.values.device
    ends = (*part.starts[1:], part.total)
    every = [
        ShardMetadata([start], [end - start], f"rank:{rank}/{device}")
        for rank, (start, end) in enumerate(zip(part.starts, ends, strict=True))
        if end > start
    ]
    mine = [Shard(part.values, one) for one in every if part.values.numel() and one.shard_offsets == [part.start]]
    properties = ShardedProperties(dtype=part.values.dtype, requires_grad=False)
    about = ShardedTensorMetadata(every, torch.Size([part.total]), properties)
    return ShardedTensor._init_from_local_shards_and_global_metadata(mine, about)


# How a checkpoint is stored -------------------------------------------------------------------------------------------


class _Writer(StorageWriter):  # type: ignore[misc]  # torch ships no types of it
    """A process's part as safetensors files in a folder; the first process adds the index as JSON."""

    def __init__(self, folder: Path, rank: int, numbers: Json) -> None:
        self.folder, self.rank, self.numbers = folder, rank, numbers

    def reset(self, checkpoint_id: Any = None) -> None: ...
    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None: ...

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        done: list[WriteResult] = []
        group: dict[str, tuple[WriteItem, Tensor]] = {}

        def flush() -> None:
            if not group:
                return
            name = f"part-{self.rank:04d}-{len(list(self.folder.iterdir())):04d}.safetensors"
            data = save({key: tensor for key, (_, tensor) in group.items()})
            _write(self.folder / name, data)
            (length,) = struct.unpack("<Q", data[:8])
            header = json.loads(data[8 : 8 + length])
            for key, (item, _) in group.items():
                start, end = (8 + length + place for place in header[key]["data_offsets"])
                done.append(WriteResult(item.index, end - start, (name, start)))
            group.clear()

        held = 0
        for item in plan.items:
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor), item.index
            tensor = tensor.detach().to("cpu").contiguous()
            group[f"{item.index.fqn}@{_start(item.index)}"] = item, tensor
            held += tensor.nbytes
            if held >= _FILE_BYTES:
                flush()
                held = 0
        flush()
        future: Future[list[WriteResult]] = Future()
        future.set_result(done)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        stored = {(one.index.fqn, _start(one.index)): one.storage_data for own in results for one in own}
        found: Json = {}
        for name, about in metadata.state_dict_metadata.items():
            assert isinstance(about, TensorStorageMetadata), name
            chunks = [
                [chunk.offsets[0], chunk.sizes[0], *stored[name, chunk.offsets[0]]]
                for chunk in sorted(about.chunks, key=lambda chunk: chunk.offsets[0])
            ]
            dtype = str(about.properties.dtype).removeprefix("torch.")
            found[name] = {"dtype": dtype, "elements": about.size[0], "chunks": chunks}
        _write(self.folder / _INDEX, canonical_json({"numbers": self.numbers, "tensors": found}))

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False


class _Reader(StorageReader):  # type: ignore[misc]
    """A state's tensors by the byte ranges that a plan names."""

    def __init__(self, backend: Backend, folder: str) -> None:
        self.backend, self.folder = backend, folder
        self.places: dict[tuple[str, int], tuple[str, int]] = {}

    def reset(self, checkpoint_id: Any = None) -> None: ...
    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None: ...

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        about: dict[str, Any] = {}
        for name, one in _index(self.backend, self.folder)["tensors"].items():
            chunks = []
            for start, size, file, place in one["chunks"]:
                chunks.append(ChunkStorageMetadata(torch.Size([start]), torch.Size([size])))
                self.places[name, start] = file, place
            properties = TensorProperties(dtype=getattr(torch, one["dtype"]))
            about[name] = TensorStorageMetadata(properties, torch.Size([one["elements"]]), chunks)
        return Metadata(about)

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        def fetch(item: Any) -> None:
            target = planner.resolve_tensor(item).detach()
            file, place = self.places[item.storage_index.fqn, _start(item.storage_index)]
            at = place + item.storage_offsets[0] * target.element_size()
            path = f"{self.folder}/{file}"
            data = self.backend.read(path, at, target.nbytes)
            if data is None or len(data) != target.nbytes:
                raise _damaged(self.backend, path)
            if target.numel():
                target.copy_(torch.frombuffer(bytearray(data), dtype=target.dtype))
            planner.commit_tensor(item, target)

        with ThreadPoolExecutor(_READERS) as pool:
            for done in pool.map(fetch, plan.items):
                assert done is None
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False


def _start(index: MetadataIndex) -> int:
    """Return where a part of a flat tensor starts."""
    assert index.offset is not None, index
    return int(index.offset[0])


def _index(backend: Backend, folder: str) -> Json:
    path = f"{folder}/{_INDEX}"
    data = backend.get(path)
    try:
        found: Json = json.loads(data or b"")
    except ValueError as error:
        raise _damaged(backend, path) from error
    return found


def _damaged(backend: Backend, path: str) -> DataError:
    remedy = f"delete {path.rpartition('/')[0]}: the training goes on from the state before it"
    return DataError("a resume state is damaged", source=f"{backend.uri}/{path}", remedy=remedy)


def _write(file: Path, data: bytes) -> None:
    try:
        file.write_bytes(data)
    except OSError as error:
        room = f"it needed {len(data)} bytes more: set TMPDIR to a folder with space, or enlarge it"
        raise disk_error(error, file, f"scratch {file.parent}", room) from error
