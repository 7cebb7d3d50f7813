"""Encodings of LaTeX files: UTF-8, or what a main file declares by inputenc, inputenx or the environment CJK."""

import re

from data_prep.sources.formats.latex_text import PaperError, remove_comments

_ENCODING = re.compile(
    rb"\\usepackage\s*+\[([^\]]{1,200})\]\s*+\{inputen[cx]\}|\\inputencoding\s*+\{([^{}]{1,50})\}"
    rb"|\\begin\s*+\{CJK\*?\}\s*+(?:\[[^\]]{0,50}\])?\s*+\{([^{}]{1,50})\}"
)
_CODECS = {
    "ascii": "ascii",
    "latin1": "cp1252",  # a superset
    "ansinew": "cp1252",
    "latin2": "iso8859-2",
    "latin3": "iso8859-3",
    "latin4": "iso8859-4",
    "latin5": "iso8859-9",
    "latin9": "iso8859-15",
    "latin10": "iso8859-16",
    "iso88595": "iso8859-5",
    "iso88597": "iso8859-7",
    "applemac": "mac-roman",
    "macce": "mac-latin2",
    "maccyr": "mac-cyrillic",
    "cp866av": "cp866",
    "cp866nav": "cp866",
    "cp437de": "cp437",
    "GB": "gbk",
    "GBK": "gbk",
    "Bg5": "big5hkscs",
    "KS": "cp949",
    "JIS": "euc-jp",
    "SJIS": "cp932",
    **{name: name for name in ("cp437", "cp850", "cp852", "cp855", "cp865", "cp866", "koi8-r", "koi8-u")},
    **{name: name for name in ("cp1250", "cp1251", "cp1252", "cp1253", "cp1257")},
}
"""Encodings by the options of inputenc (latex2e's inputenc.dtx, cyinpenc.dtx) and of the environment CJK."""


def find_codec(data: bytes) -> str | None:
    """Return the encoding that a main file declares, the last if there are several; None if it is UTF-8 or unknown."""
    plain = remove_comments(data.decode("latin-1")).encode("latin-1")
    options = b",".join(option for found in _ENCODING.findall(plain) for option in found).decode("latin-1")
    names = [name.strip() for name in options.split(",")]
    return next((_CODECS[name] for name in reversed(names) if name in _CODECS), None)


def decode(data: bytes, codec: str | None, name: str = "") -> str:
    """Return the text of a file, which is UTF-8, or else in the encoding of the paper. Raises PaperError."""
    for one in ("utf-8", codec):
        try:
            if one:
                return data.decode(one)
        except UnicodeDecodeError:
            continue
    raise PaperError("invalid_utf8", f"{name or 'its main file'}, and it declares {codec or 'no other encoding'}")
