"""The balance term of a mixture of experts: the published formula, additive over rows."""

import pytest
import torch
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from training.network.router_balance import balance_loss

ROWS, LENGTH, EXPERTS, TOP_K = 3, 10, 5, 2
LENGTHS = torch.tensor([10, 4, 0])
BEARS_LOSS = torch.arange(LENGTH) < LENGTHS[:, None]


def router_logits(num_layers: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(ROWS * LENGTH, EXPERTS) for _ in range(num_layers)]


def of_row(layers: list[torch.Tensor], row: int) -> list[torch.Tensor]:
    return [layer.view(ROWS, LENGTH, EXPERTS)[row] for layer in layers]


@pytest.mark.parametrize("row", [0, 1])
def test_a_rows_loss_is_transformers_of_each_layer(row: int) -> None:
    layers, counted = of_row(router_logits(2), row), BEARS_LOSS[row : row + 1]
    expected = [
        load_balancing_loss_func((layer,), num_experts=EXPERTS, top_k=TOP_K, attention_mask=counted.long())
        for layer in layers
    ]
    found = balance_loss(layers, counted, top_k=TOP_K)
    torch.testing.assert_close(found, sum(expected) / 2 * LENGTHS[row])


def test_rows_together_are_the_sum_of_rows_apart() -> None:
    layers = router_logits(2)
    apart = [balance_loss(of_row(layers, row), BEARS_LOSS[row : row + 1], top_k=TOP_K) for row in range(ROWS)]
    torch.testing.assert_close(balance_loss(layers, BEARS_LOSS, top_k=TOP_K), torch.stack(apart).sum())


def test_equally_busy_experts_cost_least() -> None:
    counted = torch.ones(1, 6, dtype=torch.bool)
    even = torch.eye(3).repeat(2, 1) * 10
    uneven = torch.tensor([[10.0, 0.0, 0.0]]).repeat(6, 1)
    assert float(balance_loss([even], counted, top_k=1)) == pytest.approx(6.0, rel=1e-3)
    assert float(balance_loss([uneven], counted, top_k=1)) > 17
