"""Cleaning: what is kept, held out, dropped, and why."""

import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from configs.base import UserError
from data_prep.cleaning import normalize as module
from data_prep.cleaning.normalize import normalize
from tests.data_prep.corpora import clean_config, cleaned, held_out, kept, sentences, source, write_lines

MIXED = [("en", text) for text in sentences(40)] + [("sw", text) for text in sentences(25, of="maneno")]


def test_documents_in_are_kept_held_out_or_dropped_for_a_counted_reason(tmp_path: Path) -> None:
    web = [*MIXED, ("en", "x"), ("en", "  \n "), ("sw", "y" * 500), ("sw", "\x00\x01"), *MIXED[:7], MIXED[50]]
    books = [*MIXED[30:45], ("de", "zzz zzz"), ("de", "zzz zzz"), ("fr", "q")]
    paths = [write_lines(tmp_path / "web.jsonl", web), write_lines(tmp_path / "books.jsonl", books)]
    config = clean_config(source("web", paths[0]), source("books", paths[1]), max_characters=400)
    corpus = cleaned(tmp_path / "out", config)
    counts = {(count.source, count.language): count for count in corpus.manifest.counts}
    read = Counter(("web", language) for language, _ in web) + Counter(("books", language) for language, _ in books)
    assert {key: count.num_read for key, count in counts.items()} == read
    for count in counts.values():
        assert count.num_read == count.num_kept + count.num_held_out + sum(count.dropped.values())
    assert {key: count.dropped for key, count in counts.items()} == {
        ("web", "en"): {"too_short": 1, "empty": 1, "duplicate": 7},
        ("web", "sw"): {"too_long": 1, "empty": 1, "duplicate": 1},
        ("books", "en"): {"duplicate": 10},
        ("books", "sw"): {"duplicate": 5},
        ("books", "de"): {"duplicate": 1},
        ("books", "fr"): {"too_short": 1},
    }
    documents, held = kept(corpus), held_out(corpus)
    assert Counter((d.source, d.language) for d in documents) == {
        k: c.num_kept for k, c in counts.items() if c.num_kept
    }
    assert Counter((d.source, d.language) for d in held) == {
        k: c.num_held_out for k, c in counts.items() if c.num_held_out
    }
    for key, count in counts.items():
        sizes = [len(d.text.encode()) for d in documents if (d.source, d.language) == key]
        assert count.kept_bytes == sum(sizes)


def test_of_duplicates_the_first_in_source_order_stays(tmp_path: Path) -> None:
    first = write_lines(tmp_path / "z.jsonl", [("en", "cafe\u0301 au lait"), ("en", "only here")])
    second = write_lines(
        tmp_path / "a.jsonl", [("fr", " caf\u00e9 au lait\r\n"), ("fr", "caf\u00e9 au\x00 lait"), ("fr", "new")]
    )
    corpus = cleaned(tmp_path / "out", clean_config(source("z", first), source("a", second)))
    assert [(d.id, d.language, d.text) for d in kept(corpus)] == [
        (f"z/{first}:1", "en", "caf\u00e9 au lait"),
        (f"z/{first}:2", "en", "only here"),
        (f"a/{second}:3", "fr", "new"),
    ]


def test_duplicates_within_a_source_are_dropped_across_its_files(tmp_path: Path) -> None:
    paths = [write_lines(tmp_path / f"{name}.jsonl", MIXED[:9]) for name in "ba"]
    corpus = cleaned(tmp_path / "out", clean_config(source("web", *paths)))
    assert {Path(d.id).name.partition(":")[0] for d in kept(corpus)} == {"a.jsonl"}, "files are read by name"
    assert len(kept(corpus)) + len(held_out(corpus)) == 9


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a\x00b\x07c\x7fd\x86e\ufefff", "abcdef"),
        ("one\x0bpage\x0cnext\x1cfile\x1dgroup\x1erecord\x1funit\x85line", "one page next file group record unit line"),
        ("one\r\ntwo\rthree\tfour", "one\ntwo\nthree\tfour"),
        ("e\u0301 \u1100\u1161 A\u030a", "\u00e9 \uac00 \u00c5"),
        ("e\x00\u0301", "\u00e9"),
        ("\u00a0 \n edges \u3000\t", "edges"),
        ("ﬁ ½ Ａ", "ﬁ ½ Ａ"),
        ("क्\u200dष 👩\u200d👧", "क्\u200dष 👩\u200d👧"),
        ("\x00 \r\n", ""),
    ],
)
def test_normalising_is_nfc_without_controls_and_stays_so(raw: str, clean: str) -> None:
    assert normalize(raw)[0] == clean and normalize(clean) == (clean, ())
    assert unicodedata.is_normalized("NFC", clean)


def test_bounds_count_characters_and_are_inclusive(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [("ja", "日" * n) for n in (2, 3, 5, 6)] + [("ja", f"   {'月' * 5}   ")])
    corpus = cleaned(tmp_path / "out", clean_config(source("web", path), max_characters=5))
    assert [d.text for d in kept(corpus)] == ["日" * 3, "日" * 5, "月" * 5]
    assert corpus.manifest.counts[0].dropped == {"too_short": 1, "too_long": 1}


def test_no_text_is_both_held_out_and_trained_on(tmp_path: Path) -> None:
    same = [(language, text) for language in ("en", "sw", "de") for text in sentences(30)]
    paths = [write_lines(tmp_path / f"{name}.jsonl", rows) for name, rows in (("a", same), ("b", same[::-1]))]
    config = clean_config(source("a", paths[0]), source("b", paths[1]), held_out={"share": 0.5})
    corpus = cleaned(tmp_path / "out", config)
    trained, held = {d.text for d in kept(corpus)}, {d.text for d in held_out(corpus)}
    assert trained | held == {text for _, text in same}
    assert 5 < len(held) < 25
    assert not trained & held


def test_held_out_is_chosen_by_the_text_alone(tmp_path: Path) -> None:
    there = write_lines(tmp_path / "elsewhere" / "b.jsonl", MIXED[::-1])
    here = [write_lines(tmp_path / f"{i}.jsonl", MIXED[i::3]) for i in range(3)]
    one = cleaned(tmp_path / "one", clean_config(source("web", *here), held_out={"share": 0.2}))
    other = cleaned(tmp_path / "other", clean_config(source("net", there), shard_bytes=100, held_out={"share": 0.2}))
    assert {d.text for d in held_out(one)} == {d.text for d in held_out(other)}
    assert 5 < len(held_out(one)) < 25


def test_shards_are_cut_by_bytes_and_ordered_by_language(tmp_path: Path) -> None:
    rows = [(language, text) for text in sentences(50) for language in ("sw", "en") if language == "en" or "7" in text]
    path = write_lines(tmp_path / "a.jsonl", [(lang, f"{lang} {text}") for lang, text in rows])
    corpus = cleaned(tmp_path / "out", clean_config(source("web", path), shard_bytes=1000))
    shards = corpus.manifest.shards
    documents = {
        shard.path: kept(type(corpus)(corpus.dir, corpus.manifest.model_copy(update={"shards": (shard,)})))
        for shard in shards
    }
    assert len(shards) > 3
    for shard in shards:
        own = documents[shard.path]
        sizes = [len(d.text.encode()) for d in own]
        assert shard.num_documents == len(own)
        assert sum(sizes) <= 2000 + max(sizes)
        assert len({d.language for d in own}) == 1, "a language that fills a shard has shards of its own"
    for shard in shards:
        own = documents[shard.path]
        for language in ("en", "sw"):
            lines = [int(d.id.rpartition(":")[2]) for d in own if d.language == language]
            assert lines == sorted(lines), "within a language the order is the source's"


def test_unreadable_records_are_counted_and_listed(tmp_path: Path) -> None:
    one = write_lines(tmp_path / "a.jsonl", [*MIXED[:3], "{broken", *MIXED[3:6]])
    two = write_lines(tmp_path / "b.jsonl", ['{"language": "en"}', *MIXED[6:9]])
    corpus = cleaned(tmp_path / "out", clean_config(source("web", one, two), max_unreadable=2))
    assert [(record.where, record.reason) for record in corpus.manifest.unreadable] == [
        (f"{one}:4", "invalid_json"),
        (f"{two}:1", "missing_field"),
    ]
    assert len(kept(corpus)) == 9


def test_too_much_unreadable_is_one_line_that_says_where(tmp_path: Path) -> None:
    paths = [write_lines(tmp_path / f"{name}.jsonl", [*MIXED[:3], "{broken"]) for name in "ab"]
    with pytest.raises(UserError, match="max_unreadable is 1") as caught:
        cleaned(tmp_path / "out", clean_config(source("web", *paths), max_unreadable=1))
    assert f"{paths[0]}:4 (invalid_json), {paths[1]}:4 (invalid_json)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reading_stops_at_the_first_record_that_is_too_much(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["{broken"] * 1000)
    with pytest.raises(UserError, match=r"^3 or more records"):
        cleaned(tmp_path / "out", clean_config(source("web", path), max_unreadable=2))


@pytest.mark.parametrize(("rows", "says"), [([], "hold none"), ([("en", "x")], "1 too_short")])
def test_a_corpus_with_nothing_left_is_an_error(tmp_path: Path, rows: list[tuple[str, str]], says: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError, match=says):
        cleaned(tmp_path / "out", clean_config(source("web", path)))


def test_two_sources_of_one_name_are_an_error(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", MIXED)
    with pytest.raises(ValidationError, match="two sources are named 'web'"):
        cleaned(tmp_path / "out", clean_config(source("web", path), source("web", path)))


@pytest.mark.parametrize("written", ["é", "é ", "naïve café; ", "à la carte. ", "見出し。\n", "слово "])
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_encodings_are_mended_in_pieces_that_cut_no_character(
    written: str, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MENDED_CHARACTERS", 1000 + shift)
    whole = (written * 4000)[:9000].strip()
    wrong = "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in whole.encode())
    text, changes = normalize(wrong, fix_encoding=True)
    assert text == whole and "encoding" in changes
