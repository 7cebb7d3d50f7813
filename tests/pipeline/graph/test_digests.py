import hashlib
import os

import pytest

from pipeline.graph.fingerprint import DIGESTS_FILE, Digests


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.txt"
    path.write_bytes(b"one")
    return path


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    return path


def digest_once(store, path) -> str:
    """The digest as a run of its own would see it."""
    digests = Digests(store)
    found = digests(path)
    digests.save()
    return found


def test_a_digest_is_the_sha256_of_the_bytes(store, source):
    assert digest_once(store, source) == digest_once(store, source) == sha256(b"one")


def test_a_file_at_rest_is_not_read_again(store, source, monkeypatch):
    digest_once(store, source)
    monkeypatch.setattr("pipeline.graph.fingerprint.sha256_of", None)
    assert digest_once(store, source) == sha256(b"one")


def test_an_edit_that_keeps_size_and_time_is_noticed(store, source):
    digest_once(store, source)
    times = source.stat().st_atime_ns, source.stat().st_mtime_ns
    source.write_bytes(b"two")
    os.utime(source, ns=times)
    assert digest_once(store, source) == sha256(b"two")


def test_a_new_size_is_noticed(store, source):
    digest_once(store, source)
    times = source.stat().st_atime_ns, source.stat().st_mtime_ns
    source.write_bytes(b"three")
    os.utime(source, ns=times)
    assert digest_once(store, source) == sha256(b"three")


def test_a_new_time_is_noticed(store, source):
    digest_once(store, source)
    time = source.stat().st_mtime_ns
    source.write_bytes(b"two")
    os.utime(source, ns=(time + 1000, time + 1000))
    assert digest_once(store, source) == sha256(b"two")


def test_another_file_in_its_place_is_noticed(store, source, tmp_path):
    digest_once(store, source)
    times = source.stat().st_atime_ns, source.stat().st_mtime_ns
    other = tmp_path / "other.txt"
    other.write_bytes(b"two")
    os.utime(other, ns=times)
    other.replace(source)
    assert digest_once(store, source) == sha256(b"two")


def test_a_relative_and_an_absolute_name_are_one_file(store, source, monkeypatch):
    digest_once(store, source)
    monkeypatch.chdir(source.parent)
    before = (store / DIGESTS_FILE).read_bytes()
    assert digest_once(store, source.relative_to(source.parent)) == sha256(b"one")
    assert (store / DIGESTS_FILE).read_bytes() == before


@pytest.mark.parametrize("damage", [b"", b"{", b"[1, 2]", b"\xff"], ids=["empty", "cut", "a list", "no UTF-8"])
def test_a_damaged_memory_is_made_again(store, source, damage):
    (store / DIGESTS_FILE).write_bytes(damage)
    assert digest_once(store, source) == sha256(b"one")
    assert str(source) in (store / DIGESTS_FILE).read_text(encoding="utf-8")


def test_a_store_that_is_not_there_is_not_made(tmp_path, source):
    assert digest_once(tmp_path / "none", source) == sha256(b"one")
    assert not (tmp_path / "none").exists()


def test_a_store_that_is_a_file_does_no_harm(source):
    assert digest_once(source, source) == digest_once(source / "below", source) == sha256(b"one")


def test_a_source_that_is_gone_is_an_error(store, tmp_path):
    with pytest.raises(FileNotFoundError):
        Digests(store)(tmp_path / "gone.txt")
