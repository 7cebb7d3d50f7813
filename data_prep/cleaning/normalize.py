"""One text form for one text: NFC, no control characters, `\\n` line ends, no blank edges."""

import unicodedata

_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0), 0xFEFF) if chr(code) not in "\t\n"}
"""C0 and C1 controls and the byte-order mark. Format characters such as ZWJ stay: Indic scripts and emoji need them."""


def normalize(text: str) -> str:
    """The text in Unicode normalisation form C, cleaned of what no reader sees."""
    unified = text.replace("\r\n", "\n").replace("\r", "\n").translate(_CONTROLS)
    return unicodedata.normalize("NFC", unified).strip()
