"""Likelihoods equal those computed a token at a time."""

import random
from collections.abc import Iterator

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from eval.likelihood import BATCH_ROWS, document_nats

VOCAB, CONTEXT, PREFIX = 50, 8, 1


@pytest.fixture(scope="module")
def model() -> Iterator[PreTrainedModel]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on models as small as this one threads only wait for each other
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.5,  # so that context matters
    )
    yield LlamaForCausalLM(config).eval()
    torch.set_num_threads(threads)


def documents() -> list[list[int]]:
    """Make documents of all lengths around the context's multiples, more of them than a batch has rows."""
    chance = random.Random(0)
    lengths = [0, 1, 2, 3, *range(CONTEXT - 2, CONTEXT + 3), *range(2 * CONTEXT - 1, 2 * CONTEXT + 2), 37] * 3
    assert len(lengths) > 2 * BATCH_ROWS
    return [[chance.randrange(VOCAB) for _ in range(length)] for length in lengths]


@torch.inference_mode()
def directly(ids: list[int], model: PreTrainedModel) -> float:
    """Compute the nats token by token: each has its window so far as context, and the last id of the window before."""
    whole, total = [PREFIX, *ids], 0.0
    for target in range(1, len(whole)):
        first = (target - 1) // CONTEXT * CONTEXT
        logits = model(input_ids=torch.tensor([whole[first:target]])).logits[0, -1]
        total -= float(torch.log_softmax(logits, -1)[whole[target]])
    return total


def test_nats_equal_a_direct_computation(model: PreTrainedModel) -> None:
    some = documents()
    nats = document_nats(some, model, prefix=PREFIX)
    checked = len(some) // 3  # one of each length
    assert nats[:checked] == pytest.approx([directly(ids, model) for ids in some[:checked]], rel=1e-4)
    assert nats[0] == 0


@pytest.mark.parametrize("seed", range(3))
def test_nats_do_not_depend_on_the_order_or_the_company(model: PreTrainedModel, seed: int) -> None:
    some = documents()
    nats = document_nats(some, model, prefix=PREFIX)
    order = random.Random(seed).sample(range(len(some)), len(some))
    shuffled = document_nats([some[i] for i in order], model, prefix=PREFIX)
    assert shuffled == pytest.approx([nats[i] for i in order], rel=1e-5)
    alone = [document_nats([ids], model, prefix=PREFIX)[0] for ids in some[:14]]
    assert alone == pytest.approx(nats[:14], rel=1e-5)


def test_the_prefix_is_context_of_the_first_token(model: PreTrainedModel) -> None:
    (one,), (other,) = (document_nats([[5, 6]], model, prefix=prefix) for prefix in (1, 2))
    assert one != pytest.approx(other, rel=1e-3)


def test_no_documents_have_no_nats(model: PreTrainedModel) -> None:
    assert document_nats([], model, prefix=PREFIX) == []
