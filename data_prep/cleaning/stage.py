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
from data_prep.cleaning.held_out import Digests, are_below_share, load_digests, observe_held_out
from data_prep.cleaning.parts import (
    DUPLICATE,
    HELD_OUT,
    HELD_OUT_ELSEWHERE,
    KEPT,
    Fates,
    Part,
    Scan,
    scan_part,
    write_part,
)
from data_prep.manifests import CleanCorpus, CorpusCount
from data_prep.sources.document import Digest
from data_prep.sources.table import READERS


def observe_sources(config: CleanConfig, digest: Digest) -> JsonValue:
    """Return what the sources and the corpora of held_out.against hold now: part of the fingerprint of the corpus."""
    return {
        "sources": {source.name: READERS[source.kind].identity(source, digest) for source in config.sources},
        "held_out_elsewhere": observe_held_out(config.held_out.against),
    }


def clean(config: CleanConfig, *, out: Path, executor: Executor) -> CleanCorpus:
    """Make the clean corpus: every document that is read is kept, held out or dropped for a counted reason.

    Raises UserError if too many records are unreadable, or if no document is left to train on.
    """
    parts = _list_parts(config, out)
    scans = list(executor.map(scan_part, parts, label="reading sources"))
    _check_unreadable(config, scans)
    _check_shares(config, scans)
    decisions = _choose_decisions(config, scans, load_digests(config.held_out.against, executor))
    for part, decision in zip(parts, decisions, strict=True):
        np.save(part.fate_file, decision)
    written = list(executor.map(write_part, parts, label="writing documents"))
    counts = _count_documents(scans, decisions)
    _check_not_empty(counts)
    _delete_atomically(out / "parts")
    return CleanCorpus(
        shards=tuple(shard for result in written for shard in result.shards),
        held_out=tuple(shard for result in written for shard in result.held_out),
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


def _check_shares(config: CleanConfig, scans: Iterable[Scan]) -> None:
    """Raise UserError if held_out.shares names a language that has no document, which would hold nothing out."""
    found = {(scan.source, str(language)) for scan in scans for language in np.unique(scan.languages)}
    for key in config.held_out.shares:
        source, _, language = key.partition("/")
        if language != "*" and not any(name == language and source in (own, "*") for own, name in found):
            known = sorted({name for own, name in found if source in (own, "*")})
            raise UserError(
                f"held_out.shares names {key!r}, and no document that was read there is in {language!r}; the languages "
                f"are {', '.join(known) or 'none'}: correct it, or leave it out"
            )


def _choose_decisions(config: CleanConfig, scans: list[Scan], held_out_elsewhere: Digests) -> list[Fates]:
    """Choose the decision of each scanned document, part by part.

    The first of equal texts is kept, or held out if its digest is below the share of any of them: so a document that
    was held out stays so when the corpus gets another source.
    """
    digests = np.concatenate([scan.digests for scan in scans])
    below = np.concatenate(
        [are_below_share(scan.digests, scan.source, scan.languages, config.held_out) for scan in scans]
    )
    distinct, firsts, number = np.unique(digests, return_index=True, return_inverse=True)
    is_held_out = np.zeros(len(distinct), dtype=bool)
    is_held_out[number[below]] = True
    decision = np.full(len(digests), DUPLICATE, dtype=np.int8)
    decision[firsts] = np.where(is_held_out, HELD_OUT, KEPT)
    decision[firsts[np.isin(distinct, held_out_elsewhere) & ~is_held_out]] = HELD_OUT_ELSEWHERE
    return np.split(decision, np.cumsum([len(scan.digests) for scan in scans])[:-1])


def _count_documents(scans: list[Scan], decisions: list[Fates]) -> tuple[CorpusCount, ...]:
    totals: dict[tuple[str, str], Counter[str]] = {}
    for scan, decision in zip(scans, decisions, strict=True):
        for (language, reason), number in scan.dropped.items():
            totals.setdefault((scan.source, language), Counter())[f"dropped {reason}"] += number
        for language in np.unique(scan.languages):
            in_language = scan.languages == language
            total = totals.setdefault((scan.source, str(language)), Counter())
            total["dropped duplicate"] += int((decision[in_language] == DUPLICATE).sum())
            total["dropped held_out_elsewhere"] += int((decision[in_language] == HELD_OUT_ELSEWHERE).sum())
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
        reasons["held out"] = sum(count.num_held_out for count in counts)
        why = ", ".join(f"{n} {reason}" for reason, n in reasons.items() if n) or "the sources hold none"
        raise UserError(f"no document is left to train on ({why}); check the sources and the bounds of the recipe")
