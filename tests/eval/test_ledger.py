"""The ledger: whole checkpoints or none, whatever a kill left, and no gap for what was deleted."""

import json
from pathlib import Path

from eval.ledger import LEDGER, Ledger
from eval.manifests import BitsPerByte
from tests.eval.test_manifests import task
from training.records import CHECKPOINTS, DELETED_FILE, CheckpointKey, list_deleted

BITS = {"en": BitsPerByte(num_documents=1, num_bytes=9, bits_per_byte=2.0, low=None, high=None)}


def checkpoint(step: int, checksum: str = "a") -> CheckpointKey:
    return CheckpointKey(step=step, num_tokens=10 * step, checksum=checksum)


def add(ledger: Ledger, step: int, checksum: str = "a") -> None:
    record = checkpoint(step, checksum)
    ledger.add(record, BITS, [task("quiz")], started=0.0)  # type: ignore[arg-type]


def test_rows_stay_and_are_found_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    add(ledger, 4)
    ledger.add_failure(checkpoint(2), "retention deleted it before its turn", started=0.0)
    again = Ledger(tmp_path)
    assert again.curve() == ledger.curve()
    assert [(one.step, one.failure[:9]) for one in again.curve()] == [(2, "retention"), (4, "")]
    assert again.has(checkpoint(4)) and not again.has(checkpoint(4, "b"))


def test_a_task_that_failed_at_a_checkpoint_is_told_with_its_reason(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    tasks = [task("quiz_sw", "sw"), task("quiz_th", "th", value=None, failure="no data"), task("quiz_et", "et")]
    ledger.add(checkpoint(4), BITS, tasks, started=0.0)
    (one,) = ledger.curve()
    assert one.num_languages == {"quiz": 2} and one.failed == {"quiz_th": "no data"} and not one.failure


def test_a_checkpoint_whose_rows_were_cut_short_by_a_kill_is_not_there(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    add(ledger, 2)
    whole = (tmp_path / LEDGER).read_bytes()
    add(ledger, 4)
    both = (tmp_path / LEDGER).read_bytes()
    for cut in range(len(whole), len(both) - 1):
        (tmp_path / LEDGER).write_bytes(both[:cut])
        again = Ledger(tmp_path)
        assert again.has(checkpoint(2)) and not again.has(checkpoint(4)), cut
        add(again, 4)
        assert [json.loads(line)["step"] for line in (tmp_path / LEDGER).read_text().splitlines()] == [2, 2, 4, 4]


def test_a_step_that_was_scored_stays_scored_if_its_checkpoint_before_a_roll_back_was_deleted(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    add(ledger, 4, "b")
    ledger.add_failure(checkpoint(4, "a"), "retention deleted it before its turn", started=0.0)
    assert [one.failure for one in ledger.curve()] == [""]
    add(ledger, 4, "c")
    assert [one.failure for one in ledger.curve()] == [""] and ledger.has(checkpoint(4, "c"))


def test_deleted_checkpoints_are_known_whatever_a_kill_left(tmp_path: Path) -> None:
    root = tmp_path / CHECKPOINTS
    root.mkdir()
    assert list_deleted(root) == []
    lines = [checkpoint(step).model_dump_json() for step in (2, 4)]
    (root / DELETED_FILE).write_text(f"{lines[0]}\n{lines[1][:20]}")
    assert list_deleted(root) == [checkpoint(2)]
