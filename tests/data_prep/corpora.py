"""Small sources on disk and the clean corpora made from them, for the tests of data_prep and eval."""

import json
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cluster.inline import InlineExecutor
from configs.base import Artifact, UserError
from configs.data.stages import CleanConfig
from configs.pools import PoolConfig
from data_prep.cleaning.document_files import read_documents
from data_prep.cleaning.stage import clean
from data_prep.manifests import CleanCorpus
from data_prep.masks.reading import read_held_out
from data_prep.sources.document import Document, Opened, Record, Span
from data_prep.sources.table import READERS

INLINE = InlineExecutor(PoolConfig())


def write_lines(path: Path, rows: Iterable[tuple[str, str] | str]) -> str:
    """Write a file of JSON lines, each from (language, text) or a line as it stands; return its path as a string."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps({"language": row[0], "text": row[1]}) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def source(name: str, *paths: str) -> dict[str, Any]:
    return {"kind": "json_lines", "name": name, "paths": paths, "language_field": "language"}


def read_span(source: Any, span: Span) -> list[Record]:
    return [entry for entry in READERS[source.kind].read(source, span) if not isinstance(entry, Opened)]


def read_records(source: Any) -> list[Record]:
    return [record for span in READERS[source.kind].spans(source) for record in read_span(source, span)]


def error_of(source: Any) -> str:
    """Return the one sentence that reading a source ends with."""
    with pytest.raises(UserError) as caught:
        read_records(source)
    assert "\n" not in str(caught.value) and f"source '{source.name}'" in str(caught.value)
    return str(caught.value)


def summary(records: Iterable[Any]) -> list[tuple[str, str]]:
    """Return (id, text) of documents, (where, reason) of what is unreadable, ("", reason) of what is dropped."""
    return [(r.id, r.text) if isinstance(r, Document) else (getattr(r, "where", ""), r.reason) for r in records]


def clean_config(*sources: dict[str, Any], **changes: Any) -> CleanConfig:
    return CleanConfig.model_validate({"sources": sources, "min_characters": 3} | changes)


def cleaned(out: Path, config: CleanConfig) -> Artifact[CleanCorpus]:
    return Artifact(out, clean(config, out=out, executor=INLINE))


def kept(corpus: Artifact[CleanCorpus]) -> list[Document]:
    """Read the documents of all shards, in order."""
    return [document for shard in corpus.manifest.shards for document in read_documents(corpus.dir / shard.path)]


def held_out(corpus: Artifact[CleanCorpus]) -> list[Document]:
    return list(read_held_out(corpus))


def sentences(number: int, *, of: str = "words") -> list[str]:
    """Make up distinct sentences."""
    return [f"{of} number {i}: {' '.join(str(i * k % 97) for k in range(1, 12))}" for i in range(number)]


def eld_sentences(per_language: int) -> list[tuple[str, str]]:
    """Read (language, sentence) pairs in 60 languages from the installed package eld."""
    spec = find_spec("eld")
    assert spec is not None and spec.origin is not None
    lines = (Path(spec.origin).parent / "tests" / "data" / "big-test.txt").read_text(encoding="utf-8").splitlines()
    seen: Counter[str] = Counter()
    chosen = []
    for language, _, text in (line.partition("\t") for line in lines if "\t" in line):
        seen[language] += 1
        if seen[language] <= per_language:
            chosen.append((language, text))
    return chosen
