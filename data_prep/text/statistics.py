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

WITHOUT_SPACES = frozenset(
    {"Hani", "Hira", "Kana", "Bopo", "Thai", "Laoo", "Khmr", "Mymr", "Tibt", "Lana", "Talu", "Java"}
)
"""Scripts that do not part words by spaces. In them a run of n words is taken to be 2 n letters."""

SHORT_LINE_CHARACTERS = 30
_BULLETS = ("•", "●", "○", "■", "□", "▪", "▫", "‣", "⁃", "–", "-", "*", "·")
_SYMBOL = regex.compile(r"#|\.\.\.|…")
_ENDS_SENTENCE = regex.compile(r"[\p{Sentence_Terminal}…][\p{Pe}\p{Pf}\"'’”]*$")
_PARAGRAPH = regex.compile(r"\n[ \t]*\n\s*")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Hashes = npt.NDArray[np.uint64]


class Prose:
    """A text without its spans of mathematics, code and tables; each thing is counted when it is asked for."""

    def __init__(self, text: str, *, language: str, stop_words: frozenset[str] = frozenset()) -> None:
        self.text, self.language, self.stop_words = text, language, stop_words

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
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        """What blank lines part."""
        return [part for part in map(str.strip, _PARAGRAPH.split(self.text)) if part]

    @cached_property
    def units(self) -> tuple[Hashes, npt.NDArray[np.int64]]:
        """A hash of each word, or letter, and its length in characters."""
        if self.has_words:
            number = len(self.words)
            hashes = np.fromiter(map(hash, self.words), dtype=np.int64, count=number).astype(np.uint64)
            return hashes, np.fromiter(map(len, self.words), dtype=np.int64, count=number)
        letters = "".join(self.words)
        codes = np.frombuffer(letters.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
        return codes * _FACTOR, np.ones(len(codes), dtype=np.int64)

    @cached_property
    def runs(self) -> dict[int, float]:
        """For n of 5 to 10 the share of characters that are in a run of n words that was there before."""
        shares = dict.fromkeys(range(5, 11), 0.0)
        for n in shares:
            shares[n] = self._repeated_share(n if self.has_words else 2 * n)
            if not shares[n]:  # a longer run would hold one of this length
                break
        return shares

    def _repeated_share(self, n: int) -> float:
        hashes, lengths = self.units
        if len(hashes) <= n:
            return 0.0
        grams = _hash_runs(hashes, n)
        order = np.argsort(grams, kind="stable")
        again = order[1:][grams[order[1:]] == grams[order[:-1]]]
        if not len(again):
            return 0.0
        bounds = np.zeros(len(hashes) + 1, dtype=np.int64)
        np.add.at(bounds, again, 1)
        np.add.at(bounds, again + n, -1)
        return float(lengths[np.cumsum(bounds[:-1]) > 0].sum() / lengths.sum())

    def top_share(self, n: int) -> float | None:
        """Return the share of characters of the most frequent run of n words, of those that are there twice."""
        hashes, lengths = self.units
        if not self.has_words or len(hashes) <= n:
            return None if not self.has_words else 0.0
        grams = _hash_runs(hashes, n)
        order = np.argsort(grams, kind="stable")
        starts = np.flatnonzero(np.concatenate(([True], grams[order[1:]] != grams[order[:-1]])))
        counts = np.diff(starts, append=len(grams))
        sizes = np.lib.stride_tricks.sliding_window_view(lengths, n).sum(axis=1)[order[starts]]
        is_top = counts == counts.max()
        return float(counts.max() * sizes[is_top].max() / lengths.sum()) if counts.max() > 1 else 0.0


def _hash_runs(hashes: Hashes, n: int) -> Hashes:
    """Return a hash of each run of n."""
    number = len(hashes) - n + 1
    result = np.zeros(number, dtype=np.uint64)
    for place in range(n):
        result = (result ^ hashes[place : place + number]) * _FACTOR
    return result


def _share(items: Sequence[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, items)) / len(items) if items else 0.0


def _word_share(prose: Prose, count: Callable[[Prose], float]) -> float | None:
    return count(prose) / len(prose.words) if prose.has_words and prose.words else None


def _is_alphabetic(word: str) -> bool:
    return word.isalpha() or any(map(str.isalpha, word))


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


def _letter_share(prose: Prose) -> float:
    size = sum(map(len, prose.words))
    return sum(count_scripts(prose.text).values()) / size if size else 0.0


def _count_words(prose: Prose) -> float | None:
    return len(prose.words) if prose.has_words and prose.script != NO_SCRIPT else None


def _count_stop_words(prose: Prose) -> float | None:
    if not prose.has_words or not prose.stop_words:
        return None
    return sum(word in prose.stop_words for word in map(str.casefold, prose.words))


def _line_share(prose: Prose, holds: Callable[[str], bool]) -> float:
    return _share(prose.lines, holds)


STATISTICS: dict[str, Callable[[Prose], float | None]] = {
    "num_words": _count_words,
    "mean_word_length": lambda prose: _word_share(prose, lambda own: sum(map(len, own.words))),
    "alphabetic_word_share": lambda prose: _word_share(prose, lambda own: sum(map(_is_alphabetic, own.words))),
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
    "top_2_gram": lambda prose: prose.top_share(2),
    "top_3_gram": lambda prose: prose.top_share(3),
    "top_4_gram": lambda prose: prose.top_share(4),
    "duplicate_5_grams": lambda prose: prose.runs[5],
    "duplicate_6_grams": lambda prose: prose.runs[6],
    "duplicate_7_grams": lambda prose: prose.runs[7],
    "duplicate_8_grams": lambda prose: prose.runs[8],
    "duplicate_9_grams": lambda prose: prose.runs[9],
    "duplicate_10_grams": lambda prose: prose.runs[10],
}
"""Each statistic by its name in a recipe (configs/data/text.py says what it is), the cheap ones first."""
