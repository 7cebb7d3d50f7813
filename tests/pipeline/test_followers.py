"""Steps that are ready, or follow the one that is made, are made beside it, in threads, where pools have room."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.executor import Executor
from cluster.leases.lease import LeaseHeld
from configs.base import Artifact, StartUpError, Unfinished, UserError
from pipeline import followers
from pipeline.graph.stage import stage
from tests.pipeline.toys import STAGES, Outcome, Repeat, Text, ToyRun, ToyStep, Write, planned, run, write

SECONDS = 60.0
"""Limit of a wait for what another thread does."""


@contextmanager
def threads_end() -> Iterator[None]:
    """Expect the threads that were begun in the block to end soon after it."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + SECONDS
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) - before == set()


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
    assert "'after' stopped beside another, and is begun again at its turn: a fault" in capsys.readouterr().err


def test_where_what_it_follows_fails_a_follower_ends(tmp_path):
    rooms = Rooms()
    with threads_end(), pytest.raises(UserError, match="it broke"):
        made(tmp_path, rooms, text="broken")


class Acts:
    """A stage that does, for each text, what is set for it, and counts how often and in which thread it did."""

    def __init__(self, **acts: Callable[[], object]) -> None:
        self.acts, self.began = acts, Counter[str]()
        self.in_main: set[str] = set()

    def write(self, config: Write, *, out: Path, executor: Executor) -> Text:
        self.began[config.text] += 1
        if threading.current_thread() is threading.main_thread():
            self.in_main.add(config.text)
        self.acts.get(config.text, lambda: None)()
        return write(config, out=out, executor=executor)

    def run(self, store: Path, steps: Mapping[str, ToyStep], has_room: bool = True, **other: Any) -> Outcome:
        stages = STAGES | {"write": stage(self.write, version=1), "train": stage(self.train, version=1)}
        stages["train"] = replace(stages["train"], progress_file="metrics.txt")
        return run(store, planned(ToyRun(steps), stages), stages, has_room_beside=has_room, **other)

    def train(self, config: Write, *, out: Path, executor: Executor) -> Text:
        assert threading.current_thread() is threading.main_thread()
        self.acts["train"]()
        (out / "metrics.txt").write_text("a step")
        self.acts.get(config.text, lambda: None)()
        return write(config, out=out, executor=executor)


def wait(event: threading.Event) -> None:
    assert event.wait(SECONDS)


def writes(**pools: str) -> dict[str, ToyStep]:
    """Steps that take nothing and write their names, by pool."""
    return {name: ToyStep("write", Write(text=name), pool=pool) for name, pool in pools.items()}


def test_steps_of_two_pools_are_made_at_once(tmp_path):
    barrier = threading.Barrier(2, timeout=SECONDS)
    acts = Acts(one=barrier.wait, two=barrier.wait)
    with threads_end():
        outcome = acts.run(tmp_path, writes(one="default", two="other"))
    assert sorted(outcome.made) == ["one", "two"] == sorted(outcome.artifacts)
    assert acts.in_main == {"one"} and set(acts.began.values()) == {1}


def test_without_room_one_is_made_after_the_other(tmp_path):
    acts = Acts()
    outcome = acts.run(tmp_path, writes(one="default", two="other", three="third"), has_room=False)
    assert outcome.made == ["one", "two", "three"] and acts.in_main == {"one", "two", "three"}


def test_steps_of_one_pool_are_never_made_at_once(tmp_path):
    """The main thread waits for `long` when `last` begins beside it: `next` had many chances before."""
    begun = {name: threading.Event() for name in ("long", "last")}

    def be_long() -> None:
        begun["long"].set()
        wait(begun["last"])
        assert not acts.began["next"]

    acts = Acts(first=lambda: wait(begun["long"]), long=be_long, last=begun["last"].set)
    outcome = acts.run(tmp_path, writes(first="default", long="other", next="other", last="default"))
    assert sorted(outcome.made) == ["first", "last", "long", "next"] and set(acts.began.values()) == {1}


def test_the_main_thread_waits_for_a_pool_that_another_step_has(tmp_path):
    """At the turn of `twice` its pool has `side`, which was begun while `twice` was not ready."""
    begun, is_made = threading.Event(), threading.Event()
    ended: list[str] = []

    def be_long() -> None:
        begun.set()
        wait(is_made)
        assert ended == ["first"]

    def end(name: str) -> None:
        ended.append(name)
        is_made.set()

    steps = {
        **writes(first="default"),
        "twice": ToyStep("repeat", Repeat(), {"text": "first"}, pool="other"),
        **writes(side="other"),
    }
    acts = Acts(first=lambda: wait(begun), side=be_long)
    acts.run(tmp_path, steps, on_end=end)
    assert ended == ["first", "side", "twice"]


def test_a_chain_goes_on_in_another_pool_while_a_step_is_long(tmp_path):
    is_over = threading.Event()
    steps = {
        **writes(long="default", other="other"),
        "twice": ToyStep("repeat", Repeat(), {"text": "other"}, pool="other"),
        "again": ToyStep("repeat", Repeat(times=3), {"text": "twice"}, pool="third"),
    }
    outcome = Acts(long=lambda: wait(is_over)).run(
        tmp_path, steps, on_end=lambda name: is_over.set() if name == "again" else None
    )
    assert outcome.made == ["other", "twice", "again", "long"]
    assert (outcome.artifacts["again"].dir / "text.txt").read_text() == "other" * 6


def test_a_step_that_fails_beside_is_made_at_its_turn(tmp_path, capsys):
    failed = threading.Event()

    def fail_beside() -> None:
        if not failed.is_set():
            failed.set()
            raise UserError("bad luck")

    acts = Acts(one=lambda: wait(failed), two=fail_beside)
    outcome = acts.run(tmp_path, writes(one="default", two="other"))
    assert outcome.made == ["one", "two"] and acts.began["two"] == 2 and "two" in acts.in_main
    said = "  step 'two' stopped beside another, and is begun again at its turn: bad luck"
    assert [line for line in capsys.readouterr().err.splitlines() if "two" in line] == [said]


def test_a_step_that_fails_at_its_turn_too_ends_the_run(tmp_path):
    failed = threading.Event()

    def fail_always() -> None:
        failed.set()
        raise UserError("it is broken")

    acts = Acts(one=lambda: wait(failed), two=fail_always)
    with threads_end(), pytest.raises(UserError, match=r"^step 'two': it is broken$"):
        acts.run(tmp_path, writes(one="default", two="other", three="default"))
    assert acts.began["two"] == 2


def test_where_the_main_step_fails_those_beside_end_and_nothing_is_told_of_them(tmp_path, capsys):
    begun, told = threading.Event(), list[str]()

    def break_down() -> None:
        wait(begun)
        raise UserError("it broke")

    def be_long() -> None:
        begun.set()
        while True:
            time.sleep(0.01)

    acts = Acts(one=break_down, two=be_long)
    with threads_end(), pytest.raises(UserError, match=r"^step 'one': it broke$"):
        acts.run(tmp_path, writes(one="default", two="other", three="other"), on_end=told.append)
    assert told == [] and acts.began == {"one": 1, "two": 1} and capsys.readouterr().err == ""
    assert Acts().run(tmp_path, writes(two="other")).made == ["two"]


def test_a_step_beside_that_does_not_end_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(followers, "SECONDS_TO_END", 0.01)
    begun, released, told = threading.Event(), threading.Event(), list[str]()

    def break_down() -> None:
        wait(begun)
        raise UserError("it broke")

    acts = Acts(one=break_down, two=lambda: (begun.set(), wait(released)))
    with threads_end():
        with pytest.raises(UserError, match="it broke"):
            acts.run(tmp_path, writes(one="default", two="other"), on_end=told.append)
        released.set()
    assert told == []


def test_what_is_found_wrong_with_a_step_beside_ends_the_run_at_the_next_turn(tmp_path):
    """As data that a training cannot be made from: said when the step ends, not when it is its turn."""
    told = threading.Event()

    def end(name: str) -> None:
        if name == "bad":
            told.set()
            raise UserError("no such language")

    acts = Acts(one=lambda: wait(told))
    with threads_end(), pytest.raises(UserError, match=r"^no such language$"):
        acts.run(tmp_path, writes(one="default", two="default", bad="other"), on_end=end)
    assert acts.began == {"one": 1, "bad": 1}


def test_what_is_found_wrong_while_the_main_thread_waits_ends_the_run(tmp_path, capsys):
    begun, ended = threading.Event(), threading.Event()

    def end(name: str) -> None:
        if name == "bad":
            raise UserError("no such language")
        ended.set()

    acts = Acts(one=lambda: wait(begun), bad=lambda: (begun.set(), wait(ended)))
    with threads_end(), pytest.raises(UserError, match=r"^no such language$"):
        acts.run(tmp_path, writes(one="default", bad="other"), on_end=end)
    assert acts.began == {"one": 1, "bad": 1} and "stopped" not in capsys.readouterr().err


def test_callbacks_are_called_one_at_a_time(tmp_path):
    barrier = threading.Barrier(3, timeout=SECONDS)
    inside = threading.Lock()

    def end(name: str) -> None:
        assert inside.acquire(blocking=False)
        time.sleep(0.01)
        inside.release()

    acts = Acts(one=barrier.wait, two=barrier.wait, three=barrier.wait)
    outcome = acts.run(tmp_path, writes(one="default", two="other", three="third"), on_end=end)
    assert len(outcome.made) == 3


def test_a_signal_ends_the_run_while_the_main_thread_waits(tmp_path):
    begun, joined, released = threading.Event(), threading.Event(), threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    class Ended(Exception):
        pass

    def end(number: int, frame: object) -> None:
        raise Ended

    def be_long() -> None:
        begun.set()
        wait(joined)
        signal.pthread_kill(main, signal.SIGUSR1)
        wait(released)

    before = signal.signal(signal.SIGUSR1, end)
    try:
        with threads_end():
            with pytest.raises(Ended):
                acts = Acts(one=lambda: wait(begun), two=be_long)
                acts.run(tmp_path, writes(one="default", two="other"), on_end=lambda name: joined.set())
            released.set()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_nothing_begins_beside_a_training_before_it_has_its_places(tmp_path, monkeypatch):
    looks, begun = threading.Semaphore(0), threading.Event()
    state_of = followers._state_of

    def look(path: Path) -> Any:
        looks.release()
        return state_of(path)

    def wait_for_looks() -> None:
        assert all(looks.acquire(timeout=SECONDS) for _ in range(5))
        assert not begun.is_set()

    monkeypatch.setattr(followers, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(followers, "_state_of", look)
    steps = {"model": ToyStep("train", Write(text="model")), **writes(side="other")}
    acts = Acts(train=wait_for_looks, model=lambda: wait(begun), side=begun.set)
    assert acts.run(tmp_path, steps).made in (["side", "model"], ["model", "side"])


def test_a_training_is_made_by_the_main_thread_which_hears_signals(tmp_path):
    told = threading.Event()
    steps = {
        **writes(one="default"),
        "model": ToyStep("train", Write(text="model"), pool="other"),
        **writes(two="third"),
    }
    acts = Acts(one=lambda: wait(told), train=lambda: None)
    outcome = acts.run(tmp_path, steps, on_end=lambda name: told.set() if name == "two" else None)
    assert outcome.made == ["two", "one", "model"]


def test_a_step_that_finds_no_places_is_begun_again_once_those_beside_have_ended(tmp_path, capsys):
    begun, released = threading.Event(), threading.Event()

    def find_no_places() -> None:
        wait(begun)
        if not released.is_set():
            released.set()
            raise StartUpError("no places became free")

    acts = Acts(one=find_no_places, side=lambda: (begun.set(), wait(released)))
    outcome = acts.run(tmp_path, writes(one="default", side="other", two="other"))
    assert outcome.made == ["side", "one", "two"] and acts.began == {"one": 2, "side": 1, "two": 1}
    assert "step 'one': no places became free; what was made beside it has ended" in capsys.readouterr().err


def test_what_another_process_makes_is_not_waited_for(tmp_path):
    begun, released = threading.Event(), threading.Event()

    def find_it_held() -> None:
        wait(begun)
        raise LeaseHeld("another makes it")

    acts = Acts(one=find_it_held, side=lambda: (begun.set(), wait(released)))
    with threads_end():
        with pytest.raises(LeaseHeld):
            acts.run(tmp_path, writes(one="default", side="other"))
        released.set()


def test_no_step_is_made_twice_and_all_are_made_from_their_inputs(tmp_path):
    pools = ("default", "other", "third")
    steps = {f"text{i}": ToyStep("write", Write(text=f"text{i % 9}"), pool=pools[i % 3]) for i in range(12)}
    for i in range(24):
        source = f"text{i}" if i < 12 else f"more{i - 12}"
        steps[f"more{i}"] = ToyStep("repeat", Repeat(), {"text": source}, pool=pools[(i * 5 + i // 4) % 3])
    made = Counter[str]()
    acts = Acts()
    outcome = acts.run(tmp_path, steps, on_end=lambda name: made.update([name]))
    assert made == Counter(list(steps)) and set(outcome.artifacts) == set(steps)
    assert acts.began == Counter(f"text{i}" for i in range(9))
    assert (outcome.artifacts["more23"].dir / "text.txt").read_text() == "text2" * 4
