"""What is known of the speed of a pool's devices: a finished training, a record of `concord conform`, or a guess."""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from cluster.devices import Device, device_by_ray_name, devices_by_ray_name, peak_of
from cluster.machines import Node
from cluster.placement import Placement
from configs.base import UserError
from configs.pools import PoolConfig
from configs.training.train import TrainConfig
from pipeline.graph.why import finished_records
from pipeline.store.artifact import Record
from training.conform.record import ConformRecord, read_record
from training.conform.scale import CPU, Trial, choose_scale
from training.log.sessions_file import GangStart, read_session_events
from training.manifests import counted
from training.sizing.flops import executed_flops_per_token
from training.sizing.recipe_size import find_parameters


@dataclass(frozen=True)
class Range:
    """Two bounds; equal where there is one number."""

    low: float
    high: float

    def times(self, factor: float) -> "Range":
        """Return both bounds, each times a factor that is not negative."""
        return Range(self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Measured:
    """A finished training to compare with."""

    tokens_per_second: float
    config: TrainConfig
    placement: Placement
    num_hosts: int
    source: str


@dataclass(frozen=True)
class Basis:
    """What is known of the speed of a pool's devices."""

    device: str
    """Its name with the driver; empty where that is not known."""

    measured: Measured | None = None
    flops: Range | None = None
    """FLOP/s of a rank."""

    whole: bool = False
    """Whether the FLOP/s are of whole steps, with all that they move through memory."""

    source: str = ""


def find_basis(
    config: TrainConfig, placement: Placement, *, pool: PoolConfig, nodes: Sequence[Node], store: Path | None
) -> Basis:
    """Return what is known of the speed of a pool's devices, the best first: a training, a record, an assumption.

    `placement` has nothing left open. Raises UserError if the pool's `conform` is no record of its devices.
    """
    kind = pool.accelerator or next((node.accelerator for node in nodes if node.accelerator), None)
    names = [name for device in devices_by_ray_name(kind) for name in device.driver_names]
    on_cpu = placement.device == "cpu"
    names = [f"{platform.machine()} CPU"] if on_cpu else names
    assumed = _assumed(None if on_cpu else device_by_ray_name(kind), config, on_cpu=on_cpu)
    found = _conform(pool, config, placement, names=names) or assumed
    hosts = {node.host for node in nodes}
    for record, last in _trainings(config, store) if store else ():
        same = last.device in names and (not on_cpu or last.host in hosts)
        if same and record.manifest["tokens_per_second"]:
            compared = replace(assumed, device=last.device) if found is assumed else found
            return replace(compared, measured=_measured(record, last, config, placement))
    return found


def _assumed(device: Device | None, config: TrainConfig, *, on_cpu: bool) -> Basis:
    """Return what is assumed of a device that nothing was measured of."""
    name = device.driver_names[0] if device else ""
    if on_cpu:
        return Basis(name, source="not known before a training of this model was measured on this machine's CPU")
    peak = peak_of(device, config.precision)
    if device is None or peak is None:
        what = "the peak of this GPU at this precision is not in the table of GPUs"
        return Basis(name, source=f"not known: {what}; name a record of `concord conform` as the pool's `conform`")
    low, high = device.reached
    source = f"assumed: {low:.0%} to {high:.0%} of the peak of {name}"
    return Basis(name, flops=Range(low * peak, high * peak), source=source)


def _trainings(config: TrainConfig, store: Path) -> Iterator[tuple[Record, GangStart]]:
    """Yield the finished trainings of the same model, the newest first, with each start of a gang, the last first.

    Those on unlike devices are left out: their speed is of no kind's.
    """
    wanted = config.model_dump(mode="json")
    for record in finished_records("train", store):
        is_of_one_kind = not (record.placement.get("members") or record.placement.get("emulated_seconds_per_sequence"))
        same = all(record.config.get(key) == wanted[key] for key in ("model", "sequence_length", "precision"))
        if same and is_of_one_kind:
            events = read_session_events(store / f"{record.stage}-{record.fingerprint[:12]}")
            yield from ((record, event) for event in reversed(events) if isinstance(event, GangStart))


def _measured(record: Record, start: GangStart, config: TrainConfig, placement: Placement) -> Measured:
    """Return what the record of a finished training says, whose ranks last began with `start`.

    What it does not say of its layout is taken to be that of `placement`, which has nothing left open.
    """
    laid_out = {
        name: record.placement.get(name, getattr(placement, name))
        for name in ("micro_batch_size", "activation_checkpointing", "offload_optimizer")
    }
    then = replace(
        placement,
        num_ranks=start.world_size,
        min_ranks=start.world_size,
        zero_stage=start.zero_stage,
        attention=start.attention or placement.attention,
        **laid_out,
    )
    try:
        trained = TrainConfig.model_validate(record.config)
    except ValidationError:  # of another version
        trained = config
    where = f"{record.stage}-{record.fingerprint[:12]}"
    source = f"measured in {where} on {counted(start.world_size, 'rank')} of {start.device}"
    speed = float(str(record.manifest["tokens_per_second"]))
    return Measured(speed, trained, then, len(set(start.hosts)) or 1, source)


def _conform(pool: PoolConfig, config: TrainConfig, placement: Placement, *, names: Sequence[str]) -> Basis | None:
    """Return the FLOP/s in the record of `concord conform` that the pool names; None without one.

    None also if its steps were of another precision. Raises UserError if it is of another device, or too small.
    """
    if pool.conform is None:
        return None
    record = read_record(Path(pool.conform))
    speed = next((check for check in record.checks if check.name == "step speed"), None)
    trial = _trial(record)
    if trial is None or speed is None or not speed.value:
        raise UserError(f"conform: {pool.conform} has no speed to reckon with; run `concord conform` without --quick")
    if record.device.name not in names and (placement.device != "cpu" or record.device.type != "cpu"):
        own = " or ".join(names) or "a kind of GPU that is not in the table of GPUs"
        raise UserError(
            f"conform: {pool.conform} is of {record.device.name}, and the pool has {own}; name a record of one of these"
        )
    if trial.precision != config.precision:
        return None
    measured = TrainConfig.model_validate(
        {
            "model": trial.model,
            "sequence_length": trial.sequence_length,
            "global_batch_size": trial.rows * trial.passes,
            "num_steps": 1,
            "optimizer": {"learning_rate": 1.0},
            "schedule": {"kind": "cosine", "num_warmup_steps": 0},
        }
    )
    model = find_parameters(measured, vocab_size=trial.vocab_size)
    flops = executed_flops_per_token(
        model.config,
        model.shapes,
        sequence_length=trial.sequence_length,
        attention=speed.detail.rpartition(", ")[2],
        recomputes=False,
    )
    assert flops is not None  # the models of the trials are of a known family
    rate = speed.value * flops
    if placement.device == "cpu":
        rate *= placement.cpus_per_rank / record.host.num_cores
    source = f"measured by concord conform: {pool.conform}"
    return Basis(record.device.name, flops=Range(rate, rate), whole=True, source=source)


def _trial(record: ConformRecord) -> Trial | None:
    """Return the steps whose speed a record has; None if they are too small to say anything."""
    if record.scale == CPU.name:
        return CPU.large
    scale = choose_scale(
        record.device.type,
        memory_bytes=record.device.memory_bytes,
        has_bf16=record.scale.endswith("bf16"),
        quick=False,
    )
    return scale.large if scale.name == record.scale else None
