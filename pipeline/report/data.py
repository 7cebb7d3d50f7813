"""The part of the report about text: documents, bytes and tokens, by language and by source."""

from collections import Counter
from collections.abc import Callable, Sequence

from data_prep.manifests import CleanCorpus, CorpusCount, Segment, TokenizedCorpus
from pipeline.report.markup import NOTHING, Html, element, section, table

_MAX_UNREADABLE = 100


def data_section(corpus: CleanCorpus, tokens: TokenizedCorpus) -> Html:
    """Show what was read, kept, held out and dropped, and how many tokens the kept text makes."""
    segments = [(shard.source, segment) for shard in tokens.shards for segment in shard.segments]
    by_language = [(segment.language, segment) for _, segment in segments]
    return section(
        "data",
        "Data by language",
        element("p", corpus.summary(), ". ", _balance(corpus.counts)),
        element("p", tokens.summary(), ", over a vocabulary of ", f"{tokens.vocab_size:,}", "."),
        _breakdown("By language, the most text first", "Language", corpus.counts, lambda c: c.language, by_language),
        _breakdown("By source, the most text first", "Source", corpus.counts, lambda c: c.source, segments),
        *_unreadable(corpus),
    )


def _balance(counts: Sequence[CorpusCount]) -> str:
    lost = sum(c.num_read - c.num_kept - c.num_held_out - sum(c.dropped.values()) for c in counts)
    if lost:
        return f"The counts do not add up: {lost:,} of the documents read are neither kept, held out nor dropped."
    return "Every document read is accounted for: kept, held out, or dropped for a reason."


def _breakdown(
    caption: str,
    head: str,
    counts: Sequence[CorpusCount],
    key: Callable[[CorpusCount], str],
    segments: Sequence[tuple[str, Segment]],
) -> Html:
    groups: dict[str, list[CorpusCount]] = {}
    for count in counts:
        groups.setdefault(key(count), []).append(count)
    reasons = sorted({reason for count in counts for reason in count.dropped})
    rows = [
        (name, *_cells(groups.get(name, []), reasons, [segment for owner, segment in segments if owner == name]))
        for name in _by_size(groups)
    ]
    dropped = [f"Dropped: {reason.replace('_', ' ')}" for reason in reasons]
    heads = (head, "Read", "Kept", "Held out", *dropped, "Bytes kept", "Tokens", "Bytes a token")
    return table(caption, heads, rows, total=("All", *_cells(counts, reasons, [segment for _, segment in segments])))


def _by_size(groups: dict[str, list[CorpusCount]]) -> list[str]:
    return sorted(groups, key=lambda name: (-sum(count.kept_bytes for count in groups[name]), name))


def _cells(counts: Sequence[CorpusCount], reasons: Sequence[str], segments: Sequence[Segment]) -> list[str]:
    dropped = Counter[str]()
    for count in counts:
        dropped.update(count.dropped)
    num_tokens = sum(segment.num_tokens for segment in segments)
    numbers = [
        sum(count.num_read for count in counts),
        sum(count.num_kept for count in counts),
        sum(count.num_held_out for count in counts),
        *[dropped[reason] for reason in reasons],
        sum(count.kept_bytes for count in counts),
        num_tokens,
    ]
    rate = f"{sum(segment.num_bytes for segment in segments) / num_tokens:.2f}" if num_tokens else NOTHING
    return [*[f"{number:,}" for number in numbers], rate]


def _unreadable(corpus: CleanCorpus) -> list[Html]:
    if not corpus.unreadable:
        return []
    rows = [(record.where, record.reason) for record in corpus.unreadable[:_MAX_UNREADABLE]]
    rest = len(corpus.unreadable) - len(rows)
    more = [element("p", f"And {rest:,} more; the record of the artifact lists them all.")] if rest else []
    caption = f"{len(corpus.unreadable):,} records that gave no document"
    return [table(caption, ("Where", "Why"), rows, num_text=2), *more]
