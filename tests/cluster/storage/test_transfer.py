"""Files between a directory and a store: killed half-way, damaged, and on a full disk."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.host.files import describe_file
from cluster.storage.objects import ObjectStore, open_store
from cluster.storage.remote import RemoteObjectStore
from cluster.storage.transfer import FileTransfer
from configs.base import InfrastructureError, UserError

ROOT = Path(__file__).parents[3]
NAMES = [f"part/{i}.bin" for i in range(6)]


def made(directory: Path) -> Path:
    """A directory with some files, of which one is empty and one has many bytes."""
    for i, name in enumerate(NAMES):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(bytes([i]) * (i * 100_000))
    return directory


def tree(store: ObjectStore, directory: Path, *, of: Path, num_transfers: int = 3) -> FileTransfer:
    files = {name: describe_file(of / name) for name in NAMES}
    return FileTransfer(store, "artifact", directory, files, num_transfers)


def same(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in NAMES)


def test_files_that_were_sent_are_fetched_the_same_and_not_twice(any_store, tmp_path):
    here, there = made(tmp_path / "here"), tmp_path / "there"
    store = open_store(any_store)
    sending = tree(store, here, of=here)
    assert sorted(sending.send()) == NAMES
    assert sending.send() == []
    assert store.list_names() == [f"artifact/{name}" for name in NAMES]
    tree(store, there, of=here).fetch(damaged=tmp_path / "damaged")
    assert same(here, there)
    before = {path: path.stat().st_mtime_ns for path in there.rglob("*")}
    tree(store, there, of=here).fetch(damaged=tmp_path / "damaged")
    assert {path: path.stat().st_mtime_ns for path in there.rglob("*")} == before


def test_a_file_there_that_is_another_is_sent_over(any_store, tmp_path):
    here = made(tmp_path / "here")
    store = open_store(any_store)
    tree(store, here, of=here).send()
    store.write("artifact/part/3.bin", bytes(300_000))
    store.write("artifact/part/4.bin", b"half")
    assert sorted(tree(store, here, of=here).send()) == ["part/3.bin", "part/4.bin"]


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.cluster.storage.test_transfer import tree
from cluster.storage.objects import open_store
import shutil

what, url, source, directory = sys.argv[1:]
store, calls = open_store(url), []

def die(): os.kill(os.getpid(), signal.SIGKILL)

if what == "sending":
    send = store.upload
    def dying(name, file):
        calls.append(name)
        if len(calls) == 4:
            def half(source, into):
                Path(into).write_bytes(Path(source).read_bytes()[:1000]); die()
            shutil.copyfile = half  # inside the fourth, where it is a file that is written
            if "s3" in url: die()
        send(name, file)
    store.upload = dying
    tree(store, Path(directory), of=Path(source), num_transfers=1).send()
else:
    import cluster.storage.transfer
    cluster.storage.transfer._BYTES_AT_A_TIME = 100_000
    part = store.read_range
    def dying(name, start, stop):
        calls.append(name)
        if name.endswith("4.bin") and start >= 200_000: die()
        return part(name, start, stop)
    store.read_range = dying
    tree(store, Path(directory), of=Path(source), num_transfers=1).fetch(damaged=Path("damaged"))
"""


def killed(what: str, url: str, source: Path, directory: Path) -> None:
    """Run a transfer that is killed half-way."""
    command = [sys.executable, "-c", KILLED, what, url, str(source), str(directory)]
    ended = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120)
    assert ended.returncode == -signal.SIGKILL


@pytest.fixture(params=["file", "s3"])
def url(request, tmp_path) -> str:
    """A store that other processes see too."""
    return (tmp_path / "store").as_uri() if request.param == "file" else request.getfixturevalue("s3_bucket")


def test_sending_goes_on_after_a_kill_and_nothing_half_sent_looks_whole(url, tmp_path):
    here, store = made(tmp_path / "here"), open_store(url)
    killed("sending", url, here, here)
    sent = store.list_names()
    assert sent == [f"artifact/{name}" for name in NAMES[:3]]
    sending = tree(store, here, of=here)
    assert sorted(sending.send()) == NAMES[3:]
    assert sending.send() == []


def test_fetching_goes_on_within_a_file_after_a_kill(url, tmp_path, monkeypatch):
    here, there, store = made(tmp_path / "here"), tmp_path / "there", open_store(url)
    tree(store, here, of=here).send()
    killed("fetching", url, here, there)
    assert sorted(str(path.relative_to(there)) for path in there.rglob("*.bin")) == NAMES[:4]
    assert (there / "part" / ".4.bin.partial").stat().st_size == 200_000
    asked = []
    part = store.read_range
    monkeypatch.setattr(
        store, "read_range", lambda name, start, stop: asked.append((name, start)) or part(name, start, stop)
    )
    tree(store, there, of=here).fetch(damaged=tmp_path / "damaged")
    assert sorted(asked) == [("artifact/part/4.bin", 200_000), ("artifact/part/5.bin", 0)]
    assert same(here, there)
    assert not list(there.rglob("*.partial"))


def test_a_damaged_file_is_noticed_kept_and_not_given_its_name(any_store, tmp_path):
    here, there, store = made(tmp_path / "here"), tmp_path / "there", open_store(any_store)
    tree(store, here, of=here).send()
    store.write("artifact/part/3.bin", bytes(300_000))
    with pytest.raises(
        UserError, match=r"artifact/part/3\.bin is damaged.*delete .*artifact to have it made"
    ) as caught:
        tree(store, there, of=here).fetch(damaged=tmp_path / "damaged")
    assert "\n" not in str(caught.value)
    assert not (there / "part/3.bin").exists()
    assert (tmp_path / "damaged/part/3.bin").read_bytes() == bytes(300_000)


def test_what_was_damaged_on_the_way_is_fetched_again(tmp_path, monkeypatch):
    here, there, store = made(tmp_path / "here"), tmp_path / "there", open_store(tmp_path / "store")
    tree(store, here, of=here).send()
    part, asked = store.read_range, []

    def noisy(name, start, stop):
        asked.append(name)
        data = part(name, start, stop)
        return data if asked.count(name) > 1 else bytes(len(data))

    monkeypatch.setattr(store, "read_range", noisy)
    tree(store, there, of=here).fetch(damaged=tmp_path / "damaged")
    assert same(here, there)
    assert (tmp_path / "damaged/part/5.bin").read_bytes() == bytes(500_000)


@pytest.mark.parametrize(("data", "words"), [(None, "is missing"), (b"short", "has 5 bytes instead of 300,000")])
def test_a_file_that_is_not_there_or_too_short_is_one_sentence(tmp_path, data, words):
    here, store = made(tmp_path / "here"), open_store(tmp_path / "store")
    tree(store, here, of=here).send()
    store.delete("artifact/part/3.bin")
    if data is not None:
        store.write("artifact/part/3.bin", data)
    with pytest.raises(UserError, match=words):
        tree(store, tmp_path / "there", of=here).fetch(damaged=tmp_path / "damaged")


def test_a_store_that_garbles_what_is_sent_is_told(tmp_path, monkeypatch):
    here, store = made(tmp_path / "here"), open_store(f"memory://{tmp_path.name}")
    send = RemoteObjectStore.upload
    monkeypatch.setattr(
        RemoteObjectStore,
        "upload",
        lambda self, name, file: send(self, name, here / "part/1.bin" if "2" in name else file),
    )
    with pytest.raises(InfrastructureError, match=r"part/2\.bin is not what was sent, twice"):
        tree(store, here, of=here).send()


def test_a_file_that_changed_after_it_was_made_is_not_sent_as_right(tmp_path):
    here = made(tmp_path / "here")
    sending = tree(open_store(tmp_path / "store"), here, of=here)
    (here / "part/2.bin").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"part/2\.bin has changed since it was made"):
        sending.send()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_a_fetch_with_the_systems_error(tmp_path):
    here, there, store = made(tmp_path / "here"), tmp_path / "there", open_store(tmp_path / "store")
    tree(store, here, of=here).send()
    (there / "part").mkdir(parents=True)
    (there / "part" / ".3.bin.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        tree(store, there, of=here).fetch(damaged=tmp_path / "damaged")
    assert not (there / "part/3.bin").exists()


def test_names_that_leave_the_directory_are_refused(tmp_path):
    here, store = made(tmp_path / "here"), open_store(tmp_path / "store")
    entry = describe_file(here / NAMES[1])
    for name in ("../out", "/tmp/out"):
        with pytest.raises(UserError, match="not inside it"):
            FileTransfer(store, "artifact", tmp_path / "there", {name: entry}, 1).fetch(damaged=tmp_path / "damaged")
