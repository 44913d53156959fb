"""The work on one source video: fetch, hash, decode once from end to end, copy into the store; in a pool of processes.

Files are tried side by side and answers come as they are ready. A file that kills its process is found by trying what
was under way again, one at a time; the others go on in a new pool.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from components.core.errors import DataError, MotionEnhancerError
from components.media.stills import pack_stills
from components.media.video import VideoInfo, probe
from components.store.address import open_backend
from components.store.backend import PATIENCE, Backend, Listed
from components.store.entries import File, hash_file
from components.store.zipped import Packed, extract


@dataclass(frozen=True)
class Job:
    """One file to import: where it lies, into which store, and whether an existing copy is written again.

    `patience`: minutes that source and store are tried again while they do not answer. `files`: the member of a zip
    file, or the still frames, that it is made of; without any, `path` is the file.
    """

    key: str
    root: str
    path: str
    store: str
    rewrite: bool
    patience: float = PATIENCE
    files: tuple[Listed, ...] = ()


@dataclass(frozen=True)
class Decoded:
    """A file in the store, and what decoding it found."""

    file: File
    info: VideoInfo


Answer = Decoded | MotionEnhancerError
Work = Callable[[Job], Answer]


def decode(job: Job) -> Answer:
    """Fetch, hash, decode and copy one file; expected errors are returned, not raised."""
    source, store = (open_backend(uri, job.patience) for uri in (job.root, job.store))
    try:
        with fetched(source, job.path, job.files, job.patience) as local:
            return _decode(job, source, store, local)
    except MotionEnhancerError as error:
        return error


@contextmanager
def fetched(source: Backend, path: str, files: Sequence[Listed] = (), patience: float = PATIENCE) -> Iterator[Path]:
    """Give a source's file for the length of the block, downloaded, unpacked or packed as need be; arguments as `Job`.

    Raises:
        DataError: it is gone since the source was listed, does not unpack, or its frames do not make a video.
    """
    if not files:
        with _local(source, Listed(path, 0, ""), Path(), patience) as local:
            yield local
        return
    with TemporaryDirectory(prefix="motion-enhancer-") as name, ExitStack() as open_files:
        folder = Path(name)
        found = [
            open_files.enter_context(_local(source, file, folder / f"{index:06d}", patience))
            for index, file in enumerate(files)
        ]
        if len(found) == 1:
            yield found[0]
            return
        pack_stills(found, packed := folder / "packed")
        yield packed


@contextmanager
def _local(source: Backend, file: Listed, target: Path, patience: float) -> Iterator[Path]:
    """Give one file: as it is, downloaded, or unpacked to `target`."""
    if isinstance(file, Packed):
        extract(source, file, target, patience)
        yield target
        return
    try:
        if (local := source.local(file.path)) is None:
            address = f"{source.uri}/{file.path}"
            raise DataError("the file is gone since the source was listed", source=address, remedy="run again")
        yield local
    finally:
        source.release(file.path)


def decode_all(jobs: Sequence[Job], processes: int, work: Work = decode) -> Iterator[tuple[Job, Answer]]:
    """Yield the answers to all jobs, as they come; one job, or one process at a time, needs no pool."""
    if processes == 1 or len(jobs) <= 1:
        yield from ((job, work(job)) for job in jobs)
        return
    waiting, problem = deque(jobs), "the decoder crashed on this file"
    while waiting:
        # twice as many under way as processes: none waits for its next job
        suspects = deque((yield from _pool(waiting, processes, 2 * processes, work)))
        while suspects:
            for job in (yield from _pool(suspects, 1, 1, work)):
                yield job, DataError(problem, source=job.path, remedy="re-encode or remove it")


def _pool(waiting: deque[Job], processes: int, most: int, work: Work) -> Generator[tuple[Job, Answer], None, list[Job]]:
    """Yield answers as they complete, at most `most` jobs under way; return those under way when a process dies."""
    pool = ProcessPoolExecutor(min(processes, len(waiting)), mp_context=multiprocessing.get_context("spawn"))
    under_way: dict[Future[Answer], Job] = {}
    try:
        while waiting or under_way:
            while waiting and len(under_way) < most:
                under_way[pool.submit(work, waiting[0])] = waiting[0]
                waiting.popleft()
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                answer = future.result()
                yield under_way.pop(future), answer
    except BrokenProcessPool:
        pass
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return list(under_way.values())


def _decode(job: Job, source: Backend, store: Backend, local: Path) -> Decoded:
    address = f"{job.root}/{job.path}"
    try:
        info = probe(local)
    except DataError as error:
        problem = error.problem.replace(str(local), job.path)  # it goes into the manifest
        raise DataError(problem, source=address, remedy=error.remedy) from error
    digest, size, suffix = hash_file(local), local.stat().st_size, PurePosixPath(job.path).suffix.lower()
    suffix = ".mov" if len(job.files) > 1 else suffix
    target = f"videos/{digest}{suffix if suffix[1:].isalnum() and suffix.isascii() else f'.{info.kind}'}"
    if (job.rewrite or store.size(target) != size) and (job.files or not store.copy_from(source, job.path, target)):
        store.put_file(target, local)
    return Decoded(File(path=target, sha256=digest, bytes=size), info)
