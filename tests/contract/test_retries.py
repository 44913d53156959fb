"""Retries of the compiled pipelines under Argo's rule: there is always time for every try at its full length."""

import dataclasses
import itertools
import json

import pytest

from components.kubeflow.arguments import PIPELINES
from tests.command import python
from tests.contract.argo import Strategy, tries
from tests.contract.specs import definition, leaves, load

HOUR = 3600
DIED = (11 * HOUR, "Error")
GO_DURATION = 2**63 / 1e9  # seconds: above it Argo's controller could not read the number
OPTIONS = {"default": {}, "most": {"retries": 10, "timeout": 10**8}}
CODE = """
import json, pathlib, sys
from components.kubeflow.arguments import PIPELINES
from components.kubeflow.compile import compile_pipeline
from components.kubeflow.scheduling import Profile
folder, kind, options = sys.argv[1:]
for name in PIPELINES:
    compile_pipeline(name, pathlib.Path(folder) / f"{name}.yaml", {}, Profile(kind, **json.loads(options)))
"""


@pytest.fixture(scope="module", params=itertools.product(("a100", "cpu"), OPTIONS), ids="-".join)
def scheduled(request, tmp_path_factory):
    """Every task of the pipelines for one profile: its name, Argo's strategy, and the seconds of a try."""
    kind, options = request.param
    folder = tmp_path_factory.mktemp("retries")
    python("-c", CODE, folder, kind, json.dumps(OPTIONS[options]))
    found = []
    for name in PIPELINES:
        spec, platform = load(folder / f"{name}.yaml")
        pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        for task, one in leaves(spec).items():
            asked, pod = one["retryPolicy"], pods[definition(spec, one)["executorLabel"]]
            durations = [seconds(asked[key]) for key in ("backoffDuration", "backoffMaxDuration")]
            strategy = Strategy(asked["maxRetryCount"], durations[0], asked["backoffFactor"], durations[1], "OnError")
            found.append((f"{name}/{task}", strategy, int(pod["activeDeadlineSeconds"])))
    return found


def seconds(text):
    """A protobuf duration as KFP's compiler writes it: whole seconds."""
    assert text.endswith("s"), text
    return int(text.removesuffix("s"))


def test_every_try_has_its_full_time(scheduled):
    for task, strategy, timeout in scheduled:
        waits = sum(strategy.duration * strategy.factor**count for count in range(strategy.limit))
        assert (strategy.limit + 1) * timeout + waits <= strategy.max_duration < GO_DURATION, task
        every = [(timeout, "Error")] * strategy.limit + [(timeout, "Succeeded")]
        assert tries(strategy, every) == (every, ""), task
        assert tries(strategy, every, wait=24 * HOUR) == (every, ""), task  # a day in a queue before each of them


def test_a_try_that_dies_after_eleven_hours_is_followed_by_one_of_full_length(scheduled):
    """With the 600 s that stood here, and with the 3600 s that KFP's SDK writes for none, there is no second one."""
    for task, strategy, timeout in scheduled:
        full = (timeout, "Succeeded")
        assert timeout > DIED[0]
        assert tries(strategy, [DIED, full]) == ([DIED, full], ""), task
        for short in (600, 3600):
            ended = tries(dataclasses.replace(strategy, max_duration=short), [DIED, full])
            assert ended == ([DIED], "Max duration limit exceeded"), task


def test_no_fewer_tries_than_kfp_gives_a_task_that_asks_for_none(scheduled):
    assert all(strategy.limit >= 2 for _, strategy, _ in scheduled)


# What was measured on KFP 2.17 (policy OnError) with tasks of 3 to 60 s, and what KFP 2.16 and older do by its sources.
CODE_1, DELETED, DONE = (30, "Failed"), (30, "Error"), (30, "Succeeded")
MEASURED = [
    ("OnError", 600, [CODE_1], 1, "Node not set to be retried"),
    ("OnError", 600, [DELETED, DONE], 2, ""),
    ("OnFailure", 600, [CODE_1, DONE], 2, ""),
    ("OnFailure", 600, [DELETED], 1, "Node not set to be retried"),
    ("Always", 600, [CODE_1, DELETED, DONE], 3, ""),
    ("OnError", 100, [DELETED, DONE], 2, "Max duration limit exceeded"),  # the second is killed after 10 s
    ("OnError", 600, [DELETED] * 3, 3, "No more retries left"),
]


@pytest.mark.parametrize(("policy", "max_duration", "wanted", "count", "message"), MEASURED)
def test_the_model_gives_what_was_measured(policy, max_duration, wanted, count, message):
    done, said = tries(Strategy(2, 60, 2, max_duration, policy), wanted)
    assert (len(done), said) == (count, message)
