"""The part of the page about cleaning: what was dropped and why, with samples; languages; near copies; test sets."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from cluster.host.files import inside
from configs.base import Artifact
from configs.data.languages import iso_label
from data_prep.manifests import CleanCorpus, CorpusCount, IdentifiedCount
from data_prep.masks.manifest import Mask
from pipeline.report.tables import Table

MOST_ROWS = 40
"""Rows of a table that has one for each pair of languages, at most."""

_MOST_LANGUAGES = 4
_SAMPLE_CHARACTERS = 160
_MOST_SAMPLES = 8
"""Samples of a language, at most."""


@dataclass(frozen=True)
class CleaningPart:
    """What became of documents on the way, and what was found in them."""

    tables: Sequence[Table]
    languages: Sequence["LanguagePart"]
    """What each language loses that loses documents, with samples; by label."""

    notes: Sequence[str]
    """What else is to be known, in sentences."""


@dataclass(frozen=True)
class LanguagePart:
    """What became of the documents of a language."""

    title: str
    reasons: Table
    samples: Table | None
    """The beginnings of some documents that filters dropped: text of the sources."""


def cleaning_part(
    corpora: Sequence[Artifact[CleanCorpus]], masks: Sequence[Artifact[Mask]], counts: Sequence[CorpusCount]
) -> CleaningPart:
    """Return the tables; `counts` are those of the corpora with what the masks leave out."""
    identified = [one for corpus in corpora for one in corpus.manifest.identified]
    found = [_reasons(counts), _found(counts), _mismatches(identified), _clusters(masks), _tests(masks)]
    return CleaningPart(
        tables=[table for table in found if table is not None],
        languages=list(_languages(counts, _samples(corpora))),
        notes=[*_notes(corpora, identified), *_cuts(masks)],
    )


def _words(reason: str) -> str:
    return reason.replace("_", " ")


def _reasons(counts: Sequence[CorpusCount]) -> Table | None:
    """Return why documents were dropped, the most frequent reason first."""
    num_read, by_language = Counter[str](), defaultdict[str, Counter[str]](Counter)
    for count in counts:
        num_read[count.language] += count.num_read
        for reason, number in count.dropped.items():
            by_language[reason][count.language] += number
    totals = {reason: languages.total() for reason, languages in by_language.items() if languages.total()}
    if not totals:
        return None
    total_read = num_read.total()
    rows = [
        [_words(reason), _most_hit(by_language[reason], num_read), f"{number:,}", f"{number / total_read:.2%}"]
        for reason, number in sorted(totals.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    dropped = sum(totals.values())
    return Table(
        caption="Why documents were dropped",
        heads=("Reason", "Most of all in", "Documents", "Of all read"),
        rows=rows,
        total=["All", "", f"{dropped:,}", f"{dropped / total_read:.2%}"],
        num_text=2,
    )


def _most_hit(dropped: Counter[str], num_read: Counter[str]) -> str:
    """Return the languages that lose the largest share of their documents, each with it."""
    shares = sorted(((number / num_read[one], one) for one, number in dropped.items() if number), reverse=True)
    return ", ".join(f"{language} {share:.1%}" for share, language in shares[:_MOST_LANGUAGES])


_FOUND = {
    "math": "documents with mathematics",
    "code": "documents with code",
    "table": "documents with a table",
    "math_unbalanced": "documents with a delimiter of mathematics that lacks its other half",
}


def _found(counts: Sequence[CorpusCount]) -> Table | None:
    by_kind = defaultdict[str, Counter[str]](Counter)
    for count in counts:
        for kind, number in count.found.items():
            by_kind[kind][count.language] += number
    if not by_kind:
        return None
    rows = [
        [
            _FOUND.get(kind, f"{kind.removesuffix('-pii')}: replaced by <{kind}>"),
            ", ".join(f"{language} {number:,}" for language, number in languages.most_common(_MOST_LANGUAGES)),
            f"{languages.total():,}",
        ]
        for kind, languages in sorted(by_kind.items())
    ]
    heads = ("What", "Most of all in", "Number")
    return Table(caption="Found in the documents that were kept", heads=heads, rows=rows, num_text=2)


def _mismatches(identified: Sequence[IdentifiedCount]) -> Table | None:
    """Return which languages were found where sources say others, the most frequent pairs first."""
    wrong = sorted((one for one in identified if not one.agrees), key=lambda one: -one.num_documents)
    if not wrong:
        return None
    read = Counter[tuple[str, str]]()
    for one in identified:
        read[one.source, one.declared] += one.num_documents
    rows = [
        [
            one.source,
            iso_label(one.declared),
            iso_label(one.identified),
            f"{one.num_documents:,}",
            f"{one.num_documents / read[one.source, one.declared]:.2%}",
        ]
        for one in wrong[:MOST_ROWS]
    ]
    more = len(wrong) - MOST_ROWS
    caption = f"Languages found that are not what sources say{f', and {more:,} more pairs' if more > 0 else ''}"
    heads = ("Source", "It says", "Found", "Documents", "Of those that say so")
    return Table(caption=caption, heads=heads, rows=rows, num_text=3)


def _clusters(masks: Sequence[Artifact[Mask]]) -> Table | None:
    sizes = Counter[int]()
    for mask in masks:
        sizes.update({size: number for size, number in enumerate(mask.manifest.cluster_sizes, 2) if number})
    if not sizes:
        return None
    bounds = [(2, 2), (3, 3), (4, 5), (6, 10), (11, 100), (101, max(sizes))]
    rows = [
        [f"{low}" if low == high else f"{low} to {high:,}", f"{number:,}"]
        for low, high in bounds
        if low <= high and (number := sum(n for size, n in sizes.items() if low <= size <= high))
    ]
    heads = ("Documents that are nearly the same", "Clusters")
    return Table(caption="Near copies, of which one is kept", heads=heads, rows=rows)


def _tests(masks: Sequence[Artifact[Mask]]) -> Table | None:
    """Return the receipt: what was found of test sets, summed over the corpora."""
    looked: dict[tuple[str, str], list[int]] = {}
    for mask in masks:
        for one in mask.manifest.tests:
            row = looked.setdefault((one.test, one.language), [one.num_items, one.num_too_short, 0, 0])
            row[2], row[3] = max(row[2], one.num_found), row[3] + one.num_documents
    if not looked:
        return None
    rows = [[*key, *(f"{number:,}" for number in numbers)] for key, numbers in sorted(looked.items())]
    heads = (
        "Test set",
        "Language",
        "Items",
        "Too short to look for",
        "Found in a source, at most",
        "Documents that have one",
    )
    return Table(caption="Test sets that were looked for", heads=heads, rows=rows, num_text=2)


def _languages(counts: Sequence[CorpusCount], samples: Mapping[str, list[list[str]]]) -> Iterator[LanguagePart]:
    """Yield the languages that lose documents, each with why."""
    num_read, dropped = Counter[str](), defaultdict[str, Counter[str]](Counter)
    for count in counts:
        num_read[count.language] += count.num_read
        dropped[count.language].update(count.dropped)
    for language in sorted(label for label, reasons in dropped.items() if reasons.total()):
        total, read = dropped[language].total(), num_read[language]
        rows = [
            [_words(reason), f"{number:,}", f"{number / read:.2%}"]
            for reason, number in sorted(dropped[language].items(), key=lambda pair: (-pair[1], pair[0]))
            if number
        ]
        heads = ("Reason", "Documents", "Of those read")
        yield LanguagePart(
            title=f"{language}: {total:,} of {read:,} documents dropped, {total / read:.1%}",
            reasons=Table(caption=f"Why documents in {language} were dropped", heads=heads, rows=rows),
            samples=_sample_table(language, samples.get(language, [])),
        )


def _sample_table(language: str, rows: list[list[str]]) -> Table | None:
    """Return samples of a language: of each reason as many as there is room for."""
    by_reason = defaultdict[str, list[list[str]]](list)
    for row in rows:
        by_reason[row[0]].append(row)
    if not by_reason:
        return None
    room = max(1, _MOST_SAMPLES // len(by_reason))
    shown = [row for _, own in sorted(by_reason.items()) for row in own[:room]][:_MOST_SAMPLES]
    heads = ("Reason", "Source", "How it begins", "Value (bound)")
    return Table(caption=f"Samples of what the filters dropped in {language}", heads=heads, rows=shown, num_text=3)


def _samples(corpora: Sequence[Artifact[CleanCorpus]]) -> dict[str, list[list[str]]]:
    """Return samples of what filters dropped, by language."""
    found = defaultdict[str, list[list[str]]](list)
    for corpus in corpora:
        if corpus.manifest.samples:
            for line in inside(corpus.dir, corpus.manifest.samples).read_bytes().splitlines():
                row = orjson.loads(line)
                text = " ".join(row["text"].split())[:_SAMPLE_CHARACTERS]
                value = f"{row['value']:.4g} ({row['bound']:.4g})"
                found[row["language"]].append([_words(row["reason"]), row["source"], text, value])
    return found


def _cuts(masks: Sequence[Artifact[Mask]]) -> list[str]:
    counts = [count for mask in masks for count in mask.manifest.counts]
    number, size = sum(count.num_cut_paragraphs for count in counts), sum(count.num_cut_bytes for count in counts)
    said = (
        f"{number:,} paragraphs ({size / 1e6:,.2f} MB) that other documents have were cut out of documents that stay."
    )
    return [said] if number else []


def _notes(corpora: Sequence[Artifact[CleanCorpus]], identified: Sequence[IdentifiedCount]) -> Sequence[str]:
    notes = []
    if identified:
        total = sum(one.num_documents for one in identified)
        agree = sum(one.num_documents for one in identified if one.agrees)
        notes.append(
            f"The language of {total:,} documents was identified; for {agree / total:.2%} it is what the source says, "
            "or one of the same macrolanguage, or the source does not say."
        )
    for corpus in corpora:
        name, few = corpus.dir.resolve().name, corpus.manifest.not_learned
        if few:
            shown = ", ".join(f"{language} {number:,}" for language, number in sorted(few.items())[:MOST_ROWS])
            shown += f", and {len(few) - MOST_ROWS} more" if len(few) > MOST_ROWS else ""
            notes.append(
                f"Of {len(few)} languages of {name} no bounds were learned, since too few documents were read for it: "
                f"{shown}."
            )
        if corpus.manifest.thresholds:
            notes.append(f"The bounds that were applied to each language: {name}/{corpus.manifest.thresholds}.")
    return notes
