"""MinHash signatures of texts, and an index of some by which near copies of them are found.

A text is the set of its runs of letters, their marks, digits and signs of mathematics (shingles), without case, spaces
and punctuation. Two texts are as
similar as the share of shingles that they have in common among all of both (Jaccard). The share of equal places of two
signatures estimates it, to within 0.04 (one standard deviation at 0.8).

Signatures are by one permutation hashing (Li, Owen, Zhang, NIPS 2012): a text's hashes are parted into ranges, and the
least of each is a place; an empty range takes the value of another (optimal densification, Shrivastava, ICML 2017).
Candidates are those with a band of places in common (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, ch. 3.4).
"""

import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.cleaning.duplicates import save_array

PLACES, BANDS = 128, 32
"""Places of a signature, and bands that it is cut into: of texts that are similar to 0.8 all are candidates but one in
10^7, of those similar to 0.4 half."""

SHINGLE, SHORT_SHINGLE = 10, 4
"""Characters of a shingle; the second in scripts that write a word with one or two."""

Signatures = npt.NDArray[np.uint32]
"""(n, PLACES)."""

_IDEOGRAPHIC = 0x2E80
"""The first of the characters of Chinese and Japanese; Korean, and historic scripts, come after it."""

_COUNTED, _SIGNS = ("Mn", "Mc", "Sm"), "/^%"
"""Categories of Unicode, and signs of others, that count beside letters and digits: vowels of Indian scripts, and what
a sum does. Hyphens and stars do not: they are punctuation, too."""

_LAST_LETTER = 0x40000
"""No plane after the third has letters (Unicode 17)."""

_SHIFT = np.uint64(64 - (PLACES - 1).bit_length())


@cache
def _multipliers() -> npt.NDArray[np.uint64]:
    """Return odd multipliers, one for each character of a shingle."""
    return np.random.Generator(np.random.PCG64(1)).integers(0, 1 << 63, SHINGLE, dtype=np.uint64) * 2 + 1


@cache
def _donors() -> npt.NDArray[np.int64]:
    """Return for each place the others in an order of its own, in which it looks for a value if it has none."""
    generator = np.random.Generator(np.random.PCG64(2))
    return np.array([[i, *generator.permutation(PLACES)] for i in range(PLACES)])


@cache
def _is_letter() -> npt.NDArray[np.bool_]:
    """Return for each character whether it counts."""
    table = np.zeros(sys.maxunicode + 1, dtype=np.bool_)
    characters = map(chr, range(_LAST_LETTER))
    table[:_LAST_LETTER] = [one.isalnum() or unicodedata.category(one) in _COUNTED for one in characters]
    table[[ord(one) for one in _SIGNS]] = True
    return table


def sign(text: str) -> npt.NDArray[np.uint32]:
    """Return the signature of a text, (PLACES,)."""
    hashes = np.sort(_hash_shingles(text))
    bounds = np.searchsorted(hashes >> _SHIFT, np.arange(PLACES, dtype=np.uint64))
    is_filled = np.diff(bounds, append=len(hashes)) > 0
    least = np.zeros(PLACES, dtype=np.uint32)
    least[is_filled] = hashes[bounds[is_filled]].astype(np.uint32)  # the low bits: the high ones name the place
    if not is_filled.all():
        donors = _donors()
        order = np.argmax(is_filled[donors], axis=1)
        least = least[donors[np.arange(PLACES), order]]
    return least


def _hash_shingles(text: str) -> npt.NDArray[np.uint64]:
    every = np.frombuffer((text.casefold() or text).encode("utf-32-le"), dtype="<u4")
    letters = every[_is_letter()[every]]
    codes = (letters if len(letters) else every).astype(np.uint64)
    length = SHORT_SHINGLE if np.count_nonzero(codes >= _IDEOGRAPHIC) * 2 > len(codes) else SHINGLE
    length = max(1, min(length, len(codes)))
    number = len(codes) - length + 1
    hashes = np.zeros(number, dtype=np.uint64)
    for place, factor in enumerate(_multipliers()[:length]):
        hashes += codes[place : place + number] * factor
    # The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def band_keys(signatures: Signatures, num_bands: int) -> npt.NDArray[np.uint64]:
    """Return a key for each band of each signature, (n, bands); places that are left over are in none."""
    width = PLACES // num_bands
    bands = signatures[:, : width * num_bands].reshape(-1, num_bands, width).astype(np.uint64)
    keys = np.zeros((len(signatures), num_bands), dtype=np.uint64)
    for place in range(width):
        keys = (keys ^ bands[:, :, place]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


@dataclass(frozen=True)
class SignatureIndex:
    """Signatures of texts, to be searched. On disk it is mapped, so that processes of a machine share it."""

    signatures: Signatures
    keys: npt.NDArray[np.uint64]
    """(BANDS, n) keys of each band, in order."""

    owners: npt.NDArray[np.uint32]
    """(BANDS, n) the number of the signature that each key is of."""

    @classmethod
    def build(cls, signatures: Signatures) -> "SignatureIndex":
        """Return the index of signatures."""
        keys = np.ascontiguousarray(band_keys(signatures, BANDS).T)
        owners = np.argsort(keys, axis=1, kind="stable")
        return cls(signatures, np.take_along_axis(keys, owners, axis=1), owners.astype(np.uint32))

    def save(self, directory: Path) -> None:
        """Write the index into a directory."""
        for name, array in vars(self).items():
            save_array(directory / f"{name}.npy", array)

    @classmethod
    def load(cls, directory: Path) -> "SignatureIndex":
        """Map what `save` wrote."""
        names = ("signatures", "keys", "owners")
        return cls(*(np.load(directory / f"{name}.npy", mmap_mode="r") for name in names))

    def find_similar(self, signatures: Signatures, similarity: float) -> npt.NDArray[np.bool_]:
        """Return which signatures are estimated to be at least so similar to one of the index."""
        found = np.zeros(len(signatures), dtype=bool)
        wanted = similarity * PLACES
        for band, keys in enumerate(band_keys(signatures, BANDS).T):
            starts = np.searchsorted(self.keys[band], keys, side="left")
            stops = np.searchsorted(self.keys[band], keys, side="right")
            for i in np.flatnonzero((stops > starts) & ~found).tolist():
                others = self.signatures[self.owners[band, starts[i] : stops[i]]]
                found[i] = bool(((others == signatures[i]).sum(axis=1) >= wanted).any())
        return found


def sign_all(texts: Iterable[str]) -> Signatures:
    """Return the signatures of texts, in order."""
    return stack([sign(text) for text in texts])


def stack(signatures: Sequence[npt.NDArray[np.uint32]]) -> Signatures:
    """Return signatures as one array."""
    return np.array(signatures, dtype=np.uint32).reshape(-1, PLACES)
