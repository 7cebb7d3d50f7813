"""Cleaning that identifies languages, filters and replaces personal data: what is counted, kept and dropped."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import orjson
import pytest

from configs.base import Artifact
from configs.data.stages import CleanConfig
from data_prep.cleaning import stage, treatment
from data_prep.manifests import CleanCorpus
from tests.data_prep.corpora import INLINE, clean_config, cleaned, eld_sentences, held_out, kept, source, write_lines

LANGUAGES = ("en", "de", "no", "ru", "zh", "ja", "am", "vi")

MAIL = "Write to ana@example.com."


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str]]:
    """60 sentences of each language; then some that are short, long, repeated, wrongly labelled or not at all."""
    rows = [pair for pair in eld_sentences(60) if pair[0] in LANGUAGES]
    rows += [("en", text) for label, text in rows[:] if label == "ru"][:12]
    rows += [("und", text) for label, text in rows[:] if label in ("de", "ja")][:70]
    rows += [("en", f"{text} {MAIL} The number {n} is here.") for n, (_, text) in enumerate(rows[:10])]
    rows += [("en", f"{n} {'again and again ' * n}") for n in range(3, 12)]
    rows += [("de", f"{n} - {n} = 0") for n in range(10, 18)]
    rows += [("en", f"A page number {n} {{ with: braces }} of a style sheet, which nobody reads.") for n in range(8)]
    rows += rows[:4]
    return rows


ALL: dict[str, Any] = {
    "identify": {},
    "filters": {
        "presets": ["gopher_repetition", "c4"],
        "limits": {"num_words": {"min": 4}, "letter_share": {"min": 0.5}},
        "learn": {"share": 1, "min_documents": 50, "low": {"mean_word_length": 0.05}, "high": {"num_words": 0.95}},
    },
    "personal_data": {},
    "held_out": {"share": 0.1},
}


def make_config(tmp_path: Path, rows: list[tuple[str, str]], **settings: Any) -> CleanConfig:
    half = len(rows) // 2
    paths = [write_lines(tmp_path / f"{n}.jsonl", part) for n, part in enumerate((rows[:half], rows[half:], rows[::3]))]
    return clean_config(source("web", *paths[:2]), source("books", paths[2]), shard_bytes=20_000, **settings)


def read(rows: list[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """Return how many documents each source says to be in each language."""
    counts = Counter(("web", label) for label, _ in rows)
    counts.update(("books", label) for label, _ in rows[::3])
    return counts


def dropped(corpus: Artifact[CleanCorpus]) -> Counter[tuple[str, str, str]]:
    return Counter(
        {(c.source, c.language, reason): n for c in corpus.manifest.counts for reason, n in c.dropped.items()}
    )


def reasons(corpus: Artifact[CleanCorpus], name: str = "web") -> Counter[str]:
    total: Counter[str] = Counter()
    for count in corpus.manifest.counts:
        total.update(count.dropped if count.source == name else {})
    return total


def check_counts(corpus: Artifact[CleanCorpus]) -> None:
    """Check each count against the documents of the shards, and that read = kept + held out + dropped."""
    in_shards = Counter((document.source, document.language) for document in kept(corpus))
    in_held_out = Counter((document.source, document.language) for document in held_out(corpus))
    for count in corpus.manifest.counts:
        stream = count.source, count.language
        assert (count.num_kept, count.num_held_out) == (in_shards.pop(stream, 0), in_held_out.pop(stream, 0)), stream
        assert count.num_read == count.num_kept + count.num_held_out + sum(count.dropped.values()), stream
    assert not in_shards and not in_held_out


def test_every_document_is_kept_held_out_or_dropped(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    settings = ALL | {"identify": {"on_mismatch": "drop"}}
    corpus = cleaned(tmp_path / "out", make_config(tmp_path, [row for row in rows if row[0] != "und"], **settings))
    check_counts(corpus)
    found = {(count.source, count.language): count.num_read for count in corpus.manifest.counts}
    assert found == read([row for row in rows if row[0] != "und"])
    assert sum(count.num_held_out for count in corpus.manifest.counts) > 10
    assert {"language_mismatch", "high_num_braces", "high_num_words", "low_mean_word_length", "duplicate"} <= set(
        reasons(corpus)
    )
    files = [orjson.loads(line) for line in (corpus.dir / "files.jsonl").read_bytes().splitlines()]
    assert sum(file["records"] for file in files) == sum(found.values())
    duplicates = sum(number for (_, _, reason), number in dropped(corpus).items() if reason == "duplicate")
    assert sum(file["dropped"] for file in files) == sum(dropped(corpus).values()) - duplicates


def test_documents_of_unknown_language_get_the_label_that_is_found(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    corpus = cleaned(tmp_path / "out", make_config(tmp_path, rows, **ALL))
    check_counts(corpus)
    for name in ("web", "books"):
        before = sum(number for (source_name, _), number in read(rows).items() if source_name == name)
        assert sum(count.num_read for count in corpus.manifest.counts if count.source == name) == before
    assert not [count for count in corpus.manifest.counts if count.language == "und"]
    found = [entry for entry in corpus.manifest.identified if (entry.source, entry.declared) == ("web", "und")]
    assert sum(entry.num_documents for entry in found) == read(rows)["web", "und"]
    assert {entry.identified for entry in found} >= {"de", "ja"}


def test_what_was_identified_is_kept_with_the_document(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    corpus = cleaned(tmp_path / "out", make_config(tmp_path, rows, **ALL))
    documents = [*kept(corpus), *held_out(corpus)]
    assert documents
    labels: Counter[tuple[str, Any]] = Counter()
    for document in documents:
        identified = document.metadata["identified"]
        assert isinstance(identified, dict) and set(identified) == {"label", "score", "backend"}
        assert isinstance(identified["score"], float) and 0 <= identified["score"] <= 1
        assert identified["backend"] in ("cld2", "py3langid", "script")
        labels[document.language, identified["label"]] += 1
    for pair in (("vi", "vie_Latn"), ("ru", "rus_Cyrl"), ("ja", "jpn_Jpan"), ("am", "amh_Ethi")):
        of_language = {label: number for (language, label), number in labels.items() if language == pair[0]}
        assert labels[pair] > 0.8 * sum(of_language.values()), of_language


def test_personal_data_is_replaced_and_counted(tmp_path: Path) -> None:
    rows = [("en", f"Page {n}: {MAIL} {'Phone 212-736-5000.' if n < 4 else ''}") for n in range(10)]
    rows += [("en", f"Code {n}: `ana@example.com`, and $x_{n}$.") for n in range(5)]
    config = clean_config(source("web", write_lines(tmp_path / "a.jsonl", rows)), personal_data={})
    corpus = cleaned(tmp_path / "out", config)
    (count,) = corpus.manifest.counts
    assert count.found == {"email-pii": 10, "phone-pii": 4, "code": 5, "math": 5}
    texts = [document.text for document in (*kept(corpus), *held_out(corpus))]
    assert len(texts) == 15
    assert sum(MAIL.replace("ana@example.com", "<email-pii>") in text for text in texts) == 10
    assert sum("`ana@example.com`" in text for text in texts) == 5
    assert not any("212-736" in text or MAIL in text for text in texts)


def mismatched() -> list[tuple[str, str]]:
    """English sentences, of which ten are said to be German."""
    english = [text for label, text in eld_sentences(50) if label == "en"]
    return [("de" if n < 10 else "en", text) for n, text in enumerate(english)]


@pytest.mark.parametrize(
    ("on_mismatch", "labels", "why"),
    [
        ("keep", {"de": 10, "en": 40}, {}),
        ("relabel", {"en": 50}, {}),
        ("drop", {"en": 40}, {"language_mismatch": 10}),
    ],
)
def test_a_document_in_another_language_than_it_says(
    tmp_path: Path, on_mismatch: str, labels: dict[str, int], why: dict[str, int]
) -> None:
    path = write_lines(tmp_path / "a.jsonl", mismatched())
    config = clean_config(source("web", path), identify={"on_mismatch": on_mismatch}, held_out={"share": 0})
    corpus = cleaned(tmp_path / "out", config)
    check_counts(corpus)
    assert Counter(document.language for document in kept(corpus)) == labels
    assert reasons(corpus) == why
    found = {(entry.declared, entry.identified): entry.num_documents for entry in corpus.manifest.identified}
    assert found == {("de", "en"): 10, ("en", "en"): 40}


@pytest.mark.parametrize("on_mismatch", ["keep", "relabel", "drop"])
def test_members_of_one_macrolanguage_do_not_differ(tmp_path: Path, on_mismatch: str) -> None:
    """Bosnian that is called Croatian, and Norwegian that is called Nynorsk."""
    rows = [{"hr": "bs", "no": "nn"}[label] for label, _ in eld_sentences(30) if label in ("hr", "no")]
    texts = [text for label, text in eld_sentences(30) if label in ("hr", "no")]
    path = write_lines(tmp_path / "a.jsonl", zip(rows, texts, strict=True))
    config = clean_config(source("web", path), identify={"on_mismatch": on_mismatch}, held_out={"share": 0})
    corpus = cleaned(tmp_path / "out", config)
    labels = Counter(document.language for document in kept(corpus))
    assert labels["bs"] >= 28 and labels["nn"] >= 28


@pytest.mark.parametrize(
    ("identify", "least", "reason"),
    [
        ({"min_score": 0.5, "min_scores": {"de": 1.0}}, 5, "language_unsure"),
        ({"languages": ["en", "deu_Latn"]}, 240, "other_language"),
        ({"languages": ["en"], "on_mismatch": "drop"}, 300, "other_language"),
    ],
)
def test_unsure_and_unwanted_languages_are_dropped(
    tmp_path: Path, rows: list[tuple[str, str]], identify: dict[str, Any], least: int, reason: str
) -> None:
    corpus = cleaned(tmp_path / "out", make_config(tmp_path, rows, identify=identify))
    check_counts(corpus)
    assert reasons(corpus)[reason] >= least
    for document in kept(corpus):
        found = document.metadata["identified"]
        assert isinstance(found, dict)
        if "languages" in identify:
            assert found["label"] in ("eng_Latn", "deu_Latn", "und")
        if found["label"] == "deu_Latn" and "min_scores" in identify:
            assert found["score"] == 1.0
        elif "min_score" in identify:
            assert isinstance(found["score"], float) and found["score"] >= 0.5


def test_thresholds_of_a_corpus_drop_the_same_documents_again(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    settings = ALL | {"filters": ALL["filters"] | {"limits": ALL["filters"]["limits"] | {"top_2_gram": {}}}}
    first = cleaned(tmp_path / "first", make_config(tmp_path, rows, **settings))
    assert first.manifest.thresholds
    file = tmp_path / "copy.yaml"
    file.write_bytes((first.dir / first.manifest.thresholds).read_bytes())
    again = cleaned(tmp_path / "again", make_config(tmp_path, rows, **ALL | {"filters": {"file": str(file)}}))
    assert dropped(again) == dropped(first)
    assert [(document.id, document.text) for document in kept(again)] == [
        (document.id, document.text) for document in kept(first)
    ]
    assert (again.dir / again.manifest.thresholds).read_bytes() == file.read_bytes()
    assert (again.dir / again.manifest.samples).read_bytes() == (first.dir / first.manifest.samples).read_bytes()


def test_samples_of_what_is_dropped_are_few_and_marked(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    settings = ALL | {"filters": ALL["filters"] | {"limits": {"num_words": {"min": 12}}}}
    corpus = cleaned(tmp_path / "out", make_config(tmp_path, rows, **settings))
    samples = [json.loads(line) for line in (corpus.dir / corpus.manifest.samples).read_text("utf-8").splitlines()]
    assert all(row["contains_text"] is True and 0 < len(row["text"]) <= 400 for row in samples)
    by_reason: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
    for row in samples:
        by_reason[row["source"], row["language"], row["reason"]].add(row["id"])
        assert row["value"] < row["bound"] if row["reason"].startswith("low_") else row["value"] > row["bound"]
    assert sum(map(len, by_reason.values())) == len(samples), "none is there twice"
    of_filters = {key: number for key, number in dropped(corpus).items() if key[2].startswith(("low_", "high_"))}
    assert {key: len(ids) for key, ids in by_reason.items()} == {key: min(3, n) for key, n in of_filters.items()}
    assert max(of_filters.values()) > 3


def test_languages_that_are_not_learned_are_named(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    settings = ALL | {"identify": None}
    corpus = cleaned(
        tmp_path / "out", make_config(tmp_path, [*rows, *[("yo", f"Ọ̀rọ̀ {n} nìyí") for n in range(9)]], **settings)
    )
    assert dict(corpus.manifest.not_learned) == {"yo": 9 + 3}


class Killed(Exception):
    """Stands for the end of the process by SIGKILL."""


def run(config: CleanConfig, out: Path) -> dict[str, bytes]:
    """Run the stage; return every file of the artifact, hidden ones too, and the manifest."""
    manifest = stage.clean(config, out=out, executor=INLINE)
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return files | {"manifest": manifest.model_dump_json().encode()}


def test_a_killed_run_gives_what_an_undisturbed_one_gives(
    tmp_path: Path, rows: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while bounds are learned, while documents are read for good, and before the last of them."""
    config = make_config(tmp_path, rows, **ALL).model_copy(update={"shard_bytes": 4000})
    original, seen = treatment.normalize, 0

    def dying(text: str, **settings: Any) -> Any:
        nonlocal seen
        if seen == die_at:
            raise Killed
        seen += 1
        return original(text, **settings)

    die_at = -1
    monkeypatch.setattr(treatment, "normalize", dying)
    calm = run(config, tmp_path / "calm")
    assert {"thresholds.yaml", "dropped.jsonl", "files.jsonl"} <= set(calm)
    assert sum(name.startswith("shards/") for name in calm) > 10
    number = len(rows) + len(rows[::3])
    assert seen == 2 * number, "each record is read to learn, and again"
    for die_at in (0, number // 2, number, number + number // 2, 2 * number - 1):
        seen, out = 0, tmp_path / str(die_at)
        with pytest.raises(Killed):
            run(config, out)
        die_at, seen = -1, 0
        assert run(config, out) == calm
