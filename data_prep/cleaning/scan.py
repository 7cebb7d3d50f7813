"""The first pass of cleaning, on workers: read a part of a source, normalise its texts, drop those out of bounds.

A part becomes pieces (pieces.py), each on disk before the next is begun, so that a part that is interrupted goes on
after its last piece.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from configs.base import UserError
from configs.data.sources import Source
from configs.data.stages import CleanConfig
from data_prep.cleaning.document_files import encode_document
from data_prep.cleaning.held_out import digest_bytes, is_below_share
from data_prep.cleaning.pieces import Piece, PieceRow, read_piece, write_piece
from data_prep.cleaning.samples import Samples
from data_prep.cleaning.treatment import Treatment, load_learned
from data_prep.manifests import UnreadableRecord
from data_prep.sources.document import Document, Dropped, Opened, Record, Span, Unreadable
from data_prep.sources.file_parts import display_name
from data_prep.sources.table import READERS

_MAX_SHOWN = 5


@dataclass(frozen=True)
class Part:
    """One item of work: spans of a source that are read one after the other."""

    index: int
    source: Source
    spans: tuple[Span, ...]
    config: CleanConfig
    directory: Path
    """Where its pieces go."""

    piece_bytes: int
    """Bytes of text after which a piece ends."""

    learned: Path | None = None
    """File of the bounds that were learned; None if none were."""


def scan_part(part: Part) -> list[Piece]:
    """Read a part into pieces; finished ones are not made again. Raises UserError as soon as too much is unreadable."""
    pieces = list(_finished_pieces(part))
    if pieces and pieces[-1].is_last:
        return pieces
    treatment = Treatment(part.source, part.config, load_learned(part.learned))
    writer = _PieceWriter(part, len(pieces), treatment)
    first, skip = pieces[-1].position if pieces else (0, 0)
    unreadable = [record for piece in pieces for record in piece.unreadable]
    began = 0  # the first piece that may hold records of the file
    for number, span in enumerate(part.spans[first:], first):
        file, began = display_name(span.name), 0 if skip else len(pieces)
        for place, entry in enumerate(READERS[part.source.kind].read(part.source, span), 1):
            if isinstance(entry, Opened):
                _check_finished(part, span, file, [*pieces[began:], writer.piece])
                file, began = entry.file, 0 if skip >= place else len(pieces)
                if place > skip:
                    writer.open(file)
            if isinstance(entry, Opened) or place <= skip:
                continue
            writer.take(file, entry)
            if isinstance(entry, Unreadable):
                unreadable.append(writer.piece.unreadable[-1])
                check_unreadable(unreadable, part.config)
            if writer.num_bytes >= part.piece_bytes:
                pieces.append(writer.finish(position=(number, place)))
                writer = _PieceWriter(part, len(pieces), treatment)
        skip = 0
        writer.open(file)
        _check_finished(part, span, file, [*pieces[began:], writer.piece])
    pieces.append(writer.finish(position=(len(part.spans), 0), is_last=True))
    return pieces


def _check_finished(part: Part, span: Span, file: str, pieces: list[Piece]) -> None:
    """Check a file, or a member of an archive, that was read to its end; one that others share is checked later.

    `pieces` are those since it began.
    """
    own = [piece for piece in pieces if piece.num_unreadable[file]]
    if own and span.is_whole and not READERS[part.source.kind].is_file_a_document(part.source):
        check_file(
            part.source.name,
            file,
            num_records=sum(piece.num_records[file] for piece in pieces),
            num_unreadable=sum(piece.num_unreadable[file] for piece in own),
            example=str(own[-1].unreadable[-1]),
        )


def check_unreadable(unreadable: list[UnreadableRecord], config: CleanConfig) -> None:
    """Raise UserError if more records are unreadable than the recipe tolerates."""
    if len(unreadable) > config.max_unreadable:
        shown = ", ".join(str(record) for record in unreadable[:_MAX_SHOWN])
        raise UserError(
            f"{len(unreadable):,} or more records cannot be read, and max_unreadable is {config.max_unreadable:,}: "
            f"{shown}; mend them or raise max_unreadable"
        )


def check_file(source: str, file: str, *, num_records: int, num_unreadable: int, example: str) -> None:
    """Raise UserError if most of a file's records are unreadable, however many are tolerated: it was misunderstood."""
    if num_unreadable * 2 > num_records:
        raise UserError(
            f"source '{source}': {num_unreadable:,} of the {num_records:,} records of {file} cannot be read, such as "
            f"{example}; correct the source's settings, or take the file out"
        )


class _PieceWriter:
    """A piece that is being filled."""

    def __init__(self, part: Part, number: int, treatment: Treatment) -> None:
        self._part = part
        self.piece = Piece(_piece_name(part, number))
        self.num_bytes = 0
        """Bytes of text that it holds."""

        self._rows: defaultdict[tuple[bool, str], list[PieceRow]] = defaultdict(list)
        """By whether they are held out and by language."""

        self._num_documents = 0
        self._treatment, self._samples = treatment, Samples()

        self._shares: dict[str, float] = {}

    def open(self, file: str) -> None:
        """Count a file, if only as one without records."""
        self.piece.num_records[file] += 0

    def take(self, file: str, record: Record) -> None:
        """Count a record of a file; a document within the bounds is kept."""
        self.piece.num_records[file] += 1
        if isinstance(record, Unreadable):
            self.piece.num_unreadable[file] += 1
            self.piece.unreadable.append(
                UnreadableRecord(where=record.where, reason=record.reason, detail=record.detail)
            )
            return
        language, reason = (record.language, record.reason) if isinstance(record, Dropped) else self._add(record)
        if reason:
            self.piece.num_dropped[file] += 1
            self.piece.dropped[language, reason] += 1

    def _add(self, document: Document) -> tuple[str, str | None]:
        """Treat a document and keep it; return its language, and the reason if it is dropped."""
        treated = self._treatment.treat(document)
        language = treated.language
        if treated.identified:
            self.piece.identified[document.language, treated.identified.label] += 1
        if treated.reason:
            if treated.dropping and treated.dropping.is_shown:
                self._samples.take(document, treated)
            return language, treated.reason
        for kind in treated.changes:
            self.piece.changed[language, kind] += 1
        for kind, number in treated.found.items():
            self.piece.found[language, kind] += number
        encoded = treated.text.encode()
        digest = digest_bytes(encoded)
        metadata = {**document.metadata, **treated.metadata}
        line = encode_document(Document(document.id, treated.text, language, document.source, metadata))
        if language not in self._shares:
            self._shares[language] = self._part.config.held_out.share_of(document.source, language)
        is_held_out = is_below_share(digest, self._shares[language])
        self._rows[is_held_out, language].append(PieceRow(digest, self._num_documents, len(encoded), line))
        self._num_documents += 1
        self.num_bytes += len(encoded)
        return language, None

    def finish(self, *, position: tuple[int, int], is_last: bool = False) -> Piece:
        """Write the piece."""
        self.piece.position, self.piece.is_last = position, is_last
        self.piece.samples = self._samples.rows()
        write_piece(self._part.directory, self.piece, self._rows)
        return self.piece


def _finished_pieces(part: Part) -> Iterator[Piece]:
    for number in count():
        path = part.directory / f"{_piece_name(part, number)}.json"
        if not path.exists():
            return
        yield read_piece(path)


def _piece_name(part: Part, number: int) -> str:
    return f"{part.index:06d}-{number:05d}"
