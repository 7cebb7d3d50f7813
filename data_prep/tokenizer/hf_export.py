"""The Hugging Face tokenizer that is exported from a SentencePiece model, and the check that both give equal ids."""

import json
from pathlib import Path

from data_prep.tokenizer.sentencepiece_model import (
    EOS,
    PAD,
    SPACE,
    UNK,
    Vocabulary,
    encode_texts,
    load_sentencepiece,
    read_vocabulary,
)


def export_hugging_face(model: bytes, directory: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, which AutoTokenizer loads. Ids equal SentencePiece's."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    vocabulary = read_vocabulary(model)
    bpe = models.BPE(
        vocab=vocabulary.ids, merges=_list_merges(vocabulary), unk_token=UNK, fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in (UNK, EOS, PAD)])
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": EOS,
        "eos_token": EOS,
        "unk_token": UNK,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # text that spells a special piece is text, as in SentencePiece
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


def find_differing_texts(model: Path, hugging_face: Path, texts: list[str]) -> list[str]:
    """Return the texts on which the SentencePiece model and the exported tokenizer.json give different ids."""
    from tokenizers import Tokenizer

    exported = Tokenizer.from_file(str(hugging_face / "tokenizer.json"))
    exported.encode_special_tokens = True
    reference = encode_texts(load_sentencepiece(model), texts)
    return [text for text, ids in zip(texts, reference, strict=True) if exported.encode(text).ids != ids]


def _list_merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """List every pair of pieces that makes a piece, in the order in which SentencePiece would join them."""
    ids, merges = vocabulary.ids, []
    for piece in vocabulary.learned:
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += [(ids[piece], ids[left], left, right) for left, right in pairs if left in ids and right in ids]
    merges.sort(key=lambda merge: merge[:2])
    return [(left, right) for _, _, left, right in merges]
