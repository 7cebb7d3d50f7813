"""Implementations of attention: the flash kernels' twin on the CPU, and which one is chosen."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from configs.base import UserError
from tests.training.network.test_packed_lm import built, gradients, network, packed, rows
from training.network import attention, probes
from training.network.attention import why_not_here
from training.network.packed_rows import PackedRows
from training.network.probes import NetworkTraits, describe_attention, probe_network

CPU = torch.device("cpu")
LATENT = {
    "first_k_dense_replace": 2,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}
"""Multi-head latent attention, whose values are narrower than its keys."""


def varlen_twin(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What PyTorch's varlen_attn documents, one document after another: (tokens, heads, head size)."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and cu_seq_q[0] == 0 and cu_seq_q[-1] == len(query)
    assert int(cu_seq_q.diff().max()) <= max_q == max_k and window_size[1] == 0
    found = []
    for start, stop in pairwise(cu_seq_q.tolist()):
        distance = torch.arange(stop - start)[:, None] - torch.arange(stop - start)
        mask = (distance >= 0) & ((distance <= window_size[0]) | (window_size[0] < 0))
        parts = (part[start:stop].transpose(0, 1)[None] for part in (query, key, value))
        seen = F.scaled_dot_product_attention(*parts, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
        found.append(seen[0].transpose(0, 1))
    return torch.cat(found)


def ignoring_documents(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **named: Any) -> Any:
    everything = torch.tensor([0, len(query)], dtype=torch.int32)
    return varlen_twin(query, key, value, everything, everything, len(query), len(query), **named)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The kernel of PyTorch's varlen attention may be set, and is taken to run here."""
    monkeypatch.setattr(attention, "varlen_attn", varlen_twin)
    original = why_not_here
    monkeypatch.setattr(
        probes, "why_not_here", lambda name, **where: None if name == "varlen" else original(name, **where)
    )
    return monkeypatch


def traits(architecture: str = "llama", wanted: str = "auto", **options: Any) -> NetworkTraits:
    config = built(architecture, **options).config
    return probe_network(config, attention=wanted, device=CPU, dtype=torch.float32, minds_router=False)


@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 1}),
        ("gemma3_text", {}),
        ("qwen3_moe", {}),
        ("deepseek_v2", LATENT),
    ],
)
@pytest.mark.usefixtures("kernel")
def test_varlen_attention_gives_the_losses_and_gradients_of_a_mask(
    architecture: str, overrides: dict[str, Any]
) -> None:
    found = []
    for name in ("sdpa", "varlen"):
        trained = network(architecture, attention=name, overrides=overrides).train()
        result = trained(packed(*rows()))
        result.objective.backward()
        assert trained.model.config._attn_implementation == name
        found.append((result.row_nats, gradients(trained)))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("kernel")
def test_auto_takes_the_first_that_runs_and_passes() -> None:
    found = traits()
    assert found.attention == "varlen"
    both = (("flash_attention_3", "needs a GPU"), ("flash_attention_2", "needs a GPU"))
    assert found.why_not_better == both
    assert describe_attention(found) == "varlen (flash_attention_3, flash_attention_2: needs a GPU)"


def test_a_kernel_that_lets_documents_see_each_other_is_not_taken(kernel: pytest.MonkeyPatch) -> None:
    kernel.setattr(attention, "varlen_attn", ignoring_documents)
    found = traits()
    assert found.attention == "sdpa"
    assert ("varlen", "gives other numbers than eager") in found.why_not_better


def test_a_kernel_that_fails_is_not_taken_and_one_that_is_asked_for_is_one_sentence(kernel: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no kernel image is available for execution on the device\nCUDA kernel errors might be...")

    kernel.setattr(attention, "varlen_attn", fail)
    assert traits().attention == "sdpa"
    with pytest.raises(UserError, match=r"varlen fails here \(no kernel image .*choose another, or `auto`") as caught:
        traits(wanted="varlen")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("kernel")
def test_what_the_kernel_lacks_falls_to_the_next() -> None:
    overrides = {"head_dim": 16, "query_pre_attn_scalar": 16, "layer_types": ["sliding_attention", "full_attention"]}
    found = traits("gemma2", overrides=overrides)  # whose scores have a soft cap
    assert found.attention == "eager"
    assert ("varlen", "fails here (it has no softcap)") in found.why_not_better


@pytest.mark.parametrize("name", ["flash_attention_3", "flash_attention_2", "varlen", "flex_attention"])
def test_without_a_gpu_the_fast_kernels_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"attention cannot be used: {name} needs a GPU; choose another, or `auto`"):
        traits(wanted=name)
    assert traits().attention == "sdpa"


def test_a_gpu_is_asked_for_what_a_kernel_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, bf16, capability = torch.device("cuda"), torch.bfloat16, [(7, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability[0])
    assert why_not_here("varlen", device=gpu, dtype=torch.float32) == "needs precision: bf16"
    assert why_not_here("varlen", device=gpu, dtype=bf16) == "is not made for this GPU"
    capability[0] = (8, 0)
    assert why_not_here("varlen", device=gpu, dtype=bf16) is None
    assert why_not_here("flash_attention_2", device=gpu, dtype=bf16) == "its package is not installed"
    assert why_not_here("flash_attention_3", device=gpu, dtype=bf16) == "is not made for this GPU"
    monkeypatch.setattr(attention, "varlen_attn", None)
    assert why_not_here("varlen", device=gpu, dtype=bf16) == "this PyTorch has none"


def test_a_mask_is_made_whether_or_not_a_row_has_two_documents() -> None:
    """Else a layer would be compiled for both, and a GPU waited for to know."""
    masks = []
    trained = network()
    layer = trained.model.model.layers[0]
    layer.register_forward_pre_hook(lambda _, __, named: masks.append(named["attention_mask"]), with_kwargs=True)
    tokens, lengths = rows()
    trained(packed(tokens, lengths))
    trained(packed(tokens.masked_fill(tokens == 1, 5), lengths))
    assert [mask.shape for mask in masks] == [(3, 1, 16, 16)] * 2
    assert not torch.equal(masks[0], masks[1])


def test_boundaries_are_where_positions_are_zero() -> None:
    found: PackedRows = packed(*rows())
    positions = attention.document_positions(found.inputs, boundary_id=1)
    assert found.boundaries.tolist() == [*positions.flatten().eq(0).nonzero()[:, 0].tolist(), found.inputs.numel()]


def test_the_copy_that_is_probed_has_each_kind_of_layer_and_no_more() -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    overrides = {"head_dim": 16, "query_pre_attn_scalar": 16, "layer_types": kinds * 4, "num_hidden_layers": 24}
    assert probes._make_copy(built("gemma3_text", overrides=overrides).config).config.layer_types == kinds
    assert probes._make_copy(built("llama", overrides={"num_hidden_layers": 9}).config).config.num_hidden_layers == 2
    dense_first = {"first_k_dense_replace": 2, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
    copy = probes._make_copy(built("deepseek_v3", overrides=dense_first | {"num_hidden_layers": 6}).config)
    assert copy.config.num_hidden_layers == 3
