"""What the driver knows of a corpus while it is cleaned: a few numbers for each piece and language, and the counts."""

from array import array
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import orjson

from cluster.host.files import whole_file
from configs.base import UserError
from configs.data.sources import Source
from configs.data.stages import CleanConfig, stream_label
from data_prep.cleaning.duplicates import Ints, Pieces
from data_prep.cleaning.pieces import Piece
from data_prep.cleaning.samples import Samples
from data_prep.cleaning.scan import check_file, check_unreadable
from data_prep.manifests import CorpusCount, IdentifiedCount, UnreadableRecord
from data_prep.sources.table import READERS

_COLUMNS = 8


class Tally:
    """What was counted while sources were read; `add` takes pieces in the order of the sources."""

    def __init__(self, config: CleanConfig) -> None:
        self._config = config
        self.unreadable: list[UnreadableRecord] = []
        self._sources = {source.name: number for number, source in enumerate(config.sources)}
        self._names: list[str] = []
        self._languages: dict[str, int] = {}
        self._groups = array("q")
        """For each group, in turn: source, whether it is held out, language, piece, first row, documents, bytes, first
        block."""

        self._blocks = array("q")
        """Offset, length and documents of each block, in turn."""

        self._totals: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        """(source, language) -> what was dropped, `dropped REASON`, changed, `changed KIND`, found, `found KIND`."""

        self._identified = Counter[tuple[str, str, str]]()
        """Source, language as it says, language that was found -> documents."""

        self.samples: defaultdict[str, Samples] = defaultdict(Samples)
        """By source, what its filters dropped."""

        self._num_records, self._num_unreadable, self._num_dropped = (Counter[tuple[str, str]]() for _ in range(3))
        """By source and file."""

        self._examples: dict[tuple[str, str], str] = {}
        """An unreadable record of each file that has one."""

    def add(self, source: Source, piece: Piece) -> None:
        """Take what a piece holds. Raises UserError if too many records are unreadable."""
        number = len(self._names)
        self._names.append(piece.name)
        for group in piece.groups:
            language = self._languages.setdefault(group.language, len(self._languages))
            place = self._sources[source.name], group.is_held_out, language, number
            first_block = len(self._blocks) // 3
            self._groups.extend((*map(int, place), group.first_row, group.num_documents, group.num_bytes, first_block))
            self._blocks.extend(number for block in group.blocks for number in block)
        self._identified.update({(source.name, *pair): number for pair, number in piece.identified.items()})
        self.samples[source.name].add(piece.samples)
        for what, counter in (("dropped", piece.dropped), ("changed", piece.changed), ("found", piece.found)):
            for (language_label, kind), count in counter.items():
                self._totals[source.name, language_label][f"{what} {kind}"] += count
        self.unreadable += piece.unreadable
        check_unreadable(self.unreadable, self._config)
        for file, num_records in piece.num_records.items():
            self._num_records[source.name, file] += num_records
        for file, number in piece.num_dropped.items():
            self._num_dropped[source.name, file] += number
        first = 0
        for file in piece.num_records:  # in the order in which they were read, as those that are unreadable
            if number := piece.num_unreadable[file]:
                self._num_unreadable[source.name, file] += number
                self._examples.setdefault((source.name, file), str(piece.unreadable[first]))
                first += number

    def check(self) -> None:
        """Raise UserError if most of a file cannot be read, or if held_out.shares names a language without document.

        Where files are documents, it is most of all of them that decides.
        """
        self._check_readable()
        found = self._list_streams()
        for key in self._config.held_out.shares:
            source, _, language = stream_label(key).partition("/")
            known = sorted({label for own, label in found if source in (own, "*")})
            if language != "*" and language not in known:
                raise UserError(
                    f"held_out.shares names {key!r}, and no document that was read there is in {language!r}; the "
                    f"languages are {', '.join(known) or 'none'}: correct it, or leave it out"
                )

    def _check_readable(self) -> None:
        shared = {
            one.name: "all its files" for one in self._config.sources if READERS[one.kind].is_file_a_document(one)
        }
        read, unreadable = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for (source, file), number in self._num_records.items():
            place = source, shared.get(source, file)
            read[place] += number
            unreadable[place] += self._num_unreadable[source, file]
        examples = dict[tuple[str, str], str]()
        for (source, file), example in self._examples.items():
            examples.setdefault((source, shared.get(source, file)), example)
        for place, example in examples.items():
            check_file(*place, num_records=read[place], num_unreadable=unreadable[place], example=example)

    @property
    def num_empty_files(self) -> int:
        """How many files, or members of archives, hold no record."""
        return sum(not number for number in self._num_records.values())

    def identified(self) -> tuple[IdentifiedCount, ...]:
        """Return which languages were found where sources say which."""
        return tuple(
            IdentifiedCount(source=source, declared=declared, identified=found, num_documents=number)
            for (source, declared, found), number in sorted(self._identified.items())
        )

    def write_files(self, path: Path) -> None:
        """Write what became of the records of each file, a JSON object a line; duplicates are among the documents."""
        with whole_file(path) as partial, partial.open("wb") as out:
            for (source, file), records in self._num_records.items():
                unreadable, dropped = self._num_unreadable[source, file], self._num_dropped[source, file]
                row = {
                    "source": source,
                    "file": file,
                    "records": records,
                    "unreadable": unreadable,
                    "dropped": dropped,
                    "documents": records - unreadable - dropped,
                }
                out.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    def _list_streams(self) -> set[tuple[str, str]]:
        """Return the source and language of every document that is within the bounds."""
        table = np.array(self._groups, dtype=np.int64).reshape(-1, _COLUMNS)
        sources, labels = list(self._sources), list(self._languages)
        return {(sources[row[0]], labels[row[2]]) for row in np.unique(table[:, [0, 1, 2]], axis=0).tolist()}

    def pieces(self) -> Pieces:
        """Return all pieces, with their groups in the order of the corpus."""
        table = np.array(self._groups, dtype=np.int64).reshape(-1, _COLUMNS)
        labels = sorted(self._languages)
        rank = np.empty(len(labels), dtype=np.int64)
        rank[[self._languages[label] for label in labels]] = np.arange(len(labels))
        source, held, language, piece, row, documents, size, first_block = table.T
        language = rank[language]
        order = np.lexsort((piece, language, held, source))
        blocks = np.array(self._blocks, dtype=np.int64).reshape(-1, 3)
        counts = np.diff(first_block, append=len(blocks))  # of blocks; groups were added in the order of these
        group_blocks = np.concatenate([[0], np.cumsum(counts[order])])
        within = np.arange(len(blocks)) - np.repeat(group_blocks[:-1], counts[order])
        return Pieces(
            names=self._names,
            sources=list(self._sources),
            languages=labels,
            group_source=source[order],
            group_is_held_out=held[order].astype(bool),
            group_language=language[order],
            group_piece=piece[order],
            group_row=row[order],
            group_documents=documents[order],
            group_bytes=size[order],
            group_blocks=group_blocks,
            blocks=blocks[np.repeat(first_block[order], counts[order]) + within],
        )

    def counts(
        self, pieces: Pieces, kept: Ints, kept_bytes: Ints, duplicates: Ints, held_out_elsewhere: Ints
    ) -> tuple[CorpusCount, ...]:
        """Return the counts by source and language. The arrays have an entry for each group."""
        for place, (source, language) in enumerate(
            zip(pieces.group_source.tolist(), pieces.group_language.tolist(), strict=True)
        ):
            total = self._totals[pieces.sources[source], pieces.languages[language]]
            is_held_out = pieces.group_is_held_out[place]
            total["held_out" if is_held_out else "kept"] += int(kept[place])
            total["dropped duplicate"] += int(duplicates[place])
            total["dropped held_out_elsewhere"] += int(held_out_elsewhere[place])
            if not is_held_out:
                total["bytes"] += int(kept_bytes[place])
        return tuple(_to_count(*stream, total) for stream, total in sorted(self._totals.items()))


def _to_count(source: str, language: str, total: Counter[str]) -> CorpusCount:
    dropped = _counts_of("dropped", total)
    return CorpusCount(
        source=source,
        language=language,
        num_read=total["kept"] + total["held_out"] + sum(dropped.values()),
        num_kept=total["kept"],
        num_held_out=total["held_out"],
        dropped=dropped,
        changed=_counts_of("changed", total),
        found=_counts_of("found", total),
        kept_bytes=total["bytes"],
    )


def _counts_of(what: str, total: Counter[str]) -> dict[str, int]:
    return {key.removeprefix(f"{what} "): n for key, n in sorted(total.items()) if key.startswith(f"{what} ") and n}
