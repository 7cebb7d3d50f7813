"""Moves an embedding from one vocabulary to another: which old rows the row of each new piece starts from."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch

from data_prep.tokenizer.hf_read import encode_inside_line, read_pieces
from data_prep.tokenizer.pieces import Pieces


@dataclass(frozen=True)
class VocabularyRows:
    """The old ids whose rows make the row of each new id."""

    sources: list[list[int]]
    """Old ids by new id: the mean of their rows is taken; without any, the mean of all rows."""

    num_old: int
    """Pieces of the old vocabulary; further rows of a matrix are padding."""

    num_kept: int
    """New pieces that keep the row of an old piece."""


def match_rows(old: Path, new: Path) -> VocabularyRows:
    """Match the pieces of the tokenizer.json in directory `new` with those of the one in `old`.

    A piece of the same text, byte, name or role (end of text, padding, unknown) keeps its row. Any other piece gets the
    old pieces that spell it: its text split by the old tokenizer, or its bytes where it ends inside a character.
    """
    before, after = read_pieces(old), read_pieces(new)
    kept = _match_pieces(before, after)
    added = {i: text for i, text in enumerate(after.texts) if text is not None and i not in kept}
    spelled = dict(zip(added, _spell(old, before, list(added.values())), strict=True))
    sources = [[kept[i]] if i in kept else spelled.get(i, []) for i in range(len(after.texts))]
    return VocabularyRows(sources, len(before.texts), len(kept))


def _match_pieces(before: Pieces, after: Pieces) -> dict[int, int]:
    """Return new id -> old id.

    Where several old pieces fit, the one with the new id is matched, or else the first; where a piece and a byte have
    the same text, the piece is, since texts contain it. The role of a special piece counts before its name, unless it
    has its id, too: then it is the same tokenizer.
    """
    old_ids: dict[bytes, int] = {}
    for i, text in enumerate(before.texts):
        if text is not None:
            old_ids.setdefault(text, i)
    kept = {i: before.byte_ids[byte] for byte, i in after.byte_ids.items() if byte in before.byte_ids}
    for i, text in enumerate(after.texts):
        if text is not None and text in old_ids:
            kept[i] = i if i < len(before.texts) and before.texts[i] == text else old_ids[text]
    kept |= {i: before.special[piece] for piece, i in after.special.items() if piece in before.special}
    kept |= {i: before.roles[role] for role, i in after.roles.items() if role in before.roles}
    return kept | {i: i for piece, i in after.special.items() if before.special.get(piece) == i}


def _spell(old: Path, before: Pieces, texts: list[bytes]) -> list[list[int]]:
    """Return the old ids that spell each text."""
    whole = [text.decode(errors="replace") for text in texts]
    split = encode_inside_line(old, whole)
    broken = [string.encode() != text for string, text in zip(whole, texts, strict=True)]
    return [
        [before.byte_ids[byte] for byte in text if byte in before.byte_ids] if is_broken else ids
        for text, ids, is_broken in zip(texts, split, broken, strict=True)
    ]


def move_rows(tensor: torch.Tensor, rows: VocabularyRows, num_rows: int) -> torch.Tensor:
    """Return a tensor with a row for each old id, such as an embedding, in the order of the new ids, in fp32.

    Its shape is (num_rows, ...). Rows beyond the new pieces are padding. They get the mean of all, like pieces that
    nothing spells: a row near zero would have a logit far above those of trained ones (Hewitt 2021, "Initializing new
    word embeddings").
    """
    matrix = tensor.float().reshape(len(tensor), -1)
    lengths = torch.tensor([0, *map(len, rows.sources)])
    ids = torch.tensor(list(chain.from_iterable(rows.sources)))
    moved = torch.nn.functional.embedding_bag(ids, matrix, lengths.cumsum(0)[:-1], mode="mean")
    result = matrix[: rows.num_old].mean(0).repeat(num_rows, 1)
    filled = lengths[1:] > 0
    result[: len(moved)][filled] = moved[filled]
    return result.reshape(num_rows, *tensor.shape[1:])
