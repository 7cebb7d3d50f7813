"""Which files a source has, by its patterns, and what tells their bytes from others."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pydantic import JsonValue

from configs.base import UserError
from data_prep.sources.document import Digest, Span
from data_prep.sources.file_parts import FileSource, cannot_open, display_name, explain_refusal
from data_prep.sources.remote_files import Info, is_url, list_matches, version_of

MAX_REQUESTS = 32
"""Patterns that are looked up at once."""


def list_files(config: FileSource) -> tuple[Span, ...]:
    """Return each file that `paths` names, once, sorted by name, relative names first.

    Raises UserError if a pattern matches nothing, or anything but a file.
    """
    names = dict[str, Info]()
    with ThreadPoolExecutor(MAX_REQUESTS) as threads:  # each URL is a request or more
        for matches in threads.map(partial(_match_pattern, config.name), config.paths):
            names |= matches
    found: dict[str, Span] = {}
    for name in sorted(names, key=lambda name: (os.path.isabs(name), name)):
        key = name if is_url(name) else os.path.abspath(name)
        if key not in found:
            found[key] = _to_span(config.name, name, names[name])
    return tuple(found.values())


def _to_span(source: str, name: str, info: Info) -> Span:
    if is_url(name):
        return Span(name, int(info.get("size") or 0), version=version_of(info))
    part = re.sub(r"/(\./)+", "/", name) if os.path.isabs(name) else f"{os.getcwd()}/./{name}"
    with explain_refusal(source, part):
        return Span(part, max(1, os.stat(part).st_size))  # an empty file, too, is one whose size is known


def digest_files(config: FileSource, digest: Digest) -> JsonValue:
    """Return the digest of every file by its displayed name; of one behind a URL the version that its server tells.

    Raises UserError if it tells none: the same recipe could then make something else.
    """
    return {display_name(span.name): _identify(config.name, span, digest) for span in list_files(config)}


def _identify(source: str, span: Span, digest: Digest) -> JsonValue:
    if not is_url(span.name):
        return digest_part(source, span.name, digest)
    if not span.version:
        raise UserError(
            f"source '{source}': the server of {span.name} tells no version of the file (ETag or time); copy the file "
            "and name the copy"
        )
    return {"size": span.num_bytes, "version": span.version}


def digest_part(source: str, part: str, digest: Digest) -> JsonValue:
    """Return the digest of one file here. Raises what `cannot_open` makes if the file cannot be read."""
    try:
        return digest(Path(part))
    except OSError as error:
        raise cannot_open(source, part, error) from error


def _match_pattern(source: str, pattern: str) -> dict[str, Info]:
    names = list_matches(source, pattern)
    if not names:
        where = "" if is_url(pattern) else f" in {os.getcwd()}"
        raise UserError(f"source '{source}': nothing matches '{pattern}'{where}; mend it or take it out of `paths`")
    for name in names:
        if not is_url(name) and not os.path.isfile(name):
            what = "is a directory" if os.path.isdir(name) else "is not a file"
            raise UserError(
                f"source '{source}': '{name}' {what}; write a pattern that matches files only, such as '*.txt'"
            )
        if "\n" in name or name.encode(errors="replace").decode() != name:
            raise UserError(f"source '{source}': {name!a} is not one line of UTF-8; rename the file")
    return names
