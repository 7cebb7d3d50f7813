"""The copy of the metrics on Weights & Biases: one run, each step once."""

import json
from pathlib import Path
from typing import Any

import pytest
import wandb

from configs.cluster import WandbConfig
from tests.training.test_metrics import line
from training.wandb_log import WandbLog

OFFLINE = WandbConfig(mode="offline", project="p", entity="e")


class FakeRun:
    """What wandb.init gives."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.rows = settings, list[dict[str, Any]]()
        self.exit_code: int | None = None

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

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_SILENT", "true")
    return begun


def test_a_restart_goes_on_with_the_run_and_logs_no_step_twice(tmp_path: Path, runs: list[FakeRun]) -> None:
    with WandbLog(OFFLINE, tmp_path, name="model-abc") as log:
        for step in range(1, 8):
            log.log(line(step))
    with WandbLog(OFFLINE, tmp_path, name="model-abc") as log:  # from the checkpoint of step 5
        for step in range(6, 11):
            log.log(line(step))
    assert [[row["step"] for row in run.rows] for run in runs] == [[1, 2, 3, 4, 5, 6, 7], [8, 9, 10]]
    first, second = (run.settings for run in runs)
    assert first["id"] == second["id"]
    assert first["resume"] == "allow"
    assert (first["project"], first["entity"], first["name"], first["mode"]) == ("p", "e", "model-abc", "offline")
    assert first["dir"] == str(tmp_path)


def test_a_killed_run_has_noted_what_it_logged(tmp_path: Path, runs: list[FakeRun]) -> None:
    log = WandbLog(OFFLINE, tmp_path, name="n").__enter__()
    log.log(line(1))
    log.log(line(2))  # and the process ends here
    with WandbLog(OFFLINE, tmp_path, name="n") as again:
        again.log(line(2))
        again.log(line(3))
    assert [row["step"] for run in runs for row in run.rows] == [1, 2, 3]


def test_another_artifact_is_another_run(tmp_path: Path, runs: list[FakeRun]) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        with WandbLog(OFFLINE, tmp_path / name, name=name) as log:
            log.log(line(1))
    assert len({run.settings["id"] for run in runs}) == 2
    assert [len(run.rows) for run in runs] == [1, 1]


def test_a_row_has_the_metrics_and_the_seconds_of_each_part(tmp_path: Path, runs: list[FakeRun]) -> None:
    with WandbLog(OFFLINE, tmp_path, name="n") as log:
        log.log(line(1))
    expected = line(1).model_dump(exclude={"seconds", "time"}) | {"seconds/data": 0.1, "seconds/forward": 0.2}
    assert runs[0].rows == [expected]


def test_the_exit_code_says_whether_training_failed(tmp_path: Path, runs: list[FakeRun]) -> None:
    with WandbLog(OFFLINE, tmp_path, name="n"):
        pass
    with pytest.raises(RuntimeError), WandbLog(OFFLINE, tmp_path, name="n"):
        raise RuntimeError
    assert [run.exit_code for run in runs] == [0, 1]


def test_without_a_config_nothing_is_written(tmp_path: Path, runs: list[FakeRun]) -> None:
    with WandbLog(None, tmp_path, name="n") as log:
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
    with WandbLog(WandbConfig(mode=mode), tmp_path, name="n"):
        pass
    assert runs[0].settings["mode"] == expected


def test_the_real_library_keeps_an_offline_run_beside_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    for steps in ((1, 2), (2, 3)):
        with WandbLog(OFFLINE, tmp_path, name="n") as log:
            for step in steps:
                log.log(line(step))
    state = json.loads((tmp_path / "wandb.json").read_text())
    assert state["last_step"] == 3
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{state['id']}/run-{state['id']}.wandb"))
