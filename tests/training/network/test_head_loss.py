"""The output layer with its loss: the numbers of plain cross entropy, whatever the chunks."""

import pytest
import torch
from torch.nn import functional as F

from training.network import loss_chunks
from training.network.head_loss import LossHead

TOKENS, WIDTH, VOCAB = 37, 12, 50


def data(
    *, bias: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[torch.nn.Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    layer = torch.nn.Linear(WIDTH, VOCAB, bias=bias).to(dtype)
    return layer, torch.randn(TOKENS, WIDTH).to(dtype).requires_grad_(), torch.randint(VOCAB, (TOKENS,))


def gradients(layer: torch.nn.Linear, hidden: torch.Tensor) -> list[torch.Tensor]:
    taken = [tensor.grad for tensor in (hidden, *layer.parameters()) if tensor.grad is not None]
    hidden.grad = None
    layer.zero_grad()
    return taken


def head_of(layer: torch.nn.Linear, softcap: float | None = None, z_weight: float = 0.0) -> LossHead:
    return LossHead(layer, softcap=softcap, z_weight=z_weight, max_tokens=TOKENS)


@pytest.fixture(autouse=True)
def few_tokens_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_chunks, "MIN_CHUNK_TOKENS", 8)
    monkeypatch.setattr(loss_chunks, "CPU_CHUNK_ELEMENTS", 8 * VOCAB)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("z_weight", [0.0, 0.3])
def test_losses_and_gradients_are_those_of_cross_entropy(bias: bool, softcap: float | None, z_weight: float) -> None:
    layer, hidden, targets = data(bias=bias)
    logits = layer(hidden)
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    expected = F.cross_entropy(logits, targets, reduction="none")
    expected_z = logits.logsumexp(-1).square().sum()
    ((expected.sum() + z_weight * expected_z) * 0.25).backward()
    wanted = gradients(layer, hidden)

    total, losses, z_loss = head_of(layer, softcap, z_weight)(hidden, targets)
    (total * 0.25).backward()
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(z_loss, expected_z.detach())
    torch.testing.assert_close(total, expected.sum() + z_weight * expected_z)
    assert not losses.requires_grad
    assert len(wanted) == 2 + bias
    torch.testing.assert_close(gradients(layer, hidden), wanted)


def test_in_bf16_the_losses_are_fp32_and_the_gradients_as_near_as_bf16_is() -> None:
    layer, hidden, targets = data(dtype=torch.bfloat16)
    expected = F.cross_entropy(layer.float()(hidden.float()), targets, reduction="none")
    expected.sum().backward()
    wanted = gradients(layer, hidden)

    total, losses, _ = head_of(layer.bfloat16())(hidden, targets)
    total.backward()
    found = gradients(layer, hidden)
    assert losses.dtype == total.dtype == torch.float32
    assert {gradient.dtype for gradient in found} == {torch.bfloat16}
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(found, [gradient.bfloat16() for gradient in wanted])


@pytest.mark.parametrize("num_targets", [0, 1, 5])
def test_fewer_targets_than_chunks_will_do(num_targets: int) -> None:
    layer, hidden, targets = data()
    total, losses, _ = head_of(layer)(hidden[:num_targets], targets[:num_targets])
    total.backward()
    expected = F.cross_entropy(layer(hidden[:num_targets]), targets[:num_targets], reduction="none")
    torch.testing.assert_close(losses, expected.detach())
    assert bool(layer.weight.grad.any()) == bool(num_targets)


def test_a_frozen_weight_gets_no_gradient_and_the_hidden_states_do() -> None:
    layer, hidden, targets = data()
    layer.weight.requires_grad_(False)
    total, *_ = head_of(layer)(hidden, targets)
    total.backward()
    assert layer.weight.grad is None
    assert hidden.grad is not None


def test_without_gradients_nothing_is_made_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(torch.Tensor, "addmm_", lambda *args: made.append(args))
    layer, hidden, targets = data()
    with torch.no_grad():
        total, *_ = head_of(layer)(hidden, targets)
    assert not total.requires_grad
    assert not made


def test_without_targets_it_is_the_layer() -> None:
    layer, hidden, _ = data(bias=True)
    assert torch.equal(head_of(layer)(hidden), layer(hidden))
    assert dict(head_of(layer).named_parameters()).keys() == dict(layer.named_parameters()).keys()


def test_no_more_logits_are_held_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    linear = F.linear

    def watched(*args: torch.Tensor) -> torch.Tensor:
        sizes.append(linear(*args).numel())
        return linear(*args)

    layer, hidden, targets = data()
    monkeypatch.setattr(F, "linear", watched)
    head_of(layer)(hidden, targets)
    head_of(layer)(hidden[:3], targets[:3])
    assert max(sizes) <= 8 * VOCAB
    assert len(sizes) == 2 * 5  # ceil(37 / 8), for few targets too
