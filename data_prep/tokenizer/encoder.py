"""Text to ids with the tokenizer of an artifact, trained here or imported, as `tokenize` and `evaluate` do it."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from configs.base import UserError
from configs.text import one_line
from data_prep.tokenizer.sentencepiece_model import encode_arrays, encode_texts, load_sentencepiece
from data_prep.tokenizer.stage import HUGGING_FACE, MODEL

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Encode = Callable[[list[str]], list[list[int]]]
"""Returns the ids of each text, without pieces that begin or end it."""


def open_encoder(directory: Path) -> Encode:
    """Open the tokenizer in the directory of its artifact: SentencePiece if it is a SentencePiece model.

    A text that spells a special piece is text. Raises UserError if the files cannot be read.
    """
    if (directory / MODEL).is_file():
        return partial(encode_texts, load_sentencepiece(directory / MODEL))
    return partial(encode_batch, load_tokenizer_json(directory / HUGGING_FACE / "tokenizer.json"))


EncodeArrays = Callable[[list[str]], list[npt.NDArray[np.int32]]]
"""Returns the ids of each text as an array, without pieces that begin or end it."""


def open_array_encoder(directory: Path) -> EncodeArrays:
    """Open a tokenizer as `open_encoder` does, to get arrays."""
    if (directory / MODEL).is_file():
        return partial(encode_arrays, load_sentencepiece(directory / MODEL))
    encode = open_encoder(directory)
    return lambda texts: [np.array(ids, dtype=np.int32) for ids in encode(texts)]


def load_tokenizer_json(path: Path) -> "Tokenizer":
    """Load a tokenizer.json as `parse_tokenizer` does."""
    return parse_tokenizer(path.read_text(encoding="utf-8"), path)


def parse_tokenizer(content: str, path: Path) -> "Tokenizer":
    """Make the tokenizer of a tokenizer.json, so that a text that spells a special piece is text, whole and not padded.

    It encodes on as many threads as the process may use. Raises UserError if the library cannot read it.
    """
    if cores := os.environ.get("OMP_NUM_THREADS"):  # Ray gives a task as many as it has cores
        os.environ.setdefault("RAYON_NUM_THREADS", cores)
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the library has no narrower class
        cause = one_line(error)
        raise UserError(
            f"{path} is no tokenizer that the tokenizers library reads ({cause}); fetch it again"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode_batch(tokenizer: "Tokenizer", texts: list[str]) -> list[list[int]]:
    """Return the ids of each text, without pieces that begin or end it."""
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
