"""Exports of every architecture, and of foreign models that were continued, in transformers 4 and 5."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cluster.executor import Rank
from cluster.host.files import sha256_of
from cluster.inline import InlineExecutor
from configs.base import Artifact
from configs.data.stages import ImportTokenizerConfig, TokenizeConfig, TrainTokenizerConfig
from configs.evaluation import EvaluateConfig, ExportConfig
from configs.pools import PoolConfig
from configs.training.train import TrainConfig
from data_prep.manifests import Certificate, CleanCorpus, TokenizedCorpus, TrainedTokenizer
from data_prep.masks.reading import read_held_out
from data_prep.tokenizer.certificate_texts import ADVERSARIAL
from data_prep.tokenizer.encoder import open_encoder
from data_prep.tokenizer.hf_export import export_hugging_face
from data_prep.tokenizer.import_stage import import_tokenizer
from data_prep.tokenizer.sentencepiece_model import train_sentencepiece
from data_prep.tokenizer.stage import HUGGING_FACE, MODEL
from data_prep.tokens.stage import tokenize
from eval.stage import evaluate
from tests.data_prep.corpora import INLINE, clean_config, cleaned, source, write_lines
from tests.data_prep.tokenizer.foreign_tokenizers import LINES, llama_like, qwen_like
from tests.old_transformers import VERSION
from tests.pipeline.export.read_export import NUM_NEW, read_export
from tests.training.init.initial_files import RIVERS, save_checkpoint
from tests.training.ranks import CADENCE, run_ranks, tiny_config
from training.checkpoint.load_model import load_model
from training.export import export_model
from training.hf_files import READ_BY_OLDEST
from training.manifests import TrainedModel
from training.network.build_model import build_in_memory
from training.network.model_config import make_model_config
from training.records import directory_of
from training.stage import train

CHILD = Path(__file__).with_name("read_export.py")
CHILD_SECONDS = 180

SIZES = {"hidden_size": 32, "intermediate_size": 40, "num_layers": 2, "num_attention_heads": 2}
PLAIN = {"rope_theta": 333.0, "rope_type": "default"}
HALF = PLAIN | {"partial_rotary_factor": 0.5}
YARN = {"rope_theta": 700.0, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8}
LAYERS = {"head_dim": 16, "query_pre_attn_scalar": 16, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "rope_parameters": PLAIN}
LATENT = {"q_lora_rank": None, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "deepseek_v2": LATENT | EXPERTS | {"n_routed_experts": 4, "topk_method": "greedy", "first_k_dense_replace": 1},
    "gemma": {"head_dim": 16, "rope_parameters": PLAIN},
    "gemma2": LAYERS | {"sliding_window": 4, "final_logit_softcapping": 0.5, "rope_parameters": PLAIN},
    "gemma3_text": LAYERS
    | {"sliding_window": 4, "rope_parameters": {"full_attention": YARN, "sliding_attention": PLAIN}},
    "gpt_neox": {"rope_parameters": HALF},
    "granite": {"logits_scaling": 3.0, "rope_parameters": PLAIN},
    "llama": {"rope_parameters": PLAIN | LLAMA_3 | {"rope_type": "llama3", "factor": 8.0}},
    "mistral": {"sliding_window": 8, "rope_parameters": PLAIN},
    "mixtral": {"num_experts_per_tok": 2, "num_local_experts": 4, "rope_parameters": PLAIN},
    "olmo2": {"rope_parameters": PLAIN},
    "phi": {"rope_parameters": HALF},
    "qwen2": {"rope_parameters": PLAIN},
    "qwen3": {"head_dim": 16, "rope_parameters": YARN},
    "qwen3_moe": EXPERTS | {"num_experts": 4},
}
TEXTS = ["the river runs", "a </s> b", *ADVERSARIAL]
FOREIGN = {"continued-llama": llama_like, "continued-qwen2": qwen_like}
SPELLED = ["<|im_end|> and <|endoftext|>", "a </s> b <s>", "<think>no</think>"]


def own_tokenizer(directory: Path) -> Artifact[TrainedTokenizer]:
    model = train_sentencepiece(RIVERS, TrainTokenizerConfig(vocab_size=320))
    export_hugging_face(model, directory / HUGGING_FACE)
    (directory / MODEL).write_bytes(model)
    sums = {"model_sha256": sha256_of(directory / MODEL)}
    sums["tokenizer_json_sha256"] = sha256_of(directory / HUGGING_FACE / "tokenizer.json")
    proof = Certificate(num_texts=0, num_languages=0, **sums)
    manifest = TrainedTokenizer(vocab_size=320, eos_id=1, pad_id=2, sample_bytes={}, certificate=proof)
    return Artifact(directory, manifest)


def trained(directory: Path, checkpoint: str) -> Artifact[TrainedModel]:
    """A training that is finished, as far as its export looks at it."""
    return Artifact(directory, TrainedModel.model_construct(checkpoint=checkpoint, num_parameters=1))


def export_architecture(root: Path, name: str, tokenizer: Artifact[TrainedTokenizer]) -> None:
    """Write root/name with the export of a model of random weights, and the logits that it has here."""
    config = tiny_config(model=SIZES | {"architecture": name, "overrides": ARCHITECTURES[name]}, sequence_length=64)
    model = build_in_memory(make_model_config(config, vocab_size=320, eos_id=1, pad_id=2), seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 5)
    save_checkpoint(directory_of(root / "made" / name / "checkpoints", 1), model)
    finish(root, name, trained(root / "made" / name, "checkpoints/step-00000001"), tokenizer, TEXTS)


def finish(
    root: Path, name: str, model: Artifact[TrainedModel], tokenizer: Artifact[TrainedTokenizer], texts: list[str]
) -> None:
    out = root / "exports" / name
    made = export_model(ExportConfig(dtype="float32"), model=model, tokenizer=tokenizer, out=out, executor=INLINE)
    assert VERSION.startswith(made.minimum_transformers)
    (out / "texts.json").write_text(json.dumps(texts))
    expected = open_encoder(tokenizer.dir)(texts)
    own = load_model(model.dir / model.manifest.checkpoint)
    own.set_attn_implementation("eager")
    with torch.inference_mode():
        logits = own(torch.tensor([expected[0]])).logits[0].numpy()
    np.savez(root / "made" / f"{name}.npz", logits=logits)
    (root / "made" / f"{name}.json").write_text(json.dumps(expected))


def foreign_corpus(root: Path) -> Artifact[CleanCorpus]:
    rows = [("en", f"{line} <|im_end|> </s>") for line in LINES[:40]]
    return cleaned(root, clean_config(source("own", write_lines(root / "own.jsonl", rows)), held_out={"share": 0.2}))


def foreign_config(directory: Path) -> TrainConfig:
    """A recipe that goes on with the model in a directory, so slowly that it stays what it is."""
    settings = AutoConfig.from_pretrained(directory)
    return tiny_config(
        model=SIZES | {"architecture": settings.model_type, "overrides": {"rope_parameters": PLAIN}},
        init_from={"path": str(directory)},
        num_steps=1,
        optimizer={"learning_rate": 1e-12},
        schedule={"kind": "cosine", "num_warmup_steps": 0},
        sequence_length=64,
    )


def train_in_process(
    rank: Rank, config: TrainConfig, tokens: Artifact[TokenizedCorpus], tokenizer: Artifact[TrainedTokenizer], out: Path
) -> TrainedModel:
    out.mkdir(parents=True)
    executor = InlineExecutor(PoolConfig(micro_batch_size=2))
    return train(config, tokens=(tokens,), tokenizer=tokenizer, cadence=CADENCE, out=out, executor=executor)


def continue_foreign(root: Path, name: str, corpus: Artifact[CleanCorpus]) -> None:
    """Go on with a foreign model and its tokenizer by the stages, and export it to root/exports/name."""
    given, made = root / "given" / name, root / "made" / name
    architecture = name.partition("-")[2]
    FOREIGN[name](given)
    config = tiny_config(
        model=SIZES | {"architecture": architecture, "overrides": {"rope_parameters": PLAIN}}, sequence_length=64
    )
    rows = json.loads((given / "config.json").read_text())["vocab_size"]
    build_in_memory(make_model_config(config, vocab_size=rows, eos_id=2, pad_id=None), seed=3).save_pretrained(given)
    imported = import_tokenizer(
        ImportTokenizerConfig(path=str(given)), corpus=(corpus,), out=made / "tokenizer", executor=INLINE
    )
    tokenizer = Artifact(made / "tokenizer", imported)
    tokens = tokenize(TokenizeConfig(), corpus=corpus, tokenizer=tokenizer, out=made / "tokens", executor=INLINE)
    (model,) = run_ranks(
        train_in_process, 1, foreign_config(given), Artifact(made / "tokens", tokens), tokenizer, made / "model"
    )
    artifact = Artifact(made / "model", model)
    scores = evaluate(
        EvaluateConfig(tasks=()),
        model=artifact,
        tokenizer=tokenizer,
        corpus=(corpus,),
        out=made / "scores",
        executor=INLINE,
    )
    assert 0 < scores.mean_bits_per_byte < 20
    texts_of = {document.id: document.text for document in read_held_out(corpus)}
    (made / "held_out.json").write_text(json.dumps(texts_of))
    finish(root, name, artifact, tokenizer, [*TEXTS, *SPELLED])


Loaded = Mapping[str, Mapping[str, dict[str, Any]]]
"""What transformers 4 and 5 make of the exports: by version, then by the export's name."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the exports, what they were made from, and what is expected of them."""
    root = tmp_path_factory.mktemp("exports")
    tokenizer, corpus = own_tokenizer(root / "tokenizer"), foreign_corpus(root / "corpus")
    for name in ARCHITECTURES:
        export_architecture(root, name, tokenizer)
    for name in FOREIGN:
        continue_foreign(root, name, corpus)
    return root


@pytest.fixture(scope="module")
def loaded(root: Path, old_transformers: Path) -> Loaded:
    """Transformers 4 reads in a process of its own, in the meantime 5 does in this one."""
    environment = os.environ | {"PYTHONPATH": str(old_transformers), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(CHILD), str(root / "exports")]
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        new = {path.name: read_export(path) for path in (root / "exports").iterdir()}
        lines, errors = child.communicate(timeout=CHILD_SECONDS)
    finally:
        child.kill()
    assert child.returncode == 0, errors
    old = {found["name"]: found for found in map(json.loads, lines.splitlines())}
    return {"5": new, "4": old}


def test_the_architectures_that_exports_promise_to_transformers_4_are_compared() -> None:
    assert ARCHITECTURES.keys() == READ_BY_OLDEST


@pytest.mark.parametrize("version", ["4", "5"])
@pytest.mark.parametrize("name", [*ARCHITECTURES, *FOREIGN])
def test_an_export_is_read_alike(name: str, version: str, root: Path, loaded: Loaded) -> None:
    found, expected = loaded[version][name], json.loads((root / "made" / f"{name}.json").read_text())
    assert found["ids"] == expected
    assert found["class"] == {"4": "PreTrainedTokenizerFast", "5": "TokenizersBackend"}[version]
    logits = np.load(root / "made" / f"{name}.npz")["logits"]
    np.testing.assert_allclose(found["logits"], logits, atol=1e-4, rtol=1e-4)
    assert np.abs(logits).max() > 0.1
    assert found["use_cache"] is True
    assert found["fed"] == [len(found["ids_of_a_prompt"]), *[1] * (NUM_NEW - 1)], (
        "each step after the first is fed one token"
    )
    assert found["max_length"] == 64


@pytest.mark.parametrize("version", ["4", "5"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_our_own_tokenizer_needs_no_flag(name: str, version: str, loaded: Loaded) -> None:
    found = loaded[version][name]
    assert found["ids_by_default"] == found["ids"]
    assert (found["bos"], found["eos"]) == (1, 1)
    changed = [text for text, decoded in zip(TEXTS, found["decoded"], strict=True) if text != decoded]
    assert changed == ["\u2581already a meta space\u2581"]


@pytest.mark.parametrize(("name", "bos", "eos"), [("continued-llama", 1, 2), ("continued-qwen2", None, 600)])
def test_a_foreign_model_goes_on_with_its_own_vocabulary(
    name: str, bos: int | None, eos: int, root: Path, loaded: Loaded
) -> None:
    given = root / "given" / name
    source = AutoModelForCausalLM.from_pretrained(given).state_dict()
    for tensor, values in AutoModelForCausalLM.from_pretrained(root / "exports" / name / "model").state_dict().items():
        torch.testing.assert_close(values, source[tensor], msg=tensor)  # padding rows and their order, too
    for found in loaded["5"][name], loaded["4"][name]:
        assert (found["bos"], found["eos"]) == (bos, eos)
        assert found["ids_of_a_prompt"] == [*([bos] if bos else []), *found["ids"][0]]
        assert not {number for ids in found["ids"] for number in ids} & {bos, eos, 601, 602}
        assert found["rows"] == json.loads((given / "config.json").read_text())["vocab_size"]
    assert loaded["5"][name]["ids_by_default"] == loaded["4"][name]["ids_by_default"]


@torch.inference_mode()
def test_text_is_scored_after_the_piece_that_begins_it(root: Path) -> None:
    made = root / "made" / "continued-llama"
    texts = json.loads((made / "held_out.json").read_text())
    rows = [json.loads(line) for line in (made / "scores/samples/bits_per_byte.jsonl").read_text().splitlines()]
    model = load_model(directory_of(made / "model" / "checkpoints", 1))
    encode, compared = open_encoder(made / "tokenizer"), 0
    for row in rows:
        ids = torch.tensor([[1, *encode([texts[row["document"]]])[0], 2]])
        if ids.shape[1] <= 64:
            nats = torch.nn.functional.cross_entropy(model(ids[:, :-1]).logits[0], ids[0, 1:], reduction="sum")
            assert row["nats"] == pytest.approx(float(nats), rel=1e-4)
            compared += 1
    assert compared


def test_a_chat_template_finds_its_special_pieces(root: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(root / "exports" / "continued-qwen2" / "model")
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], return_dict=False)
    assert (ids[0], ids[-1]) == (601, 602)


def test_code_that_is_trusted_reads_the_same(root: Path) -> None:
    model = root / "exports" / "qwen2" / "model"
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=True)
    expected = json.loads((root / "made" / "qwen2.json").read_text())
    assert tokenizer(TEXTS, add_special_tokens=False, verbose=False)["input_ids"] == expected
