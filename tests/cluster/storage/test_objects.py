"""The contract of ObjectStore, over every kind of store; and what each says when it refuses."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import cluster.storage.remote
from cluster.host.files import describe_file
from cluster.storage.errors import PATIENCE_SECONDS, retry_request, retry_through_outage
from cluster.storage.objects import open_store
from configs.base import InfrastructureError, LeaseLost, UserError

PART = 5 * 2**20
"""S3 takes no smaller parts."""


def test_objects_are_read_as_they_were_written(any_store):
    store = open_store(any_store)
    assert store.read("runs/x/state.json") is None
    store.write("runs/x/state.json", b"first")
    store.write("runs/x/state.json", b"second")
    assert store.read("runs/x/state.json") == b"second"
    assert open_store(any_store).read("runs/x/state.json") == b"second"
    assert (store.size("runs/x/state.json"), store.size("runs/x"), store.size("none")) == (6, None, None)
    assert store.read_range("runs/x/state.json", 1, 4) == b"eco"


def test_objects_are_created_once(any_store):
    store = open_store(any_store)
    assert store.create("runs/lease", b"mine")
    assert not store.create("runs/lease", b"yours")
    assert store.read("runs/lease") == b"mine"
    store.delete("runs/lease")
    assert store.create("runs/lease", b"yours")


@pytest.mark.parametrize("kind", ["path", "s3"])
def test_of_many_who_create_at_once_one_is_told_so(kind, tmp_path, request):
    store = open_store(tmp_path if kind == "path" else request.getfixturevalue("s3_bucket"))
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda i: store.create("lease", str(i).encode()), range(16)))
    assert sum(told) == 1
    assert store.read("lease") == str(told.index(True)).encode()


def test_names_are_those_that_begin_so(any_store):
    store = open_store(any_store)
    assert store.list_names() == []
    for name in ("runs/a/1", "runs/a/2", "runs/ab/1", "other"):
        store.write(name, b"x")
    assert store.list_names() == ["other", "runs/a/1", "runs/a/2", "runs/ab/1"]
    assert store.list_names("runs/a/") == ["runs/a/1", "runs/a/2"]
    assert store.list_names("runs/a") == ["runs/a/1", "runs/a/2", "runs/ab/1"]
    assert store.list_names("none/") == []
    store.delete("runs/a/1")
    store.delete("runs/a/1")
    assert store.list_names("runs/a/") == ["runs/a/2"]


@pytest.mark.parametrize("num_bytes", [0, 1000, 2 * PART + 1])
def test_files_are_sent_whole_and_known_again(any_store, tmp_path, num_bytes, monkeypatch):
    monkeypatch.setattr(cluster.storage.remote, "PART_BYTES", PART)
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_bytes(os.urandom(num_bytes))
    other.write_bytes(os.urandom(num_bytes + 1))
    store = open_store(any_store)
    assert not store.matches("a/file", file, describe_file(file))
    store.upload("a/file", file)
    assert store.matches("a/file", file, describe_file(file))
    assert not store.matches("a/file", other, describe_file(other))
    store.write("a/file", bytes(num_bytes))
    assert store.matches("a/file", file, describe_file(file)) == (num_bytes == 0)


def test_an_etag_that_is_no_md5_is_not_believed_and_the_object_is_read_back(s3_bucket, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"text")
    store = open_store(s3_bucket)
    store.upload("file", file)
    monkeypatch.setattr(cluster.storage.remote, "_etag", lambda file, num_bytes: "encrypted")
    assert store.matches("file", file, describe_file(file))
    store.write("file", b"tExt")
    assert not store.matches("file", file, describe_file(file))


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../out", ""])
def test_no_name_leaves_the_store(any_store, name):
    store = open_store(any_store)
    for ask in (store.read, store.delete, store.size, lambda name: store.write(name, b"x")):
        with pytest.raises(UserError, match="not inside it"):
            ask(name)


def test_a_link_out_of_the_store_is_not_followed(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="not inside it"):
        open_store(tmp_path / "store").write("link/x", b"x")
    assert not (tmp_path / "x").exists()


def test_a_half_written_file_has_no_name(tmp_path):
    (tmp_path / ".a.1234.partial").write_bytes(b"hal")
    assert open_store(tmp_path).list_names() == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("gs://bucket/x", "pip install gcsfs"),
        ("nothing://x", "such as s3://bucket/prefix"),
        ("s3://", "^s3:// names no place; give a directory"),
        ("://", "^:// names no place"),
        ("://x", "^://x names no place"),
        ("file://rel/store", "'rel' would be a host.* file:///path"),
    ],
)
def test_a_protocol_that_cannot_be_spoken_is_one_sentence(url, words):
    with pytest.raises(UserError, match=words) as caught:
        open_store(url)
    assert "\n" not in str(caught.value)


def test_a_server_that_cannot_be_connected_to_is_one_sentence_without_the_password():
    with pytest.raises(
        InfrastructureError, match=r"^ftp://bob:\[redacted\]@127\.0\.0\.1:1/x does not answer"
    ) as caught:
        open_store("ftp://bob:pw@127.0.0.1:1/x")
    assert "\n" not in str(caught.value)


def test_a_file_url_may_name_this_host(tmp_path):
    assert str(open_store(f"file://localhost{tmp_path}")) == str(tmp_path)


def test_a_bucket_that_is_not_there_is_one_sentence(s3_environment):
    store = open_store("s3://no-such-bucket/x")
    with pytest.raises(UserError, match=r"^s3://no-such-bucket/x/a: there is no such bucket"):
        store.write("a", b"x")
    assert store.read("a") is None


def test_missing_credentials_are_one_sentence(new_s3_client, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"no credentials .* AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket/x").read("a")


def test_a_server_that_is_not_there_is_one_sentence_and_may_come_back(new_s3_client, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(InfrastructureError, match=r"^s3://bucket/x/a does not answer .*127\.0\.0\.1:9"):
        open_store("s3://bucket/x", num_tries=1).read("a")


def test_a_store_that_may_not_be_written_is_one_sentence(tmp_path):
    (tmp_path / "store").write_text("a file")
    with pytest.raises(UserError, match="a file stands where a directory should be"):
        open_store(tmp_path / "store").write("a", b"x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def write(path: Path, data: bytes) -> None:
        with open("/dev/full", "wb") as file:
            file.write(data)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(UserError, match="the disk is full"):
        open_store(tmp_path).write("a", b"x")
    assert open_store(tmp_path).list_names() == []


def test_patience_waits_for_machines_ends_after_a_while_and_does_not_wait_for_a_lost_lease(monkeypatch):
    now, told = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def back_at(seconds: float, error: Exception) -> str:
        if now[0] < seconds:
            raise error
        return "answer"

    away = InfrastructureError("away")
    assert retry_through_outage(lambda: back_at(PATIENCE_SECONDS / 2, away), notify=told.append) == "answer"
    assert told == ["away; tried again for 10 minutes"]
    for error in (away, LeaseLost("another has it"), UserError("no permission")):
        now[0] = 0.0
        with pytest.raises(type(error)):
            retry_through_outage(lambda error=error: back_at(float("inf"), error), notify=told.append)
        assert (now[0] > PATIENCE_SECONDS) == (error is away)


def test_what_fails_in_passing_is_tried_again_and_what_stays_is_not(monkeypatch):
    monkeypatch.setattr("cluster.storage.errors.FIRST_WAIT_SECONDS", 0)
    calls: list[Exception] = []

    def failing(error: Exception, times: int) -> int:
        if len(calls) < times:
            calls.append(error)
            raise error
        return len(calls)

    assert retry_request(3, failing, TimeoutError(), 2) == 2
    calls.clear()
    with pytest.raises(TimeoutError):
        retry_request(2, failing, TimeoutError(), 2)
    calls.clear()
    with pytest.raises(PermissionError):
        retry_request(3, failing, PermissionError(), 1)
    assert len(calls) == 1
