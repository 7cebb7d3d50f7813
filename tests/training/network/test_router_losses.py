"""The balance term of a mixture of experts: the published formula, additive over rows."""

import pytest
import torch
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from training.network.router_losses import RouterLosses, StepRouting, balance_of_batch, router_losses

ROWS, LENGTH, EXPERTS, TOP_K = 3, 10, 5, 2
LENGTHS = torch.tensor([10, 4, 0])
BEARS_LOSS = torch.arange(LENGTH) < LENGTHS[:, None]


def router_logits(num_layers: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(ROWS * LENGTH, EXPERTS) for _ in range(num_layers)]


def by_sequence(layers: list[torch.Tensor], counted: torch.Tensor, *, top_k: int) -> torch.Tensor:
    return router_losses(layers, counted, top_k=top_k, step=None).balance


def by_batch(layers: list[torch.Tensor], counted: torch.Tensor, step: StepRouting | None = None) -> RouterLosses:
    return router_losses(layers, counted, top_k=TOP_K, step=step or StepRouting())


def of_row(layers: list[torch.Tensor], row: int) -> list[torch.Tensor]:
    return [layer.view(ROWS, LENGTH, EXPERTS)[row] for layer in layers]


@pytest.mark.parametrize("row", [0, 1])
def test_a_rows_loss_is_transformers_of_each_layer(row: int) -> None:
    layers, counted = of_row(router_logits(2), row), BEARS_LOSS[row : row + 1]
    expected = [
        load_balancing_loss_func((layer,), num_experts=EXPERTS, top_k=TOP_K, attention_mask=counted.long())
        for layer in layers
    ]
    found = by_sequence(layers, counted, top_k=TOP_K)
    torch.testing.assert_close(found, sum(expected) / 2 * LENGTHS[row])


def test_rows_together_are_the_sum_of_rows_apart() -> None:
    layers = router_logits(2)
    apart = [by_sequence(of_row(layers, row), BEARS_LOSS[row : row + 1], top_k=TOP_K) for row in range(ROWS)]
    torch.testing.assert_close(by_sequence(layers, BEARS_LOSS, top_k=TOP_K), torch.stack(apart).sum())


def test_equally_busy_experts_cost_least() -> None:
    counted = torch.ones(1, 6, dtype=torch.bool)
    even = torch.eye(3).repeat(2, 1) * 10
    uneven = torch.tensor([[10.0, 0.0, 0.0]]).repeat(6, 1)
    assert float(by_sequence([even], counted, top_k=1)) == pytest.approx(6.0, rel=1e-3)
    assert float(by_sequence([uneven], counted, top_k=1)) > 17


def shares_up_to(layers: list[torch.Tensor], row: int) -> torch.Tensor:
    """(layers, experts): the share of the tokens of rows 0 to `row` that each expert was sent."""
    counts = by_batch(of_rows(layers, row + 1), BEARS_LOSS[: row + 1]).routed[0]
    return counts / int(LENGTHS[: row + 1].sum())


def of_rows(layers: list[torch.Tensor], number: int) -> list[torch.Tensor]:
    return [layer.view(ROWS, LENGTH, EXPERTS)[:number].flatten(0, 1) for layer in layers]


def test_over_a_batch_each_row_is_judged_by_the_shares_up_to_it() -> None:
    layers = router_logits(2)
    expected = 0.0
    for row in range(ROWS):
        mass = by_batch(of_row(layers, row), BEARS_LOSS[row : row + 1]).routed[1]
        expected += float(EXPERTS * (shares_up_to(layers, row) * mass).sum() / 2)
    assert float(by_batch(layers, BEARS_LOSS).balance) == pytest.approx(expected, rel=1e-5)


def test_the_balance_of_a_whole_batch_is_transformers() -> None:
    layers, num_targets = router_logits(2), int(BEARS_LOSS.sum())
    expected = [
        load_balancing_loss_func((layer,), num_experts=EXPERTS, top_k=TOP_K, attention_mask=BEARS_LOSS.long())
        for layer in layers
    ]
    found = balance_of_batch(by_batch(layers, BEARS_LOSS).routed, num_targets=num_targets)
    assert found == pytest.approx(float(sum(expected) / 2), rel=1e-6)


def test_an_expert_of_a_language_costs_nothing_over_a_batch_and_much_by_sequence() -> None:
    rows = 32
    logits = torch.zeros(rows, 6, 2)
    logits[::2, :, 0] = logits[1::2, :, 1] = 20.0  # each row keeps one of two experts busy
    counted = torch.ones(rows, 6, dtype=torch.bool)
    layer = logits.view(-1, 2)
    assert float(router_losses([layer], counted, top_k=1, step=StepRouting()).balance) / (6 * rows) < 1.1
    assert float(by_sequence([layer], counted, top_k=1)) / (6 * rows) == pytest.approx(2.0)


def test_the_rows_of_a_batch_cost_the_same_in_one_pass_and_in_several() -> None:
    layers, step = router_logits(2), StepRouting()
    whole = by_batch(layers, BEARS_LOSS)
    parts = [by_batch(of_row(layers, row), BEARS_LOSS[row : row + 1], step) for row in range(ROWS)]
    for total, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(total, torch.stack(pieces).sum(0))


def test_the_z_loss_is_the_mean_over_layers_of_squared_log_sums() -> None:
    layers = router_logits(3)
    rows = [layer.view(ROWS, LENGTH, EXPERTS)[BEARS_LOSS] for layer in layers]
    expected = torch.stack([row.exp().sum(-1).log().square().sum() for row in rows]).mean()
    torch.testing.assert_close(by_batch(layers, BEARS_LOSS).z, expected)
