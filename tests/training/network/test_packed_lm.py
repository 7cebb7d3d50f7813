"""The network that is trained: documents apart, the loss of the targets that count, and nothing else in it."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from configs.base import UserError
from configs.training.model import ModelConfig
from tests.training.ranks import VOCAB, tiny_config
from training.network.attention import set_attention
from training.network.build_model import build_in_memory
from training.network.model_config import make_model_config
from training.network.packed_lm import PackedLM, minds_router
from training.network.packed_rows import PackedRows, document_positions, pack_rows
from training.network.probes import probe_network
from training.network.router_losses import StepRouting, router_losses

EOS, LENGTH = 1, 16
SIZES = {"hidden_size": 32, "intermediate_size": 40, "num_layers": 2, "num_attention_heads": 2}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "layer_types": ["sliding_attention", "full_attention"]}
OVERRIDES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 16},
    "olmo2": {},
    "gemma2": GEMMA | {"sliding_window": 4, "final_logit_softcapping": 0.5},
    "gemma3_text": GEMMA | {"sliding_window": 4},
    "qwen3_moe": {"num_experts_per_tok": 2, "num_experts": 4, "moe_intermediate_size": 16},
    "mixtral": {"num_experts_per_tok": 2, "num_local_experts": 4},
    "granite": {"logits_scaling": 3.0},
}
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch has no flex attention backward on the CPU")


def built(
    architecture: str = "llama",
    *,
    tie: bool = False,
    overrides: dict[str, Any] | None = None,
    activation_checkpointing: bool = False,
) -> PreTrainedModel:
    overrides = OVERRIDES.get(architecture, {}) | (overrides or {})
    model = SIZES | {"architecture": architecture, "tie_word_embeddings": tie, "overrides": overrides}
    config = make_model_config(tiny_config(model=model), vocab_size=VOCAB, eos_id=EOS, pad_id=2)
    result = build_in_memory(config, seed=0)
    if activation_checkpointing:
        result.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return result


def terms(**weights: Any) -> ModelConfig:
    """The weights of the terms beside the loss; without any there are none."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_layers": 1, "num_attention_heads": 1}
    return ModelConfig.model_validate(sizes | {"router_balance": 0.0, "router_balance_by": "sequence"} | weights)


def network(
    architecture: str = "llama",
    *,
    weights: dict[str, Any] | None = None,
    attention: str = "auto",
    device: str = "cpu",
    **options: Any,
) -> PackedLM:
    model, config = built(architecture, **options), terms(**(weights or {}))
    traits = probe_network(
        model.config,
        attention=attention,
        device=torch.device(device),
        dtype=torch.float32,
        minds_router=minds_router(config),
    )
    set_attention(model, traits.attention)
    return PackedLM(model.to(device), boundary_id=EOS, max_tokens=3 * LENGTH, config=config, traits=traits)


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows, the documents of each at other places, one without any end; the last two end early."""
    tokens = torch.randint(3, VOCAB, (3, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    tokens[0, [0, 5, 6]] = EOS
    tokens[1, [11, 13]] = EOS
    return tokens, torch.tensor([LENGTH, 13, 9])


def packed(tokens: torch.Tensor, lengths: torch.Tensor, device: str = "cpu") -> PackedRows:
    found = pack_rows(tokens.numpy(), lengths.numpy(), boundary_id=EOS)
    return PackedRows(*(part.to(device) for part in found))


def documents(tokens: torch.Tensor, length: int) -> list[torch.Tensor]:
    """The documents of a row, up to the last target that counts; each begins with the eos before it."""
    starts = [0, *(place for place in range(1, length) if tokens[place] == EOS), length]
    return [tokens[start : end + 1] for start, end in pairwise(starts)]


def nats_alone(model: PreTrainedModel, document: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=document[None, :-1]).logits[0].float()
    return F.cross_entropy(logits, document[1:], reduction="sum")


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    taken = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    module.zero_grad()
    return taken


@pytest.mark.parametrize("attention", ["sdpa", "eager", pytest.param("flex_attention", marks=ON_GPU)])
@pytest.mark.parametrize("architecture", OVERRIDES)
def test_packed_documents_give_the_losses_and_gradients_of_documents_alone(architecture: str, attention: str) -> None:
    if (architecture, attention) == ("gemma2", "sdpa"):
        pytest.skip("transformers has no sdpa for gemma2, whose attention scores are capped")
    device = "cuda" if attention == "flex_attention" else "cpu"
    trained = network(architecture, attention=attention, device=device).train()
    tokens, lengths = rows()
    objective, row_nats, *_ = trained(packed(tokens, lengths, device))
    tokens = tokens.to(device)
    objective.backward()
    found = gradients(trained)

    apart = [
        torch.stack([nats_alone(trained.model, document) for document in documents(row, int(length))]).sum()
        for row, length in zip(tokens, lengths, strict=True)
    ]
    torch.stack(apart).sum().backward()
    torch.testing.assert_close(row_nats, torch.stack(apart).detach())
    torch.testing.assert_close(objective, row_nats.sum())
    torch.testing.assert_close(found, gradients(trained), rtol=1e-4, atol=1e-4)


def test_positions_start_anew_at_each_eos() -> None:
    tokens = torch.tensor([[7, 7, EOS, 7, EOS, EOS, 7], [EOS, 7, 7, 7, 7, 7, 7]])
    assert document_positions(tokens, boundary_id=EOS).tolist() == [[0, 1, 0, 1, 0, 0, 1], [0, 1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize("architecture", ["llama", "qwen3_moe"])
def test_activation_checkpointing_changes_no_bit(architecture: str) -> None:
    taken = []
    for checkpointing in (False, True):
        trained = network(
            architecture, weights={"router_balance": 0.01}, activation_checkpointing=checkpointing
        ).train()
        objective, row_nats, *_ = trained(packed(*rows()))
        objective.backward()
        taken.append({"objective": objective.detach(), "nats": row_nats} | gradients(trained))
    assert taken[0].keys() == taken[1].keys()
    assert all(torch.equal(taken[0][name], taken[1][name]) for name in taken[0])


def test_tied_embeddings_get_the_gradient_of_both_uses() -> None:
    trained = network(tie=True)
    trained(packed(*rows())).objective.backward()
    found = gradients(trained)
    tokens, lengths = rows()
    for row, length in zip(tokens, lengths, strict=True):
        for document in documents(row, int(length)):
            nats_alone(trained.model, document).backward()
    assert "model.lm_head.weight" not in found
    torch.testing.assert_close(found, gradients(trained), rtol=1e-4, atol=1e-4)


def test_names_of_parameters_are_those_of_transformers() -> None:
    names = [f"model.{name}" for name, _ in built().named_parameters()]
    assert [name for name, _ in network().named_parameters()] == names


@pytest.mark.parametrize("architecture", ["llama", "qwen3_moe", "granite"])
def test_rows_without_targets_leave_a_zero_gradient_everywhere(architecture: str) -> None:
    trained = network(architecture, weights={"router_balance": 0.01})
    objective, row_nats, *_ = trained(packed(rows()[0], torch.zeros(3, dtype=torch.long)))
    objective.backward()
    assert (objective.item(), row_nats.tolist()) == (0.0, [0.0, 0.0, 0.0])
    taken = gradients(trained)
    assert taken.keys() == dict(trained.named_parameters()).keys()
    assert not any(bool(gradient.any()) for gradient in taken.values())


def test_tokens_past_the_last_target_change_nothing() -> None:
    trained, (tokens, lengths) = network(), rows()
    before = trained(packed(tokens, lengths))
    tokens[2, 10:] = 7
    after = trained(packed(tokens, lengths))
    assert torch.equal(before.row_nats, after.row_nats)


@pytest.mark.parametrize("architecture", ["qwen3_moe", "mixtral"])
def test_the_balance_term_is_in_the_objective_and_not_in_the_nats(architecture: str) -> None:
    trained, (tokens, lengths) = network(architecture, weights={"router_balance": 0.5}), rows()
    objective, row_nats, found, routed = trained(packed(tokens, lengths))
    positions = document_positions(tokens[:, :-1], boundary_id=EOS)
    seen = trained.model(input_ids=tokens[:, :-1], position_ids=positions, output_router_logits=True).router_logits
    counted = torch.arange(LENGTH) < lengths[:, None]
    expected = router_losses(seen, counted, top_k=2, step=None)
    assert expected.balance.item() > int(lengths.sum())
    torch.testing.assert_close(objective, row_nats.sum() + 0.5 * expected.balance)
    torch.testing.assert_close(found[:2], torch.stack([expected.balance, expected.z]).detach())
    torch.testing.assert_close(routed, expected.routed)
    assert routed[0].sum(-1).tolist() == [2 * int(lengths.sum())] * 2, "each token goes to two experts in each layer"


def test_over_a_batch_the_terms_are_those_of_the_step_and_the_routers_get_their_gradient() -> None:
    weights = {"router_balance": 0.5, "router_balance_by": "batch", "router_z": 0.1}
    trained, (tokens, lengths), step = network("qwen3_moe", weights=weights), rows(), StepRouting()
    first = trained(packed(tokens, lengths))
    torch.testing.assert_close(first.objective, first.row_nats.sum() + 0.5 * first.terms[0] + 0.1 * first.terms[1])
    apart = [trained(packed(tokens[row : row + 1], lengths[row : row + 1]), step) for row in range(3)]
    torch.testing.assert_close(torch.stack([part.terms for part in apart]).sum(0), first.terms)
    first.objective.backward()
    assert all(bool(grad.any()) for name, grad in gradients(trained).items() if "gate.weight" in name)


@pytest.mark.parametrize("architecture", ["llama", "granite"])  # with a linear output layer, and without
def test_the_z_loss_of_the_output_layer_is_in_the_objective_and_not_in_the_nats(architecture: str) -> None:
    plain, trained = network(architecture), network(architecture, weights={"output_z": 0.1})
    without, found = plain(packed(*rows())), trained(packed(*rows()))
    torch.testing.assert_close(found.row_nats, without.row_nats)
    assert float(found.terms[2]) > 0
    torch.testing.assert_close(found.objective, without.objective + 0.1 * found.terms[2])
    found.objective.backward()
    without.objective.backward()
    assert any(
        bool((a != b).any()) for a, b in zip(gradients(trained).values(), gradients(plain).values(), strict=True)
    )


def test_the_objective_of_rows_is_the_sum_of_that_of_each() -> None:
    trained, (tokens, lengths) = network("qwen3_moe", weights={"router_balance": 0.5}), rows()
    apart = [trained(packed(tokens[row : row + 1], lengths[row : row + 1])).objective for row in range(3)]
    torch.testing.assert_close(trained(packed(tokens, lengths)).objective, torch.stack(apart).sum())


def test_the_balance_term_does_nothing_without_experts() -> None:
    objective, row_nats, *_ = network(weights={"router_balance": 0.5})(packed(*rows()))
    torch.testing.assert_close(objective, row_nats.sum())


@pytest.mark.parametrize("architecture", ["llama", "qwen3_moe"])
def test_in_bf16_the_losses_are_near_those_in_fp32(architecture: str) -> None:
    trained = network(architecture, weights={"router_balance": 0.01})
    exact = trained(packed(*rows()))
    for parameter in trained.parameters():
        parameter.data = parameter.data.bfloat16()
    rounded = trained(packed(*rows()))
    rounded.objective.backward()
    assert rounded.row_nats.dtype == rounded.objective.dtype == torch.float32
    torch.testing.assert_close(rounded.row_nats, exact.row_nats, rtol=5e-3, atol=0.0)
    assert {gradient.dtype for gradient in gradients(trained).values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("architecture", "overrides", "says"),
    [
        ("jamba", {}, "lets a document see those before it"),
        ("qwen3_moe", {"moe_intermediate_size": 7}, "a pass of the recipe's model fails .strides should be multiple"),
        (
            "deepseek_v3",
            {
                "first_k_dense_replace": 0,
                "n_routed_experts": 4,
                "n_group": 1,
                "topk_group": 1,
                "num_experts_per_tok": 2,
            },
            "set it to 0",
        ),
    ],
)
def test_an_architecture_that_cannot_be_trained_so_is_refused(
    architecture: str, overrides: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        network(architecture, weights={"router_balance": 0.01}, overrides=overrides)
