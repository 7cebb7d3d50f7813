"""Secrets taken out of text: of logs, records, pages and bundles that may leave the machine."""

import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote

from configs.cluster import SECRET_NAME

REDACTED = "[redacted]"
"""What stands in a secret's place."""

_MIN_CHARACTERS = 6
"""A shorter value of the environment would be found all over a text."""

_VALUE = (
    r"""(?!\[redacted\])(?:(?P<quote>\\*["'])(?:(?!(?P=quote))(?:\\.|.)){1,4096}(?P=quote)|[^\s"'\\]\S*|["'\\]\S+)"""
)
"""A quoted text, or all up to the next space: a password may hold anything."""

_END = r"""(?:\\*["'])?\s*(?:=>?|:)\s*"""
"""Between a name and its value, in a shell, YAML, JSON, Python and JSON in JSON."""

_SURE = r"pass(?:word|wd|phrase)s?|secrets?|credentials?|(?:api|access|secret|private|auth|signing|account)[_-]?keys?"
_UPPER = r"(?-i:(?<=[A-Z0-9]_)(?:KEY|PWD)|(?<![A-Z0-9])(?:TOKEN|SECRET|PASSWORD|PASSWD|API_KEY)(?=_))"
_MORE_NAME = r"(?-i:_(?!PATH\b)[A-Z0-9_]{1,40})?"
_TOKEN = "".join(rf"(?<!{word}[_ -])" for word in ("pad", "eos", "bos", "unk", "mask", "sep", "cls", "per")) + "token"
_NUMBER = r"""(?!["']?[-+\d.,e]+["']?(?:[\s,;)}\]]|$))"""
_PLAIN = r"""(?!null\b|none\b|true\b|false\b|["']?[<\[])"""
_PROSE = r"(?<=: )(?=[A-Za-z]{1,19}[ .,;][ A-Za-z])"
"""`wrong token: expected one of` is no assignment."""

_SHAPES = re.compile(
    r"""-----BEGIN[ ][A-Z0-9 ]*PRIVATE[ ]KEY(?:[ ]BLOCK)?-----.*?(?:-----END[ ][A-Z0-9 ]*KEY(?:[ ]BLOCK)?-----|\Z)
    | (?<![A-Za-z0-9])(?:
        hf_[A-Za-z0-9]{16,}
        | gh[pousr]_[A-Za-z0-9]{16,} | github_pat_[A-Za-z0-9_]{16,} | glpat-[A-Za-z0-9_-]{16,}
        | wandb_v\d+_[A-Za-z0-9_-]{16,} | sk-[A-Za-z0-9_-]{20,} | AIza[A-Za-z0-9_-]{30,}
        | (?:AKIA|ASIA)[A-Z0-9]{16}(?:[\s:,;"']{1,4}[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+]))?
        | eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+
    )""",
    re.DOTALL | re.VERBOSE,
)
"""Secrets that show what they are: PEM private keys; tokens of Hugging Face, GitHub, GitLab, Weights & Biases, AWS and
others; JSON web tokens."""

_NAMED = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?P<keep>authorization{_END}(?:\\*[\"'])?(?:(?:bearer|basic|token|digest|negotiate)\s+)?+)(?!\[redacted\])"
        r"[^\s\"'\\]+",
        rf"(?P<keep>\bbearer\s+)(?!\[redacted\])[A-Za-z0-9._~+/=-]{{{_MIN_CHARACTERS},}}",
        r"(?P<keep>\bcookie2?:\s*)(?!\[redacted\])\S.*",
        r"(?P<keep>://[^\s/@:\"'<>]*:)(?!\[redacted\])[^\s/\"'<>]+(?=@)",
        r"(?P<keep>://)(?!\[redacted\])[^\s/@:\"'<>]{20,}(?=@)",
        r"(?P<keep>\blogin\s+\S+\s+password\s+)(?!\[redacted\])\S+",
        r"(?P<keep>\bwandb login\s+(?:-\S+\s+)*)[0-9a-f]{40,}",
        rf"(?P<keep>--[a-z0-9-]{{0,30}}(?:{_SURE}|token)(?:[\"'],?\s+[\"']?|\s+))(?!-|\[redacted\])[^\s\"']+",
        rf"(?P<keep>(?:{_SURE}|{_UPPER}){_MORE_NAME}{_END}){_PLAIN}{_VALUE}",
        rf"(?P<keep>{_TOKEN}{_END})(?!{_PROSE}){_NUMBER}{_PLAIN}{_VALUE}",
        rf"(?P<keep>x-amz-(?:signature|credential){_END}|[?&]sig=){_VALUE}",
        r"(?P<keep>(?<![\w-])key\\*[\"']?\s*[=:]\s*\\*[\"']?)"
        r"(?-i:(?=\S*\d)(?=\S*[A-Z])(?=\S*[a-z])[A-Za-z0-9+/_=-]{16,})",
    )
]
"""Values that a name before them gives away; the group `keep` stays."""

_HINT = re.compile(
    r"pass|secret|credential|key|token|pwd|authorization|bearer|cookie|://|wandb login|x-amz|sig=", re.IGNORECASE
)


def redact(text: str, *, environment: Mapping[str, str] | None = None) -> str:
    """`text` with `[redacted]` in the place of secrets.

    Secret are the values of variables of `environment` (this process's, if left out) whose names say so, and what
    looks like a token, a password or a private key by its shape or the name before it. Commits and checksums are not.
    A private key of several lines must come in one piece.
    """
    known = _known(tuple(_secrets(os.environ if environment is None else environment)))
    if known is not None:
        text = known.sub(REDACTED, text)
    text = _SHAPES.sub(REDACTED, text)
    if _HINT.search(text):
        for pattern in _NAMED:
            text = pattern.sub(_keep_name, text)
    return text


def is_secret(name: str) -> bool:
    """Whether the value of an environment variable of this name is a secret; one that is a path is not."""
    return bool(SECRET_NAME.search(name)) and not name.upper().endswith("_PATH")


def _keep_name(match: re.Match[str]) -> str:
    quote_mark = match.groupdict().get("quote") or ""
    return f"{match['keep']}{quote_mark}{REDACTED}{quote_mark}"


_is_secret = lru_cache(maxsize=4096)(is_secret)


def _secrets(environment: Mapping[str, str]) -> list[str]:
    return sorted(
        {value for name, value in environment.items() if _is_secret(name) and len(value) >= _MIN_CHARACTERS},
        key=lambda value: (-len(value), value),  # one may begin with another
    )


@lru_cache(maxsize=16)
def _known(secrets: tuple[str, ...]) -> re.Pattern[str] | None:
    """Secrets as they are, as JSON writes them, and as a URL does."""
    forms = [form for secret in secrets for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""))]
    return re.compile("|".join(map(re.escape, dict.fromkeys(forms)))) if forms else None
