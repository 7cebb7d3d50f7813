"""SentencePiece: train a BPE model, load it, encode with it, list its pieces. The only file that imports sentencepiece.

The model is BPE with byte fallback, split digits and the identity normaliser (cleaning has done NFC): the one
kind of SentencePiece model that other implementations reproduce id for id.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sentencepiece

from configs.base import UserError
from configs.data.stages import TrainTokenizerConfig

UNK, EOS, PAD = "<unk>", "</s>", "<pad>"
UNK_ID, EOS_ID, PAD_ID = 0, 1, 2
SPACE = "\u2581"
"""SentencePiece writes a space as this character."""

_BOUNDARY = "\u2585"
"""SentencePiece drops lines with this character without a word; the learner sees what stands before and after it."""

MAX_LINE_BYTES = 100_000
"""Longer lines are cut before training: SentencePiece drops lines beyond its limit without a word."""


@dataclass(frozen=True)
class Vocabulary:
    """The pieces of a SentencePiece model."""

    ids: dict[str, int]
    """Piece -> id, for every piece, in the order of the ids."""

    learned: tuple[str, ...]
    """Pieces that stand for text, without byte pieces and special pieces, the one that is joined first first."""

    control: frozenset[str]
    """Pieces that text never gives; the unknown one is none of them."""

    roles: dict[str, str]
    """Role (`unk`, `bos`, `eos` or `pad`) -> piece."""


def train_sentencepiece(lines: Iterable[str], config: TrainTokenizerConfig) -> bytes:
    """Train a SentencePiece model and return its file's content; it is deterministic in the lines and their order.

    Raises UserError if the vocabulary size does not fit the text, or if there is no text.
    """
    model = BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_cut_lines(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            required_chars=SPACE,  # written as bytes, a space would be decoded as SPACE
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=MAX_LINE_BYTES + 4,
            unk_id=UNK_ID,
            eos_id=EOS_ID,
            pad_id=PAD_ID,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explain(error, config) from None
    return model.getvalue()


def load_sentencepiece(model: Path) -> sentencepiece.SentencePieceProcessor:
    """Load the tokenizer of a SentencePiece model file."""
    return sentencepiece.SentencePieceProcessor(model_file=str(model))


def encode_texts(tokenizer: sentencepiece.SentencePieceProcessor, texts: list[str]) -> list[list[int]]:
    """Return the ids of each text, without special pieces."""
    ids: list[list[int]] = tokenizer.encode(texts, num_threads=1)
    return ids


def encode_arrays(tokenizer: sentencepiece.SentencePieceProcessor, texts: list[str]) -> list[npt.NDArray[np.int32]]:
    """Return the ids of each text as `encode_texts` does, as arrays, which are made in less time than lists."""
    ids: list[npt.NDArray[np.int32]] = tokenizer.encode(texts, num_threads=1, return_type="numpy")
    return ids


def read_vocabulary(model: bytes) -> Vocabulary:
    """List the pieces of a SentencePiece model, given its file's content. Raises RuntimeError if it is none."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = {processor.id_to_piece(i): i for i in range(processor.get_piece_size())}
    learned = (
        piece
        for piece, i in ids.items()
        if not (processor.is_byte(i) or processor.is_control(i) or processor.is_unknown(i))
    )
    roles = {role: getattr(processor, f"{role}_id")() for role in ("unk", "bos", "eos", "pad")}
    return Vocabulary(
        ids,
        tuple(sorted(learned, key=lambda piece: (-processor.get_score(ids[piece]), ids[piece]))),
        frozenset(piece for piece, i in ids.items() if processor.is_control(i)),
        {role: processor.id_to_piece(i) for role, i in roles.items() if i >= 0},
    )


def _cut_lines(lines: Iterable[str]) -> Iterator[str]:
    for line in (piece for whole in lines for piece in whole.split(_BOUNDARY)):
        while len(line) * 4 > MAX_LINE_BYTES:
            yield line[: MAX_LINE_BYTES // 4]
            line = line[MAX_LINE_BYTES // 4 :]
        if line:
            yield line


def _explain(error: RuntimeError, config: TrainTokenizerConfig) -> Exception:
    text = str(error)
    if "sentences_.empty()" in text or "all_chars_count" in text:
        return UserError("the sample holds no text to learn a tokenizer from; raise sample_bytes or add text")
    if match := re.search(r"value <= (\d+)", text):
        most = f"the text allows at most {int(match[1]):,}"
        return UserError(f"vocab_size is {config.vocab_size:,}, but {most}; lower vocab_size or add text")
    if match := re.search(r"smaller than required_chars\. \d+ vs (\d+)", text):
        least = f"this text needs at least {int(match[1]):,} for its characters and bytes"
        return UserError(
            f"vocab_size is {config.vocab_size:,}, but {least}; raise vocab_size or lower character_coverage"
        )
    return error
