"""How a Kubernetes Job that is no step ends: the exit codes of the steps, and one line in the log that says what to do."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from components.core.errors import MotionEnhancerError

log = logging.getLogger(__name__)


def run_job(name: str, action: Callable[[], None]) -> int:
    """Do `action` with logging set up; returns the exit code (an unexpected error is a traceback, code 1)."""
    logging.basicConfig(
        level=os.environ.get("LOG_LEVEL", "INFO"), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("httpx").setLevel("WARNING")  # its lines hold signed addresses
    try:
        action()
    except MotionEnhancerError as error:
        log.error("%s: %s", name, error)
        return error.exit_code
    return 0
