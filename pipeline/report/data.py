"""The part of the page about text: documents, bytes and tokens, by language and by source."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from configs.data.languages import usual_script
from data_prep.manifests import CleanCorpus, CorpusCount, TokenizedCorpus
from data_prep.masks.manifest import Mask
from data_prep.masks.reading import masked_counts
from data_prep.text.scripts import NO_SCRIPT
from pipeline.report.tables import NOTHING, Table
from training.manifests import counted

_MAX_UNREADABLE = 100


@dataclass(frozen=True)
class _Tokens:
    """The tokens of some text, and the bytes that they stand for."""

    num_tokens: int
    num_bytes: int


@dataclass(frozen=True)
class DataPart:
    """What was read, kept, held out and dropped, and how many tokens the kept text makes."""

    corpus: CleanCorpus
    tokens: TokenizedCorpus | None
    num_lost: int
    """Documents read that are neither kept, held out nor dropped; 0 unless something is wrong."""

    tables: Sequence[Table]
    unreadable: Table | None
    num_unlisted: int
    """Unreadable records beyond those that are listed."""


def data_part(corpora: Sequence[CleanCorpus], masks: Sequence[Mask], tokens: TokenizedCorpus | None) -> DataPart:
    """Return the tables by source, script and language, the most text first; they count tokens if these are given."""
    corpus = CleanCorpus(
        shards=(),
        held_out=(),
        counts=masked_counts(corpora, masks),
        unreadable=tuple(record for one in corpora for record in one.unreadable),
    )
    by_source = _sum_tokens(tokens, lambda source, language: source) if tokens else None
    by_script = _sum_tokens(tokens, lambda source, language: usual_script(language) or NO_SCRIPT) if tokens else None
    by_language = _sum_tokens(tokens, lambda source, language: language) if tokens else None
    first = corpus.unreadable[:_MAX_UNREADABLE]
    listed = [(record.where, f"{record.reason} {record.detail}".strip()) for record in first]
    caption = f"{counted(len(corpus.unreadable), 'record')} that gave no document"
    return DataPart(
        corpus=corpus,
        tokens=tokens,
        num_lost=sum(c.num_read - c.num_kept - c.num_held_out - sum(c.dropped.values()) for c in corpus.counts),
        tables=(
            _breakdown("Source", corpus.counts, lambda count: count.source, by_source),
            _breakdown("Script", corpus.counts, lambda count: usual_script(count.language) or NO_SCRIPT, by_script),
            _breakdown("Language", corpus.counts, lambda count: count.language, by_language),
        ),
        unreadable=Table(caption, ("Where", "Why"), listed, num_text=2) if listed else None,
        num_unlisted=len(corpus.unreadable) - len(listed),
    )


def _sum_tokens(tokens: TokenizedCorpus, group: Callable[[str, str], str]) -> dict[str, _Tokens]:
    """Return the tokens by group, in one pass over the shards; `group` is called with a source and a language."""
    num_tokens, num_bytes = Counter[str](), Counter[str]()
    for shard in tokens.shards:
        for segment in shard.segments:
            name = group(shard.source, segment.language)
            num_tokens[name] += segment.num_tokens
            num_bytes[name] += segment.num_bytes
    return {name: _Tokens(num_tokens[name], num_bytes[name]) for name in num_tokens}


def _breakdown(
    head: str, counts: Sequence[CorpusCount], key: Callable[[CorpusCount], str], tokens: Mapping[str, _Tokens] | None
) -> Table:
    groups: dict[str, list[CorpusCount]] = {}
    for count in counts:
        groups.setdefault(key(count), []).append(count)

    def cells(name: str, group: Sequence[CorpusCount], own: Iterable[_Tokens]) -> list[str]:
        return [name, *_count_cells(group), *(_token_cells(list(own)) if tokens is not None else [])]

    known = tokens or {}
    return Table(
        caption=f"By {head.lower()}, the most text first",
        heads=(
            *(head, "Read", "Kept", "Held out"),
            "Dropped",
            "Bytes kept",
            *(("Tokens", "Bytes a token") if tokens is not None else ()),
        ),
        rows=[cells(name, groups[name], [known[name]] if name in known else []) for name in _by_size(groups)],
        total=cells("All", counts, known.values()),
    )


def _by_size(groups: Mapping[str, list[CorpusCount]]) -> list[str]:
    return sorted(groups, key=lambda name: (-sum(count.kept_bytes for count in groups[name]), name))


def _count_cells(counts: Sequence[CorpusCount]) -> list[str]:
    numbers = [
        sum(count.num_read for count in counts),
        sum(count.num_kept for count in counts),
        sum(count.num_held_out for count in counts),
        sum(sum(count.dropped.values()) for count in counts),
        sum(count.kept_bytes for count in counts),
    ]
    return [f"{number:,}" for number in numbers]


def _token_cells(tokens: Sequence[_Tokens]) -> list[str]:
    num_tokens = sum(part.num_tokens for part in tokens)
    rate = f"{sum(part.num_bytes for part in tokens) / num_tokens:.2f}" if num_tokens else NOTHING
    return [f"{num_tokens:,}", rate]
