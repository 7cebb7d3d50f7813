"""A model filled from a Hugging Face directory or a checkpoint of ours, whatever the vocabulary; and misfits."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from configs.base import Artifact, UserError
from configs.training.init import InitConfig
from data_prep.manifests import Certificate, TrainedTokenizer
from tests.training.init.initial_files import RIVERS, STARS, byte_level, our_own, save_checkpoint, save_record
from tests.training.ranks import tiny_config
from training.checkpoint.load_model import load_model
from training.init.fill import open_init_weights
from training.network.build_model import build_in_memory
from training.network.model_config import make_model_config
from training.records import directory_of

SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_layers": 2, "num_attention_heads": 3}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "tied llama": {"tie_word_embeddings": True},
    "qwen3": {"overrides": {"head_dim": 8}},
    "olmo2": {},
    "gemma3_text": {"tie_word_embeddings": True, "overrides": {"head_dim": 8}},
    "phi": {},
    "qwen3_moe": {"overrides": {"num_experts": 12, "moe_intermediate_size": 16}},
}


def built(kind: str = "llama", *, seed: int, vocab_size: int = 320, **model: Any) -> PreTrainedModel:
    """A model of random weights; norms too, which start as ones everywhere."""
    config = tiny_config(model=SIZES | KINDS[kind] | {"architecture": kind.split()[-1]} | model)
    result = build_in_memory(make_model_config(config, vocab_size=vocab_size, eos_id=1, pad_id=2), seed=seed)
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.add_(torch.randn_like(parameter) / 10)
    return result


def fill_from_init(model: PreTrainedModel, init: InitConfig, *, tokenizer: Artifact[TrainedTokenizer]) -> list[str]:
    """Fill every parameter, in two pieces; return the notices."""
    with open_init_weights(model, init, tokenizer=tokenizer) as weights:
        for name, parameter in model.named_parameters():
            flat = parameter.data.view(-1)
            cut = flat.numel() // 3
            weights.read(name, 0, flat[:cut])
            weights.read(name, cut, flat[cut:])
    return weights.notices


def recipes_tokenizer(directory: Path, lines: list[str] = RIVERS) -> Artifact[TrainedTokenizer]:
    our_own(directory / "hugging_face", lines, 320)
    certificate = Certificate(num_texts=0, num_languages=0, model_sha256="", tokenizer_json_sha256="")
    manifest = TrainedTokenizer(vocab_size=320, eos_id=1, pad_id=2, sample_bytes={}, certificate=certificate)
    return Artifact(directory, manifest)


@pytest.fixture
def own(tmp_path: Path) -> Artifact[TrainedTokenizer]:
    return recipes_tokenizer(tmp_path / "train_tokenizer-1")


def error_of(model: PreTrainedModel, path: Path, own: Artifact[TrainedTokenizer], **init: str) -> str:
    with pytest.raises(UserError) as caught:
        fill_from_init(model, InitConfig(path=str(path), **init), tokenizer=own)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def equal(one: PreTrainedModel, two: PreTrainedModel) -> bool:
    pairs = zip(one.named_parameters(), two.named_parameters(), strict=True)
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


def loss_of(model: PreTrainedModel, ids: list[int]) -> float:
    tokens = torch.tensor([ids])
    loss: float = model.eval()(input_ids=tokens, labels=tokens).loss.item()
    return loss


@pytest.mark.parametrize("kind", KINDS)
def test_a_hugging_face_directory_fills_the_model_it_is_of(
    tmp_path: Path, kind: str, own: Artifact[TrainedTokenizer]
) -> None:
    source, model = built(kind, seed=1), built(kind, seed=2)
    parameters = list(model.parameters())
    source.save_pretrained(tmp_path / "hub")
    our_own(tmp_path / "hub", RIVERS, 320)
    assert fill_from_init(model, InitConfig(path=str(tmp_path / "hub")), tokenizer=own) == []
    assert equal(model, source)
    assert all(now is before for now, before in zip(model.parameters(), parameters, strict=True))
    text = Tokenizer.from_file(str(own.dir / "hugging_face" / "tokenizer.json")).encode(" ".join(RIVERS[:3])).ids
    assert loss_of(model, text) == loss_of(source, text)


def test_shards_in_half_precision_are_read_as_fp32(tmp_path: Path, own: Artifact[TrainedTokenizer]) -> None:
    source, model = built(seed=1).to(torch.bfloat16), built(seed=2)
    source.save_pretrained(our_own(tmp_path, RIVERS, 320), max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    fill_from_init(model, InitConfig(path=str(tmp_path)), tokenizer=own)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert equal(model, source.float())


def test_files_without_the_prefix_of_the_model_are_read_as_transformers_reads_them(
    tmp_path: Path, own: Artifact[TrainedTokenizer]
) -> None:
    source, model = built(seed=1), built(seed=2)
    source.save_pretrained(our_own(tmp_path, RIVERS, 320))
    tensors = {
        name.removeprefix("model."): tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    tensors["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert equal(AutoModelForCausalLM.from_pretrained(tmp_path), source)
    fill_from_init(model, InitConfig(path=str(tmp_path)), tokenizer=own)
    assert equal(model, source)


@pytest.mark.parametrize("kind", ["llama", "tied llama", "qwen3_moe"])
def test_a_checkpoint_fills_the_model_it_is_of(tmp_path: Path, kind: str, own: Artifact[TrainedTokenizer]) -> None:
    source, model = built(kind, seed=1), built(kind, seed=2)
    step = save_checkpoint(directory_of(tmp_path / "train-1" / "checkpoints", 1), source)
    save_record(tmp_path / "train-1", "train", tokenizer=own.dir.name, checkpoint="checkpoints/step-00000001")
    for path in (step, tmp_path / "train-1"):
        model = built(kind, seed=2)
        assert fill_from_init(model, InitConfig(path=str(path)), tokenizer=own) == []
        assert equal(model, source)
    assert equal(load_model(step), source)


def test_weights_that_were_tied_start_both_matrices(tmp_path: Path, own: Artifact[TrainedTokenizer]) -> None:
    source, model = built("tied llama", seed=1), built("llama", seed=2)
    source.save_pretrained(our_own(tmp_path, RIVERS, 320))
    fill_from_init(model, InitConfig(path=str(tmp_path)), tokenizer=own)
    assert torch.equal(model.lm_head.weight, source.model.embed_tokens.weight)
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    assert loss_of(model, [5, 9, 300, 7]) == loss_of(source, [5, 9, 300, 7])


def test_weights_that_were_not_tied_are_not_tied_in_silence(tmp_path: Path, own: Artifact[TrainedTokenizer]) -> None:
    built("llama", seed=1).save_pretrained(our_own(tmp_path, RIVERS, 320))
    assert "set model.tie_word_embeddings: false" in error_of(built("tied llama", seed=2), tmp_path, own)


@pytest.mark.parametrize("kind", ["llama", "tied llama", "phi"])
def test_kept_pieces_keep_their_logits_when_the_vocabulary_changes(
    tmp_path: Path, kind: str, own: Artifact[TrainedTokenizer]
) -> None:
    old = our_own(tmp_path / "hub", STARS + RIVERS, 330)
    source, model = built(kind, seed=1, vocab_size=384), built(kind, seed=2)
    source.save_pretrained(old)
    (notice,) = fill_from_init(model, InitConfig(path=str(old)), tokenizer=own)
    before = Tokenizer.from_file(str(old / "tokenizer.json"))
    after = Tokenizer.from_file(str(own.dir / "hugging_face" / "tokenizer.json"))
    shared = sorted(before.get_vocab().keys() & after.get_vocab().keys())
    assert f"{len(shared)} pieces keep their rows, {320 - len(shared)} start" in notice
    old_ids, new_ids = [before.token_to_id(p) for p in shared], [after.token_to_id(p) for p in shared]
    assert 256 < len(shared) < 320 and old_ids != new_ids
    text = slice(270, 280)
    with torch.no_grad():
        now = model.eval()(input_ids=torch.tensor([new_ids[text]])).logits[0][:, new_ids]
        then = source.eval()(input_ids=torch.tensor([old_ids[text]])).logits[0][:, old_ids]
    assert torch.allclose(now, then, atol=1e-5)


def test_new_pieces_start_from_the_mean_in_both_matrices(tmp_path: Path, own: Artifact[TrainedTokenizer]) -> None:
    old, source, model = byte_level(tmp_path / "old", STARS), built(seed=1, vocab_size=300), built(seed=2)
    source.save_pretrained(tmp_path / "hub")
    fill_from_init(model, InitConfig(path=str(tmp_path / "hub"), tokenizer=str(old)), tokenizer=own)
    before = Tokenizer.from_file(str(old / "tokenizer.json"))
    after = Tokenizer.from_file(str(own.dir / "hugging_face" / "tokenizer.json"))
    river, spelling = after.token_to_id("\u2581river"), [before.token_to_id(piece) for piece in ("Ġ", *"river")]
    for part in ("model.embed_tokens.weight", "lm_head.weight"):
        was, now = source.state_dict()[part], model.state_dict()[part]
        assert torch.allclose(now[river], was[spelling].mean(0))
        assert torch.equal(now[1], was[before.token_to_id("<|end|>")])
        assert torch.allclose(now[0], was[: before.get_vocab_size()].mean(0), atol=1e-6)


def test_padding_rows_of_the_same_vocabulary_may_come_and_go(tmp_path: Path, own: Artifact[TrainedTokenizer]) -> None:
    source = built(seed=1, vocab_size=384)
    source.save_pretrained(our_own(tmp_path, RIVERS, 320))
    init = InitConfig(path=str(tmp_path))
    small, same = built(seed=2), built(seed=2, vocab_size=384)
    assert fill_from_init(small, init, tokenizer=own) == fill_from_init(same, init, tokenizer=own) == []
    assert equal(same, source)
    assert torch.equal(small.lm_head.weight, source.lm_head.weight[:320])


def test_without_a_tokenizer_rows_are_taken_as_they_are_and_that_is_said(
    tmp_path: Path, own: Artifact[TrainedTokenizer]
) -> None:
    source, model = built(seed=1), built(seed=2)
    source.save_pretrained(tmp_path / "same")
    (notice,) = fill_from_init(model, InitConfig(path=str(tmp_path / "same")), tokenizer=own)
    assert "no tokenizer is known" in notice and equal(model, source)
    built(seed=1, vocab_size=300).save_pretrained(tmp_path / "other")
    error = error_of(built(seed=2), tmp_path / "other", own)
    assert "has 300 rows in its vocabulary where the recipe's model has 320" in error
    assert "set init_from.tokenizer" in error


def test_a_tokenizer_with_more_pieces_than_the_weights_is_refused(
    tmp_path: Path, own: Artifact[TrainedTokenizer]
) -> None:
    built(seed=1, vocab_size=300).save_pretrained(our_own(tmp_path, RIVERS, 320))
    assert "300 rows in its vocabulary and a tokenizer with 320" in error_of(built(seed=2), tmp_path, own)


@pytest.mark.parametrize(
    ("source", "model", "says"),
    [
        ({"hidden_size": 48}, {}, r"holds \S+ as 320 x 48, but in the recipe's model it is 320 x 24; make `model`"),
        ({"intermediate_size": 32}, {}, r"holds \S+ as 24 x 32, but in the recipe's model it is 24 x 40"),
        ({"num_layers": 3}, {}, r"holds model.layers.2\S+, .*has no place for"),
        ({}, {"num_layers": 3}, r"lacks model.layers.2\S+, 24 x 24, of the recipe's model"),
        ({"kind": "qwen3"}, {"overrides": {"head_dim": 8}}, r"holds model.layers.0\S+norm.weight, 8, .*no place for"),
        ({"overrides": {"head_dim": 8}}, {"kind": "qwen3"}, r"lacks model.layers.0\S+norm.weight, 8, of"),
    ],
)
def test_another_network_is_one_sentence_about_its_first_tensor(
    tmp_path: Path, source: dict[str, Any], model: dict[str, Any], says: str, own: Artifact[TrainedTokenizer]
) -> None:
    built(seed=1, **source).save_pretrained(our_own(tmp_path, RIVERS, 320))
    assert re.search(says, error := error_of(built(seed=2, **model), tmp_path, own)), error


def test_settings_that_have_no_shape_are_compared(tmp_path: Path, own: Artifact[TrainedTokenizer]) -> None:
    built(seed=1, num_attention_heads=2, overrides={"rms_norm_eps": 0.5, "head_dim": 12}).save_pretrained(
        our_own(tmp_path, RIVERS, 320)
    )
    model = built(seed=2, num_attention_heads=6, overrides={"head_dim": 4})
    (notice,) = fill_from_init(model, InitConfig(path=str(tmp_path)), tokenizer=own)
    assert "num_attention_heads is 6, was 2" in notice and "rms_norm_eps is 1e-06, was 0.5" in notice


@pytest.mark.parametrize("content", ["{", '{"model_type": "no such type"}'])
def test_a_configuration_that_transformers_does_not_know_is_one_sentence(
    tmp_path: Path, content: str, own: Artifact[TrainedTokenizer]
) -> None:
    built(seed=1).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(content)
    assert "transformers does not know the model in" in error_of(built(seed=2), tmp_path, own)


def test_a_file_cut_short_is_one_sentence(tmp_path: Path, own: Artifact[TrainedTokenizer]) -> None:
    built(seed=1).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert "cannot be read" in error_of(built(seed=2), tmp_path, own)
