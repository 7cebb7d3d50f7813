"""SentencePiece models: what their pieces are, and what text they can be trained on."""

import re

import pytest

from configs.base import Artifact, UserError
from configs.data.stages import TrainTokenizerConfig
from data_prep.manifests import TrainedTokenizer
from data_prep.tokenizer.sentencepiece_model import load_sentencepiece, train_sentencepiece
from data_prep.tokenizer.stage import MODEL
from tests.data_prep.tokenizer.toy_tokenizer import CONFIG, SENTENCES


def test_digits_are_pieces_of_their_own(tokenizer: Artifact[TrainedTokenizer]) -> None:
    model = load_sentencepiece(tokenizer.dir / MODEL)
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size()) if not model.is_byte(i)]
    digits = [piece for piece in pieces if any(character.isdigit() for character in piece)]
    assert set("0123456789") <= set(digits)
    assert [piece for piece in digits if len(piece) > 1] == []


@pytest.mark.parametrize(("vocab_size", "says", "past"), [(1_000_000, "at most", 1), (300, "at least", -1)])
def test_vocabulary_that_does_not_fit_the_text_names_the_limit(vocab_size: int, says: str, past: int) -> None:
    texts = [text for _, text in SENTENCES[:400]]
    with pytest.raises(UserError, match=f"vocab_size is {vocab_size:,}.* {says} ") as caught:
        train_sentencepiece(texts, CONFIG.model_copy(update={"vocab_size": vocab_size}))
    assert "\n" not in str(caught.value)
    limit = int(re.findall(rf"{says} ([\d,]+)", str(caught.value))[0].replace(",", ""))
    assert train_sentencepiece(texts, CONFIG.model_copy(update={"vocab_size": limit}))
    with pytest.raises(UserError):
        train_sentencepiece(texts, CONFIG.model_copy(update={"vocab_size": limit + past}))


def test_long_lines_are_cut_not_left_out() -> None:
    long = "".join(chr(0x4E00 + i % 50) for i in range(120_000))
    model = train_sentencepiece([long], TrainTokenizerConfig(vocab_size=320, character_coverage=1))
    assert all(chr(0x4E00 + i).encode() in model for i in range(50))
