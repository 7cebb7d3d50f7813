"""How fast a training will be: as an earlier one of the same model was on the same device, or by its FLOPs."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.machines import Node
from cluster.placement import Placement
from configs.training import TrainConfig
from pipeline.graph.why import finished
from pipeline.store.artifact import Record
from training.log.attempts_file import Attempt, read_attempts
from training.manifests import counted
from training.sizing.fit import share
from training.sizing.flops import flops_per_token, peak_flops
from training.sizing.recipe_size import Sized

ASSUMED_MFU = 0.40
"""Of bf16 training on GPUs where nothing was measured: DeepSpeed and its like reach 0.40 to 0.47 on H100 and 0.40 to
0.58 on A100 with dense models of 1 to 8 billion parameters (docs/planning.md has the sources)."""

_DEVICES: Mapping[str, str] = {
    "B200": "NVIDIA B200",
    "GH200": "NVIDIA GH200 480GB",
    "H200": "NVIDIA H200",
    "H100": "NVIDIA H100 80GB HBM3",
    "A100": "NVIDIA A100-SXM4-40GB",
    "A100-40G": "NVIDIA A100-SXM4-40GB",
    "A100-80G": "NVIDIA A100-SXM4-80GB",
    "L40S": "NVIDIA L40S",
    "L4": "NVIDIA L4",
    "V100": "Tesla V100-SXM2-16GB",
    "AMD-Instinct-MI210": "AMD Instinct MI210",
    "AMD-Instinct-MI250X": "AMD Instinct MI250X",
    "AMD-Instinct-MI300X-OAM": "AMD Instinct MI300X",
    "AMD-Instinct-MI325X-OAM": "AMD Instinct MI325X",
}
"""From Ray's name of an accelerator to what the device calls itself, whose peak training/sizing/flops.py knows."""


@dataclass(frozen=True)
class Speed:
    """Tokens a second of all ranks together, and how that is known."""

    tokens_per_second: float | None
    source: str
    """`measured in ...`, `assumed: ...`, or why it is not known."""


def speed_of(
    config: TrainConfig,
    model: Sized,
    placement: Placement,
    *,
    accelerator: str | None,
    nodes: Sequence[Node],
    store: Path | None,
) -> Speed:
    """The best knowledge there is. Speed is taken to grow with the number of ranks, whatever the network."""
    kind = accelerator or next((node.accelerator for node in nodes if node.accelerator), None)
    device = f"{platform.machine()} CPU" if placement.device == "cpu" else _DEVICES.get(kind or "")
    hosts = {node.host for node in nodes}
    for record, last in _measured(config, store) if store else ():
        same = last.device == device and (placement.device == "cuda" or last.host in hosts)
        if same and record.manifest["tokens_per_second"]:
            per_rank = float(str(record.manifest["tokens_per_second"])) / last.world_size
            where = f"{record.stage}-{record.fingerprint[:12]}"
            how = f"measured in {where} on {counted(last.world_size, 'rank')} of {last.device}"
            return Speed(per_rank * busy_ranks(config, placement), how)
    return _by_flops(config, model, placement, device)


def busy_ranks(config: TrainConfig, placement: Placement) -> float:
    """Ranks' worth of work in a step, which takes as long as that of the rank with most sequences."""
    return config.global_batch_size / share(config, placement)


def _by_flops(config: TrainConfig, model: Sized, placement: Placement, device: str | None) -> Speed:
    flops = flops_per_token(model.config, model.shapes, sequence_length=config.sequence_length)
    peak = peak_flops(device or "")
    if placement.device == "cpu":
        return Speed(None, "not known before a training of this model was measured on this machine's CPU")
    if flops is None or peak is None or config.precision == "fp32":
        what = "how much this architecture computes" if flops is None else "the peak of this GPU at this precision"
        return Speed(None, f"not known: {what} is in no table of training/sizing/flops.py")
    speed = busy_ranks(config, placement) * peak * ASSUMED_MFU / flops
    return Speed(speed, f"assumed: {ASSUMED_MFU:.0%} of the peak of {device}")


def _measured(config: TrainConfig, store: Path) -> Iterator[tuple[Record, Attempt]]:
    """Finished trainings of the same model, the newest first, each with its last attempt."""
    wanted = config.model_dump(mode="json")
    for record in finished("train", store):
        if all(record.config.get(key) == wanted[key] for key in ("model", "sequence_length", "precision")):
            events = read_attempts(store / f"{record.stage}-{record.fingerprint[:12]}")
            yield from ((record, event) for event in reversed(events) if isinstance(event, Attempt))
