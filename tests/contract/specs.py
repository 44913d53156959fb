"""Reading a compiled pipeline: KFP's specification as a dictionary."""

import yaml


def load(file):
    """The documents of a compiled file: the pipeline's specification and, where there is one, the platform's."""
    return list(yaml.load_all(file.read_text(), Loader=yaml.CSafeLoader))


def tasks(spec):
    """Every task and loop of all DAGs by name."""
    dags = [spec["root"]["dag"], *(item["dag"] for item in spec["components"].values() if "dag" in item)]
    return {name: task for dag in dags for name, task in dag["tasks"].items()}


def definition(spec, task):
    return spec["components"][task["componentRef"]["name"]]


def leaves(spec):
    """Container tasks by name."""
    return {name: task for name, task in tasks(spec).items() if "executorLabel" in definition(spec, task)}


def container(spec, task):
    return spec["deploymentSpec"]["executors"][definition(spec, task)["executorLabel"]]["container"]


def step_of(spec, task):
    """The step that a task's container runs: `python -m components STEP`."""
    return container(spec, task)["command"][3]


def parameters(spec):
    return spec["root"]["inputDefinitions"]["parameters"]
