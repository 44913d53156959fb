"""Predictions against the pods that they run in: numbers by hand, each fault with its remedies, upper bounds."""

import pytest

from components.core.errors import ParameterError
from components.core.units import readable_hours
from components.plan.cost import A100_FLOPS, Peak
from components.plan.limits import VARIABLE, Limits, Load, Pod, Task, given_limits, misfit
from components.plan.page import pods
from tests.pages.reading import tables
from tests.plan.test_cost import PUBLISHED, ClipCost

GIB = 2**30
HOUR = 3600


def limits(hours=12, gpus=1, gib=100, device=80 * 10**9, **more):
    sft = Pod(gpus=8, memory=800 * GIB)
    return Limits(timeout=hours * HOUR, shard=Pod(gpus=gpus, memory=gib * GIB), sft=sft, device=device, **more)


def captured(shards=8, units=25_000, peak=None):
    """The paper's number of videos at the published size: 45.1 s each."""
    hours = units * ClipCost(PUBLISHED, 49, 480, 720).capture(5, 512, memory=True) / A100_FLOPS / HOUR
    return Task("attention_capture", "shard", hours, shards, units, peak=peak)


def told(tasks, given, recordable=lambda count: True):
    found = misfit(tasks, given, recordable)
    return found and str(found.error)


def test_a_shard_that_would_outlast_its_limit_is_named_with_hours_and_remedies():
    said = told([captured()], limits())
    assert captured().pod_hours(8, 1) == pytest.approx(45.1 * 3125 / HOUR, rel=2e-3)
    assert "attention_capture: 39.1 h for each of 8 shards with 1 GPU, 12.0 h are allowed" in said
    assert '27 shards fit (shards=["0/27", … "26/27"])' in said
    assert "compile --gpus-per-shard 4" in said
    assert "compile --timeout 144000" in said
    assert "over_limits=go" in said
    assert "where:  shards, compile --timeout" in said


@pytest.mark.parametrize(
    ("shards", "given", "fits"),
    [
        (27, limits(), True),
        (26, limits(), False),
        (8, limits(gpus=4), True),
        (8, limits(gpus=3), False),
        (8, limits(hours=40), True),
        (8, limits(hours=39), False),
    ],
)
def test_each_remedy_is_the_least_that_fits(shards, given, fits):
    assert (misfit([captured(shards)], given, lambda count: True) is None) is fits


@pytest.mark.parametrize(
    ("units", "pods", "processes", "most"), [(10, 3, 1, 4), (10, 3, 2, 2), (10, 3, 4, 1), (1, 8, 4, 1), (0, 8, 1, 0)]
)
def test_the_pod_with_most_to_do_counts(units, pods, processes, most):
    """Dealt out one by one: to the pods, and in each to its processes."""
    task = Task("t", "shard", 2.0 * units, pods, units)
    largest = max(
        len(range(units)[pod::pods][process::processes]) for pod in range(pods) for process in range(processes)
    )
    assert (task.pod_hours(pods, processes), largest) == (2.0 * most, most)


def test_shards_that_argo_would_not_keep_are_no_remedy():
    said = told([captured()], limits(), lambda count: count < 27)
    assert "shards fit" not in said
    assert "compile --gpus-per-shard 4" in said
    assert "shards fit" not in told([captured(units=250_000)], limits())  # more than 100


def test_remembered_work_is_no_time_and_an_upper_bound_is_told_as_one():
    assert misfit([Task("attention_capture", "shard", 0.0, 8, 0)], limits(hours=1), lambda count: True) is None
    bound = Task("tuned_eval", "benchmark", 100.0, at_most=True)
    assert "tuned_eval: at most 100 h for a pod with 1 GPU" in told([bound], limits())
    assert tables(pods([bound], limits(), []))[0][1][:3] == ["tuned_eval", "1 × 1 GPU", "≤ 100 h"]


def test_a_benchmark_and_a_node_have_remedies_of_their_own():
    said = told([Task("baseline_eval", "benchmark", 40.0, 1, 8000)], limits())
    assert "baseline_eval: 40.0 h for a pod with 1 GPU, 12.0 h are allowed" in said
    assert "shards fit" not in said
    assert "compile --gpus-per-shard 4" in said
    said = told([Task("sft", "node", 8 * 20.0, 1, 8000)], limits())
    assert "sft: 20.0 h for each of 1 node with 8 GPUs" in said
    assert "compile --sft-nodes 2" in said
    assert "--gpus-per-shard" not in said.partition("remedy")[2]


def test_main_memory_of_all_processes_is_compared_with_the_pods():
    task = captured(shards=100, peak=Peak(22 * GIB, 40 * 10**9, 70 * 10**9))
    assert misfit([task], limits(gpus=4, gib=100), lambda count: True) is None
    said = told([task], limits(gpus=4, gib=80))
    assert "attention_capture: 94.5 GB of main memory in a pod with 4 GPUs that has 85.9 GB" in said
    assert "compile --memory gpu=22Gi" in said
    # without a GPU main memory holds the device's share as well
    load = Load(task, limits(gpus=0, gib=100))
    assert (load.main, load.cramped) == (22 * GIB + 70 * 10**9, False)
    assert "compile --memory cpu=88Gi" in told([task], limits(gpus=0, gib=64))


def test_a_gpu_that_holds_the_capture_but_not_its_pictures():
    task = captured(shards=100, peak=Peak(GIB, 39 * 10**9, 69 * 10**9))
    assert misfit([task], limits(), lambda count: True) is None
    assert misfit([task], limits(device=None), lambda count: True) is None
    said = told([task], limits(device=40 * 10**9))
    assert "attention_capture: with pictures 69 GB on a GPU that has 40 GB" in said
    assert "params_attention_capture.pictures=0" in said
    said = told([task], limits(device=24 * 10**9))
    assert "attention_capture: 69 GB on a GPU that has 24 GB" in said
    assert "smaller params_ddim_inversion.num_frames, height, width" in said
    assert "pictures=0" not in said


def test_the_page_says_each_task_beside_its_limit():
    task = captured(peak=Peak(22 * GIB, 40 * 10**9, 70 * 10**9))
    found = misfit([task], limits(gpus=2), lambda count: True)
    page = pods([task], limits(gpus=2), [found])
    head, row = tables(page)[0]
    assert head == ["task", "pods", "A100 time", "main memory", "GPU memory", "pictured"]
    hours = readable_hours(task.pod_hours(8, 2))
    assert row[:3] == ["attention_capture", "8 × 2 GPUs", hours]
    assert row[3:] == ["47.2 GB of 107 GB", "40 GB", "70 GB"]
    assert "A try of a task may take 12.0 h, a GPU has 80 GB." in page
    assert page.count("**Warning:**") == len(found.faults) == 1
    assert "What fits: 14 shards fit" in page
    assert tables(pods([task], None, []))[0][1][1:3] == ["8 × 1 GPU", "39.1 h"]
    assert "No limits are known" in pods([task], None, [])


def test_limits_come_from_the_environment(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert given_limits() is None
    monkeypatch.setenv(VARIABLE, limits().model_dump_json())
    assert given_limits() == limits()
    for text in ("{", '{"timeout": 0}'):
        monkeypatch.setenv(VARIABLE, text)
        with pytest.raises(ParameterError, match="compile the pipeline again"):
            given_limits()
