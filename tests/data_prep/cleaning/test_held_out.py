"""Held-out documents: by digest and share, nested when a corpus grows, dropped from other corpora."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from configs.base import Artifact, UserError
from data_prep.cleaning.held_out import digest_of, is_below_share, observe_held_out, smallest_digests
from data_prep.cleaning.stage import observe_sources
from data_prep.manifests import CleanCorpus
from data_prep.sources.document import Document
from tests.data_prep.corpora import clean_config, cleaned, held_out, kept, sentences, source, write_lines


def texts(corpus: Artifact[CleanCorpus]) -> set[str]:
    return {document.text for document in held_out(corpus)}


def rows(number: int, *, of: str, language: str = "en") -> list[tuple[str, str]]:
    return [(language, text) for text in sentences(number, of=of)]


def finished(corpus: Artifact[CleanCorpus], *, stage: str = "clean", fingerprint: str = "f1") -> str:
    """Give an artifact the record that the store gives it; return its path."""
    record = {"stage": stage, "fingerprint": fingerprint, "manifest": corpus.manifest.model_dump(mode="json")}
    (corpus.dir / "record.json").write_text(json.dumps(record), encoding="utf-8")
    return str(corpus.dir)


def test_a_document_is_held_out_iff_its_digest_is_below_the_share(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", rows(400, of="words"))
    corpus = cleaned(tmp_path / "out", clean_config(source("web", path), held_out={"share": 0.1}))
    for document in held_out(corpus):
        assert int.from_bytes(digest_of(document.text)[:8]) / 2**64 < 0.1
    for document in kept(corpus):
        assert int.from_bytes(digest_of(document.text)[:8]) / 2**64 >= 0.1
    assert len(held_out(corpus)) + len(kept(corpus)) == 400


def test_a_digest_is_a_fraction_below_one() -> None:
    zero, half, most = b"\0" * 16, b"\x80" + b"\0" * 15, b"\xff" * 16
    assert [is_below_share(digest, 0.5) for digest in (zero, half, most)] == [True, False, False]
    assert not is_below_share(zero, 0.0) and is_below_share(most, 1.0) and not is_below_share(most, 1 - 2.0**-53)


def test_held_out_documents_stay_so_when_a_corpus_grows(tmp_path: Path) -> None:
    """In the language, in another source of it, and under another source's larger share of the same texts."""
    old = write_lines(tmp_path / "old.jsonl", rows(200, of="old"))
    config = {"held_out": {"share": 0.05, "shares": {"again/*": 0.2}}}
    first = cleaned(tmp_path / "first", clean_config(source("web", old), held_out={"share": 0.05}))
    more = write_lines(tmp_path / "more.jsonl", rows(200, of="more"))
    again = write_lines(tmp_path / "again.jsonl", rows(200, of="old"))
    grown = cleaned(tmp_path / "grown", clean_config(source("web", old, more), source("again", again), **config))
    assert texts(first) and texts(first) < texts(grown)
    assert not {document.text for document in kept(grown)} & texts(first)
    before = cleaned(tmp_path / "before", clean_config(source("again", again), source("web", old, more), **config))
    assert texts(before) == texts(grown)


def test_shares_are_by_source_and_language(tmp_path: Path) -> None:
    web = [*rows(60, of="a"), *rows(60, of="b", language="sw"), *rows(60, of="c", language="lo")]
    books = [*rows(60, of="d"), *rows(60, of="e", language="sw")]
    paths = [write_lines(tmp_path / f"{name}.jsonl", lines) for name, lines in (("web", web), ("books", books))]
    shares = {"books/*": 1.0, "*/sw": 0.5, "books/sw": 0.0}
    corpus = cleaned(
        tmp_path / "out",
        clean_config(source("web", paths[0]), source("books", paths[1]), held_out={"share": 0, "shares": shares}),
    )
    found = Counter((document.source, document.language) for document in held_out(corpus))
    assert found[("books", "en")] == 60
    assert 10 < found.pop(("web", "sw")) < 50
    assert set(found) == {("books", "en")}
    assert "(none of books/sw, web/en, web/lo)" in corpus.manifest.summary()


def test_what_holds_nothing_out_is_named_and_what_has_no_text_is_not(tmp_path: Path) -> None:
    lines = [row for i in range(9) for row in rows(1, of=f"l{i}", language=f"x-l{i}")]
    path = write_lines(tmp_path / "a.jsonl", [*lines, ("x-empty", "y")])
    corpus = cleaned(tmp_path / "out", clean_config(source("web", path), held_out={"share": 0}))
    said = corpus.manifest.summary()
    assert "0 held out (none of web/x-l0, web/x-l1, web/x-l2, web/x-l3, web/x-l4, web/x-l5 and 3 more)" in said


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ({"wbe/en": 0.1}, "no source is named 'wbe'; there are web"),
        ({"*/*": 0.1}, "set held_out.share"),
        ({"web": 0.1}, "no source and language"),
        ({"web/en": 1.5}, "less than or equal to 1"),
    ],
)
def test_shares_of_nothing_are_refused(shares: dict[str, float], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        clean_config(source("web", "a.jsonl"), held_out={"shares": shares})


def test_a_share_of_a_language_without_documents_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [*rows(9, of="a"), *rows(9, of="b", language="sw")])
    config = clean_config(source("web", path), held_out={"shares": {"*/fra_Latn": 0.1}})
    with pytest.raises(UserError, match=r"'\*/fra_Latn'.*in 'fr'; the languages are en, sw"):
        cleaned(tmp_path / "out", config)


def test_a_share_may_write_its_language_otherwise(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [*rows(9, of="a"), *rows(9, of="b", language="sw")])
    shares = {"*/swh_Latn": 1.0, "web/eng_Latn": 0.0}
    corpus = cleaned(tmp_path / "out", clean_config(source("web", path), held_out={"shares": shares}))
    assert {document.language for document in held_out(corpus)} == {"sw"}
    assert len(held_out(corpus)) == len(kept(corpus)) == 9


def test_what_another_corpus_holds_out_is_not_trained_on(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", rows(300, of="a"))
    base = cleaned(tmp_path / "base", clean_config(source("web", path), held_out={"share": 0.2}))
    against = {"share": 0.05, "against": [finished(base)]}
    more = write_lines(tmp_path / "b.jsonl", [*rows(300, of="a"), *rows(100, of="b")])
    corpus = cleaned(tmp_path / "out", clean_config(source("web", more), held_out=against))
    (count,) = corpus.manifest.counts
    assert not {document.text for document in kept(corpus)} & texts(base)
    assert count.dropped["held_out_elsewhere"] == len(texts(base) - texts(corpus)) > 0
    assert count.num_read == count.num_kept + count.num_held_out + sum(count.dropped.values())


def test_a_corpus_changes_its_identity_with_what_it_is_cleaned_against(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", rows(30, of="a"))
    base = cleaned(tmp_path / "base", clean_config(source("web", path)))
    config = clean_config(source("web", path), held_out={"against": [finished(base, fingerprint="f1")]})
    first: Any = observe_sources(config, lambda path: "digest")
    finished(base, fingerprint="f2")
    second: Any = observe_sources(config, lambda path: "digest")
    assert (first["held_out_elsewhere"], second["held_out_elsewhere"]) == (["f1"], ["f2"])
    assert first["sources"] == second["sources"]


@pytest.mark.parametrize("wrong", ["nowhere", "no record", "another stage"])
def test_what_is_no_clean_corpus_is_refused(tmp_path: Path, wrong: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", rows(30, of="a"))
    base = cleaned(tmp_path / "base", clean_config(source("web", path)))
    if wrong == "another stage":
        finished(base, stage="tokenize")
    where = str(tmp_path / ("nowhere" if wrong == "nowhere" else "base"))
    with pytest.raises(UserError, match=r"held_out\.against: .*(is no finished artifact|made by stage 'tokenize')"):
        observe_held_out([where])


def test_a_larger_sample_adds_to_a_smaller_one() -> None:
    documents = [Document(str(i), text, "en", "ab"[i % 2]) for i, text in enumerate(sentences(60))]
    small, large = smallest_digests(documents, 3), smallest_digests(documents[::-1], 7)
    assert Counter(document.source for document in small) == {"a": 3, "b": 3}
    assert small == [*large[:3], *large[7:10]]
    assert smallest_digests(documents, None)[:3] == small[:3]
    assert len(smallest_digests(documents, None)) == 60
