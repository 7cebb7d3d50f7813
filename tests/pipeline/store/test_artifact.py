import hashlib
import json
from pathlib import Path

import pytest

from configs.base import UserError
from pipeline.store.artifact import RECORD, describe_files, load_artifact, read_record
from tests.pipeline.toys import Text, planned, run


@pytest.fixture
def made(tmp_path) -> Path:
    return run(tmp_path).artifacts["twice"].dir


def test_a_directory_without_a_record_is_no_artifact(tmp_path, made):
    assert load_artifact(made, Text).manifest == Text(path="text.txt")
    (made / RECORD).unlink()
    assert load_artifact(made, Text) is None
    assert load_artifact(tmp_path / "nothing", Text) is None
    assert load_artifact(made / "text.txt" / "below", Text) is None


def test_a_record_holds_the_lineage(tmp_path, made):
    step, source = planned().steps["twice"], planned().steps["first"]
    record = json.loads((made / RECORD).read_text(encoding="utf-8"))
    assert record["format"] == 1
    assert (record["step"], record["stage"], record["version"]) == ("twice", "repeat", 1)
    assert record["fingerprint"] == step.fingerprint
    assert record["config"] == {"times": 2}
    assert record["inputs"] == {"text": {"artifact": source.artifact, "fingerprint": source.fingerprint}}
    assert record["manifest"] == {"path": "text.txt"}
    assert record["attempts"] == 1
    assert record["seconds"] >= 0
    assert record["placement"] == {}  # the toys ask for no machine
    assert record["packages"]["python"].startswith("3.")
    assert record["code"] and record["host"]


def test_a_record_lists_every_file_with_its_size_and_sha256(tmp_path):
    book = run(tmp_path).artifacts["book"].dir
    data = (book / "pages" / "page.txt").read_bytes()
    entry = {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    record = json.loads((book / RECORD).read_text(encoding="utf-8"))
    assert record["files"] == {"pages/page.txt": entry}


def test_files_of_a_record_leave_out_the_record_and_what_a_killed_writer_left(tmp_path):
    for name in ("b.txt", "a.txt", RECORD, ".a.txt.1234.partial"):
        (tmp_path / name).write_text(name)
    assert list(describe_files(tmp_path)) == ["a.txt", "b.txt"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"[]",
        lambda data: b"\xff\xfe" + data,
        lambda data: data.replace(b'"format": 1', b'"format": 2'),
        lambda data: data.replace(b'"attempts"', b'"tries"'),
        lambda data: data.replace(b'"path": "text.txt"', b'"file": "text.txt"'),
    ],
    ids=["empty", "cut", "other JSON", "no UTF-8", "newer format", "unknown key", "another manifest"],
)
def test_a_record_that_cannot_be_read_is_refused_in_one_sentence(made, damage):
    (made / RECORD).write_bytes(damage((made / RECORD).read_bytes()))
    with pytest.raises(UserError) as caught:
        load_artifact(made, Text)
    message = str(caught.value)
    assert str(made / RECORD) in message
    assert "delete the directory" in message
    assert "\n" not in message


def test_a_record_survives_a_move_of_the_store(tmp_path, made):
    moved = made.rename(tmp_path / "elsewhere")
    assert read_record(moved).step == "twice"
    assert (moved / load_artifact(moved, Text).manifest.path).read_text() == "one one "
