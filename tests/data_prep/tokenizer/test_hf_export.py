"""The exported Hugging Face tokenizer gives SentencePiece's ids and decodes to the text."""

from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer

from configs.base import Artifact
from data_prep.manifests import TrainedTokenizer
from data_prep.tokenizer.certificate import encode_auto, find_differing_texts
from data_prep.tokenizer.certificate_texts import ADVERSARIAL
from data_prep.tokenizer.sentencepiece_model import (
    EOS_ID,
    PAD_ID,
    UNK_ID,
    encode_texts,
    load_sentencepiece,
    train_sentencepiece,
)
from data_prep.tokenizer.stage import HUGGING_FACE, MODEL
from tests.data_prep.tokenizer.toy_tokenizer import CONFIG, SENTENCES

TRICKY = (
    *ADVERSARIAL,
    "<pad></s><unk> a</s>b",
    " ".join(str(n) for n in range(0, 3000, 37)),
    "\u2581\u2581 \u2581 ",
    "\n\n\n\t\t  x  \n",
    "\U0010ffff\ud7ff\ue000",
    "".join(map(chr, range(1, 400))),
)


def exported(tokenizer: Artifact[TrainedTokenizer]) -> Any:
    return transformers.AutoTokenizer.from_pretrained(tokenizer.dir / "hugging_face")


def test_exported_tokenizer_gives_sentencepiece_ids_in_every_language(tokenizer: Artifact[TrainedTokenizer]) -> None:
    texts = [text for _, text in SENTENCES]
    assert len({language for language, _ in SENTENCES}) == 60
    assert exported(tokenizer)(texts)["input_ids"] == encode_texts(load_sentencepiece(tokenizer.dir / MODEL), texts)


@pytest.mark.parametrize("text", TRICKY)
def test_exported_tokenizer_gives_sentencepiece_ids_on_tricky_text(
    tokenizer: Artifact[TrainedTokenizer], text: str
) -> None:
    (ids,) = encode_texts(load_sentencepiece(tokenizer.dir / MODEL), [text])
    assert exported(tokenizer)(text)["input_ids"] == ids
    assert not {EOS_ID, PAD_ID, UNK_ID} & set(ids), "text never spells a special piece"


def test_ids_decode_to_the_text(tokenizer: Artifact[TrainedTokenizer]) -> None:
    model, fast = load_sentencepiece(tokenizer.dir / MODEL), exported(tokenizer)
    for text in [*TRICKY, *(text for _, text in SENTENCES[::7])]:
        (ids,) = encode_texts(model, [text])
        expected = text.replace("\u2581", " ")  # the one character that both write for a space
        assert model.decode(ids) == expected
        assert fast.decode(ids) == expected


def test_special_pieces_have_the_ids_of_the_manifest(tokenizer: Artifact[TrainedTokenizer]) -> None:
    fast, made = exported(tokenizer), tokenizer.manifest
    assert (fast.eos_token_id, fast.pad_token_id, len(fast)) == (made.eos_id, made.pad_id, made.vocab_size)
    assert load_sentencepiece(tokenizer.dir / MODEL).get_piece_size() == made.vocab_size == CONFIG.vocab_size
    assert made.certificate.num_texts > len(ADVERSARIAL)
    assert made.certificate.num_languages == 60
    sentencepiece, tokenizers, auto = made.certificate.loaders
    assert sentencepiece.startswith("sentencepiece") and auto.endswith("AutoTokenizer")
    assert tokenizers.endswith("Tokenizer.from_file, with encode_special_tokens = True")
    assert (made.certificate.num_changed, made.certificate.num_unknown) == (1, 0)  # a text with a meta space


def test_a_bare_tokenizer_needs_the_flag_that_the_certificate_names(tokenizer: Artifact[TrainedTokenizer]) -> None:
    bare = Tokenizer.from_file(str(tokenizer.dir / HUGGING_FACE / "tokenizer.json"))
    (expected,) = encode_texts(load_sentencepiece(tokenizer.dir / MODEL), ["a </s> b"])
    assert EOS_ID in bare.encode("a </s> b").ids
    bare.encode_special_tokens = True
    assert bare.encode("a </s> b").ids == expected


def test_texts_that_another_tokenizer_encodes_differently_are_found(
    tmp_path: Path, tokenizer: Artifact[TrainedTokenizer]
) -> None:
    model = train_sentencepiece([text for _, text in SENTENCES], CONFIG.model_copy(update={"vocab_size": 3000}))
    (tmp_path / "smaller").write_bytes(model)
    texts, auto = ["", *(text for _, text in SENTENCES[:50])], exported(tokenizer)

    def differing_from(path: Path) -> list[str]:
        expected = encode_texts(load_sentencepiece(path), texts)
        return find_differing_texts(lambda some: encode_auto(auto, some), texts, expected)

    assert differing_from(tokenizer.dir / MODEL) == []
    differing = differing_from(tmp_path / "smaller")
    assert differing and "" not in differing
