"""Items of test sets in documents: by n-grams of tokens, in all languages at once, with what they have in common.

A token is a word in small letters, or, of scripts without spaces, a letter. An item's n-grams are those of 13 words, or
26 such letters, as GPT-3's were of 13 words (Brown et al., arXiv 2005.14165, appendix C); of 8 words, or 16 letters, if
it has fewer. Shorter items are not looked for, and counted. A document has an item if it has a share of its n-grams.
"""

import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from configs.base import UserError
from configs.data.sources import Source
from data_prep.cleaning.duplicates import save_array
from data_prep.cleaning.normalize import normalize
from data_prep.masks.manifest import ContaminationCount
from data_prep.sources.document import Document, Unreadable
from data_prep.sources.table import READERS
from data_prep.text.personal_data import KINDS, replace_personal_data
from data_prep.text.scripts import numbers_of_scripts, script_numbers
from data_prep.text.spans import find_spans
from data_prep.text.statistics import WITHOUT_SPACES

WORDS, FEWER_WORDS = 13, 8
LETTERS, FEWER_LETTERS = 2 * WORDS, 2 * FEWER_WORDS
"""Tokens of an n-gram, and of those of short items; in scripts without spaces."""

LENGTHS = (FEWER_WORDS, WORDS, FEWER_LETTERS, LETTERS)

SHOWN_CHARACTERS = 500
"""Characters of the text that a document and an item have in common that are shown."""

_LETTERS_OF_A_TOKEN = 64
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_BITMAP_BITS = 24

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

GRAM = np.dtype([("hash", "<u8"), ("item", "<u4")])


class Item(NamedTuple):
    """An item of a test set."""

    test: str
    language: str
    id: str
    num_grams: int
    """0 if it is too short to be looked for."""

    is_variant: bool = False
    """Whether it is the item before it with its personal data replaced, as it may be in a corpus."""


class Overlap(NamedTuple):
    """What a document has of an item."""

    item: int
    share: float
    """Share of the item's n-grams."""

    text: str
    """The longest stretch of the document that both have."""


@cache
def _classes() -> npt.NDArray[np.uint8]:
    """Return for each character 0 if it is in no token, 1 in a word, 2 if it is a token."""
    table = np.zeros(sys.maxunicode + 1, dtype=np.uint8)
    characters = [chr(code) for code in range(0x40000)]
    table[: len(characters)] = [one.isalnum() or unicodedata.category(one)[0] == "M" for one in characters]
    every = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x40000))))
    codes = np.array([*range(0xD800), *range(0xE000, 0x40000)])
    is_alone = np.isin(script_numbers(every), numbers_of_scripts(WITHOUT_SPACES))
    table[codes[is_alone & (table[codes] > 0)]] = 2
    return table


class Tokens(NamedTuple):
    """The tokens of a text."""

    hashes: Hashes
    starts: Ints
    """Where each begins in the text, in characters."""

    stops: Ints
    num_letters: int
    """How many of them are letters of scripts without spaces."""


@cache
def _powers() -> Hashes:
    return np.cumprod(np.full(_LETTERS_OF_A_TOKEN, 0xD6E8FEB86659FD93, dtype=np.uint64), dtype=np.uint64)


def find_tokens(text: str) -> Tokens:
    """Return the tokens of a text, with small letters; where casefolding changes lengths, each character alone."""
    folded = text.casefold()
    if len(folded) != len(text):
        folded = "".join(one if len(one := character.casefold()) == 1 else character for character in text)
    codes = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    classes = _classes()[codes]
    places = np.flatnonzero(classes)
    if not len(places):
        return Tokens(np.empty(0, dtype=np.uint64), places, places, 0)
    kinds = classes[places]
    begins = np.ones(len(places), dtype=bool)
    begins[1:] = (places[1:] != places[:-1] + 1) | (kinds[1:] == 2) | (kinds[:-1] == 2)
    first = np.flatnonzero(begins)
    within = np.arange(len(places)) - np.repeat(first, np.diff(first, append=len(places)))
    mixed = (codes[places].astype(np.uint64) + np.uint64(1)) * _powers()[within % _LETTERS_OF_A_TOKEN]
    hashes = _mix(np.add.reduceat(mixed, first))
    lasts = np.append(first[1:], len(places)) - 1
    return Tokens(hashes, places[first], places[lasts] + 1, int(np.count_nonzero(kinds == 2)))


def _mix(hashes: Hashes) -> Hashes:
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _grams(tokens: Hashes, lengths: Iterable[int]) -> Iterator[tuple[int, Hashes]]:
    """Yield each length, in order, with a hash of each run of so many tokens."""
    keys, size = tokens * _FACTOR, 1  # else "a b" were "b a"
    for length in sorted(lengths):
        while size < length and len(tokens) > size:
            keys = (keys[: len(tokens) - size] ^ tokens[size:]) * _FACTOR
            keys ^= keys >> np.uint64(29)
            size += 1
        if size == length:
            yield length, keys ^ np.uint64(length)


def _length_of(tokens: Tokens) -> int | None:
    """Return the length of an item's n-grams; None if it is too short."""
    number = len(tokens.hashes)
    longer, shorter = (LETTERS, FEWER_LETTERS) if tokens.num_letters * 2 > number else (WORDS, FEWER_WORDS)
    return longer if number >= longer else shorter if number >= shorter else None


def _grams_of(text: str) -> Hashes:
    """Return the hashes of an item's n-grams, each once; none if it is too short."""
    tokens = find_tokens(text)
    length = _length_of(tokens)
    if length is None:
        return np.empty(0, dtype=np.uint64)
    return np.unique(next(keys for _, keys in _grams(tokens.hashes, (length,))))


def read_items(test: Source) -> Iterator[Document]:
    """Yield the items of a test set. Raises UserError if one cannot be read, or if there is none."""
    is_empty = True
    reader = READERS[test.kind]
    for span in reader.spans(test):
        for entry in reader.read(test, span):
            if isinstance(entry, Unreadable):
                raise UserError(
                    f"test set {test.name!r}: {entry.where} cannot be read ({entry.reason}); correct its settings"
                )
            if isinstance(entry, Document):
                is_empty = False
                yield entry
    if is_empty:
        raise UserError(f"test set {test.name!r} holds no item; correct its settings, or leave it out")


def build_index(tests: Iterable[Source], path: Path) -> list[Item]:
    """Write the n-grams of test sets, ordered by their hash; return the items, by their number."""
    items: list[Item] = []
    grams = [np.empty(0, dtype=GRAM)]
    for test in tests:
        for document in read_items(test):
            text = normalize(document.text)[0]
            replaced, counts = replace_personal_data(text, find_spans(text), KINDS, language=document.language)
            for is_variant, own_text in enumerate((text, replaced) if counts else (text,)):
                own = _grams_of(own_text)
                rows = np.empty(len(own), dtype=GRAM)
                rows["hash"], rows["item"] = own, len(items)
                grams.append(rows)
                items.append(Item(test.name, document.language, document.id, len(own), bool(is_variant)))
    table = np.concatenate(grams)
    save_array(path, table[np.lexsort((table["item"], table["hash"]))])
    return items


class ItemIndex:
    """The n-grams of test sets, to look for in documents."""

    def __init__(self, path: Path, items: list[Item], *, min_share: float) -> None:
        table = np.load(path)
        self._hashes, self._items = np.ascontiguousarray(table["hash"]), np.ascontiguousarray(table["item"])
        self._num_grams, self._min_share = [item.num_grams for item in items], min_share
        self._bitmap = np.zeros(1 << _BITMAP_BITS, dtype=bool)
        self._bitmap[self._hashes >> np.uint64(64 - _BITMAP_BITS)] = True

    def find(self, text: str) -> list[Overlap]:
        """Return the items that a document has, the least number first."""
        tokens = find_tokens(text)
        lengths = [n for n in LENGTHS if n <= WORDS or tokens.num_letters >= FEWER_LETTERS]
        hits: defaultdict[int, dict[int, tuple[int, int]]] = defaultdict(dict)
        """Item -> hash -> where it is: the first token and the number of tokens."""

        for length, keys in _grams(tokens.hashes, lengths):
            maybe = np.flatnonzero(self._bitmap[keys >> np.uint64(64 - _BITMAP_BITS)])
            if not len(maybe):
                continue
            wanted = keys[maybe]
            starts, stops = (np.searchsorted(self._hashes, wanted, side=side) for side in ("left", "right"))
            for place in np.flatnonzero(stops > starts).tolist():
                for item in self._items[starts[place] : stops[place]].tolist():
                    hits[item].setdefault(int(wanted[place]), (int(maybe[place]), length))
        shares = {item: len(found) / self._num_grams[item] for item, found in hits.items()}
        return [
            Overlap(item, round(shares[item], 4), _shown(text, tokens, hits[item].values()))
            for item in sorted(hits)
            if shares[item] >= self._min_share
        ]


def count_found(items: Sequence[Item], overlaps: Iterable[tuple[int, str]]) -> tuple[ContaminationCount, ...]:
    """Return the receipt: for each test set and language of its items what was found.

    `overlaps` are the numbers of items with the ids of the documents that have them.
    """
    totals: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    documents: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for item in items:
        if not item.is_variant:
            totals[item.test, item.language].update({"items": 1, "too short": not item.num_grams})
    found = set[int]()
    for number, document in overlaps:
        found.add(number - items[number].is_variant)
        documents[items[number].test, items[number].language].add(document)
    for number in found:
        totals[items[number].test, items[number].language]["found"] += 1
    return tuple(
        ContaminationCount(
            test=test,
            language=language,
            num_items=total["items"],
            num_too_short=total["too short"],
            num_found=total["found"],
            num_documents=len(documents[test, language]),
        )
        for (test, language), total in sorted(totals.items())
    )


def _shown(text: str, tokens: Tokens, places: Iterable[tuple[int, int]]) -> str:
    """Return the longest stretch of the text that runs of tokens make together."""
    best, start, stop = (0, 0), -1, -1
    for first, length in sorted(places):
        start, stop = (first, first + length) if first > stop else (start, max(stop, first + length))
        best = max(best, (start, stop), key=lambda pair: pair[1] - pair[0])
    return text[int(tokens.starts[best[0]]) : int(tokens.stops[best[1] - 1])][:SHOWN_CHARACTERS]
