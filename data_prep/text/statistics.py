"""Statistics of a prose text, which filters bound: the rules of Gopher, C4 and FineWeb, for any script.

Gopher: Rae et al., arXiv 2112.11446, appendix A.1.1. C4: Raffel et al., arXiv 1910.10683, section 2.2. FineWeb: Penedo
et al., arXiv 2406.17557, section 3.6. What counts words is None in a script without spaces, and bounds nothing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import regex

from data_prep.text.scripts import NO_SCRIPT, count_scripts, find_main_script, label_in_script
from data_prep.text.spans import MARKS

WITHOUT_SPACES = frozenset(
    {"Hani", "Hira", "Kana", "Bopo", "Thai", "Laoo", "Khmr", "Mymr", "Tibt", "Lana", "Talu", "Java"}
)
"""Scripts that do not part words by spaces. In them a run of n words is taken to be 2 n letters."""

SHORT_LINE_CHARACTERS = 30
_BULLETS = ("•", "●", "○", "■", "□", "▪", "▫", "‣", "⁃", "–", "-", "*", "·")
_MARK = regex.compile(f"[{MARKS[0]}-{MARKS[-1]}]")
_SYMBOL = regex.compile(r"#|\.\.\.|…")
_ENDS_SENTENCE = regex.compile(r"[\p{Sentence_Terminal}…][\p{Pe}\p{Pf}\"'’”]*$")
_PARAGRAPH = regex.compile(r"\n[ \t]*\n\s*")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


class Prose:
    """A text without its spans of mathematics, code and tables; each thing is counted when it is asked for.

    Where spans were are marks (spans.py): they are in no word, and tell lines and runs of words apart.
    """

    def __init__(self, marked: str, *, language: str, stop_words: frozenset[str] = frozenset()) -> None:
        self.marked, self.language, self.stop_words = marked, language, stop_words

    @cached_property
    def text(self) -> str:
        """The text without marks."""
        return self.marked if self.marked.isascii() else _MARK.sub("", self.marked)

    @cached_property
    def script(self) -> str:
        """The script of most of its letters."""
        return find_main_script(self.text)

    @property
    def has_words(self) -> bool:
        """Whether spaces part its words."""
        return self.script not in WITHOUT_SPACES

    @cached_property
    def words(self) -> list[str]:
        """What spaces part."""
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not blank, without the spaces at their ends."""
        return [line for line in map(str.strip, self.marked.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        """What blank lines part."""
        return [part for part in map(str.strip, _PARAGRAPH.split(self.marked)) if part]

    @cached_property
    def units(self) -> tuple[Hashes, Ints]:
        """A hash of each word, letter, or mark, and its length in characters."""
        words = self.marked.split()
        if self.has_words:
            hashes = np.fromiter(map(hash, words), dtype=np.int64, count=len(words)).astype(np.uint64)
            return hashes, np.fromiter(map(len, words), dtype=np.int64, count=len(words))
        letters = "".join(words)
        codes = np.frombuffer(letters.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
        return codes * _FACTOR, np.ones(len(codes), dtype=np.int64)

    @cached_property
    def repeats(self) -> "dict[int, Repeats]":
        """What is repeated of the runs of n words, by n from 2 to 10; from 5 on in scripts without spaces."""
        hashes, lengths = self.units
        found = dict.fromkeys(range(2 if self.has_words else 5, 11), _NOTHING)
        places, keys = np.arange(len(hashes)), hashes * _FACTOR  # else "a b" were "b a"
        ends = np.concatenate(([0], lengths.cumsum()))
        size = 1
        for n in found:
            wanted = n if self.has_words else 2 * n
            while size < wanted:  # a run that is repeated begins with one that is
                within = places + size < len(hashes)
                places, keys = places[within], keys[within]
                keys = (keys ^ hashes[places + size]) * _FACTOR
                size += 1
            if not len(keys):
                break
            places, keys, found[n] = _find_repeats(places, keys, size, ends)
        return found


class Repeats:
    """What is repeated of the runs of some words."""

    def __init__(self, begins: Ints, is_first: npt.NDArray[np.bool_], size: int, ends: Ints) -> None:
        """`begins`: where each run begins, equal ones together, in order; `is_first`: whether none equal is before it.

        `size`: its units; `ends`: the characters before each unit, and after the last.
        """
        self._begins, self._is_first, self._size, self._ends = begins, is_first, size, ends

    @cached_property
    def top(self) -> float:
        """Share of characters in the run that is there most often, twice at least; of several in the longest."""
        if not len(self._begins):
            return 0.0
        starts = self._is_first.nonzero()[0]
        counts = np.append(starts[1:], len(self._begins)) - starts
        most = counts.max()
        tops = self._begins[starts[counts == most]]
        longest = (self._ends[tops + self._size] - self._ends[tops]).max()
        return min(1.0, float(most * longest / self._ends[-1]))  # runs that overlap count twice

    @cached_property
    def again(self) -> float:
        """Share of characters that are in a run that was there before."""
        if not len(self._begins):
            return 0.0
        again, number = self._begins[~self._is_first], len(self._ends)
        bounds = np.bincount(again, minlength=number) - np.bincount(again + self._size, minlength=number)
        covered = bounds[:-1].cumsum() > 0
        return float((self._ends[1:] - self._ends[:-1])[covered].sum() / self._ends[-1])


_NO_UNITS, _NO_RUNS = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.bool_)
_NOTHING = Repeats(_NO_UNITS, _NO_RUNS, 1, _NO_UNITS)


def _find_repeats(places: Ints, keys: Hashes, size: int, ends: Ints) -> tuple[Ints, Hashes, Repeats]:
    """Return which of the runs of `size` units, by where they begin and their keys, are there twice, sorted by key.

    `ends` are the characters before each unit, and after the last.
    """
    order = keys.argsort(kind="stable")
    ordered = keys[order]
    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    is_repeated = ~is_first
    is_repeated[:-1] |= is_repeated[1:]
    kept = order[is_repeated]
    places = places[kept]
    return places, keys[kept], Repeats(places, is_first[is_repeated], size, ends)


_WORDS = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]|[\w\p{M}]+"
)


def split_words(text: str) -> list[str]:
    """Return the words of a text: runs of letters, digits and marks, and each letter of scripts without spaces."""
    words: list[str] = _WORDS.findall(text)
    return words


def _word_share(prose: Prose, count: Callable[[Prose], float]) -> float | None:
    return count(prose) / len(prose.words) if prose.has_words and prose.words else None


def _count_alphabetic(words: Sequence[str]) -> int:
    """Return how many words have a letter."""
    others = [word for word in words if not word[0].isalpha()]
    return len(words) - len(others) + sum(any(map(str.isalpha, word)) for word in others)


def _repeated(items: Sequence[str]) -> float:
    return 1 - len(set(items)) / len(items) if items else 0.0


def _repeated_characters(items: Sequence[str], text: str) -> float:
    repeated = sum(len(item) * (number - 1) for item, number in Counter(items).items() if number > 1)
    return repeated / len(text) if text else 0.0


def _script_share(prose: Prose) -> float | None:
    """Return the share of letters in a script that the language is written in."""
    counts = count_scripts(prose.text)
    total = sum(counts.values())
    if not total or prose.language.startswith(("und", "x-")):
        return None
    return sum(number for script, number in counts.items() if label_in_script(prose.language, script)) / total


def _letter_share(prose: Prose) -> float | None:
    size = sum(map(len, prose.words))
    return sum(count_scripts(prose.text).values()) / size if size else None


def _count_words(prose: Prose) -> float | None:
    return len(prose.words) if prose.has_words and prose.script != NO_SCRIPT else None


def _count_stop_words(prose: Prose) -> float | None:
    if not prose.has_words or not prose.stop_words:
        return None
    return sum(word in prose.stop_words for word in map(str.casefold, prose.words))


def _line_share(prose: Prose, holds: Callable[[str], bool]) -> float | None:
    return sum(map(holds, prose.lines)) / len(prose.lines) if prose.words else None


STATISTICS: dict[str, Callable[[Prose], float | None]] = {
    "num_words": _count_words,
    "mean_word_length": lambda prose: _word_share(prose, lambda own: sum(map(len, own.words))),
    "alphabetic_word_share": lambda prose: _word_share(prose, lambda own: _count_alphabetic(own.words)),
    "symbol_word_ratio": lambda prose: _word_share(prose, lambda own: len(_SYMBOL.findall(own.text))),
    "num_stop_words": _count_stop_words,
    "letter_share": _letter_share,
    "script_share": _script_share,
    "bullet_line_share": lambda prose: _line_share(prose, lambda line: line.startswith(_BULLETS)),
    "ellipsis_line_share": lambda prose: _line_share(prose, lambda line: line.endswith(("...", "…"))),
    "short_line_share": lambda prose: _line_share(prose, lambda line: len(line) <= SHORT_LINE_CHARACTERS),
    "punctuated_line_share": lambda prose: _line_share(prose, lambda line: bool(_ENDS_SENTENCE.search(line[-20:]))),
    "line_word_ratio": lambda prose: _word_share(prose, lambda own: own.text.count("\n")),
    "num_braces": lambda prose: prose.text.count("{"),
    "num_placeholders": lambda prose: prose.text.casefold().count("lorem ipsum"),
    "duplicate_line_share": lambda prose: _repeated(prose.lines),
    "duplicate_line_characters": lambda prose: _repeated_characters(prose.lines, prose.text),
    "duplicate_paragraph_share": lambda prose: _repeated(prose.paragraphs),
    "duplicate_paragraph_characters": lambda prose: _repeated_characters(prose.paragraphs, prose.text),
    "top_2_gram": lambda prose: prose.repeats[2].top if prose.has_words else None,
    "top_3_gram": lambda prose: prose.repeats[3].top if prose.has_words else None,
    "top_4_gram": lambda prose: prose.repeats[4].top if prose.has_words else None,
    "duplicate_5_grams": lambda prose: prose.repeats[5].again,
    "duplicate_6_grams": lambda prose: prose.repeats[6].again,
    "duplicate_7_grams": lambda prose: prose.repeats[7].again,
    "duplicate_8_grams": lambda prose: prose.repeats[8].again,
    "duplicate_9_grams": lambda prose: prose.repeats[9].again,
    "duplicate_10_grams": lambda prose: prose.repeats[10].again,
}
"""Each statistic by its name in a recipe (configs/data/text.py says what it is), the cheap ones first."""
