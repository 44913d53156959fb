"""`python -m tests.infrastructure.recorded_run RECORD ARGUMENT…`: `motion-enhancer`, its executor inputs recorded."""

import json
import sys
from pathlib import Path

from components.cli import main as cli
from components.kubeflow import local


def main(record, arguments):
    """Run the command line; `record` gets {task, input} of every process that it starts."""
    execute = local.ProcessEngine.execute

    def recorded(self, image, command, *rest):
        *_, task, given = command  # python -m components STEP TASK EXECUTOR_INPUT
        with record.open("a") as file:
            file.write(json.dumps({"task": task, "input": given}) + "\n")
        return execute(self, image, command, *rest)

    local.ProcessEngine.execute = recorded
    cli.main(arguments)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
