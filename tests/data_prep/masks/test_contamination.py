"""Items of test sets that are hidden in documents are found, in all scripts at once, and others are not."""

import importlib.resources
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from configs.base import Artifact, UserError
from configs.data.stages import DeduplicateConfig
from data_prep.cleaning.normalize import normalize
from data_prep.manifests import CleanCorpus
from data_prep.masks.contamination import find_tokens
from data_prep.masks.manifest import CONTAMINATED, Mask
from data_prep.masks.reading import mask_of, read_unmasked
from data_prep.masks.stage import deduplicate, observe_tests
from tests.data_prep.corpora import INLINE, clean_config, cleaned, source, write_lines

LANGUAGES = ("en", "ru", "ar", "hi", "zh", "ja", "ko", "th", "am", "el", "he", "ka", "ta")
"""In thirteen scripts."""


def texts_of(language: str) -> list[str]:
    lines = (importlib.resources.files("eld") / "tests/data/big-test.txt").read_text(encoding="utf-8").splitlines()
    return [line.partition("\t")[2] for line in lines if line.startswith(f"{language}\t")]


@pytest.fixture(scope="module")
def long_texts() -> dict[str, list[str]]:
    """For each language sentences of at least 20 words, or 40 letters where spaces part none."""
    found = defaultdict(list)
    for language in LANGUAGES:
        for text in texts_of(language):
            tokens = find_tokens(text)
            if len(tokens.hashes) >= (40 if language in ("zh", "ja", "th") else 20):
                found[language].append(text)
    return found


def masked(directory: Path, corpus: Artifact[CleanCorpus], tests: Path | str, **changes: Any) -> Artifact[Mask]:
    given = {"tests": [source("quiz", str(tests))], **changes}
    config = DeduplicateConfig.model_validate({"held_out_similarity": None, "decontaminate": given})
    return Artifact(directory, deduplicate(config, corpus=corpus, out=directory, executor=INLINE))


def corpus_of(directory: Path, texts: list[tuple[str, str]]) -> Artifact[CleanCorpus]:
    path = write_lines(directory / "web.jsonl", texts)
    return cleaned(directory / "clean", clean_config(source("web", path), held_out={"share": 0}))


def remaining(corpus: Artifact[CleanCorpus], mask: Artifact[Mask]) -> set[str]:
    return {d.text for s in corpus.manifest.shards for d in read_unmasked(corpus.dir / s.path, mask_of(mask, s))}


def receipts(mask: Artifact[Mask]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (mask.dir / mask.manifest.receipts).read_text(encoding="utf-8").splitlines()]


def test_items_in_thirteen_scripts_are_found_and_other_texts_stay(tmp_path, long_texts):
    items, hidden, clean = [], [], []
    for language, texts in long_texts.items():
        item, before, after, *others = (normalize(text)[0] for text in texts)
        items.append((language, item))
        hidden.append((language, f"{before}\n{item.upper()}  {after}"))
        clean += [(language, text) for text in others[:20]]
    tests = write_lines(tmp_path / "quiz.jsonl", items)
    corpus = corpus_of(tmp_path, [*hidden, *clean])
    mask = masked(tmp_path / "mask", corpus, tests)
    left = remaining(corpus, mask)
    assert left.isdisjoint(text for _, text in hidden) and left >= {text for _, text in clean}
    assert {(one.language, one.num_items, one.num_found, one.num_documents) for one in mask.manifest.tests} == {
        (language, 1, 1, 1) for language in long_texts
    }
    shown = {row["language"]: row for row in receipts(mask)}
    for language, item in items:
        row = shown[language]
        assert row["contains_text"] and row["test"] == "quiz" and row["share"] == 1.0
        assert find_tokens(row["text"]).hashes.tolist() == find_tokens(item[:500]).hashes.tolist()
    assert sum(count.dropped[CONTAMINATED] for count in mask.manifest.counts) == len(items)


ITEM = " ".join(f"word{i}" for i in range(40))


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        (f"before {ITEM} after", True),
        (ITEM.replace(" ", ", ").title(), True),
        (" ".join(ITEM.split()[:30]), True),  # 18 of 28 n-grams
        (" ".join(ITEM.split()[:25]), False),  # 13 of 28
        (" ".join(ITEM.split()[:12]), False),
        (" ".join(reversed(ITEM.split())), False),
        (ITEM.replace("word10 ", "other ").replace("word24 ", "other "), False),
    ],
)
def test_a_document_has_an_item_if_it_has_a_share_of_its_n_grams(tmp_path, text, is_found):
    tests = write_lines(tmp_path / "quiz.jsonl", [("en", ITEM)])
    corpus = corpus_of(tmp_path, [("en", text), ("en", "a document that has nothing of it at all")])
    mask = masked(tmp_path / "mask", corpus, tests)
    assert (text not in remaining(corpus, mask)) == is_found


@pytest.mark.parametrize(("number", "is_found"), [(7, False), (8, True), (12, True), (13, True)])
def test_short_items_are_found_by_eight_words_and_shorter_ones_counted(tmp_path, number, is_found):
    item = " ".join(ITEM.split()[:number])
    tests = write_lines(tmp_path / "quiz.jsonl", [("en", item), ("en", ITEM)])
    corpus = corpus_of(tmp_path, [("en", f"so it says {item} and ends"), ("en", "another document of the corpus")])
    mask = masked(tmp_path / "mask", corpus, tests)
    (one,) = mask.manifest.tests
    assert (one.num_items, one.num_too_short, one.num_found) == (2, int(not is_found), int(is_found))


def test_a_test_set_of_which_nothing_can_be_looked_for_is_refused(tmp_path):
    tests = write_lines(tmp_path / "quiz.jsonl", [("en", "What is this?"), ("en", "And that?")])
    corpus = corpus_of(tmp_path, [("en", "a document of the corpus")])
    with pytest.raises(UserError, match=r"test set .* has no item that is long enough to be looked for \(8 words"):
        masked(tmp_path / "mask", corpus, tests)


def test_several_test_sets_and_sources_of_any_kind(tmp_path):
    (tmp_path / "quiz.csv").write_text(f"question,answer\n{ITEM},x\n", encoding="utf-8")
    other = " ".join(f"term{i}" for i in range(20))
    (tmp_path / "exam").mkdir()
    (tmp_path / "exam/one.txt").write_text(other, encoding="utf-8")
    corpus = corpus_of(tmp_path, [("en", f"{ITEM} {other}"), ("sw", other), ("en", "a document that has nothing")])
    tests = [
        {"name": "quiz", "kind": "csv", "paths": [str(tmp_path / "quiz.csv")], "text_field": "question"},
        {"name": "exam", "kind": "plain_text", "paths": [str(tmp_path / "exam/*.txt")], "language": "en"},
    ]
    config = DeduplicateConfig.model_validate({"decontaminate": {"tests": tests}})
    out = tmp_path / "mask"
    mask = Artifact(out, deduplicate(config, corpus=corpus, out=out, executor=INLINE))
    assert {(one.test, one.num_found, one.num_documents) for one in mask.manifest.tests} == {
        ("quiz", 1, 1),
        ("exam", 1, 2),
    }
    assert remaining(corpus, mask) == {"a document that has nothing"}
    assert "2 with items of test sets" in mask.manifest.summary()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "holds no item"),
        ('{"txt": "a"}\n', r"test set 'quiz': .*missing_field"),
        ('{"text": "a"}\nbroken\n', "invalid_json"),
    ],
)
def test_a_test_set_that_cannot_be_read_is_refused(tmp_path, content, problem):
    tests = tmp_path / "quiz.jsonl"
    tests.write_text(content, encoding="utf-8")
    corpus = corpus_of(tmp_path, [("en", "one document of some length")])
    with pytest.raises(UserError, match=problem):
        masked(tmp_path / "mask", corpus, tests)


def test_what_test_sets_hold_is_part_of_the_fingerprint(tmp_path):
    tests = write_lines(tmp_path / "quiz.jsonl", [("en", ITEM)])
    config = DeduplicateConfig.model_validate({"decontaminate": {"tests": [source("quiz", str(tests))]}})
    before = observe_tests(config, lambda path: path.read_text(encoding="utf-8"))
    write_lines(tmp_path / "quiz.jsonl", [("en", f"{ITEM} more")])
    assert observe_tests(config, lambda path: path.read_text(encoding="utf-8")) != before
    assert observe_tests(DeduplicateConfig(), lambda path: "") is None


def test_an_item_whose_personal_data_the_corpus_has_replaced_is_found(tmp_path):
    item = "Write to ana@example.com or ring +44 20 7946 0958 and ask her how many apples she has sold on this day"
    tests = write_lines(tmp_path / "quiz.jsonl", [("en", item)])
    path = write_lines(tmp_path / "web.jsonl", [("en", f"so it says: {item}"), ("en", f"again {ITEM}")])
    config = clean_config(source("web", path), held_out={"share": 0}, personal_data={})
    corpus = cleaned(tmp_path / "clean", config)
    mask = masked(tmp_path / "mask", corpus, tests)
    assert remaining(corpus, mask) == {f"again {ITEM}"}
    (one,) = mask.manifest.tests
    assert (one.num_items, one.num_found, one.num_documents) == (1, 1, 1)
