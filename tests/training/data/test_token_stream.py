"""Streams over many shards: which tokens are read, which files are open, and what is said of damaged ones."""

import ctypes
import errno
import json
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from mmap import ACCESS_READ, PAGESIZE, mmap
from pathlib import Path

import numpy as np
import pytest

from configs.base import Artifact, InfrastructureError, UserError
from data_prep.manifests import Segment, TokenizedCorpus, TokenShard
from data_prep.tokens.megatron_shards import dtype_for, write_shard
from training.data import token_stream
from training.data.token_stream import MAX_OPEN_SHARDS, max_open_shards, open_token_streams

ROOT = Path(__file__).parents[3]
LANGUAGES = ["de", "en", "sw"]
Streams = dict[tuple[str, str], list[int]]


def corpus_of(directory: Path, sizes: list[list[int]], vocab_size: int = 70_000) -> Artifact[TokenizedCorpus]:
    """A manifest without files: for each shard the number of tokens in each language; sources take turns."""
    shards = []
    for number, row in enumerate(sizes):
        segments = tuple(
            Segment(language=language, num_documents=1, num_tokens=size, num_bytes=3 * size)
            for language, size in zip(LANGUAGES, row, strict=True)
        )
        shards.append(TokenShard(path=f"tokens/{number:04}", source="ab"[number % 2], segments=segments))
    manifest = TokenizedCorpus(shards=tuple(shards), vocab_size=vocab_size, eos_id=1, unigram_entropy=1.0)
    return Artifact(directory, manifest)


def write_corpus(corpus: Artifact[TokenizedCorpus]) -> Streams:
    """Write the files, with random ids, and return the streams by plain concatenation."""
    random, streams = np.random.default_rng(0), Streams()
    vocab_size = corpus.manifest.vocab_size
    for shard in corpus.manifest.shards:
        documents = [random.integers(vocab_size, size=segment.num_tokens).tolist() for segment in shard.segments]
        write_shard(corpus.dir / shard.path, documents, dtype_for(vocab_size))
        for segment, ids in zip(shard.segments, documents, strict=True):
            streams.setdefault((shard.source, segment.language), []).extend(ids)
    return streams


def open_maps(directory: Path) -> list[str]:
    """Names of the files below a directory that are mapped, one for each map."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    return sorted(Path(line[5]).name for line in lines if len(line) > 5 and line[5].startswith(f"{directory}/"))


def open_descriptors(directory: Path) -> list[str]:
    """Names of the files below a directory that are open, one for each descriptor."""
    paths = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.exists(entry.path)]
    return sorted(Path(path).name for path in paths if path.startswith(f"{directory}/"))


def cached_pages(path: Path) -> set[int]:
    """Numbers of the pages of a file that are in the page cache."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
        data = np.frombuffer(mapped, dtype=np.uint8)
        resident = np.zeros(-(-len(data) // PAGESIZE), dtype=np.uint8)
        where = [ctypes.c_void_p(array.ctypes.data) for array in (data, resident)]
        assert ctypes.CDLL(None).mincore(where[0], ctypes.c_size_t(len(data)), where[1]) == 0
        del data  # a map is not closed while it is looked at
        return set(np.flatnonzero(resident & 1).tolist())


def random_ranges(streams: Streams, number: int, most: int) -> list[tuple[tuple[str, str], int, int]]:
    """Ranges (stream, start, count), of which some reach over the end."""
    random, keys = np.random.default_rng(1), list(streams)
    chosen = [keys[i] for i in random.integers(len(keys), size=number)]
    return [(key, int(random.integers(len(streams[key]))), int(random.integers(1, most))) for key in chosen]


@pytest.fixture
def few_open(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(token_stream, "MAX_OPEN_SHARDS", 3)
    return 3


@pytest.mark.parametrize("vocab_size", [300, 70_000])
def test_what_is_read_is_the_shards_end_to_end(tmp_path: Path, few_open: int, vocab_size: int) -> None:
    sizes = np.random.default_rng(2).integers(0, 40, size=(30, 3)) * np.random.default_rng(3).integers(0, 2, (30, 3))
    corpus = corpus_of(tmp_path, sizes.tolist(), vocab_size)
    expected, streams = write_corpus(corpus), open_token_streams(corpus)
    assert list(streams) == sorted(expected)
    for key, stream in streams.items():
        assert (stream.num_tokens, stream.num_bytes) == (len(expected[key]), 3 * len(expected[key]))
    for key, start, count in random_ranges(expected, 500, 200):
        read = streams[key].read(start, count)
        assert read.dtype == np.int64
        assert read.tolist() == expected[key][start : start + count]


def test_a_read_over_pages_is_whole(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, [[10_001, 7, 30_000], [5, 5, 5], [9_999, 1, 1]])
    expected, streams = write_corpus(corpus), open_token_streams(corpus)
    for key, start, count in random_ranges(expected, 200, 20_000):
        assert streams[key].read(start, count).tolist() == expected[key][start : start + count]


def test_a_read_fetches_its_own_pages_from_disk(tmp_path: Path) -> None:
    """Read-ahead, 32 pages where nothing else is set, would be of other samples."""
    corpus = corpus_of(tmp_path, [[2**20, 0, 0]])
    expected, stream = write_corpus(corpus), open_token_streams(corpus)["a", "de"]
    path = corpus.dir / "tokens/0000.bin"
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached_pages(path):
        pytest.skip("this file system keeps all in memory")
    stream.read(0, 1)
    start, count = 300 * PAGESIZE // 4 + 7, 2 * PAGESIZE // 4
    before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    read = stream.read(start, count)
    waits = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before
    assert read.tolist() == expected["a", "de"][start : start + count]
    cached = cached_pages(path)
    assert {300, 301, 302} <= cached
    assert len(cached) < 16
    assert waits < 3, "each page was fetched by itself"


def test_nothing_is_read_of_nothing(tmp_path: Path) -> None:
    """Shards and streams without tokens have no map; the ends of a stream are its ends."""
    corpus = corpus_of(tmp_path, [[0, 0, 0], [4, 0, 2], [0, 0, 0], [3, 0, 0]])
    expected, streams = write_corpus(corpus), open_token_streams(corpus)
    assert {key: stream.num_tokens for key, stream in streams.items()} == {k: len(ids) for k, ids in expected.items()}
    for key, stream in streams.items():
        assert stream.read(0, 100).tolist() == expected[key]
        assert stream.read(stream.num_tokens, 5).tolist() == stream.read(0, 0).tolist() == []


def test_opening_touches_no_file(tmp_path: Path) -> None:
    """The files are made after the streams were opened. No index is read, then or later."""
    corpus = corpus_of(tmp_path / "later", [[5, 6, 7]] * 10)
    streams = open_token_streams(corpus)
    assert not corpus.dir.exists()
    expected = write_corpus(corpus)
    for index in corpus.dir.glob("tokens/*.idx"):
        index.unlink()
    assert {key: stream.read(0, 1000).tolist() for key, stream in streams.items()} == expected


def test_streams_share_one_map_of_a_shard(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, [[5, 6, 7]] * 40)
    write_corpus(corpus)
    streams = open_token_streams(corpus)
    assert open_maps(tmp_path) == open_descriptors(tmp_path) == []
    for stream in streams.values():
        stream.read(0, stream.num_tokens)
    assert open_maps(tmp_path) == open_descriptors(tmp_path) == [f"{number:04}.bin" for number in range(40)]
    del streams, stream
    assert open_maps(tmp_path) == open_descriptors(tmp_path) == []


def test_the_least_recently_used_shard_is_closed(tmp_path: Path, few_open: int) -> None:
    corpus = corpus_of(tmp_path, [[5, 6, 7]] * 12)  # source a has the shards 0, 2, 4...
    expected, streams = write_corpus(corpus), open_token_streams(corpus)
    german, swahili = streams["a", "de"], streams["a", "sw"]
    for start in (0, 5, 10):
        german.read(start, 5)
    assert open_maps(tmp_path) == ["0000.bin", "0002.bin", "0004.bin"]
    swahili.read(0, 7)  # of shard 0, so that shard 2 is the least recently used one
    german.read(15, 5)
    assert open_maps(tmp_path) == open_descriptors(tmp_path) == ["0000.bin", "0004.bin", "0006.bin"]
    assert german.read(3, 4).tolist() == expected["a", "de"][3:7]
    assert open_maps(tmp_path) == ["0000.bin", "0002.bin", "0006.bin"]


def test_many_shards_in_many_languages_keep_within_the_limit(tmp_path: Path, few_open: int) -> None:
    corpus = corpus_of(tmp_path, [[5, 6, 7]] * 50)
    expected, streams = write_corpus(corpus), open_token_streams(corpus)
    for key, start, count in random_ranges(expected, 300, 30):
        assert streams[key].read(start, count).tolist() == expected[key][start : start + count]
        assert len(open_maps(tmp_path)) <= few_open
        assert len(open_descriptors(tmp_path)) <= few_open


def test_threads_read_what_one_would(tmp_path: Path, few_open: int) -> None:
    """They close each other's shards all the time."""
    corpus = corpus_of(tmp_path, [[800, 900, 1000]] * 12)
    expected, streams = write_corpus(corpus), open_token_streams(corpus)
    ranges = random_ranges(expected, 1500, 2500)
    with ThreadPoolExecutor(4) as threads:
        read = list(threads.map(lambda chosen: streams[chosen[0]].read(*chosen[1:]).tolist(), ranges))
    assert read == [expected[key][start : start + count] for key, start, count in ranges]
    assert len(open_maps(tmp_path)) <= few_open


NO_LIMIT = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "most", "raised"),
    [
        (64, 64, 32, None),
        (1024, 1024, 512, None),
        (1024, 4096, 2048, 4096),
        (1024, NO_LIMIT, MAX_OPEN_SHARDS, 2 * MAX_OPEN_SHARDS),
        (10**6, NO_LIMIT, MAX_OPEN_SHARDS, None),
        (NO_LIMIT, NO_LIMIT, MAX_OPEN_SHARDS, None),
        (1, 1, 1, None),
    ],
)
def test_half_of_the_files_that_may_be_open_may_be_shards(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int, raised: int | None
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: asked.append(limits[0]))
    assert max_open_shards() == most
    assert asked == ([] if raised is None else [raised])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("cut", "tokens/0002.bin has 71 bytes, not the 72 of the 18 tokens that its manifest says"),
        ("longer", "tokens/0002.bin has 73 bytes, not the 72 of the 18 tokens that its manifest says"),
        ("emptied", "tokens/0002.bin has 0 bytes, not the 72 of the 18 tokens that its manifest says"),
        ("gone", "tokens/0002.bin); delete the artifact it belongs to, to have it made again"),
        ("overwritten", "holds the id -1, and the vocabulary has 70,000 pieces"),
        ("led away", "names a file 'tokens/0002.bin' that is not inside it"),
    ],
)
def test_a_damaged_shard_is_one_sentence_when_it_is_first_read(tmp_path: Path, damage: str, says: str) -> None:
    corpus = corpus_of(tmp_path / "tokenize-1", [[5, 6, 7]] * 4)
    expected = write_corpus(corpus)
    path = corpus.dir / "tokens/0002.bin"
    data = path.read_bytes()
    path.unlink()
    match damage:
        case "cut":
            path.write_bytes(data[:-1])
        case "longer":
            path.write_bytes(data + b"\0")
        case "overwritten":
            path.write_bytes(b"\xff" * len(data))
        case "emptied":
            path.touch()
        case "led away":
            (tmp_path / "other.bin").write_bytes(data)
            path.symlink_to(tmp_path / "other.bin")
    stream = open_token_streams(corpus)["a", "sw"]
    assert stream.read(0, 7).tolist() == expected["a", "sw"][:7]
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            stream.read(3, 7)
        assert says in str(caught.value) and str(corpus.dir) in str(caught.value) and "delete" in str(caught.value)
        assert "\n" not in str(caught.value) and not isinstance(caught.value, InfrastructureError)
    if damage in ("gone", "led away"):
        path.unlink(missing_ok=True)
    path.write_bytes(data)
    assert stream.read(3, 7).tolist() == expected["a", "sw"][3:10]


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ESTALE, InfrastructureError), (errno.EIO, InfrastructureError), (errno.EACCES, UserError)]
)
def test_what_the_file_system_refuses_is_of_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[UserError]
) -> None:
    corpus = corpus_of(tmp_path, [[5, 6, 7]])
    expected, stream = write_corpus(corpus), open_token_streams(corpus)["a", "de"]

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(path))

    with monkeypatch.context() as patch, pytest.raises(UserError) as caught:
        patch.setattr(Path, "open", refuse)
        stream.read(0, 5)
    assert type(caught.value) is kind
    assert "0000.bin" in str(caught.value) and os.strerror(code) in str(caught.value)
    assert stream.read(0, 5).tolist() == expected["a", "de"]


CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import json
from pathlib import Path
from configs.base import Artifact
from data_prep.manifests import TokenizedCorpus
from training.data.token_stream import open_token_streams

directory = Path(sys.argv[1])
manifest = TokenizedCorpus.model_validate_json((directory / "manifest.json").read_text())
streams = open_token_streams(Artifact(directory, manifest))
print(json.dumps([stream.read(0, stream.num_tokens).tolist() for stream in streams.values()]))
"""


def test_200_shards_are_read_with_64_open_files(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, [[5, 6, 7]] * 200)
    expected = write_corpus(corpus)
    (tmp_path / "manifest.json").write_text(corpus.manifest.model_dump_json())
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == [expected[key] for key in sorted(expected)]
