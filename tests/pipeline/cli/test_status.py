"""What `concord status` says of a training that is under way."""

from pathlib import Path
from typing import Any

import pytest

from cluster.leases.lease import lease
from configs.base import Artifact
from configs.training.train import TrainConfig
from pipeline.cli import status
from pipeline.cli.status import describe_mfu, step_state, training_rows
from pipeline.graph.plan import PlannedStep
from pipeline.store.artifact import BUILD_COUNT_FILE
from tests.training.checkpoint.test_directory import record
from tests.training.log.test_metrics_file import line
from tests.training.log.test_sessions_file import gang_start, session
from training.log.metrics_file import METRICS_FILE, Validation
from training.log.sessions_file import SESSIONS_FILE
from training.manifests import TrainedModel
from training.records import OrderRecord, StreamRecord

CONFIG = TrainConfig.model_validate(
    {
        "model": {"hidden_size": 8, "intermediate_size": 8, "num_layers": 1, "num_attention_heads": 1},
        "sequence_length": 8,
        "global_batch_size": 1,
        "num_steps": 100,
        "optimizer": {"learning_rate": 0.001},
        "schedule": {"kind": "cosine", "num_warmup_steps": 0},
    }
)


def train_on(directory: Path, *, num_steps: int, **last: Any) -> None:
    """Write what a training leaves that took steps of 3 seconds each, and lost one to a restart."""
    directory.mkdir(parents=True, exist_ok=True)
    seconds = {"data": 0.1, "forward": 0.4, "backward": 1.5}
    lines = [line(i, time=100.0 + 3 * i, seconds=seconds) for i in range(1, num_steps)]
    lines.append(line(num_steps, time=100.0 + 3 * num_steps, seconds=seconds, useful_seconds=3.0 * num_steps, **last))
    (directory / METRICS_FILE).write_text("".join(f"{step.model_dump_json()}\n" for step in lines))
    events = [
        session(100),
        gang_start(100),
        gang_start(109, step=2, lost_steps=1, lost_until=109, device="NVIDIA Quartz"),
    ]
    (directory / SESSIONS_FILE).write_text("".join(f"{event.model_dump_json()}\n" for event in events))


def planned() -> PlannedStep:
    return PlannedStep("model", "model", "train", 1, CONFIG, None, {}, "default", "f" * 64)


def test_a_running_training_is_described(tmp_path: Path) -> None:
    train_on(tmp_path, num_steps=40, loss=3.25, bits_per_byte=1.125, learning_rate=3e-4, num_skipped=1, num_rollbacks=2)
    for step in (20, 30):
        (tmp_path / f"checkpoints/step-{step:08d}").mkdir(parents=True)
        (tmp_path / f"checkpoints/step-{step:08d}/checkpoint.json").touch()
    (tmp_path / "checkpoints/.step-00000040.partial").mkdir()
    assert dict(training_rows(tmp_path, CONFIG.num_steps, running=True)) == {
        "step": "40 of 100, 3 min 00 s left",
        "loss": "3.250 nats a token, 1.125 bits per byte",
        "learning rate": "0.0003",
        "speed": "5 tokens/s, MFU unknown: NVIDIA Quartz is not in the table",
        "ranks": "2 ranks of NVIDIA Quartz, ZeRO stage 1: h, i",
        "memory": "1.00 GiB on rank 0",
        "time": "backward 75%, forward 20%, data 5% over 20 steps",
        "goodput": "100.0%, with 1 restart and 1 step taken again",
        "checkpoint": "step 30",
        "trouble": "1 step skipped, 2 roll-backs",
    }


def test_what_was_held_out_and_how_often_each_stream_was_read_is_told(tmp_path: Path) -> None:
    found = Validation(loss=3.5, bits_per_byte=1.25, nats={}, targets={}, bits_per_byte_by_stream={})
    train_on(tmp_path, num_steps=30, validation=found)
    streams = (StreamRecord(source="web", language="sw", num_tokens=101, num_bytes=300),)
    order = OrderRecord(seed=0, sequence_length=8, streams=streams, phases=(), tokens="tokenize-0")
    for step, loss in ((20, 3.25), (30, 3.5)):
        directory = tmp_path / f"checkpoints/step-{step:08d}"
        directory.mkdir(parents=True)
        saved = record(step, world_size=1, validation_loss=loss, own=True)
        saved = saved.model_copy(update={"order": order, "tokens_read": {"web/sw": 2 * step}})
        (directory / "checkpoint.json").write_text(saved.sealed().model_dump_json())
    rows = dict(training_rows(tmp_path, 100, running=True))
    assert rows["held out"] == "3.500 nats a token, 1.250 bits per byte after step 30; best checkpoint: step 20, 3.250"
    assert rows["epochs"] == "0.60 times all text, up to the checkpoint"
    assert rows["web/sw"] == "0.60 times: 60 tokens read of 100"


def test_a_stopped_training_has_no_time_left_and_no_trouble_it_did_not_have(tmp_path: Path) -> None:
    train_on(tmp_path, num_steps=2)
    rows = dict(training_rows(tmp_path, CONFIG.num_steps, running=False))
    assert rows["step"] == "2 of 100"
    assert rows["checkpoint"] == "none yet"
    assert "trouble" not in rows


def test_nothing_is_said_before_the_first_step(tmp_path: Path) -> None:
    assert training_rows(tmp_path / "missing", CONFIG.num_steps, running=True) == []
    assert step_state(planned(), tmp_path) == ("not begun", [])


def test_a_state_says_who_is_at_it(tmp_path: Path) -> None:
    step = planned()
    train_on(tmp_path / step.artifact, num_steps=3)
    (tmp_path / step.artifact / BUILD_COUNT_FILE).write_text("1")
    state, rows = step_state(step, tmp_path)
    assert state == "begun and stopped"
    assert ("step", "3 of 100") in rows
    with lease(tmp_path, step.artifact, what="step 'model'"):
        state, rows = step_state(step, tmp_path)
    assert state.startswith("being made by process ")
    assert ("step", "3 of 100, 4 min 51 s left") in rows


def test_a_finished_training_says_how_often_each_stream_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, checkpoint = planned(), "checkpoints/step-00000030"
    streams = (StreamRecord(source="web", language="sw", num_tokens=101, num_bytes=300),)
    order = OrderRecord(seed=0, sequence_length=8, streams=streams, phases=(), tokens="tokenize-0")
    saved = record(30, world_size=1).model_copy(update={"order": order, "tokens_read": {"web/sw": 60}})
    (tmp_path / step.artifact / checkpoint).mkdir(parents=True)
    (tmp_path / step.artifact / checkpoint / "checkpoint.json").write_text(saved.sealed().model_dump_json())
    made = TrainedModel.model_construct(checkpoint=checkpoint)
    monkeypatch.setattr(TrainedModel, "summary", lambda self: "a model")
    monkeypatch.setattr(status, "load_artifact", lambda path, kind: Artifact(path, made))
    assert step_state(step, tmp_path) == (
        "done: a model",
        [("epochs", "0.60 times all text"), ("web/sw", "0.60 times: 60 tokens read of 100")],
    )


def test_steps_that_are_about_to_be_taken_again_are_not_counted(tmp_path: Path) -> None:
    train_on(tmp_path, num_steps=40)
    (tmp_path / "checkpoints/step-00000030").mkdir(parents=True)
    (tmp_path / "checkpoints/step-00000030/checkpoint.json").touch()
    with (tmp_path / SESSIONS_FILE).open("a") as file:
        file.write(f"{session(500).model_dump_json()}\n")
    assert dict(training_rows(tmp_path, CONFIG.num_steps, running=True))["step"].startswith("30 of 100")
    assert dict(training_rows(tmp_path, CONFIG.num_steps, running=False))["step"] == "40 of 100"


@pytest.mark.parametrize(
    ("value", "device", "text"),
    [
        (0.4125, "NVIDIA H100 80GB HBM3", "MFU 41.2%"),
        (None, "cpu", "MFU unknown: cpu is not in the table"),
        (None, "NVIDIA H100 80GB HBM3", "MFU unknown: the FLOPs of this architecture are not"),
    ],
)
def test_an_mfu_that_is_not_known_has_a_reason(value: float | None, device: str, text: str) -> None:
    assert describe_mfu(value, device).startswith(text)
