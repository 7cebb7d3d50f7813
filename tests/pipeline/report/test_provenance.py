"""Device-hours and cost: what each step was laid out on, over its wall time."""

from typing import Any

import pytest
from pydantic import ValidationError

from configs.evaluation import ReportConfig
from configs.load import shipped
from pipeline.report.provenance import TimePart, time_part
from pipeline.store.artifact import Record
from tests.pipeline.report.test_recipe import plan, records_of


def records(**placements: dict[str, Any]) -> dict[str, Record]:
    """Return records of one hour and a half each, by their stages."""
    one = next(iter(records_of(plan(shipped("recipes", "smoke"))).values()))
    return {
        stage: one.model_copy(update={"step": stage, "stage": stage, "seconds": 5400.0, "placement": placement})
        for stage, placement in placements.items()
    }


GPUS = {"device": "cuda", "num_ranks": 8, "cpu_share": 4.0, "num_tasks": 30, "cpus_per_task": 2}
CORES = GPUS | {"device": "cpu", "cpu_share": 0.5}


def used(prices: dict[str, float] | None = None, **placements: dict[str, Any]) -> TimePart:
    return time_part(records(**placements), {}, prices or {}, "EUR")


def test_training_and_scoring_use_gpus_and_the_rest_the_cores_of_its_work():
    table = used(clean=GPUS, train=GPUS, evaluate=GPUS, export={}).usage
    assert list(table.heads) == ["Step", "Wall time", "Devices", "GPU-hours", "Core-hours"]
    assert [list(row) for row in table.rows] == [
        ["clean", "1 h 30 min", "60 cores", "–", "90.000"],
        ["train", "1 h 30 min", "8 cuda", "12.000", "–"],
        ["evaluate", "1 h 30 min", "8 cuda", "12.000", "–"],
        ["export", "1 h 30 min", "1 core", "–", "1.500"],
    ]
    assert list(table.total) == ["All", "6 h 00 min", "", "24.000", "91.500"]


def test_without_gpus_training_uses_the_cores_of_its_ranks():
    assert [row[2:] for row in used(train=CORES, evaluate=CORES).usage.rows] == [
        ["4 cores", "–", "6.000"],
        ["60 cores", "–", "90.000"],
    ]


def test_prices_give_the_cost_and_what_has_none_is_named():
    found = used({"cuda": 2.5}, clean=GPUS, train=GPUS)
    assert found.usage.heads[-1] == "Cost, EUR"
    assert [row[-1] for row in found.usage.rows] == ["–", "30.00"]
    assert found.usage.total[-1] == "30.00" and found.cost == "30.00 EUR" and found.unpriced == ["cpu"]
    both = used({"cuda": 2.5, "cpu": 0.1}, clean=GPUS, train=GPUS)
    assert both.cost == "39.00 EUR" and both.unpriced == []


def test_without_prices_nothing_is_said_of_cost():
    found = used(clean=GPUS, train=GPUS)
    assert found.cost == "" and found.unpriced == [] and len(found.usage.heads) == 5


@pytest.mark.parametrize("prices", [{"gpu": 1.0}, {"cuda": -1.0}, {"cpu": float("nan")}])
def test_a_price_of_no_device_or_below_zero_is_refused(prices: dict[str, float]):
    with pytest.raises(ValidationError):
        ReportConfig(prices=prices)
