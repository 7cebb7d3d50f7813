"""Which old rows each piece of a new vocabulary starts from."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from configs.base import UserError
from data_prep.tokenizer.hf_read import encode_inside_line, read_pieces
from data_prep.tokenizer.sentencepiece_model import EOS_ID, PAD_ID, UNK_ID
from tests.training.init.initial_files import RIVERS, STARS, byte_level, our_own, save
from training.init.vocabulary_rows import VocabularyRows, match_rows, move_rows


def word_piece(directory: Path) -> Path:
    words = ["[UNK]", "river", "##s", "sea", "s", "##e", "##a", "run", "##ning"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    return save(tokenizer, directory)


def id_of(directory: Path, text: str) -> int:
    return read_pieces(directory).texts.index(text.encode())


def text_of(directory: Path, ids: list[int]) -> bytes:
    return b"".join(read_pieces(directory).texts[i] or b"?" for i in ids)


def test_equal_vocabularies_keep_every_row(tmp_path: Path) -> None:
    one, two = our_own(tmp_path / "one", RIVERS, 320), our_own(tmp_path / "two", RIVERS, 320)
    rows = match_rows(one, two)
    assert rows == VocabularyRows([[i] for i in range(320)], num_old=320, num_kept=320)
    matrix = torch.randn(320, 4)
    assert torch.equal(move_rows(matrix, rows, 320), matrix)


def test_new_pieces_start_from_the_old_pieces_that_spell_them(tmp_path: Path) -> None:
    old, new = our_own(tmp_path / "old", RIVERS, 320), our_own(tmp_path / "new", STARS, 320)
    before, after, rows = read_pieces(old), read_pieces(new), match_rows(old, new)
    assert [rows.sources[i] for i in (UNK_ID, EOS_ID, PAD_ID)] == [[UNK_ID], [EOS_ID], [PAD_ID]]
    assert [rows.sources[after.byte_ids[b]] for b in range(256)] == [[before.byte_ids[b]] for b in range(256)]
    assert rows.sources[id_of(new, " the")] == [id_of(old, " the")]
    assert b" star" in after.texts and b" star" not in before.texts
    spelling = rows.sources[id_of(new, " star")]
    assert len(spelling) > 1 and text_of(old, spelling) == b" star"
    assert rows.sources[id_of(new, "星")] == [before.byte_ids[b] for b in "星".encode()]
    assert rows.num_kept == sum(map(rows.sources.__contains__, ([i] for i in range(320)))) < 320


def test_a_byte_level_vocabulary_is_matched_by_what_its_pieces_write(tmp_path: Path) -> None:
    old, new = byte_level(tmp_path / "old", RIVERS), our_own(tmp_path / "new", STARS, 320)
    before, after, rows = read_pieces(old), read_pieces(new), match_rows(old, new)
    assert rows.sources[EOS_ID] == [before.roles["eos"]] and rows.sources[PAD_ID] == [before.roles["pad"]]
    assert rows.sources[UNK_ID] == []
    assert Tokenizer.from_file(str(old / "tokenizer.json")).id_to_token(before.byte_ids[0xC3]) == "Ã"
    assert rows.sources[after.byte_ids[0xC3]] == [before.byte_ids[0xC3]]
    assert rows.sources[id_of(new, " the")] == [id_of(old, " the")]
    assert text_of(old, rows.sources[id_of(new, " star")]) == b" star"
    assert text_of(old, rows.sources[id_of(new, "星")]) == "星".encode()
    assert all(rows.sources[i] for i, text in enumerate(after.texts) if text is not None)


def test_a_part_of_a_character_is_spelled_by_its_bytes(tmp_path: Path) -> None:
    old, new = our_own(tmp_path / "old", RIVERS, 320), byte_level(tmp_path / "new", ["星昨"] * 40)
    before, after, rows = read_pieces(old), read_pieces(new), match_rows(old, new)
    (part,) = [i for i, text in enumerate(after.texts) if text == "星".encode()[:2]]
    assert rows.sources[part] == [before.byte_ids[b] for b in "星".encode()[:2]]
    assert rows.sources[after.byte_ids[0xC3]] == [before.byte_ids[0xC3]]
    assert rows.sources[id_of(new, "s")] == [id_of(old, "s")]


def test_a_word_piece_is_its_text(tmp_path: Path) -> None:
    old, new = word_piece(tmp_path / "old"), our_own(tmp_path / "new", RIVERS, 320)
    assert read_pieces(old).texts[1:4] == [b" river", b"s", b" sea"]
    rows = match_rows(old, new)
    assert rows.sources[id_of(new, " sea")] == [3]
    assert rows.sources[id_of(new, " is")] == []
    assert encode_inside_line(old, ["seas", "rivers", "xyz"]) == [[3, 2], [1, 2], []]


def test_a_space_that_a_tokenizer_puts_before_texts_is_left_out(tmp_path: Path) -> None:
    pieces = ["▁", "▁sea", "s", "e", "a", "▁s"]
    merges = [("s", "e"), ("▁", "s")]
    bpe = models.BPE({piece: i for i, piece in enumerate([*pieces, "se"])}, merges)
    llama, metaspace = Tokenizer(bpe), Tokenizer(bpe)
    llama.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    llama.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    metaspace.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    metaspace.decoder = decoders.Metaspace(prepend_scheme="always")
    for name, tokenizer in (("llama", llama), ("metaspace", metaspace)):
        assert tokenizer.encode("se").ids != [6]
        directory = save(tokenizer, tmp_path / name)
        assert encode_inside_line(directory, ["se", " s"]) == [[6], [5]]
        assert read_pieces(directory).texts[:2] == [b" ", b" sea"]


def test_special_pieces_match_by_role_and_never_by_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "<unk>": 2}, [], unk_token="<unk>"))
    tokenizer.add_special_tokens(["</s>", "<|im_end|>"])
    old = save(tokenizer, tmp_path / "old")
    (old / "config.json").write_text('{"eos_token_id": [4, 3], "pad_token_id": null}')
    assert read_pieces(old).roles == {"unk": 2, "eos": 4}
    assert read_pieces(old).texts == [b"a", b"b", None, None, None]
    rows = match_rows(old, our_own(tmp_path / "new", RIVERS, 320))
    assert [rows.sources[i] for i in (UNK_ID, EOS_ID, PAD_ID)] == [[2], [4], []]


def test_rows_are_the_mean_of_their_sources_and_without_any_the_mean_of_all() -> None:
    old = torch.tensor([[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]], dtype=torch.bfloat16)
    rows = VocabularyRows([[1], [0, 1], [], [0, 0, 1, 1]], num_old=2, num_kept=1)
    moved = move_rows(old, rows, num_rows=5)
    assert moved.tolist() == [[3, 6], [2, 4], [2, 4], [2, 4], [2, 4]]
    assert moved.dtype == torch.float32
    assert move_rows(old[:, 0], rows, num_rows=4).tolist() == [3, 2, 2, 2]


@pytest.mark.parametrize("content", ["{", "[]", '{"version": "1.0"}'])
def test_a_file_that_is_no_tokenizer_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer.json .* fetch it again") as caught:
        read_pieces(tmp_path)
    assert "\n" not in str(caught.value)
