"""What a checkpoint has read: its tokens by source and language, and when it read one document."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from cluster.host.files import inside
from cluster.storage.errors import error_class
from configs.base import Artifact, Manifest, UserError
from data_prep.manifests import CleanCorpus, TokenizedCorpus
from data_prep.masks.manifest import Mask
from data_prep.tokens.find_document import TokenRange, find_document
from pipeline.store.artifact import load_artifact, read_record
from training.data.position import count_samples_read
from training.data.tokens_read import Reading, count_tokens_read, find_document_readings
from training.records import CHECKPOINT_FILE, CHECKPOINTS, CheckpointRecord, directory_of, newest_checkpoint

M = TypeVar("M", bound=Manifest)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk."""

    directory: Path
    record: CheckpointRecord

    @property
    def training(self) -> Path:
        """The directory of the training's artifact."""
        return self.directory.parent.parent


@dataclass(frozen=True)
class StreamSeen:
    """What was read of one source in one language."""

    source: str
    language: str
    tokens_read: int
    share: float
    """The fraction of all tokens read."""

    epochs: float
    """Tokens read, divided by the tokens of the stream."""


@dataclass(frozen=True)
class EpochSeen:
    """What was read of a document in one epoch of its stream."""

    epoch: int
    """The number of the epoch, from 1."""

    tokens_read: int
    places: tuple[int, ...]
    """The places, in the order of samples and from 0, of the samples that hold some of it."""

    steps: tuple[int, ...] | None
    """The optimizer steps, from 1, that read them; None if they cannot be told, because the batch changed its size
    otherwise than by batch_ramp, or because steps of a training on other data count, too."""


@dataclass(frozen=True)
class DocumentSeen:
    """How a document was read."""

    source: str
    language: str
    num_tokens: int
    """Tokens of the document, without the first token of its stream, which is never a target."""

    epochs: tuple[EpochSeen, ...]
    """The epochs in which any of it was read."""


def find_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint at `path`, or the newest of the training at it. Raises UserError otherwise."""
    directory = path.resolve()
    if not (directory / CHECKPOINT_FILE).is_file():
        training = read_record(directory)
        if training is not None and training.stage == "train":
            directory = inside(directory, str(training.manifest["checkpoint"]))
        elif training is None and (step := newest_checkpoint(directory / CHECKPOINTS)) is not None:
            directory = directory_of(directory / CHECKPOINTS, step)
        else:
            raise UserError(
                f"{path} is neither a checkpoint, which holds {CHECKPOINT_FILE}, nor a training that has one; name a "
                "directory such as store/train-0123456789ab/checkpoints/step-00000200"
            )
    try:
        return Checkpoint(directory, CheckpointRecord.model_validate_json((directory / CHECKPOINT_FILE).read_bytes()))
    except (OSError, ValidationError) as error:
        problem = error.strerror if isinstance(error, OSError) else f"{error.error_count()} problems"
        raise error_class(error)(
            f"{directory / CHECKPOINT_FILE} is not a record that this version of Concord can read ({problem}); name "
            "another checkpoint of the training"
        ) from error


def streams_seen(checkpoint: Checkpoint) -> list[StreamSeen]:
    """Return every stream, the most read first. Raises UserError if training did not follow the recorded order."""
    order, num_tokens = checkpoint.record.order, checkpoint.record.num_tokens
    read = count_tokens_read(order, checkpoint.record.position)
    if (total := sum(read.values())) != num_tokens:
        raise UserError(
            f"{checkpoint.directory} says that {num_tokens} tokens were read, but its order gives {total}; ask the "
            "version of Concord that wrote it"
        )
    found = []
    for stream in order.streams:
        tokens = read[f"{stream.source}/{stream.language}"]
        epochs = tokens / (stream.num_tokens - 1)  # its first token is never a target
        found.append(StreamSeen(stream.source, stream.language, tokens, tokens / max(total, 1), epochs))
    return sorted(found, key=lambda seen: (-seen.tokens_read, seen.source, seen.language))


def document_seen(checkpoint: Checkpoint, document: str) -> list[DocumentSeen]:
    """Return how the document of this id was read; several if its source gave the id to several documents.

    Raises UserError if it is not in the text that the training read, or if that text is not in the store.
    """
    name = document.partition("/")[0]
    texts = load_texts(checkpoint)
    known = [text for text in texts if any(count.source == name for count in text.corpus.manifest.counts)]
    text = (known or texts)[0]
    if not known and len(texts) > 1:
        sources = sorted({count.source for text in texts for count in text.corpus.manifest.counts})
        raise UserError(
            f"document {document!r} is of no source of the training: an id is the name of its source, a slash and its "
            f"name there, and the sources are {', '.join(sources)}"
        )
    ranges = find_document(document, corpus=text.corpus, tokens=text.tokens, mask=text.mask)
    return [_readings(checkpoint.record, where) for where in ranges]


def started_from(checkpoint: Checkpoint) -> str | None:
    """Return where the initial weights of a finished training came from; None if it continued another's order."""
    training = read_record(checkpoint.training)
    start = training.config.get("init_from") if training else None
    if training is None or not isinstance(start, dict) or start.get("mode") == "continue":
        return None
    given = [made_from.artifact for made_from in training.given("init")]
    return given[0] if given else str(start["path"])


@dataclass(frozen=True)
class Text:
    """Tokens that a training read, and what they were made from."""

    tokens: Artifact[TokenizedCorpus]
    corpus: Artifact[CleanCorpus]
    mask: Artifact[Mask] | None


def load_texts(checkpoint: Checkpoint) -> list[Text]:
    """Return the tokens that a checkpoint's training reads, with the text of each. Raises UserError if one is gone."""
    return [_load_text(checkpoint, name) for name in checkpoint.record.order.tokens]


def _load_text(checkpoint: Checkpoint, name: str) -> Text:
    store = checkpoint.training.parent
    tokens = _require_artifact(inside(store, name), TokenizedCorpus)
    record = read_record(tokens.dir)
    assert record is not None
    (corpus,) = record.given("corpus")
    masks = [_require_artifact(store / mask.artifact, Mask) for mask in record.given("mask")]
    return Text(tokens, _require_artifact(store / corpus.artifact, CleanCorpus), masks[0] if masks else None)


def _require_artifact(path: Path, manifest: type[M]) -> Artifact[M]:
    if (artifact := load_artifact(path, manifest)) is None:
        raise UserError(
            f"{path}, which the training read, is not there, so no document can be looked up; run its recipe to have "
            "it made again, or name the checkpoint where its store is"
        )
    return artifact


def _readings(record: CheckpointRecord, where: TokenRange) -> DocumentSeen:
    readings = find_document_readings(
        record.order,
        record.position,
        source=where.source,
        language=where.language,
        start=where.start,
        stop=where.stop,
    )
    by_epoch = groupby(sorted(readings, key=lambda reading: reading.epoch), key=lambda reading: reading.epoch)
    epochs = tuple(_epoch(record, epoch, list(own)) for epoch, own in by_epoch)
    return DocumentSeen(where.source, where.language, where.stop - max(where.start, 1), epochs)


def _epoch(record: CheckpointRecord, epoch: int, readings: Sequence[Reading]) -> EpochSeen:
    places = tuple(reading.place for reading in readings)
    return EpochSeen(epoch + 1, sum(reading.num_tokens for reading in readings), places, _steps(record, places))


def _steps(record: CheckpointRecord, places: Sequence[int]) -> tuple[int, ...] | None:
    position, steps = record.position, range(record.step)
    if count_samples_read(position, position.next_place) != record.samples_before(record.step):
        return None
    read = [count_samples_read(position, place) for place in places]
    return tuple(sorted({bisect_right(steps, number, key=record.samples_before) for number in read}))
