"""Normalisation of a text: line ends, controls, encodings mended, Unicode normal form C; what is changed is counted.

The order keeps each step linear in the length of the text: NFC alone takes the square of a run of combining marks, so
such runs are bounded first, as in Unicode's Stream-Safe Text Format (UAX #15, section 13).
"""

import re
import sys
import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt

SEPARATORS, CONTROLS, ENCODING, MARKS, COMPOSED = "separators", "controls", "encoding", "mark_runs", "composed"
"""Kinds of changes: characters that part words became spaces; controls were taken out; text decoded wrongly was mended;
long runs of combining marks were parted; characters were composed (NFC)."""

MAX_MARKS = 30
"""Longest run of combining marks that is left as it is (UAX #15, UAX15-D3)."""

_JOINER = "\u034f"
"""Combining grapheme joiner, which parts a run (UAX15-D4)."""


def _character_class(codes: list[int]) -> str:
    """Return a class of a regular expression that matches these characters."""
    return "[" + "".join(f"\\U{code:08x}" for code in codes) + "]"


_PARTING = [0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x1F, 0x85]
"""Vertical tab, form feed, the separators of files, groups, records and units, and next line."""

_TAKEN_OUT = [
    *(code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n\r" and code not in _PARTING),
    0xFEFF,
]
"""C0 and C1 controls and the byte-order mark. Format characters such as ZWJ stay: Indic scripts and emoji need them."""

_MENDED_CHARACTERS = 1 << 15
"""Characters of the pieces in which encodings are mended."""

_UNCLEAN = re.compile(_character_class([*_PARTING, *_TAKEN_OUT, 0x0D]))
_PARTING_RUN = re.compile(_character_class(_PARTING))
_CONTROL = re.compile(_character_class(_TAKEN_OUT))
_LINE_END = re.compile("\r\n?")


@cache
def _is_mark() -> npt.NDArray[np.bool_]:
    """Return for each character whether it is a combining mark; the last is U+1E94A."""
    table = np.zeros(sys.maxunicode + 1, dtype=np.bool_)
    table[0x300:0x20000] = [unicodedata.combining(chr(code)) > 0 for code in range(0x300, 0x20000)]
    return table


def normalize(text: str, *, fix_encoding: bool = False) -> tuple[str, tuple[str, ...]]:
    r"""Return the text in NFC, with `\n` line ends, without controls and blank edges; and the kinds of changes.

    Line ends and blank edges are no change. With `fix_encoding` text that was decoded wrongly is mended first.
    """
    changes = []
    if fix_encoding and not text.isascii():
        mended = _fix_encoding(text)
        if mended != text:
            changes.append(ENCODING)
            text = mended
    if _UNCLEAN.search(text):
        text = _LINE_END.sub("\n", text)
        text, num_parting = _PARTING_RUN.subn(" ", text)
        text, num_controls = _CONTROL.subn("", text)
        changes += [SEPARATORS] if num_parting else []
        changes += [CONTROLS] if num_controls else []
    # The quick check ends at the first mark that is out of order, so it is linear, too.
    if not unicodedata.is_normalized("NFC", text):
        parted = part_mark_runs(text)
        changes += [MARKS] if parted != text else []
        text = unicodedata.normalize("NFC", parted)
        changes.append(COMPOSED)
    return text.strip(), tuple(changes)


def part_mark_runs(text: str) -> str:
    """Return the text with a joiner after every MAX_MARKS combining marks that follow each other."""
    is_mark = _is_mark()[np.frombuffer(text.encode("utf-32-le"), dtype="<u4")]
    bounds = np.flatnonzero(np.diff(is_mark, prepend=False, append=False))
    starts, stops = bounds[::2], bounds[1::2]
    long = stops - starts > MAX_MARKS
    if not long.any():
        return text
    pieces, done = [], 0
    for start, stop in zip(starts[long].tolist(), stops[long].tolist(), strict=True):
        for place in range(start + MAX_MARKS, stop, MAX_MARKS):
            pieces.append(text[done:place])
            done = place
    return _JOINER.join([*pieces, text[done:]])


def _fix_encoding(text: str) -> str:
    """Mend a text in pieces, since one of ftfy's decoders takes the square of the length.

    A piece ends at a line or after a character of ASCII, none of which belongs to a character that was decoded wrongly;
    but for a space, which may stand for U+00A0 there.
    """
    import ftfy

    pieces, done = [], 0
    while done < len(text):
        stop = done + _MENDED_CHARACTERS
        if stop < len(text):
            cut = text.rfind("\n", done, stop) + 1
            while not cut and stop < len(text) and not "!" <= text[stop - 1] <= "~":
                stop += 1
            stop = cut or stop
        pieces.append(ftfy.fix_encoding(ftfy.fixes.fix_c1_controls(text[done:stop])))
        done = stop
    return "".join(pieces)
