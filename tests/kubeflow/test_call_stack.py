"""The call stack that kfp's tasks get: Python's own, without lines of source."""

import inspect

import pytest
from kfp import dsl
from kfp.dsl import pipeline_task

import pipeline  # noqa: F401  (as whoever compiles; it brings the stack)
from components.kubeflow.component import call_stack


def test_it_is_pythons_own():
    ours, theirs = call_stack(), inspect.stack(0)
    assert pipeline_task.inspect.stack is call_stack
    assert [(one[1], one[3]) for one in ours] == [(other.filename, other.function) for other in theirs]


def test_kfp_names_the_method_that_cannot_be_used():
    def imports():
        dsl.importer(artifact_uri="gs://one", artifact_class=dsl.Dataset).set_cpu_limit("1")

    with pytest.raises(ValueError, match="set_cpu_limit can only be used on single-step components"):
        dsl.pipeline(imports)
