"""The Hugging Face tokenizer of a SentencePiece model: of ours, which it writes, and of foreign ones."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.base import UserError
from data_prep.tokenizer.sentencepiece_model import EOS, PAD, SPACE, UNK, Vocabulary, read_vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Normalizer

_UNIGRAM, _BPE = 1, 2
"""Kinds of models, as SentencePiece numbers them."""


def export_hugging_face(model: bytes, directory: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, which AutoTokenizer loads. Ids equal SentencePiece's."""
    tokenizer = convert_sentencepiece(model)
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


def convert_sentencepiece(model: bytes) -> "Tokenizer":
    """Return a tokenizer whose ids are those of a SentencePiece model, given its file's content.

    Other implementations reproduce BPE with byte fallback and the identity normaliser id for id, which is what ours
    are. Of others most texts have the same ids, so a certificate is needed. Raises UserError on a model of another
    kind than BPE and Unigram.
    """
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken, Tokenizer, decoders, models

    vocabulary = read_vocabulary(model)
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    trained, unknown = proto.trainer_spec, vocabulary.roles.get("unk")
    if trained.model_type == _BPE:
        kind: models.Model = models.BPE(
            vocab=vocabulary.ids,
            merges=_list_merges(vocabulary),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=trained.byte_fallback,
        )
    elif trained.model_type == _UNIGRAM:
        scores = [(piece.piece, piece.score) for piece in proto.pieces]
        kind = models.Unigram(scores, trained.unk_id, trained.byte_fallback)
    else:
        raise UserError("the SentencePiece model is neither BPE nor Unigram; name a tokenizer.json instead")
    tokenizer = Tokenizer(kind)
    tokenizer.normalizer = _normalizer(proto.normalizer_spec)
    bytes_step = [decoders.ByteFallback()] if trained.byte_fallback else []
    first_space = [decoders.Strip(" ", 1, 0)] if proto.normalizer_spec.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), *bytes_step, decoders.Fuse(), *first_space])
    special = sorted({*vocabulary.control, *([unknown] if unknown else [])}, key=vocabulary.ids.__getitem__)
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
    symbols = [piece.piece for piece in proto.pieces if piece.type == piece.USER_DEFINED]
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in symbols])
    return tokenizer


def _normalizer(spec: Any) -> "Normalizer":
    """Return the steps that SentencePiece takes before it looks for pieces, in its order, by its NormalizerSpec."""
    from tokenizers import Regex, normalizers

    if not spec.escape_whitespaces:
        raise UserError("the SentencePiece model keeps spaces as they are; name a tokenizer.json instead")
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    if spec.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(rf"{SPACE}+\z"), ""))
    return normalizers.Sequence(steps) if len(steps) > 1 else steps[0]


def _list_merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """List every pair of pieces that makes a piece, in the order in which SentencePiece would join them."""
    ids, merges = vocabulary.ids, []
    for rank, piece in enumerate(vocabulary.learned):
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += [(rank, ids[left], left, right) for left, right in pairs if left in ids and right in ids]
    merges.sort(key=lambda merge: merge[:2])
    return [(left, right) for _, _, left, right in merges]
