"""`python -m components.store.bootstrap`: make the store's bucket where it is missing.

Environment: `STORE` (minio://bucket/prefix), `S3_ENDPOINT`, `S3_ACCESS_KEY`, `S3_SECRET_KEY`. Running it again changes
nothing. Lifecycle rules are the bucket owner's: `manifests/README.md` has the command for the one that a store allows.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping

from components.core.errors import ParameterError
from components.core.job import run_job
from components.store.s3 import MinioBackend

log = logging.getLogger(__name__)


def bootstrap(environment: Mapping[str, str]) -> None:
    """Make the bucket; raise ParameterError where `STORE` is none, TryAgainError where the store does not answer."""
    uri = environment.get("STORE", "")
    if not uri.startswith("minio://"):
        remedy = "set STORE=minio://bucket/prefix"
        raise ParameterError(f"STORE={uri!r} is no bucket", source="environment", remedy=remedy)
    backend = MinioBackend.from_environment(uri)
    log.info("bucket %s %s", backend.bucket, "made" if backend.make_bucket() else "is there")


if __name__ == "__main__":
    sys.exit(run_job("bootstrap", lambda: bootstrap(os.environ)))
