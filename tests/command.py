"""The command line called in this process."""

import pytest

from components.cli.main import main


def motion_enhancer(*arguments):
    """Run `motion-enhancer ARGUMENTS`; returns the exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(item) for item in arguments])
    return ended.value.code or 0
