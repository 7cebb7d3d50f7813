"""Likelihoods equal those computed a token at a time."""

import random
from collections.abc import Iterator

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from eval.likelihood import Scorer, Targets, cut_windows
from training.network.loss_chunks import CPU_CHUNK_ELEMENTS

VOCAB, CONTEXT, BEGIN, END = 50, 8, 1, 2


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
    """Make documents of all lengths around the context's multiples."""
    chance = random.Random(0)
    lengths = [0, 1, 2, 3, *range(CONTEXT - 3, CONTEXT + 3), *range(2 * CONTEXT - 1, 2 * CONTEXT + 2), 37] * 3
    return [[chance.randrange(VOCAB) for _ in range(length)] for length in lengths]


@torch.inference_mode()
def directly(ids: list[int], model: PreTrainedModel) -> float:
    """Compute the nats token by token, each after what its window holds."""
    whole, total = [BEGIN, *ids, END], 0.0
    for target in range(1, len(whole)):
        if target <= CONTEXT:
            first = 0
        else:  # windows go on by half a context
            last = min(CONTEXT + -(-(target - CONTEXT) // (CONTEXT // 2)) * (CONTEXT // 2), len(whole) - 1)
            first = last - CONTEXT
        logits = model(input_ids=torch.tensor([whole[first:target]])).logits[0, -1]
        total -= float(torch.log_softmax(logits, -1)[whole[target]])
    return total


def nats(some: list[list[int]], model: PreTrainedModel, **given: int) -> list[float]:
    return Scorer(model, **given).document_nats(some, begin=BEGIN, end=END)


def test_nats_equal_a_direct_computation(model: PreTrainedModel) -> None:
    some = documents()[: len(documents()) // 3]
    assert nats(some, model) == pytest.approx([directly(ids, model) for ids in some], rel=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 20, 4096])
def test_nats_do_not_depend_on_the_order_or_the_company(model: PreTrainedModel, batch_tokens: int) -> None:
    some = documents()
    found = nats(some, model)
    order = random.Random(batch_tokens).sample(range(len(some)), len(some))
    shuffled = nats([some[i] for i in order], model, batch_tokens=batch_tokens)
    assert shuffled == pytest.approx([found[i] for i in order], rel=1e-5)


def test_what_begins_and_what_ends_a_document_count(model: PreTrainedModel) -> None:
    scorer = Scorer(model)
    one, other, longer = (
        scorer.document_nats([[5, 6]], begin=begin, end=end)[0] for begin, end in ((1, 2), (3, 2), (1, 4))
    )
    assert one != pytest.approx(other, rel=1e-3) and one != pytest.approx(longer, rel=1e-3)
    assert nats([], model) == []


@pytest.mark.parametrize("number", range(1, 40))
def test_windows_have_each_target_once_with_half_a_context_before_it(number: int) -> None:
    ids = list(range(number + 1))
    windows = list(cut_windows(ids, CONTEXT))
    assert [target for window in windows for target in window.ids[window.first :]] == ids[1:]
    assert all(len(window.ids) <= CONTEXT + 1 for window in windows)
    assert all(window.first >= CONTEXT // 2 for window in windows[1:])


def test_greedy_is_what_is_likeliest(model: PreTrainedModel) -> None:
    ids = [3, 4]
    for _ in range(3):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    right, wrong = Scorer(model).score([Targets(ids, 2), Targets([*ids[:-1], (ids[-1] + 1) % VOCAB], 2)])
    assert right.is_greedy and not wrong.is_greedy


@pytest.mark.parametrize("architecture", ["gemma2", "cohere", "gpt2"])
def test_logits_that_are_more_than_a_product_are_right(architecture: str) -> None:
    """Gemma 2 bounds its logits, Cohere scales them, and GPT-2 calls its layers otherwise."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "n_layer": 1}
    more = {
        "intermediate_size": 16,
        "head_dim": 8,
        "num_key_value_heads": 2,
        "n_embd": 16,
        "n_head": 2,
        "n_positions": 8,
    }
    config = AutoConfig.for_model(architecture, **sizes, **more, max_position_embeddings=CONTEXT, initializer_range=0.5)
    config.final_logit_softcapping = 2.0 if architecture == "gemma2" else None
    model = AutoModelForCausalLM.from_config(config).eval()
    assert Scorer(model)._head is not None
    some = [[5, 6, 7], [8]]
    assert nats(some, model) == pytest.approx([directly(ids, model) for ids in some], rel=1e-4)


@pytest.mark.parametrize("vocab_size", [CPU_CHUNK_ELEMENTS // 3])
def test_logits_are_made_for_a_few_targets_at_a_time(vocab_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=2, intermediate_size=2, num_hidden_layers=1, num_attention_heads=1
    )
    scorer = Scorer(LlamaForCausalLM(config).eval())
    sizes = []
    whole = scorer._logits
    monkeypatch.setattr(scorer, "_logits", lambda states: sizes.append(len(states)) or whole(states))
    scorer.score([Targets(list(range(20)), 1)] * 2)
    assert sizes and max(sizes) <= 3 and sum(sizes) == 38
