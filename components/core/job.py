"""How a container logs, and how a Kubernetes Job that is no step ends: with the steps' exit codes and a remedy."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from components.core.errors import MotionEnhancerError

log = logging.getLogger(__name__)


def start_logging(prefix: str = "") -> None:
    """Log lines of a container: to stderr, `LOG_LEVEL` of them; `prefix` marks those of one of several processes."""
    logging.basicConfig(
        level=os.environ.get("LOG_LEVEL", "INFO"),
        format=f"%(asctime)s {prefix and prefix + ' '}%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for client in ("httpx", "urllib3"):  # their lines hold signed addresses and tokens
        logging.getLogger(client).setLevel("WARNING")


def run_job(name: str, action: Callable[[], None]) -> int:
    """Do `action` with logging set up; returns the exit code (an unexpected error is a traceback, code 1)."""
    start_logging()
    try:
        action()
    except MotionEnhancerError as error:
        log.error("%s: %s", name, error)
        return error.exit_code
    return 0
