"""The rows of a training, and TensorBoard, W&B and MLflow, offline: what they hold is read back by their packages."""

import json
import logging
import math
import sys
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from components.core.errors import ParameterError
from components.sft import tracking
from components.sft.tracking import TrainingLog, check_tracker
from components.store.entries import Store

KEY = "0123456789abcdef0123456789abcdef"
CONFIG = {"lr_llm": 1e-5, "tuning": "lora", "viewing": {"fps": 1.0}}
SPEED = {"samples_per_second": 1.5, "tokens_per_second": 3000.0, "data_wait_share": 0.25, "peak_memory_gib": 61.5}
SPEED |= {"mfu": 0.375}
ROWS = [{"step": 0, "steps": 2, "val_ar": 3.0}, {"step": 1, "ar": 2.5}, {"step": 2, "ar": 2.0}]
EXPECTED = {"ar": {1: 2.5, 2: 2.0}, "val_ar": {0: 3.0}} | {f"speed/{name}": {2: value} for name, value in SPEED.items()}


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store")).backend


@pytest.fixture
def begin(store, tmp_path):
    """A log in a folder of its own; every call is another process of the same training."""
    count = iter(range(10))

    def make(main=True, tracker="none"):
        folder = tmp_path / f"out-{next(count)}"
        return TrainingLog(store, KEY, main=main, folder=folder, tracker=tracker, config=CONFIG)

    return make


def filled(one):
    for row in ROWS:
        one.add(dict(row), SPEED if row["step"] == 2 else None)
    return one


def board(store):
    """All scalars that TensorBoard reads in the store's folder: {name: {step: value}}."""
    events = EventAccumulator(str(store.local(f"sft/{KEY}/tensorboard/speed.jsonl").parent)).Reload()
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}


def kept_speed(store):
    return [json.loads(line) for line in store.get(f"sft/{KEY}/tensorboard/speed.jsonl").splitlines()]


def test_tensorboard_has_results_and_speed_when_it_is_closed(begin, store):
    one = filled(begin())
    one.close()
    one.close()
    assert board(store).items() >= EXPECTED.items()
    assert kept_speed(store) == [{"step": 2, **SPEED}]


def test_the_log_has_no_timing_and_every_process_has_it(begin, tmp_path):
    logs = [filled(begin(main=main)) for main in (True, False)]
    for index, one in enumerate(logs):
        (tmp_path / f"{index}.jsonl").write_bytes(one.text())
        one.close()
    assert (tmp_path / "0.jsonl").read_bytes() == (tmp_path / "1.jsonl").read_bytes()
    assert [json.loads(line) for line in (tmp_path / "0.jsonl").read_bytes().splitlines()] == ROWS
    assert not logs[1].folder.exists()


def test_a_resumed_run_replaces_what_it_does_again(begin, store, tmp_path):
    first = begin()
    for step in range(5):
        first.add({"step": step, "ar": float(step)}, {"mfu": 0.1})
        if step == 2:
            (tmp_path / "log.jsonl").write_bytes(first.text())
    first.close()
    second = begin()
    second.read((tmp_path / "log.jsonl").read_bytes())
    second.add({"step": 3, "ar": 30.0}, {"mfu": 0.3})
    second.close()
    assert [row["ar"] for row in second.rows] == [0.0, 1.0, 2.0, 30.0]
    assert board(store)["ar"] == {0: 0.0, 1: 1.0, 2: 2.0, 3: 30.0}
    assert [(row["step"], row["mfu"]) for row in kept_speed(store)] == [(0, 0.1), (1, 0.1), (2, 0.1), (3, 0.3)]


def test_validated_rows_are_printed_with_their_speed_and_others_once_a_minute(begin, caplog, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(tracking.time, "monotonic", lambda: clock[0])
    with caplog.at_level(logging.INFO, "components.sft.tracking"):
        one = begin()
        one.add({"step": 1, "ar": 2.0, "val_ar": 4.0}, {"mfu": 0.5})
        for step in range(2, 10):
            clock[0] += 25.0
            one.add({"step": step, "ar": 1.0}, {"mfu": 0.25})
        begin(main=False).add({"step": 1, "val_ar": 4.0})
    one.close()
    assert caplog.messages[0] == "step 1: ar 2, val_ar 4, mfu 0.5"
    assert [message.split(":")[0] for message in caplog.messages] == ["step 1", "step 4", "step 7"]
    assert caplog.messages[1] == "step 4: ar 1, mfu 0.25"


# Trackers -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def wandb_place(monkeypatch, tmp_path):
    """W&B without its server: its files' folder."""
    settings = {"MODE": "offline", "DIR": str(tmp_path / "runs"), "PROJECT": "motion", "SILENT": "true"}
    for name, value in settings.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    return tmp_path / "runs"


@pytest.fixture
def mlflow_place(monkeypatch, tmp_path):
    """MLflow without a server: the address of a folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "runs").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "runs").as_uri()


def wandb_records(file):
    """Records of W&B's own run file, by kind."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    data = DataStore()
    data.open_for_scan(str(file))
    found = {}
    while (piece := data.scan_data()) is not None:
        record = Record.FromString(bytes(piece))
        kind = record.WhichOneof("record_type")
        found.setdefault(kind, []).append(getattr(record, kind))
    return found


@pytest.mark.parametrize("failed", [False, True])
def test_wandb_offline(begin, wandb_place, failed):
    filled(begin(tracker="wandb")).close(failed)
    begin(main=False, tracker="wandb").close()
    (file,) = wandb_place.rglob("*.wandb")
    found = wandb_records(file)
    run, scalars = found["run"][0], {}
    assert (run.project, run.display_name, run.run_group) == ("motion", KEY, KEY)
    assert {item.key: json.loads(item.value_json) for item in run.config.update if item.key in CONFIG} == CONFIG
    for history in found["history"]:
        for item in history.item:
            name = item.key or "/".join(item.nested_key)
            scalars.setdefault(name, {})[history.step.num] = json.loads(item.value_json)
    assert scalars.items() >= EXPECTED.items()
    assert found["exit"][0].exit_code == int(failed)


@pytest.mark.parametrize("failed", [False, True])
def test_mlflow_in_a_folder(begin, mlflow_place, monkeypatch, failed):
    from mlflow import MlflowClient
    from mlflow.store.tracking.file_store import FileStore

    def slow(*args, real=FileStore.log_batch, **kwargs):  # so that closing has something to wait for
        time.sleep(0.2)
        return real(*args, **kwargs)

    monkeypatch.setattr(FileStore, "log_batch", slow)
    filled(begin(tracker="mlflow")).close(failed)
    begin(main=False, tracker="mlflow").close()
    client = MlflowClient(mlflow_place)
    (run,) = client.search_runs([client.get_experiment_by_name("motion-enhancer").experiment_id])
    assert (run.info.run_name, run.info.status) == (KEY, "FAILED" if failed else "FINISHED")
    assert run.data.params == {name: str(value) for name, value in CONFIG.items()}
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in EXPECTED}
    assert {name: {point.step: point.value for point in points} for name, points in histories.items()} == EXPECTED


def test_a_server_that_goes_away_stops_no_training(begin, mlflow_place, monkeypatch, caplog):
    from mlflow import MlflowException
    from mlflow.store.tracking.file_store import FileStore

    there = [True]

    def answered(real):
        def call(*args, **kwargs):
            if not there[0]:
                raise MlflowException("no answer")
            return real(*args, **kwargs)

        return call

    for name in ("log_batch", "update_run_info"):
        monkeypatch.setattr(FileStore, name, answered(getattr(FileStore, name)))
    one = begin(tracker="mlflow")
    there[0] = False
    filled(one).close()
    assert len(one.rows) == 3
    assert "stays open: no answer" in caplog.text


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_extra_in_every_process(begin, monkeypatch, tracker):
    monkeypatch.setitem(sys.modules, tracker, None)
    for main in (True, False):
        with pytest.raises(ParameterError, match=rf"(?s){tracker} is not installed.*motion-enhancer\[tracking\]"):
            begin(main=main, tracker=tracker)
    check_tracker("none")


def test_nothing_is_written_where_it_would_be_lost(begin, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ParameterError, match="WANDB_DIR"):
        begin(tracker="wandb")
    with pytest.raises(ParameterError, match="MLFLOW_TRACKING_URI"):
        begin(tracker="mlflow")


def test_a_tracker_that_does_not_start_says_what_to_check(begin, mlflow_place, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)  # to go on with a run that is not there
    with pytest.raises(ParameterError, match=r"(?s)mlflow does not start: .*MLFLOW_… variables"):
        begin(tracker="mlflow")


def test_a_number_that_is_none_is_shown(begin, store):
    """A gradient that overflowed is a fact to be seen."""
    one = begin()
    one.add({"step": 1, "grad": math.inf})
    one.close()
    assert board(store)["grad"] == {1: math.inf}
