"""The stage that turns sources into clean documents.

It makes two passes over the parts of the sources; each part is an independent item of work. `scan_part` reads,
normalises and drops. Then duplicates and held-out documents are chosen here from the digests of all documents, and
`write_part` writes the shards.
"""

import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from cluster.executor import Executor
from configs.base import UserError
from configs.data import CleanConfig
from data_prep.cleaning.document_files import read_documents, write_documents
from data_prep.cleaning.parts import DROPPED, HELD_OUT, KEPT, Fates, Part, Scan, scan_part, write_part
from data_prep.manifests import CleanCorpus, CorpusCount
from data_prep.sources.document import Digest
from data_prep.sources.table import READERS

HELD_OUT_FILE = "held_out.jsonl.zst"


def observe_sources(config: CleanConfig, digest: Digest) -> JsonValue:
    """Return what the sources hold now, by source name; it is part of the fingerprint of the clean corpus."""
    return {source.name: READERS[source.kind].identity(source, digest) for source in config.sources}


def clean(config: CleanConfig, *, out: Path, executor: Executor) -> CleanCorpus:
    """Make the clean corpus: every document that is read is kept, held out or dropped for a counted reason.

    Raises UserError if too many records are unreadable, or if no document is left to train on.
    """
    parts = _list_parts(config, out)
    scans = list(executor.map(scan_part, parts, label="reading sources"))
    _check_unreadable(config, scans)
    decisions = _choose_decisions(config, scans)
    for part, decision in zip(parts, decisions, strict=True):
        np.save(part.fate_file, decision)
    written = list(executor.map(write_part, parts, label="writing documents"))
    counts = _count_documents(scans, decisions)
    _check_not_empty(counts)
    held_out = (document for part in parts for document in read_documents(part.held_out_file))
    write_documents(out / HELD_OUT_FILE, held_out)
    _delete_atomically(out / "parts")
    return CleanCorpus(
        shards=tuple(shard for result in written for shard in result.shards),
        held_out=HELD_OUT_FILE,
        counts=counts,
        unreadable=tuple(record for scan in scans for record in scan.unreadable),
    )


def _delete_atomically(directory: Path) -> None:
    """Rename the directory, then delete it: a restart must not go on from half of it."""
    gone = directory.with_name(f".{directory.name}.deleted")
    shutil.rmtree(gone, ignore_errors=True)
    directory.rename(gone)
    shutil.rmtree(gone)


def _list_parts(config: CleanConfig, out: Path) -> list[Part]:
    named = [(source, part) for source in config.sources for part in READERS[source.kind].parts(source)]
    return [Part(i, source, part, config, out) for i, (source, part) in enumerate(named)]


def _check_unreadable(config: CleanConfig, scans: Iterable[Scan]) -> None:
    unreadable = [record for scan in scans for record in scan.unreadable]
    if len(unreadable) > config.max_unreadable:
        shown = ", ".join(f"{record.where} ({record.reason})" for record in unreadable[:5])
        raise UserError(
            f"{len(unreadable)} or more records cannot be read, and max_unreadable is {config.max_unreadable}: "
            f"{shown}; mend them or raise max_unreadable"
        )


def _choose_decisions(config: CleanConfig, scans: list[Scan]) -> list[Fates]:
    """Choose the decision of each scanned document, part by part: kept, held out or dropped as a duplicate.

    The first of equal texts is kept. Each language's documents with the smallest digests are held out, which is as
    good as random and the same on every machine.
    """
    digests = np.concatenate([scan.digests for scan in scans])
    languages = np.concatenate([scan.languages for scan in scans])
    decision = np.full(len(digests), DROPPED, dtype=np.int8)
    firsts = np.unique(digests, return_index=True)[1]
    decision[firsts] = KEPT
    for language in np.unique(languages[firsts]):
        own = firsts[languages[firsts] == language]  # in the order of the digests
        limit = min(config.held_out.documents_per_language, int(len(own) * config.held_out.max_fraction))
        decision[own[:limit]] = HELD_OUT
    return np.split(decision, np.cumsum([len(scan.digests) for scan in scans])[:-1])


def _count_documents(scans: list[Scan], decisions: list[Fates]) -> tuple[CorpusCount, ...]:
    totals: dict[tuple[str, str], Counter[str]] = {}
    for scan, decision in zip(scans, decisions, strict=True):
        for (language, reason), number in scan.dropped.items():
            totals.setdefault((scan.source, language), Counter())[f"dropped {reason}"] += number
        for language in np.unique(scan.languages):
            in_language = scan.languages == language
            total = totals.setdefault((scan.source, str(language)), Counter())
            total["dropped duplicate"] += int((decision[in_language] == DROPPED).sum())
            total["held_out"] += int((decision[in_language] == HELD_OUT).sum())
            total["kept"] += int((decision[in_language] == KEPT).sum())
            total["bytes"] += int(scan.sizes[in_language & (decision == KEPT)].sum())
    return tuple(_to_corpus_count(source, language, total) for (source, language), total in sorted(totals.items()))


def _to_corpus_count(source: str, language: str, total: Counter[str]) -> CorpusCount:
    dropped = {key.removeprefix("dropped "): n for key, n in sorted(total.items()) if key.startswith("dropped ") and n}
    return CorpusCount(
        source=source,
        language=language,
        num_read=total["kept"] + total["held_out"] + sum(dropped.values()),
        num_kept=total["kept"],
        num_held_out=total["held_out"],
        dropped=dropped,
        kept_bytes=total["bytes"],
    )


def _check_not_empty(counts: tuple[CorpusCount, ...]) -> None:
    if sum(count.num_kept for count in counts) == 0:
        reasons: Counter[str] = Counter()
        for count in counts:
            reasons.update(count.dropped)
        why = ", ".join(f"{n} {reason}" for reason, n in reasons.items()) or "the sources hold none"
        raise UserError(f"no document is left to train on ({why}); check the sources and the bounds of the recipe")
