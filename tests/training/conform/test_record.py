"""Records of checks: written, read, compared; what fails."""

import math
from collections.abc import Iterator

import pytest

from configs.base import UserError
from training.conform.record import (
    Check,
    ConformRecord,
    DeviceRecord,
    HostRecord,
    attempt,
    compare,
    judged,
    read_record,
    write_record,
)


def record(*checks: Check, scale: str = "cpu") -> ConformRecord:
    device = DeviceRecord(type="cpu", name="a CPU", count=1, memory_bytes=2**33, driver="", capability="")
    return ConformRecord(
        device=device,
        host=HostRecord(cpu="a CPU", num_cores=2, memory_bytes=2**33),
        versions={"torch": "2.13.0"},
        code="abc",
        started="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        scale=scale,
        checks=checks,
    )


def test_a_record_is_read_as_it_was_written(tmp_path):
    written = record(judged("a", 0.5, limit=1.0), Check(name="b", value=2.0, unit="GB/s"), judged("c", 2, limit=1))
    write_record(tmp_path / "conform.json", written)
    assert read_record(tmp_path / "conform.json") == written
    assert written.failed == ["c"]


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2}', "[1]"])
def test_a_file_that_is_no_record_is_refused_in_one_sentence(tmp_path, text):
    (tmp_path / "conform.json").write_text(text)
    with pytest.raises(UserError, match=r"is no record of `concord conform`"):
        read_record(tmp_path / "conform.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_record(tmp_path / "nothing.json")


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.01])
def test_a_number_above_the_limit_or_none_at_all_fails(value):
    assert judged("a", value, limit=1.0).passed is False
    assert judged("a", 1.0, limit=1.0).passed is True


def test_records_pair_their_checks_and_say_what_one_lacks():
    one = record(Check(name="a", value=3.0), Check(name="b", value=1.0), Check(name="c"))
    other = record(Check(name="a", value=2.0), Check(name="c", value=1.0), Check(name="d", value=0.0))
    found = {pair.name: (pair.one is not None, pair.other is not None, pair.ratio) for pair in compare(one, other)}
    assert found == {
        "a": (True, True, 1.5),
        "b": (True, False, None),
        "c": (True, True, None),
        "d": (False, True, None),
    }


def test_a_check_that_raises_has_failed_and_keeps_those_before_it():
    def make() -> Iterator[Check]:
        yield Check(name="first", value=1.0)
        raise RuntimeError("no such\nkernel")

    first, failed = attempt("second", make)
    assert first.name == "first"
    assert (failed.name, failed.passed) == ("second", False)
    assert "RuntimeError: no such kernel" in failed.detail
