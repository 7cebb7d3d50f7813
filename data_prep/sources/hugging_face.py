"""The source `hugging_face`: a dataset on the Hub at a fixed commit, or in a local directory."""

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from cluster.storage.errors import error_class
from configs.base import UserError
from configs.data.sources import HuggingFaceSource
from data_prep.sources.document import Digest, Entry, Opened, Span
from data_prep.sources.listing import digest_part
from data_prep.sources.record_fields import check_columns, to_document

_PATTERN = re.compile(r"[\[\]*?{}]|::")


def spans(config: HuggingFaceSource) -> tuple[Span, ...]:
    """Return the whole dataset: its Hub name, or the absolute path of its directory."""
    return (Span(str(Path(config.path).absolute()) if Path(config.path).is_dir() else config.path),)


def split(config: HuggingFaceSource, span: Span, num_bytes: int) -> tuple[Span, ...]:
    """Cut a dataset: one that is streamed into its files, one that is on disk into ranges of rows.

    A span's start and stop are numbers of files, or of rows. It asks the Hub which files there are at the commit.
    """
    with _explained(config, lambda: 0):
        dataset = _open_split(config, span.name)
        if not hasattr(dataset, "num_rows"):
            return tuple(replace(span, start=i, stop=i + 1) for i in range(dataset.num_shards))
        number = max(1, min(dataset.num_rows, round(dataset.data.nbytes / num_bytes)))
        bounds = [dataset.num_rows * i // number for i in range(number + 1)]
        size = dataset.data.nbytes // number
    return tuple(replace(span, start=a, stop=b, first=a + 1, num_bytes=size) for a, b in pairwise(bounds))


def identity(config: HuggingFaceSource, digest: Digest) -> JsonValue:
    """Return the commit on the Hub, or the name and digest of every file in the directory except hidden ones.

    Raises UserError if a Hub name comes without a commit, or if the directory is empty.
    """
    root = Path(config.path)
    if root.is_dir():
        return {name: digest_part(config.name, str(root / name), digest) for name in _list_data_files(config, root)}
    if config.revision is None:
        raise UserError(
            f"source '{config.name}': '{config.path}' is no directory here, so it is a name on the Hub, "
            "where a branch may move; give the dataset's 40-digit commit as `revision`"
        )
    return {"path": config.path, "revision": config.revision}


def read(config: HuggingFaceSource, span: Span) -> Iterator[Entry]:
    """Yield the records of a span in the dataset's order, numbered from 1 in the dataset, or in a streamed file of it.

    Raises UserError if it cannot be read.
    """
    number, name = span.first - 1, config.path
    with _explained(config, lambda: number):
        dataset = _open_split(config, span.name)
        if span.stop is not None and hasattr(dataset, "num_rows"):
            dataset = dataset.select(range(span.start, span.stop))
        elif span.stop is not None and dataset.num_shards > 1:
            dataset, name = dataset.shard(dataset.num_shards, span.start), f"{name}:{span.start + 1}"
        yield Opened(name)
        for number, record in enumerate(dataset, span.first):
            yield to_document(config, record, f"{name}:{number}")


def _list_data_files(config: HuggingFaceSource, root: Path) -> list[str]:
    paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    names = sorted(path.as_posix() for path in paths if not any(piece.startswith(".") for piece in path.parts))
    if not names:
        raise UserError(f"source '{config.name}': the directory '{config.path}' is empty; put a dataset there")
    if chained := [name for name in names if "::" in name]:
        raise UserError(
            f"source '{config.name}': '{chained[0]}' in '{config.path}' has '::' in its name, by which the library "
            "`datasets` would leave it out; rename it"
        )
    return names


def _literal_name(config: HuggingFaceSource, directory: str) -> str:
    """Return a name of a directory that has no character which `datasets` takes for a pattern, or for a chain of URLs.

    To the library `crawl[1]` is `crawl1`. Where there is such a character, the name is that of a directory of links to
    the files, below the one for temporary files: the same each time, for the library keeps what it has read by name.
    (A link to the directory itself would not do: the library follows it.) Raises UserError if there can be none.
    """
    if not _PATTERN.search(directory):
        return directory
    digest = hashlib.sha256(directory.encode()).hexdigest()[:16]
    links = Path(tempfile.gettempdir(), f"concord-{os.getuid()}", digest)
    if _PATTERN.search(str(links)):
        raise UserError(f"'{links}' has one of []*?{{}} or '::' in its name; set TMPDIR to a directory without")
    try:
        links.parent.mkdir(mode=0o700, exist_ok=True)
        if links.parent.stat().st_uid != os.getuid():
            raise UserError(f"'{links.parent}' is another user's; take it away, or set TMPDIR to a directory of yours")
        _link_files(Path(directory), _list_data_files(config, Path(directory)), links)
    except OSError as error:
        raise error_class(error)(
            f"'{links}' cannot be made ({error.strerror}); set TMPDIR to a directory of yours"
        ) from error
    return str(links)


def _link_files(directory: Path, names: list[str], links: Path) -> None:
    """Make `links` a directory of links to these files, also where others do at the same time."""
    for stale in {path for path in links.rglob("*") if path.is_symlink()} - {links / name for name in names}:
        stale.unlink(missing_ok=True)
    for name in names:
        (links / name).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            (links / name).symlink_to(directory / name)


@contextmanager
def _explained(config: HuggingFaceSource, number: Callable[[], int]) -> Iterator[None]:
    """Raise as a UserError what the library passes on: whatever HTTP, Arrow and each file format raise."""
    try:
        yield
    except (UserError, GeneratorExit):
        raise
    except Exception as error:
        cause = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"source '{config.name}': the dataset '{config.path}' cannot be read after record {number()} "
            f"({type(error).__name__}: {cause}); check its path, subset, split and revision, and the network"
        ) from error


def _open_split(config: HuggingFaceSource, part: str) -> Any:
    """Open the split with only the columns that the config names."""
    import datasets

    part = _literal_name(config, part) if Path(part).is_dir() else part
    if (Path(part) / "state.json").is_file() or (Path(part) / "dataset_dict.json").is_file():
        split = _choose_saved_split(config, datasets.load_from_disk(part))
    else:
        split = datasets.load_dataset(
            part, config.subset, split=config.split, revision=config.revision, streaming=config.streaming
        )
    if not split.features:  # a streamed dataset may not know its columns before it is read
        return split
    return split.select_columns(check_columns(config, config.path, split.column_names))


def _choose_saved_split(config: HuggingFaceSource, saved: Any) -> Any:
    """Return the configured split of what `save_to_disk` wrote: splits by name, or one split that may know its name."""
    named = saved if isinstance(saved, dict) else {str(saved.split or config.split): saved}
    if config.split not in named:
        raise UserError(
            f"source '{config.name}': '{config.path}' has no split '{config.split}' but {', '.join(named)}; "
            "set `split` to one of these"
        )
    return named[config.split]
