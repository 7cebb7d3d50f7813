"""From the id of a document to its tokens, or to what became of it."""

import os
import shutil
from pathlib import Path

import pytest

from configs.base import Artifact, UserError
from configs.data.stages import DeduplicateConfig, TokenizeConfig
from data_prep.masks.reading import mask_of, read_unmasked
from data_prep.masks.stage import deduplicate
from data_prep.tokenizer.sentencepiece_model import encode_texts, load_sentencepiece
from data_prep.tokenizer.stage import MODEL
from data_prep.tokens.find_document import find_document
from data_prep.tokens.stage import tokenize
from tests.data_prep.corpora import (
    INLINE,
    clean_config,
    cleaned,
    eld_sentences,
    held_out,
    kept,
    sentences,
    source,
    write_lines,
)
from tests.data_prep.toy_tokens import Made, learned, tokenized
from training.data.token_stream import open_token_streams


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two sources in many languages and shards, with a document twice and one that cannot be read."""
    root = tmp_path_factory.mktemp("found")
    rows = eld_sentences(9)
    paths = [
        write_lines(root / "a.jsonl", [*rows[::2], rows[0], "{"]),
        write_lines(root / "b.jsonl", rows[1::2]),
    ]
    sources = [source("a", paths[0]), source("b", paths[1])]
    settings = {"shard_bytes": 9_000, "max_unreadable": 1, "min_characters": 1, "held_out": {"share": 0.2}}
    corpus = cleaned(root / "corpus", clean_config(*sources, **settings))
    return tokenized(root / "tokens", corpus, learned(root / "tokenizer", corpus))


def test_every_document_is_found_with_its_own_tokens(made: Made) -> None:
    tokenizer, streams = load_sentencepiece(made.tokenizer.dir / MODEL), open_token_streams(made.tokens)
    assert len(made.corpus.manifest.shards) > 3
    for document in kept(made.corpus)[::7]:
        (found,) = find_document(document.id, corpus=made.corpus, tokens=made.tokens)
        assert (found.source, found.language) == (document.source, document.language)
        read = streams[found.source, found.language].read(found.start, found.stop - found.start)
        assert read.tolist() == [*encode_texts(tokenizer, [document.text])[0], made.tokens.manifest.eos_id]


def test_an_id_that_was_given_twice_is_found_twice(tmp_path: Path, made: Made) -> None:
    lines = [f'{{"id": {i % 3}, "language": "en", "text": "text number {i}"}}' for i in range(6)]
    config = source("c", write_lines(tmp_path / "c.jsonl", lines)) | {"id_field": "id"}
    again = tokenized(tmp_path / "tokens", cleaned(tmp_path / "corpus", clean_config(config)), made.tokenizer)
    found = find_document("c/1", corpus=again.corpus, tokens=again.tokens)
    assert len({(where.start, where.stop) for where in found}) == 2


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("held out", "it was held out for evaluation"),
        ("unreadable", "it could not be read (invalid_json)"),
        ("duplicate", "it was dropped (duplicate), or was never in source 'a'"),
        ("b/nowhere", "it was never in source 'b'"),
        ("c/there", "the sources are a, b"),
    ],
)
def test_a_document_that_is_not_in_the_text_is_said_to_be_so(made: Made, name: str, says: str) -> None:
    unreadable = f"a/{made.corpus.manifest.unreadable[0].where}"
    file, _, line = unreadable.rpartition(":")
    names = {
        "held out": held_out(made.corpus)[0].id,
        "unreadable": unreadable,
        "duplicate": f"{file}:{int(line) - 1}",
    }
    document = names.get(name, name)
    with pytest.raises(UserError) as caught:
        find_document(document, corpus=made.corpus, tokens=made.tokens)
    assert says in str(caught.value)
    assert repr(document) in str(caught.value)


def test_a_near_copy_of_a_held_out_document_is_said_to_be_masked(tmp_path: Path, made: Made) -> None:
    texts = [" ".join(sentences(6, of=f"page {i}")) for i in range(40)]
    rows = [("en", text) for text in [*texts, *(text.upper() for text in texts)]]
    config = clean_config(source("a", write_lines(tmp_path / "a.jsonl", rows)), held_out={"share": 0.2})
    corpus, place = cleaned(tmp_path / "corpus", config), tmp_path / "mask"
    place.mkdir()
    settings = DeduplicateConfig(held_out_similarity=0.8)
    mask = Artifact(place, deduplicate(settings, corpus=corpus, earlier=(), out=place, executor=INLINE))
    shards = corpus.manifest.shards
    read = [read_unmasked(corpus.dir / shard.path, mask_of(mask, shard)) for shard in shards]
    remaining = {document.id for one in read for document in one}
    (masked, *_) = [document.id for document in kept(corpus) if document.id not in remaining]
    out = tmp_path / "tokens"
    tokens = tokenize(TokenizeConfig(), corpus=corpus, tokenizer=made.tokenizer, mask=mask, out=out, executor=INLINE)
    with pytest.raises(UserError, match="its mask leaves it out: an earlier source has the same text, a held-out or"):
        find_document(masked, corpus=corpus, tokens=Artifact(out, tokens), mask=mask)


@pytest.mark.parametrize("damage", ["index gone", "index cut", "text gone", "text cut"])
def test_damaged_files_are_one_sentence(tmp_path: Path, made: Made, damage: str) -> None:
    copies = {part: tmp_path / part for part in ("corpus", "tokens")}
    for part, place in copies.items():
        shutil.copytree(getattr(made, part).dir, place)
    corpus, tokens = Artifact(copies["corpus"], made.corpus.manifest), Artifact(copies["tokens"], made.tokens.manifest)
    what, how = damage.split()
    shard = made.tokens.manifest.shards[0].path
    path = tokens.dir / f"{shard}.idx" if what == "index" else corpus.dir / made.corpus.manifest.shards[0].path
    if how == "gone":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2)
    document = kept(made.corpus)[0].id
    with pytest.raises(UserError, match=r"cannot be read .*; delete the damaged artifact") as caught:
        find_document(document, corpus=corpus, tokens=tokens)
    assert "\n" not in str(caught.value)
