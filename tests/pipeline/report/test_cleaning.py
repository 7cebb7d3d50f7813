"""The part about cleaning says what was dropped and why, which languages were found, and what of test sets."""

from pathlib import Path

import orjson

from configs.base import Artifact
from data_prep.manifests import CleanCorpus, CorpusCount, IdentifiedCount
from data_prep.masks.manifest import ContaminationCount, Mask, MaskCount
from data_prep.masks.reading import masked_counts
from pipeline.report.cleaning import MOST_ROWS, cleaning_part


def count(language: str, **changes: object) -> CorpusCount:
    given = {"num_read": 100, "num_kept": 90, "num_held_out": 0, "dropped": {"duplicate": 10}, "kept_bytes": 1000}
    return CorpusCount.model_validate({"source": "web", "language": language} | given | changes)


def corpus_of(directory: Path, counts: list[CorpusCount], **changes: object) -> Artifact[CleanCorpus]:
    manifest = CleanCorpus.model_validate(
        {"shards": (), "held_out": (), "counts": counts, "unreadable": ()} | changes, strict=False
    )
    return Artifact(directory, manifest)


def part_of(corpus: Artifact[CleanCorpus], *masks: Artifact[Mask]):
    return cleaning_part([corpus], masks, masked_counts([corpus.manifest], [mask.manifest for mask in masks]))


def table(part, caption: str):
    (found,) = [table for table in part.tables if table.caption.startswith(caption)]
    return found


def test_reasons_are_told_with_the_languages_that_lose_most(tmp_path):
    counts = [
        count("sw", dropped={"duplicate": 10, "low_num_words": 40}, num_kept=50),
        count("am", num_read=1000, num_kept=990),
    ]
    found = table(part_of(corpus_of(tmp_path, counts)), "Why documents")
    assert found.rows == [
        ["low num words", "sw 40.0%", "40", "3.64%"],
        ["duplicate", "sw 10.0%, am 1.0%", "20", "1.82%"],
    ]
    assert found.total == ["All", "", "60", "5.45%"]


def test_what_was_found_is_told_by_kind(tmp_path):
    counts = [count("en", found={"math": 3, "email-pii": 7}), count("sw", found={"email-pii": 9})]
    assert table(part_of(corpus_of(tmp_path, counts)), "Found").rows == [
        ["email: replaced by <email-pii>", "sw 9, en 7", "16"],
        ["documents with mathematics", "en 3", "3"],
    ]


def test_languages_that_are_not_what_a_source_says_are_told_but_for_those_of_one_macrolanguage(tmp_path):
    rows = [("sw", "sw", 90), ("sw", "en", 10), ("no", "nn", 5), ("und", "fr", 7)]
    identified = [
        IdentifiedCount(source="web", declared=declared, identified=found, num_documents=number)
        for declared, found, number in rows
    ]
    part = part_of(corpus_of(tmp_path, [count("sw")], identified=identified))
    assert table(part, "Languages found").rows == [["web", "swh_Latn", "eng_Latn", "10", "10.00%"]]
    assert part.notes[0].startswith("The language of 112 documents was identified; for 91.07% it is what")


def test_two_hundred_languages_make_tables_that_can_be_read(tmp_path):
    labels = [f"x-{i:03}" for i in range(200)]
    identified = [
        IdentifiedCount(source="web", declared=label, identified="en", num_documents=i)
        for i, label in enumerate(labels, 1)
    ]
    reasons = {f"high_{name}": 1 for name in ("top_2_gram", "top_3_gram", "num_words")}
    counts = [count(label, dropped=reasons, num_kept=97) for label in labels]
    lines = [
        {"source": "web", "language": label, "reason": reason, "text": "text " * 90, "value": 1, "bound": 0.5}
        for label in labels
        for reason in reasons
    ]
    lines += [lines[0] | {"reason": "high_num_words", "language": "x-000"}] * 20
    (tmp_path / "dropped.jsonl").write_bytes(b"".join(map(orjson.dumps, lines)).replace(b"}{", b"}\n{"))
    part = part_of(corpus_of(tmp_path, counts, identified=identified, samples="dropped.jsonl"))
    assert len(table(part, "Languages found").rows) == MOST_ROWS
    assert "and 160 more pairs" in table(part, "Languages found").caption
    assert len(part.languages) == 200
    one = part.languages[7]
    assert one.title == "x-007: 3 of 100 documents dropped, 3.0%"
    assert one.reasons.rows[0] == ["high num words", "1", "1.00%"]
    assert one.samples is not None
    assert [row[0] for row in one.samples.rows] == ["high num words", "high top 2 gram", "high top 3 gram"]
    assert all(len(row[2]) <= 160 for row in one.samples.rows)


def test_near_copies_and_test_sets_are_told(tmp_path):
    mask = Mask(
        corpus="clean-1",
        shards=(),
        counts=(),
        clusters="clusters",
        cluster_sizes=(5, 0, 1, 2, *[0] * 20, 1),
        tests=(
            ContaminationCount(test="quiz", language="sw", num_items=9, num_too_short=1, num_found=2, num_documents=3),
        ),
    )
    part = part_of(corpus_of(tmp_path, [count("sw")]), Artifact(tmp_path, mask))
    assert table(part, "Near copies").rows == [["2", "5"], ["4 to 5", "3"], ["11 to 100", "1"]]
    assert table(part, "Test sets").rows == [["quiz", "sw", "9", "1", "2", "3"]]


def test_paragraphs_that_are_cut_out_are_told(tmp_path):
    cut = {"source": "web", "language": "sw", "dropped": {}, "num_bytes": 0, "num_held_out": 0}
    counts = (MaskCount(**cut, num_cut_paragraphs=1200, num_cut_bytes=2_500_000),)
    part = part_of(corpus_of(tmp_path, [count("sw")]), Artifact(tmp_path, Mask(corpus="c", shards=(), counts=counts)))
    assert part.notes == ["1,200 paragraphs (2.50 MB) that other documents have were cut out of documents that stay."]


def test_a_corpus_that_loses_nothing_has_no_tables(tmp_path):
    part = part_of(corpus_of(tmp_path, [count("sw", dropped={}, num_kept=100)]))
    assert (part.tables, part.languages, part.notes) == ([], [], [])
