"""Measure how fast a core cleans and tokenises: what `concord plan` assumes as long as a store has done neither.

    python benchmarks/stage_speed.py [--megabytes 20] [--repeat 3]

It writes JSON lines of web-page size, 20 sentences each, from the 60,000 sentences in 60 languages of the smoke recipe,
cleans them, makes their mask and their tokens in this process, alone and then with each part that a recipe may add, and
prints a JSON line for each: seconds for a megabyte of text, of the fastest repetition; of a part, what it adds.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from cluster.inline import InlineExecutor
from configs.base import Artifact
from configs.cluster import PoolConfig
from configs.data.sources import PackageTextSource
from configs.data.stages import CleanConfig, DeduplicateConfig, TokenizeConfig, TrainTokenizerConfig
from data_prep.cleaning.stage import clean
from data_prep.manifests import CleanCorpus
from data_prep.masks.stage import deduplicate
from data_prep.sources.document import Document
from data_prep.sources.table import READERS
from data_prep.tokenizer.stage import train_tokenizer
from data_prep.tokens.stage import tokenize

SENTENCES = 20
INLINE = InlineExecutor(PoolConfig())


def clean_parts(directory: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return the keys of each part of `clean`."""
    weights = directory / "weights.json"
    weights.write_text(json.dumps({"intercept": 0.0, "weights": {f"word{i}": 0.1 for i in range(100_000)}}))
    return {
        "": {},
        "identify": {"identify": {}},
        "filters": {"filters": {"presets": ["gopher_quality", "gopher_repetition", "c4", "fineweb"]}},
        "personal_data": {"personal_data": {}},
        "scores": {"scores": [{"name": "quality", "kind": "linear", "model": str(weights)}]},
    }


def mask_parts(directory: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return the keys of each part of `deduplicate`."""
    items = directory / "items.jsonl"
    items.write_text(
        "".join(json.dumps({"text": " ".join(f"w{i}x{j}" for j in range(40))}) + "\n" for i in range(9999))
    )
    quiz = {"name": "quiz", "kind": "json_lines", "paths": [str(items)]}
    return {
        "": {},
        "near": {"near": {}},
        "paragraphs": {"paragraphs": {}},
        "decontaminate": {"decontaminate": {"tests": [quiz]}},
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        megabytes = write_documents(directory / "web.jsonl", num_bytes=given.megabytes * 10**6) / 1e6
        run = Runs(directory, megabytes, given.repeat)
        run.measure("clean", clean_parts(directory), lambda keys, out: make_corpus(directory, keys, out))
        corpus = Artifact(directory / "corpus", make_corpus(directory, {}, directory / "corpus"))
        run.measure("deduplicate", mask_parts(directory), lambda keys, out: make_mask(corpus, keys, out))
        config = TrainTokenizerConfig(vocab_size=8192, sample_bytes=4_000_000)
        out = directory / "tokenizer"
        out.mkdir()
        pieces = Artifact(out, train_tokenizer(config, corpus=(corpus,), out=out, executor=INLINE))
        run.measure(
            "tokenize",
            {"": {}},
            lambda _, out: tokenize(TokenizeConfig(), corpus=corpus, tokenizer=pieces, out=out, executor=INLINE),
        )


class Runs:
    """Takes the time of stages."""

    def __init__(self, directory: Path, megabytes: float, repeat: int) -> None:
        self._directory, self._megabytes, self._repeat = directory, megabytes, repeat

    def measure(
        self, stage: str, parts: Mapping[str, Mapping[str, Any]], make: Callable[[Mapping[str, Any], Path], object]
    ) -> None:
        """Print what a stage takes, and what each part adds."""
        seconds: dict[str, list[float]] = {part: [] for part in parts}
        for turn in range(self._repeat):
            for part, keys in parts.items():
                out = self._directory / f"{stage}-{part}-{turn}"
                out.mkdir()
                start = time.perf_counter()
                make(keys, out)
                seconds[part].append((time.perf_counter() - start) / self._megabytes)
                shutil.rmtree(out)
        base = min(seconds[""])
        for part, found in seconds.items():
            took = min(found) - (base if part else 0)
            print(json.dumps({"stage": stage, "part": part, "seconds_per_megabyte": round(took, 4)}), flush=True)


def make_corpus(directory: Path, keys: Mapping[str, Any], out: Path) -> CleanCorpus:
    """Clean the text."""
    web = {"name": "web", "kind": "json_lines", "paths": [str(directory / "web.jsonl")]}
    config = CleanConfig.model_validate({"sources": [web], "held_out": {"share": 0.02}, **keys})
    return clean(config, out=out, executor=INLINE)


def make_mask(corpus: Artifact[CleanCorpus], keys: Mapping[str, Any], out: Path) -> object:
    """Make the mask of the text."""
    return deduplicate(DeduplicateConfig.model_validate(keys), corpus=corpus, out=out, executor=INLINE)


def write_documents(path: Path, *, num_bytes: int) -> int:
    """Write JSON lines with so many bytes of text, no two equal; return the bytes."""
    source = PackageTextSource(
        name="sentences",
        kind="package_text",
        package="eld",
        path="tests/data/big-test.txt",
        language_column=0,
        text_column=1,
    )
    reader = READERS[source.kind]
    records = [record for part in reader.spans(source) for record in reader.read(source, part)]
    texts = [record.text for record in records if isinstance(record, Document)]
    written, number = 0, count()
    with path.open("w", encoding="utf-8") as file:
        while written < num_bytes:
            for first in range(0, len(texts), SENTENCES):
                text = f"{next(number)} " + " ".join(texts[first : first + SENTENCES])
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                written += len(text.encode())
    return written


if __name__ == "__main__":
    main()
