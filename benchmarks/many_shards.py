"""Open the streams of a corpus of many shards in many languages, and read random samples of them.

    python benchmarks/many_shards.py [--shards 300 3000] [--languages 60] [--samples 20000] [--open-files 1024]

The shards are made in a temporary directory, 256 tokens in each language, so that a sample of 256 tokens reaches over
two or three shards. They are read in a process of its own that may open 1,024 files. It prints one JSON line for each
number of shards: the time to open the streams, the resident memory that opening and reading added, the maps and
descriptors of shards that were open at the end, the time to read a sample of a stream chosen at random, and that of
one whose shards are all open. Memory of files is that of the page cache which is mapped: it goes as it is needed.
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from configs.base import Artifact
from data_prep.manifests import Segment, TokenizedCorpus, TokenShard
from data_prep.tokens.megatron_shards import dtype_for
from training.data.token_stream import TokenStream, open_token_streams

SEGMENT_TOKENS = SAMPLE_TOKENS = 256
VOCAB_SIZE = 65_000
KEPT_OPEN = 100
"""Samples that are read again and again, to measure a read without opening."""


def main() -> None:
    """Run the benchmark."""
    options = _parse()
    for num_shards in options.shards:
        with tempfile.TemporaryDirectory() as directory:
            write_shards(Path(directory), num_shards, options.languages)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found = pool.apply(measure, (Path(directory), num_shards, options))
        print(json.dumps({"shards": num_shards, "languages": options.languages} | found), flush=True)


def write_shards(directory: Path, num_shards: int, num_languages: int) -> None:
    """Write the .bin files, with random ids; no index is ever read in training."""
    random, dtype = np.random.default_rng(0), dtype_for(VOCAB_SIZE)
    for number in range(num_shards):
        random.integers(VOCAB_SIZE, size=num_languages * SEGMENT_TOKENS).astype(dtype).tofile(
            directory / f"{number}.bin"
        )


def corpus_of(directory: Path, num_shards: int, num_languages: int) -> Artifact[TokenizedCorpus]:
    """Return the manifest, in which every segment is an object of its own, as in one that was read from disk."""
    shards = [
        TokenShard(
            path=str(number),
            source="web",
            segments=tuple(
                Segment(language=f"l{i:02}", num_documents=1, num_tokens=SEGMENT_TOKENS, num_bytes=4 * SEGMENT_TOKENS)
                for i in range(num_languages)
            ),
        )
        for number in range(num_shards)
    ]
    manifest = TokenizedCorpus(shards=tuple(shards), vocab_size=VOCAB_SIZE, eos_id=1, unigram_entropy=1.0)
    return Artifact(directory, manifest)


def measure(directory: Path, num_shards: int, options: argparse.Namespace) -> dict[str, float | dict[str, float]]:
    """Open the streams, read samples, and return what it took."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (options.open_files, options.open_files))
    corpus = corpus_of(directory, num_shards, options.languages)
    before, begun = resident_mib(), time.perf_counter()
    streams = list(open_token_streams(corpus).values())
    seconds, opened = time.perf_counter() - begun, resident_mib()
    random = np.random.default_rng(1)
    chosen = random.integers(len(streams), size=options.samples).tolist()
    starts = random.integers(streams[0].num_tokens - SAMPLE_TOKENS, size=options.samples).tolist()
    samples = [(streams[i], start) for i, start in zip(chosen, starts, strict=True)]
    first = read_microseconds(samples)
    read, num_maps, num_descriptors = resident_mib(), count_maps(directory), count_descriptors(directory)
    again = [sample for _ in range(options.samples // KEPT_OPEN) for sample in samples[:KEPT_OPEN]]
    return {
        "open_seconds": round(seconds, 3),
        "opening_mib": {kind: round(opened[kind] - before[kind], 1) for kind in before},
        "reading_mib": {kind: round(read[kind] - opened[kind], 1) for kind in before},
        "maps": num_maps,
        "descriptors": num_descriptors,
        "sample_microseconds": round(first, 1),
        "open_sample_microseconds": round(read_microseconds(again), 1),
    }


def read_microseconds(samples: list[tuple[TokenStream, int]]) -> float:
    """Read the samples, and return the mean time of one."""
    begun = time.perf_counter()
    for stream, start in samples:
        stream.read(start, SAMPLE_TOKENS)
    return (time.perf_counter() - begun) / len(samples) * 1e6


def resident_mib() -> dict[str, float]:
    """Return the resident memory of this process: its own, and mapped files."""
    rows = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    kib = {row[0]: int(row[1]) for row in rows if row[0] in ("RssAnon:", "RssFile:")}
    return {"own": kib["RssAnon:"] / 1024, "files": kib["RssFile:"] / 1024}


def count_maps(directory: Path) -> int:
    """Return how many maps of files below a directory are open."""
    return Path("/proc/self/maps").read_text().count(f" {directory}/")


def count_descriptors(directory: Path) -> int:
    """Return how many descriptors of files below a directory are open."""
    paths = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.exists(entry.path)]
    return sum(path.startswith(f"{directory}/") for path in paths)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, nargs="+", default=[300, 3000])
    for name, value in (("languages", 60), ("samples", 20_000), ("open-files", 1024)):
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


if __name__ == "__main__":
    main()
