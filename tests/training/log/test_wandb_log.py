"""The copy of the metrics on Weights & Biases: one run, each step once."""

import json
import multiprocessing
import os
import signal
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from configs.cluster import WandbConfig
from tests.training.log.test_metrics_file import line, write
from training.log.metrics_file import METRICS_FILE, Validation
from training.log.wandb_log import WandbLog

OFFLINE = WandbConfig(mode="offline", project="p", entity="e")
ONLINE = WandbConfig(mode="online", project="p", entity="e")


class FakeRun:
    """What wandb.init gives. `has` is the last step that the server has, or -1."""

    has = -1

    def __init__(self, **settings: Any) -> None:
        self.settings, self.rows = settings, list[dict[str, Any]]()
        self.exit_code: int | None = None
        self.step = self.has + 1

    def define_metric(self, name: str, **settings: Any) -> None:
        pass

    def log(self, row: dict[str, Any], **settings: Any) -> None:
        self.rows.append(row)

    def finish(self, *, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """The runs that are begun."""
    begun: list[FakeRun] = []

    def init(**settings: Any) -> FakeRun:
        begun.append(FakeRun(**settings))
        return begun[-1]

    monkeypatch.setattr(FakeRun, "has", -1)
    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_SILENT", "true")
    return begun


def test_a_restart_goes_on_with_the_run_and_logs_no_step_twice(tmp_path: Path, runs: list[FakeRun]) -> None:
    with WandbLog(ONLINE, tmp_path, name="model-abc", notify=print) as log:
        for step in range(1, 8):
            log.log(line(step))
    FakeRun.has = 5  # of the seven; the process was killed before it sent the others
    write(tmp_path / METRICS_FILE, range(1, 7))
    with WandbLog(ONLINE, tmp_path, name="model-abc", notify=print) as log:
        for step in range(7, 11):
            log.log(line(step))
    assert [row["step"] for row in runs[1].rows] == [6, 7, 8, 9, 10]
    first, second = (run.settings for run in runs)
    assert first["id"] == second["id"]
    assert first["resume"] == "allow"
    assert (first["project"], first["entity"], first["name"], first["mode"]) == ("p", "e", "model-abc", "online")
    assert first["dir"] == str(tmp_path)


def test_eta_is_a_number_of_its_own(tmp_path: Path, runs: list[FakeRun]) -> None:
    with WandbLog(ONLINE, tmp_path, name="n", notify=print) as log:
        log.log(line(1).model_copy(update={"eta": 0.93}))
    assert runs[0].rows[0]["eta"] == 0.93


def test_norms_by_layer_are_a_number_each(tmp_path: Path, runs: list[FakeRun]) -> None:
    with WandbLog(ONLINE, tmp_path, name="n", notify=print) as log:
        log.log(line(1).model_copy(update={"gradient_norms": {"embedding": 0.25, "layer_0": 0.5}}))
        log.log(line(2))
    with_norms, without = runs[0].rows
    assert (with_norms["gradient_norms/embedding"], with_norms["gradient_norms/layer_0"]) == (0.25, 0.5)
    assert with_norms.keys() - without.keys() == {"gradient_norms/embedding", "gradient_norms/layer_0"}


def test_a_step_that_a_roll_back_takes_again_is_not_logged_twice(tmp_path: Path, runs: list[FakeRun]) -> None:
    with WandbLog(OFFLINE, tmp_path, name="n", notify=print) as log:
        for step in (1, 2, 3, 2, 3, 4):
            log.log(line(step))
    assert [row["step"] for row in runs[0].rows] == [1, 2, 3, 4]


def test_what_wandb_refuses_is_told_once_and_ends_nothing(
    tmp_path: Path, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: FakeRun, row: dict[str, Any], **settings: Any) -> None:
        raise ValueError("refused")

    monkeypatch.setattr(FakeRun, "log", refuse)
    told: list[str] = []
    with WandbLog(OFFLINE, tmp_path, name="n", notify=told.append) as log:
        for step in range(1, 9):
            log.log(line(step))
    (said,) = told
    assert said.startswith("the copy of the metrics on Weights & Biases ends here (ValueError: refused); training goes")


def test_no_step_waits_until_the_run_is_open(
    tmp_path: Path, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_open, init = threading.Event(), wandb.init

    def slow_init(**settings: Any) -> Any:
        assert may_open.wait(60)
        return init(**settings)

    monkeypatch.setattr(wandb, "init", slow_init)
    with WandbLog(OFFLINE, tmp_path, name="n", notify=print) as log:
        for step in (1, 2):
            log.log(line(step))
        assert runs == []
        may_open.set()
    assert [row["step"] for row in runs[0].rows] == [1, 2]


@pytest.mark.parametrize(
    "error", [wandb.errors.CommError("no such project"), RuntimeError("Could not determine home"), SystemExit(1)]
)
def test_a_run_that_does_not_open_is_told_once(
    tmp_path: Path, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def refuse(**settings: Any) -> None:
        raise error

    monkeypatch.setattr(wandb, "init", refuse)
    told: list[str] = []
    with WandbLog(ONLINE, tmp_path, name="n", notify=told.append):
        pass
    assert len(told) == 1 and f"ends here ({type(error).__name__}: " in told[0]


def test_a_server_that_takes_nothing_more_holds_no_training_up_for_ever(
    tmp_path: Path, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()
    monkeypatch.setattr(FakeRun, "finish", lambda self, exit_code: may_end.wait(60))
    monkeypatch.setattr(WandbLog, "FINISHING_SECONDS", 0.1)
    told: list[str] = []
    with WandbLog(ONLINE, tmp_path, name="n", notify=told.append) as log:
        log.log(line(1))
    may_end.set()
    assert len(told) == 1 and "it did not take the rest within 0.1 s" in told[0]


def test_variables_of_wandb_are_heard(tmp_path: Path, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb" / "offline-run-20261129_000000-another").mkdir(parents=True)
    given = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_PROJECT": "mine", "WANDB_NAME": "night"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "a").mkdir()
    for config in (WandbConfig(), WandbConfig(mode="online", project="p")):
        with WandbLog(config, tmp_path / "a", name="n", notify=print):
            pass
    heard = [tuple(run.settings[key] for key in ("mode", "dir", "project", "name")) for run in runs]
    assert heard == [("offline", str(tmp_path), "mine", "night"), ("online", str(tmp_path), "p", "night")]
    assert (tmp_path / "wandb" / "offline-run-20261129_000000-another").is_dir(), "of another run"


def test_a_training_that_fails_does_not_wait_for_a_server_that_says_nothing(
    tmp_path: Path, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_open = threading.Event()
    monkeypatch.setattr(wandb, "init", lambda **settings: may_open.wait(60))
    monkeypatch.setattr(WandbLog, "CLOSING_SECONDS", 0.1)
    with pytest.raises(RuntimeError), WandbLog(ONLINE, tmp_path, name="n", notify=print):
        raise RuntimeError
    assert not may_open.is_set()
    may_open.set()


def test_a_training_that_ends_early_does_not_wait_for_its_history(
    tmp_path: Path, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / METRICS_FILE, range(1, 200))
    copied = threading.Semaphore(0)
    with monkeypatch.context() as patch:
        patch.setattr(FakeRun, "log", lambda self, row, **settings: copied.acquire(timeout=0.05))
        with pytest.raises(RuntimeError), WandbLog(OFFLINE, tmp_path, name="n", notify=print):
            raise RuntimeError
    assert runs[0].exit_code == 1
    with WandbLog(OFFLINE, tmp_path, name="n", notify=print) as log:
        log.log(line(200))
    assert [row["step"] for row in runs[1].rows] == list(range(1, 201)), "the next start copies what it lacks"


def test_another_artifact_is_another_run(tmp_path: Path, runs: list[FakeRun]) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        with WandbLog(OFFLINE, tmp_path / name, name=name, notify=print) as log:
            log.log(line(1))
    assert len({run.settings["id"] for run in runs}) == 2
    assert [len(run.rows) for run in runs] == [1, 1]


def test_a_row_is_flat_and_has_what_is_known(tmp_path: Path, runs: list[FakeRun]) -> None:
    with WandbLog(OFFLINE, tmp_path, name="n", notify=print) as log:
        log.log(line(1))
        log.log(line(2, mfu=0.4))
    first, second = runs[0].rows
    assert first == {
        "graphs_compiled": 0,
        "step": 1,
        "num_steps": 1,
        "useful_seconds": 0.0,
        "loss": 1 / 3,
        "first_place": 0,
        "bits_per_byte": 0.25,
        "learning_rate": 1e-17,
        "gradient_norm": 2.0,
        "updated": True,
        "num_skipped": 0,
        "num_rollbacks": 0,
        "num_tokens": 10**13,
        "tokens_per_second": 5.0,
        "memory_bytes": 2**30,
        "seconds/data": 0.1,
        "seconds/forward": 0.2,
        "loss_by_stream/web/sw": 0.2,
        "loss_by_stream/web/yo": 0.4,
    }
    assert second == first | {"step": 2, "mfu": 0.4}


def test_a_validation_has_names_of_its_own(tmp_path: Path, runs: list[FakeRun]) -> None:
    bits = {"web/sw": 1.5, "web/yo": 2.5}
    found = Validation(loss=3.0, bits_per_byte=2.0, nats={}, targets={}, bits_per_byte_by_stream=bits)
    with WandbLog(OFFLINE, tmp_path, name="n", notify=print) as log:
        log.log(line(1))
        log.log(line(2, validation=found))
    first, second = runs[0].rows
    assert {name: value for name, value in second.items() if name not in first} == {
        "validation/loss": 3.0,
        "validation/bits_per_byte": 2.0,
        "validation/bits_per_byte/web/sw": 1.5,
        "validation/bits_per_byte/web/yo": 2.5,
    }


def test_the_exit_code_says_whether_training_failed(tmp_path: Path, runs: list[FakeRun]) -> None:
    with WandbLog(OFFLINE, tmp_path, name="n", notify=print):
        pass
    with pytest.raises(RuntimeError), WandbLog(OFFLINE, tmp_path, name="n", notify=print):
        raise RuntimeError
    assert [run.exit_code for run in runs] == [0, 1]


def test_without_a_config_nothing_is_written(tmp_path: Path, runs: list[FakeRun]) -> None:
    with WandbLog(None, tmp_path, name="n", notify=print) as log:
        log.log(line(1))
    assert runs == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "key", "expected"), [("auto", None, "offline"), ("auto", "k", "online"), ("online", None, "online")]
)
def test_auto_is_online_where_there_is_a_key(
    tmp_path: Path, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch, mode: Any, key: str | None, expected: str
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key * 40)
    with WandbLog(WandbConfig(mode=mode), tmp_path, name="n", notify=print):
        pass
    assert runs[0].settings["mode"] == expected


def log_and_die(directory: Path) -> None:
    log = WandbLog(OFFLINE, directory, name="n", notify=print).__enter__()
    for step in range(1, 6):
        log.log(line(step))
    while log._next <= 5:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def records(file: Path) -> Iterator[bytes]:
    """What a .wandb file holds: LevelDB's log format, after a header of 7 bytes, in blocks of 32 KiB."""
    data, position, record = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def logged_steps(directory: Path) -> list[int]:
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # or what finish() has handed to the service may not be in the file yet
    steps = []
    for file in (directory / "wandb").glob("offline-run-*/run-*.wandb"):
        for data in records(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            values = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            steps += [int(json.loads(values["step"]))] if "step" in values else []
    return steps


def test_a_killed_offline_run_lacks_no_step_and_has_none_twice_once_it_is_resumed(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=log_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    write(tmp_path / METRICS_FILE, range(1, 5))
    with WandbLog(OFFLINE, tmp_path, name="n", notify=print) as log:
        for step in (5, 6):
            log.log(line(step))
    assert logged_steps(tmp_path) == [1, 2, 3, 4, 5, 6]
