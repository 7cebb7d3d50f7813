"""A tokenizer.json is read back piece by piece; foreign kinds are tested in tests/training/init/."""

from pathlib import Path

import pytest

from configs.base import Artifact, UserError
from data_prep.manifests import TrainedTokenizer
from data_prep.tokenizer.hf_read import encode_inside_line, read_pieces
from data_prep.tokenizer.sentencepiece_model import EOS_ID, PAD_ID, SPACE, UNK_ID, encode_texts, load_sentencepiece
from data_prep.tokenizer.stage import HUGGING_FACE, MODEL
from tests.data_prep.tokenizer.toy_tokenizer import SENTENCES


def test_pieces_of_the_export_are_those_of_the_model(tokenizer: Artifact[TrainedTokenizer]) -> None:
    model, pieces = load_sentencepiece(tokenizer.dir / MODEL), read_pieces(tokenizer.dir / HUGGING_FACE)
    assert pieces.roles == {"unk": UNK_ID, "eos": EOS_ID, "pad": PAD_ID}
    assert {model.id_to_piece(i) for i in pieces.byte_ids.values()} == {f"<0x{byte:02X}>" for byte in range(256)}
    for number, text in enumerate(pieces.texts):
        if number in pieces.roles.values() or model.is_byte(number):
            assert text is None
        else:
            assert text == model.id_to_piece(number).replace(SPACE, " ").encode()


def test_texts_are_encoded_as_by_sentencepiece(tokenizer: Artifact[TrainedTokenizer]) -> None:
    texts = ["", " ", "</s> spelled out", *(text for _, text in SENTENCES[::9])]
    expected = encode_texts(load_sentencepiece(tokenizer.dir / MODEL), texts)
    assert encode_inside_line(tokenizer.dir / HUGGING_FACE, texts) == expected


def test_a_missing_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read .*; fetch it again") as caught:
        read_pieces(tmp_path)
    assert "\n" not in str(caught.value)
