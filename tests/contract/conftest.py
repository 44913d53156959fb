"""The pipelines, compiled once."""

import pytest
import yaml

from components.kubeflow.arguments import PIPELINES, pipeline
from components.kubeflow.compile import as_yaml


@pytest.fixture(scope="session", params=PIPELINES)
def documents(request):
    """A pipeline's documents, compiled for a local run."""
    return list(yaml.load_all(as_yaml(pipeline(request.param)), Loader=yaml.CSafeLoader))


@pytest.fixture
def spec(documents):
    """A pipeline's specification."""
    return documents[0]
