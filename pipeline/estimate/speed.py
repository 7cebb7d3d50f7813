"""How fast a training will be: as fast as an earlier one of the same model on the same device, or by its FLOPs."""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.devices import devices_by_ray_name, peak_flops
from cluster.machines import Node
from cluster.placement import Placement
from configs.training import TrainConfig
from pipeline.graph.why import finished_records
from pipeline.store.artifact import Record
from training.log.sessions_file import GangStart, read_session_events
from training.manifests import counted
from training.sizing.fit import sequences_per_rank
from training.sizing.flops import flops_per_token
from training.sizing.recipe_size import ModelParameters

ASSUMED_MFU = 0.40
"""Utilisation of bf16 training on GPUs if none was measured: DeepSpeed and its like reach 0.40 to 0.47 on H100 and 0.40
to 0.58 on A100 with dense models of 1 to 8 billion parameters (docs/planning.md has the sources)."""


@dataclass(frozen=True)
class Speed:
    """Tokens a second of all ranks together, and where the number comes from."""

    tokens_per_second: float | None
    source: str
    """`measured in ...`, `assumed: ...`, or why it is not known."""


def speed_of(
    config: TrainConfig,
    model: ModelParameters,
    placement: Placement,
    *,
    accelerator: str | None,
    nodes: Sequence[Node],
    store: Path | None,
) -> Speed:
    """Return the measured speed of a like training, else one by FLOPs; it is taken to be proportional to the ranks."""
    kind = accelerator or next((node.accelerator for node in nodes if node.accelerator), None)
    names = [name for device in devices_by_ray_name(kind) for name in device.driver_names]
    if placement.device == "cpu":
        names = [f"{platform.machine()} CPU"]
    hosts = {node.host for node in nodes}
    for record, last in _measured(config, store) if store else ():
        same = last.device in names and (placement.device == "cuda" or last.host in hosts)
        if same and record.manifest["tokens_per_second"]:
            per_rank = float(str(record.manifest["tokens_per_second"])) / last.world_size
            where = f"{record.stage}-{record.fingerprint[:12]}"
            how = f"measured in {where} on {counted(last.world_size, 'rank')} of {last.device}"
            return Speed(per_rank * busy_ranks(config, placement), how)
    return _by_flops(config, model, placement, names[0] if names else None)


def busy_ranks(config: TrainConfig, placement: Placement) -> float:
    """Return how many ranks are busy on average: a step lasts as long as the rank with most sequences needs."""
    return config.global_batch_size / sequences_per_rank(config, placement)


def _by_flops(config: TrainConfig, model: ModelParameters, placement: Placement, device: str | None) -> Speed:
    flops = flops_per_token(model.config, model.shapes, sequence_length=config.sequence_length)
    peak = peak_flops(device or "")
    if placement.device == "cpu":
        return Speed(None, "not known before a training of this model was measured on this machine's CPU")
    if flops is None or peak is None or config.precision == "fp32":
        what, where = "the peak of this GPU at this precision", "cluster/devices.py"
        if flops is None:
            what, where = "how much this architecture computes", "training/sizing/flops.py"
        return Speed(None, f"not known: {what} is in no table of {where}")
    speed = busy_ranks(config, placement) * peak * ASSUMED_MFU / flops
    return Speed(speed, f"assumed: {ASSUMED_MFU:.0%} of the peak of {device}")


def _measured(config: TrainConfig, store: Path) -> Iterator[tuple[Record, GangStart]]:
    """Yield the finished trainings of the same model, the newest first, with each start of a gang, the last first."""
    wanted = config.model_dump(mode="json")
    for record in finished_records("train", store):
        if all(record.config.get(key) == wanted[key] for key in ("model", "sequence_length", "precision")):
            events = read_session_events(store / f"{record.stage}-{record.fingerprint[:12]}")
            yield from ((record, event) for event in reversed(events) if isinstance(event, GangStart))
