"""Which documents an optimizer step reads: the order of samples, turned back into text."""

from dataclasses import dataclass

from pydantic import ValidationError

from configs.base import UserError
from configs.training.train import TrainConfig
from data_prep.tokens.find_document import DocumentPart, name_documents
from pipeline.store.artifact import read_record
from pipeline.store.seen import Checkpoint, Text, load_texts
from training.data.position import count_samples_read, take_places
from training.data.tokens_read import order_of
from training.records import Position


@dataclass(frozen=True)
class SampleRead:
    """A sample of a step, and the documents in it."""

    place: int
    """In the order of samples, from 0."""

    source: str
    language: str
    epoch: int
    """The number of the epoch of its stream, from 1."""

    index: int
    """Its number in the stream, from 0."""

    documents: tuple[DocumentPart, ...]


def samples_of_step(checkpoint: Checkpoint, step: int) -> list[SampleRead]:
    """Return the samples that optimizer step `step`, counted from 1, reads, in order, with their documents.

    Of a step after the checkpoint it is what it will read, if no roll-back leaves samples out. Raises UserError if the
    steps of this training cannot be told apart, or if its text is gone.
    """
    record = checkpoint.record
    if count_samples_read(record.position, record.position.next_place) != record.samples_before(record.step):
        raise UserError(
            f"{checkpoint.directory}: the batch has changed its size, or steps of a training on other data count, so "
            "which samples a step reads is not known; `concord seen --document` says when a document was read"
        )
    if step < 1:
        raise UserError(f"--at {step}: steps are counted from 1")
    last = _last_step(checkpoint)
    if last is not None and step > last:
        raise UserError(f"--at {step}: {checkpoint.training.name} ends with step {last:,}")
    start = Position(next_place=0, skipped=record.position.skipped)
    _, before = take_places(start, record.samples_before(step - 1))
    places, _ = take_places(before, record.samples_before(step) - record.samples_before(step - 1))
    order, length = order_of(record.order), record.order.sequence_length
    found: list[tuple[int, int, int, int]] = []
    for piece in places:
        samples = order.samples(piece.start, piece.stop)
        columns = (samples.stream.tolist(), samples.epoch.tolist(), samples.index.tolist())
        found += zip(piece, *columns, strict=True)
    documents = _documents(checkpoint, [(stream, index) for _, stream, _, index in found], length)
    return [
        SampleRead(
            place,
            record.order.streams[stream].source,
            record.order.streams[stream].language,
            epoch + 1,
            index,
            tuple(documents[stream, index]),
        )
        for place, stream, epoch, index in found
    ]


def _last_step(checkpoint: Checkpoint) -> int | None:
    """Return the last step of a finished training; None of one that goes on, whose length may be changed."""
    training = read_record(checkpoint.training)
    try:
        return TrainConfig.model_validate(training.config).total_steps if training is not None else None
    except ValidationError:  # of another version
        return None


def _documents(
    checkpoint: Checkpoint, samples: list[tuple[int, int]], length: int
) -> dict[tuple[int, int], list[DocumentPart]]:
    """Return the documents of samples, which are numbers of streams and of samples in them; a stream is read once."""
    streams, texts = checkpoint.record.order.streams, load_texts(checkpoint)
    found: dict[tuple[int, int], list[DocumentPart]] = {}
    for number in sorted({stream for stream, _ in samples}):
        stream = streams[number]
        own = sorted({index for other, index in samples if other == number})
        ranges = [(index * length, min(index * length + length + 1, stream.num_tokens)) for index in own]
        text = _text_of(texts, stream.source)
        named = name_documents(
            stream.source, stream.language, ranges, corpus=text.corpus, tokens=text.tokens, mask=text.mask
        )
        found |= {(number, index): parts for index, parts in zip(own, named, strict=True)}
    return found


def _text_of(texts: list[Text], source: str) -> Text:
    return next(text for text in texts if any(shard.source == source for shard in text.tokens.manifest.shards))
