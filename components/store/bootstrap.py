"""`python -m components.store.bootstrap`: make the store's bucket where it is missing, and try what a run does with it.

Environment: `STORE` (minio://bucket/prefix) and the variables of `connection.py`. It prints what of them is in force,
and that put, get, list and delete work. Running it again changes nothing. Lifecycle rules are the bucket owner's:
`manifests/README.md` has the command for the one that a store allows.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping

from components.core.errors import ParameterError
from components.core.job import run_job
from components.store.access import check_access
from components.store.backend import PATIENCE
from components.store.s3 import MinioBackend

log = logging.getLogger(__name__)


def bootstrap(environment: Mapping[str, str], patience: float = PATIENCE) -> None:
    """Make the bucket and try the access to it; a store that does not answer is tried for `patience` minutes.

    Raises:
        ParameterError: `STORE` is no bucket, or the store refuses something.
        TryAgainError: the store does not answer.
    """
    uri = environment.get("STORE", "")
    if not uri.startswith("minio://"):
        remedy = "set STORE=minio://bucket/prefix"
        raise ParameterError(f"STORE={uri!r} is no bucket", source="environment", remedy=remedy)
    backend = MinioBackend.from_environment(uri, patience)
    log.info("bucket %s %s", backend.bucket, "made" if backend.make_bucket() else "is there")
    for line in check_access(backend):
        log.info("%s", line)


if __name__ == "__main__":
    sys.exit(run_job("bootstrap", lambda: bootstrap(os.environ)))
