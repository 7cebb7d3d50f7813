"""`concord seen` and `concord sample`: what they print of the text that a checkpoint has read, or a step reads."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.store.samples import samples_of_step
from pipeline.store.seen import Checkpoint, DocumentSeen, document_seen, find_checkpoint, started_from, streams_seen
from training.data.position import count_samples_read

_MAX_NUMBERS = 12


def show_seen(path: Path, out: Console, *, as_json: bool) -> None:
    """Print the tokens read of each source and language, and in all."""
    checkpoint = find_checkpoint(path)
    streams, position = streams_seen(checkpoint), checkpoint.record.position
    total, samples = sum(stream.tokens_read for stream in streams), count_samples_read(position, position.next_place)
    left_out, started = position.next_place - samples, started_from(checkpoint)
    if as_json:
        rows = [asdict(stream) for stream in streams]
        counts = {"tokens_read": total, "samples_read": samples, "samples_left_out": left_out}
        _print_json(checkpoint, counts | {"started_from": started, "streams": rows})
        return
    cells = [(s.source, s.language, f"{s.tokens_read:,}", f"{s.share:.2%}", f"{s.epochs:.2f}") for s in streams]
    _print_table(out, [("source", "language", "tokens read", "share", "epochs"), *cells], align="<<>>>")
    skipped = f"; roll-backs left out {left_out:,} more" if left_out else ""
    _print(out, f"{_title(checkpoint)}: {total:,} tokens in {samples:,} samples{skipped}")
    if started:
        _print(out, f"it began with the weights of {started}; what those had read is not counted")


def show_document(path: Path, document: str, out: Console, *, as_json: bool) -> None:
    """Print whether a document was read, how much of it, and when."""
    checkpoint = find_checkpoint(path)
    found = document_seen(checkpoint, document)
    if as_json:
        _print_json(checkpoint, {"document": document, "found": [asdict(seen) for seen in found]})
        return
    for seen in found:
        _print(out, f"{document}: {_number(seen.num_tokens, 'token')} of {seen.source}/{seen.language}")
        _print(out, f"{_how_often(seen)} by {_title(checkpoint)}")
        _print_epochs(seen, out)


def show_samples(path: Path, step: int, out: Console, *, as_json: bool) -> None:
    """Print the samples that an optimizer step reads, with the documents in them."""
    checkpoint = find_checkpoint(path)
    samples = samples_of_step(checkpoint, step)
    if as_json:
        _print_json(checkpoint, {"at": step, "samples": [asdict(sample) for sample in samples]})
        return
    ahead = f", as it will be read after step {checkpoint.record.step:,}" if step > checkpoint.record.step else ""
    _print(out, f"step {step:,} of {checkpoint.training.name}{ahead}: {_number(len(samples), 'sample')}")
    for sample in samples:
        where = f"{sample.source}/{sample.language}, sample {sample.index:,}, epoch {sample.epoch}"
        _print(out, f"place {sample.place:,}: {where}")
        for part in sample.documents:
            whole = part.stop - part.start == part.num_tokens
            tokens = "all" if whole else f"{part.start:,} to {part.stop - 1:,}"
            _print(out, f"  {part.document}  tokens {tokens} of {part.num_tokens:,}")


def _how_often(seen: DocumentSeen) -> str:
    if not seen.epochs:
        return "not read"
    full = sum(epoch.tokens_read == seen.num_tokens for epoch in seen.epochs)
    counts = [(full, "in full"), (len(seen.epochs) - full, "in part")]
    parts = [f"{word} in {_number(count, 'epoch')}" for count, word in counts if count]
    total = sum(epoch.tokens_read for epoch in seen.epochs)
    return f"read {' and '.join(parts)}, {_number(total, 'token')} in all,"


def _print_epochs(seen: DocumentSeen, out: Console) -> None:
    if not seen.epochs:
        return
    by_step = seen.epochs[0].steps is not None
    when = "steps" if by_step else "places in the order (steps are not known, as the batch has changed its size)"
    rows = [
        (str(e.epoch), f"{e.tokens_read:,}", _first_few(e.places if e.steps is None else e.steps)) for e in seen.epochs
    ]
    _print_table(out, [("epoch", "tokens read", when), *rows], align=">><")


def _first_few(numbers: Sequence[int]) -> str:
    shown, rest = ", ".join(f"{number:,}" for number in numbers[:_MAX_NUMBERS]), len(numbers) - _MAX_NUMBERS
    return f"{shown} and {rest:,} more" if rest > 0 else shown


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _title(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.training.name}, step {checkpoint.record.step:,}"


def _print_table(out: Console, rows: Sequence[Sequence[str]], *, align: str) -> None:
    """Print aligned columns; `align` has a format character, `<` or `>`, for each."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True))
        _print(out, "  ".join(cells).rstrip())


def _print(out: Console, text: str) -> None:
    out.print(text, markup=False, emoji=False)  # a document's id may hold anything


def _print_json(checkpoint: Checkpoint, found: dict[str, Any]) -> None:
    print(json.dumps({"checkpoint": str(checkpoint.directory), "step": checkpoint.record.step} | found))
