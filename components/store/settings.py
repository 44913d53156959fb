"""Where the settings of an S3 store stand: in the environment and in the files of a mounted secret, merged here alone.

A variable counts before the file. Keys and session token belong together: where the environment holds one of the three,
no file adds another. A running pod's files change with the secret, so `settings` reads them at every call.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from components.core.errors import ParameterError

KEYS = {  # of the secret, each with its variable; what each is: connection.py
    "endpoint": "S3_ENDPOINT",
    "accesskey": "S3_ACCESS_KEY",
    "secretkey": "S3_SECRET_KEY",
    "sessiontoken": "S3_SESSION_TOKEN",
    "region": "S3_REGION",
    "addressing": "S3_ADDRESSING",
    "cabundle": "S3_CA_BUNDLE",
}
FOLDER = Path("/etc/motion-enhancer/store")  # where a step's pod mounts the secret, a file per key
_TOGETHER = {"S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_SESSION_TOKEN"}


def settings(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment's variables that are not empty, and what the secret's files add to them.

    Raises ParameterError: a file is there and cannot be read.
    """
    given = {name: value for name, value in environment.items() if value}
    left_out = _TOGETHER if _TOGETHER & given.keys() else set()
    return {name: value for name, value in _mounted(FOLDER).items() if name not in left_out} | given


def _mounted(folder: Path) -> dict[str, str]:
    """Return variables from one version of the files: Kubernetes replaces all of them at once, by the link `..data`."""
    while True:
        version = (folder / "..data").resolve()
        texts = {name: _text(folder / key) for key, name in KEYS.items()}
        if (folder / "..data").resolve() == version:
            return {name: text for name, text in texts.items() if text}


def _text(file: Path) -> str:
    """Return a file's text without the newlines at its end; of a file that is not there, none."""
    try:
        return file.read_bytes().decode().rstrip("\r\n")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no UTF-8"  # its own words hold what was read
        remedy = "correct the store's secret, and how it is mounted"
        raise ParameterError(f"cannot be read: {why}", source=str(file), remedy=remedy) from None
