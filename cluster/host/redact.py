"""Takes secrets out of text: of logs, records, pages and bundles that may leave the machine."""

import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote

from configs.secrets import MIN_CHARACTERS, REDACTED, is_secret, without_secrets


def redact(text: str, *, environment: Mapping[str, str] | None = None) -> str:
    """Return `text` with `[redacted]` in the place of secrets.

    Secret are the values of variables of `environment` (this process's, if left out) whose names say so, and what
    looks like a token, a password or a private key by its shape or the name before it. Commits and checksums are not.
    A private key of several lines must come in one piece.
    """
    known = _known(tuple(_secrets(os.environ if environment is None else environment)))
    if known is not None:
        text = known.sub(REDACTED, text)
    return without_secrets(text)


_is_secret = lru_cache(maxsize=4096)(is_secret)


def _secrets(environment: Mapping[str, str]) -> list[str]:
    return sorted(
        {value for name, value in environment.items() if _is_secret(name) and len(value) >= MIN_CHARACTERS},
        key=lambda value: (-len(value), value),  # one may begin with another
    )


@lru_cache(maxsize=16)
def _known(secrets: tuple[str, ...]) -> re.Pattern[str] | None:
    """Return a pattern of the secrets as they are, as JSON writes them, and as a URL does; None without secrets."""
    forms = [form for secret in secrets for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""))]
    return re.compile("|".join(map(re.escape, dict.fromkeys(forms)))) if forms else None
