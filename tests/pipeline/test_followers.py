"""A step follows another that is still made: beside it, in a thread, and whatever it does the other is made."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.executor import Executor
from configs.base import Artifact, Unfinished, UserError
from pipeline.graph.stage import stage
from tests.pipeline.toys import STAGES, Repeat, Text, ToyRun, ToyStep, Write, planned, run


class Follow(Repeat):
    """Config of a stage that follows."""


class Rooms:
    """Two stages that wait for each other, so that they are made at once or not at all."""

    def __init__(self) -> None:
        self.begun, self.followed = threading.Event(), threading.Event()
        self.threads: list[str] = []
        self.fails = 0

    def write(self, config: Write, *, out: Path, executor: Executor) -> Text:
        assert not self.threads  # it has not begun before this has what it needs
        (out / "half.txt").write_text("half")
        self.begun.set()
        self.followed.wait(10 if config.text == "long" else 0)
        (out / "text.txt").write_text(config.text)
        if config.text == "broken":
            raise UserError("it broke")
        return Text(path="text.txt")

    def follow(self, config: Follow, *, text: Artifact[Text] | Unfinished[Text], out: Path, executor: Executor) -> Text:
        self.threads.append(type(text).__name__)
        if self.fails and isinstance(text, Unfinished):
            self.followed.set()
            raise RuntimeError("a fault of the follower")
        self.followed.set()
        while isinstance(text, Unfinished) and text.find() is None:
            time.sleep(0.01)
        (out / "text.txt").write_text((text.dir / "text.txt").read_text())
        return Text(path="text.txt")


def made(tmp_path: Path, rooms: Rooms, *, text: str = "long", pool: str = "other", has_room: bool = True) -> Any:
    stages = STAGES | {
        "write": stage(rooms.write, version=1, progress_file="half.txt"),
        "follow": stage(rooms.follow, version=1, follows=lambda config: config.times == 2),
    }
    steps = {
        "first": ToyStep("write", Write(text=text)),
        "after": ToyStep("follow", Follow(), {"text": "first"}, pool=pool),
    }
    plan = planned(ToyRun(steps, ("after",)), stages)
    return run(tmp_path, plan, stages, has_room_beside=has_room)


def test_a_step_is_made_beside_the_one_that_it_follows(tmp_path):
    rooms = Rooms()
    outcome = made(tmp_path, rooms)
    assert rooms.threads == ["Unfinished"] and sorted(outcome.made) == ["after", "first"]
    assert (outcome.artifacts["after"].dir / "text.txt").read_text() == "long"


@pytest.mark.parametrize(("pool", "has_room"), [("default", True), ("other", False)])
def test_without_a_pool_of_its_own_or_workers_it_is_made_after(tmp_path, pool, has_room):
    rooms = Rooms()
    made(tmp_path, rooms, text="short", pool=pool, has_room=has_room)
    assert rooms.threads == ["Artifact"]


def test_a_follower_that_fails_is_made_again_after_and_the_other_is_made(tmp_path, capsys):
    rooms = Rooms()
    rooms.fails = 1
    outcome = made(tmp_path, rooms)
    assert rooms.threads == ["Unfinished", "Artifact"] and sorted(set(outcome.made)) == ["after", "first"]
    assert "stopped, and is begun again after it: a fault of the follower" in capsys.readouterr().err


def test_where_what_it_follows_fails_a_follower_ends(tmp_path):
    rooms = Rooms()
    before = threading.active_count()
    with pytest.raises(UserError, match="it broke"):
        made(tmp_path, rooms, text="broken")
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
