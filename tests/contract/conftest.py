"""The three pipelines, compiled once."""

import pytest
from kfp import compiler

import pipeline
from tests.contract import specs

PIPELINES = ("motion_priors", "fine_tune", "motion_enhancer")


@pytest.fixture(scope="session", params=PIPELINES)
def documents(request, tmp_path_factory):
    """A pipeline's documents, compiled for a local run."""
    file = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compiler.Compiler().compile(getattr(pipeline, request.param), str(file))
    return specs.load(file)


@pytest.fixture
def spec(documents):
    """A pipeline's specification."""
    return documents[0]
