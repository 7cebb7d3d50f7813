"""From clean documents to token shards."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from cluster.inline import InlineExecutor
from configs.base import Artifact, UserError
from configs.data.stages import TokenizeConfig, TrainTokenizerConfig
from configs.pools import PoolConfig
from data_prep.cleaning.document_files import read_documents
from data_prep.cleaning.held_out import smallest_digests
from data_prep.manifests import CleanCorpus, TokenizedCorpus, TrainedTokenizer
from data_prep.masks.reading import read_held_out
from data_prep.sources.document import Document
from data_prep.tokenizer.sentencepiece_model import encode_texts, load_sentencepiece
from data_prep.tokenizer.stage import MODEL, train_tokenizer
from data_prep.tokens.megatron_shards import open_tokens
from data_prep.tokens.stage import tokenize
from tests.data_prep.corpora import INLINE, clean_config, cleaned, eld_sentences, source, write_lines

Inputs = tuple[Artifact[CleanCorpus], Artifact[TrainedTokenizer]]


class Counting(InlineExecutor):
    """Records how many items each call of `map` has."""

    def __init__(self) -> None:
        super().__init__(PoolConfig())
        self.num_items: list[int] = []

    def map(
        self, fn: Callable[[Any], Any], items: Sequence[Any], *, label: str, on_device: bool = False
    ) -> Iterator[Any]:
        self.num_items.append(len(items))
        return super().map(fn, items, label=label, on_device=on_device)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("inputs")
    rows = eld_sentences(12)
    paths = [write_lines(root / f"{name}.jsonl", part) for name, part in (("a", rows[::2]), ("b", rows[1::2]))]
    settings = {"shard_bytes": 15_000, "held_out": {"share": 0.2}}
    corpus = cleaned(root / "corpus", clean_config(source("a", paths[0]), source("b", paths[1]), **settings))
    config = TrainTokenizerConfig(vocab_size=2500, character_coverage=0.98)
    tokenizer = train_tokenizer(config, corpus=(corpus,), out=root / "tokenizer", executor=INLINE)
    return corpus, Artifact(root / "tokenizer", tokenizer)


def run(out: Path, inputs: Inputs, executor: InlineExecutor = INLINE) -> TokenizedCorpus:
    return tokenize(TokenizeConfig(), corpus=inputs[0], tokenizer=inputs[1], out=out, executor=executor)


def documents(inputs: Inputs) -> list[tuple[str, list[tuple[str, list[int], int]]]]:
    """Return for each shard its source, and each document's language, ids and bytes, computed directly."""
    corpus, tokenizer = inputs
    model, shards = load_sentencepiece(tokenizer.dir / MODEL), []
    for shard in corpus.manifest.shards:
        own = list(read_documents(corpus.dir / shard.path))
        rows = [(d.language, model.encode(d.text), len(d.text.encode())) for d in own]
        shards.append((shard.source, rows))
    return shards


def test_shards_hold_every_document_and_its_end_in_order(tmp_path: Path, inputs: Inputs) -> None:
    made = run(tmp_path, inputs)
    assert len(made.shards) == len(inputs[0].manifest.shards) > 4
    for shard, (name, rows) in zip(made.shards, documents(inputs), strict=True):
        expected = [token for _, ids, _ in rows for token in (*ids, made.eos_id)]
        assert open_tokens(tmp_path / shard.path).tolist() == expected
        assert shard.source == name
        assert expected.count(made.eos_id) == len(rows), "no text spells the end"


def test_segments_match_the_tokens(tmp_path: Path, inputs: Inputs) -> None:
    made = run(tmp_path, inputs)
    for shard, (_, rows) in zip(made.shards, documents(inputs), strict=True):
        languages = [segment.language for segment in shard.segments]
        assert languages == sorted(set(languages))
        for segment in shard.segments:
            own = [(ids, size) for language, ids, size in rows if language == segment.language]
            assert segment.num_documents == len(own)
            assert segment.num_tokens == sum(len(ids) + 1 for ids, _ in own)
            assert segment.num_bytes == sum(size for _, size in own)
        assert sum(segment.num_tokens for segment in shard.segments) == len(open_tokens(tmp_path / shard.path))
    kept = sum(count.num_kept for count in inputs[0].manifest.counts)
    assert sum(segment.num_documents for shard in made.shards for segment in shard.segments) == kept


def test_entropy_is_that_of_the_ids(tmp_path: Path, inputs: Inputs) -> None:
    made = run(tmp_path, inputs)
    counts = Counter(token for _, rows in documents(inputs) for _, ids, _ in rows for token in (*ids, made.eos_id))
    total = sum(counts.values())
    assert made.num_tokens == total
    assert made.unigram_entropy == pytest.approx(-sum(n / total * math.log(n / total) for n in counts.values()))


def test_a_shard_is_an_item_of_work(tmp_path: Path, inputs: Inputs) -> None:
    executor = Counting()
    made = run(tmp_path, inputs, executor)
    assert executor.num_items == [len(made.shards), len(inputs[0].manifest.held_out), len(made.validation)]


@pytest.mark.parametrize("lost", [(".segments.json",), (".bin", ".segments.json"), (".bin", ".idx", ".segments.json")])
def test_finished_shards_are_not_made_again(tmp_path: Path, inputs: Inputs, lost: tuple[str, ...]) -> None:
    made = run(tmp_path, inputs)
    whole = {path: path.read_bytes() for path in (tmp_path / "tokens").iterdir()}
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in whole}
    prefix = tmp_path / made.shards[2].path
    for suffix in lost:
        prefix.with_name(prefix.name + suffix).unlink()
    if lost == (".segments.json",):
        prefix.with_name(prefix.name + ".bin").write_bytes(b"of another run")
    assert run(tmp_path, inputs) == made
    assert {path: path.read_bytes() for path in (tmp_path / "tokens").iterdir()} == whole
    for path, stat in before.items():
        redone = path.name.startswith(f"{prefix.name}.")
        assert ((path.stat().st_ino, path.stat().st_mtime_ns) == stat) != redone


def test_a_tokenizer_that_changed_is_refused(tmp_path: Path, inputs: Inputs) -> None:
    corpus, tokenizer = inputs
    certificate = tokenizer.manifest.certificate.model_copy(update={"model_sha256": "0" * 64})
    changed = Artifact(tokenizer.dir, tokenizer.manifest.model_copy(update={"certificate": certificate}))
    with pytest.raises(UserError, match="certified"):
        run(tmp_path, (corpus, changed))


def test_encoding_in_batches_equals_one_by_one(inputs: Inputs) -> None:
    model = load_sentencepiece(inputs[1].dir / MODEL)
    texts = [text for _, text in eld_sentences(2)]
    assert encode_texts(model, texts) == [model.encode(text) for text in texts]


@pytest.mark.parametrize("max_bytes", [200_000, 400, 0])
def test_some_held_out_documents_are_there_to_validate_on(tmp_path: Path, inputs: Inputs, max_bytes: int) -> None:
    """Those of each source and language with the smallest digests, as many as fit."""
    config = TokenizeConfig(validation_bytes=max_bytes)
    made = tokenize(config, corpus=inputs[0], tokenizer=inputs[1], out=tmp_path, executor=INLINE)
    model = load_sentencepiece(inputs[1].dir / MODEL)
    by_stream: dict[tuple[str, str], list[Document]] = {}
    for document in smallest_digests(read_held_out(inputs[0])):
        by_stream.setdefault((document.source, document.language), []).append(document)
    expected: dict[str, list[int]] = {}
    streams = set()
    for (name, language), own in by_stream.items():
        sizes = list(accumulate(len(document.text.encode()) for document in own))
        chosen = own[: bisect_right(sizes, max_bytes)]
        for ids in encode_texts(model, [document.text for document in chosen]):
            expected.setdefault(name, []).extend([*ids, inputs[1].manifest.eos_id])
        streams |= {(name, language)} if chosen else set()
    assert {shard.source: open_tokens(tmp_path / shard.path).tolist() for shard in made.validation} == expected
    found = {(shard.source, segment.language) for shard in made.validation for segment in shard.segments}
    assert found == streams
    assert bool(made.validation) is bool(max_bytes)
    assert not list(tmp_path.glob("validation/*.zst"))
