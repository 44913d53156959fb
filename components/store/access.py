"""What is in force towards a store, in plain sentences, and whether everything that a run does with it is allowed."""

from __future__ import annotations

import uuid

from components.core.errors import ParameterError
from components.store.backend import Backend
from components.store.s3 import MinioBackend


def check_access(backend: Backend) -> list[str]:
    """Put, list, get and delete one small object below the root, and return what is in force, a sentence per line.

    No key, token or certificate is in them. An object that may not be deleted stays under `scratch/access-check/`.

    Raises:
        ParameterError: some of the four are refused; it names which, why, and which work.
        TryAgainError: the store does not answer.
    """
    lines = [f"store: {backend.uri}", *(backend.connection.summary() if isinstance(backend, MinioBackend) else [])]
    path, data = f"scratch/access-check/{uuid.uuid4().hex}", b"motion-enhancer"

    def put() -> bool:
        backend.put(path, data)
        return True

    def listed() -> bool:
        return path in {item.path for item in backend.walk("scratch/access-check")}

    def delete() -> bool:
        backend.delete(path)
        return backend.size(path) is None

    tries = {"put": put, "list": listed, "get": lambda: backend.get(path) == data, "delete": delete}
    refused: dict[str, ParameterError] = {}
    worked = []
    for name, attempt in tries.items():
        try:
            done = attempt()
        except ParameterError as error:
            refused[name] = error
        else:
            if done:
                worked.append(name)
            elif not refused:  # without put the others find nothing
                problem = f"{name} did not do what it says: is there a cache or another store behind this address?"
                refused[name] = ParameterError(problem, source=backend.uri, remedy="give the store's own address")
    if refused:
        reasons = "; ".join(f"{name}: {error.problem}" for name, error in refused.items())
        problem = f"the store refuses {' and '.join(refused)} ({reasons}); {', '.join(worked) or 'nothing'} works"
        raise ParameterError(problem, source=backend.uri, remedy=next(iter(refused.values())).remedy)
    return [*lines, f"put, get, list and delete work under {backend.uri}"]
