"""What passes took on types of devices: the files that the store keeps of them, and the speeds of ranks that follow.

Imports nothing heavy: plans read the files, too.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.host.files import write_text
from cluster.placement import Placement
from configs.training.train import TrainConfig
from training.allocation.balance import to_grain
from training.allocation.devices import make_monotone
from training.allocation.known_links import Link, driver_names
from training.speeds import DeviceSpeed, Speeds

PASS_TIMES = "pass_times"
"""Directory of the store with what passes took, a file for each type of device and kind of pass, and with what their
collectives took."""

FAR_OFF = 1.1
"""A rank that takes so many times as long as the others of its type begins with a slowdown of its own."""


class Setting(BaseModel):
    """All that the times of passes hang on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """The model of the recipe, as JSON, with what of the recipe changes its passes."""

    attention: str
    recomputes: bool
    compiled: bool
    gathers: bool
    """Whether weights are gathered in each pass: ZeRO 3."""

    most: int
    """Sequences of the largest pass that was to be tried."""

    device: str
    """Its name with the driver; of a CPU the architecture."""

    host: str
    """Its machine, of a CPU: CPUs of one architecture differ in all else. Empty for a GPU."""

    threads: int
    """Threads of a rank on a CPU; 0 for a GPU."""

    cpu_share: float
    """Cores of a rank on a CPU; 0 for a GPU."""

    cores: float = Field(default=0.0, ge=0)
    """Cores that the process may use on a CPU, by its affinity and quotas: parts of one count; 0 for a GPU."""

    emulated: float
    """What a sequence takes more, in seconds."""

    versions: tuple[str, ...]
    """Versions of PyTorch, transformers and DeepSpeed."""

    @property
    def key(self) -> str:
        """A digest of it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RankType:
    """What a rank computes on, and how."""

    kind: str
    """The member of the pool."""

    setting: Setting

    @property
    def device(self) -> str:
        """The name of the device."""
        return self.setting.device


@dataclass(frozen=True)
class RankTimes:
    """What one rank measured."""

    seconds: dict[int, float]
    """By sequences of a pass."""

    communication: float
    """The least that it waited for collectives in a pass."""

    empty: float
    """Seconds of a pass without samples."""

    most: int
    """Sequences of the largest pass that its memory holds, as far as it was tried."""

    peak_bytes: dict[int, int]
    """Most bytes of a GPU's memory that tensors took, by sequences of a pass; empty on a CPU."""


class KnownTimes(BaseModel):
    """A file of PASS_TIMES."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    setting: Setting
    speed: DeviceSpeed
    communication: float = Field(ge=0, lt=1e9)
    """Seconds that the collectives of a pass took when the others waited for nobody."""

    @property
    def num_sizes(self) -> int:
        """The number of sizes of passes that are known: fewer than Setting.most where memory held no more."""
        return len(self.speed.pass_seconds)


def describe_model(config: TrainConfig, *, vocab_size: int) -> str:
    """Return what of a recipe the times of passes hang on, as JSON."""
    used = config.model_dump_json(include={"model", "sequence_length", "precision", "freeze"})
    return f'{used[:-1]},"vocab_size":{vocab_size}}}'


def speeds_of(saved: Speeds, identities: Sequence[RankType], hosts: Sequence[str]) -> Speeds | None:
    """Return the speeds in a checkpoint as those of ranks on such hosts; None if they are of other ranks or passes.

    A rank that is on another host now is taken to be as fast as its type.
    """
    devices = [saved.devices[number] for number in saved.device_of_rank]
    if [(one.kind, one.key) for one in devices] != [(one.kind, one.setting.key) for one in identities]:
        return None
    before = saved.hosts or [""] * len(hosts)
    slowdown = [by if was == now else 1.0 for by, was, now in zip(saved.slowdown, before, hosts, strict=True)]
    update = {"slowdown": tuple(slowdown), "hosts": tuple(hosts), "why": "as when the checkpoint was written"}
    return saved.model_copy(update=update)


def typical_times(identity: RankType, identities: Sequence[RankType], times: Sequence[RankTimes]) -> KnownTimes:
    """Return what passes take on a type of device: the medians of its ranks, filled in between the sizes."""
    own = [one for other, one in zip(identities, times, strict=True) if other == identity]
    sizes = sorted(set[int].intersection(*(set(one.seconds) for one in own)))
    medians = make_monotone([median(one.seconds[size] for one in own) for size in sizes])
    most = min(one.most for one in own)
    if most > sizes[-1]:  # not tried for want of time: in proportion
        medians.append(medians[-1] * most / sizes[-1])
        sizes.append(most)
    every = np.interp(np.arange(1, sizes[-1] + 1), sizes, medians)
    speed = DeviceSpeed(
        kind=identity.kind,
        device=identity.device,
        pass_seconds=tuple(max(s, 1e-6) for s in every.tolist()),
        empty_seconds=median(one.empty for one in own),
        key=identity.setting.key,
    )
    waited = min(one.communication for one in times)
    return KnownTimes(setting=identity.setting, speed=speed, communication=waited)


def join_speeds(
    identities: Sequence[RankType],
    known: Mapping[RankType, KnownTimes],
    times: Sequence[RankTimes] | None,
    *,
    hosts: Sequence[str],
    step: int,
    version: int,
) -> Speeds:
    """Return the speeds of all ranks; `times` is what they measured, if that was now."""
    types = sorted(known, key=lambda one: identities.index(one))
    slowdown = [1.0] * len(identities)
    for rank, one in enumerate(times or ()):
        usual = known[identities[rank]].speed.pass_seconds
        ratio = median(spent / usual[size - 1] for size, spent in one.seconds.items() if size <= len(usual))
        slowdown[rank] = to_grain(ratio) if ratio > FAR_OFF or ratio < 1 / FAR_OFF else 1.0
    return Speeds(
        version=version,
        step=step,
        why="measured at the start" if times else "measured before, and kept in the store",
        devices=tuple(known[one].speed for one in types),
        device_of_rank=tuple(types.index(one) for one in identities),
        slowdown=tuple(slowdown),
        hosts=tuple(hosts),
        pass_communication=max(one.communication for one in known.values()),
    )


def read_known(store: Path, identities: Sequence[RankType]) -> dict[RankType, KnownTimes] | None:
    """Return what the store has of all types of devices; None if it lacks any."""
    found = {}
    for one in set(identities):
        try:
            found[one] = KnownTimes.model_validate_json((store / PASS_TIMES / f"{one.setting.key}.json").read_bytes())
        except (OSError, ValidationError):  # it is measured anew
            return None
        if found[one].setting != one.setting:
            return None
        if found[one].speed.kind != one.kind:
            found[one] = found[one].model_copy(update={"speed": found[one].speed.model_copy(update={"kind": one.kind})})
    return found


def keep(store: Path, name: str, found: BaseModel) -> None:
    """Write a record into PASS_TIMES of the store, whole or not at all. Raises OSError if it cannot be written."""
    (store / PASS_TIMES).mkdir(exist_ok=True)
    write_text(store / PASS_TIMES / name, found.model_dump_json())


@dataclass(frozen=True)
class StoreTimes:
    """What a store knows of passes and of collectives, the newest first."""

    passes: tuple[KnownTimes, ...] = ()
    links: tuple[Link, ...] = ()


def read_store_times(store: Path | None) -> StoreTimes:
    """Read all that a store knows; nothing without a store. A damaged file is none: what it had is measured anew."""
    passes, links = list[KnownTimes](), list[Link]()
    for text in _newest_first(store / PASS_TIMES) if store else ():
        with suppress(ValidationError):
            passes.append(KnownTimes.model_validate_json(text))
            continue
        with suppress(ValidationError):
            links.append(Link.model_validate_json(text))
    return StoreTimes(tuple(passes), tuple(links))


def _newest_first(directory: Path) -> Iterator[bytes]:
    found: list[tuple[int, str, bytes]] = []
    for path in directory.glob("*.json"):
        with suppress(OSError):  # another run has just replaced it
            found.append((-path.stat().st_mtime_ns, path.name, path.read_bytes()))
    yield from (text for _, _, text in sorted(found))


def find_pass_seconds(
    known: StoreTimes, member: Placement, *, model: str, most: int, gathers: bool
) -> tuple[float, ...] | None:
    """Return the seconds of passes of 1, 2, ... sequences, `most` at most, on a member's devices; None if not known.

    `model` is as describe_model gives it, `gathers` as in a Setting. Of several files it is the newest of those that
    have the most sizes, whatever their versions of packages; sizes above are in proportion, unless memory held no more.
    On CPUs it is the slowest of the member's machines that were measured.
    """
    by_host: dict[str, KnownTimes] = {}
    for one in known.passes:
        setting = one.setting
        if setting.model == model and setting.gathers == gathers and _is_of(setting, member):
            before = by_host.get(setting.host)
            if before is None or min(most, one.num_sizes) > min(most, before.num_sizes):
                by_host[setting.host] = one
    tables = [
        one.speed.pass_seconds[:most]
        if one.num_sizes < one.setting.most
        else in_proportion(one.speed.pass_seconds, most)
        for one in by_host.values()
    ]
    return tuple(map(max, zip(*tables, strict=False))) or None


def in_proportion(seconds: Sequence[float], most: int) -> tuple[float, ...]:
    """Return times of passes of 1 to `most` sequences: those above the known ones take more in proportion."""
    last = seconds[-1] / len(seconds)
    return (*seconds[:most], *(last * size for size in range(len(seconds) + 1, most + 1)))


def _is_of(setting: Setting, member: Placement) -> bool:
    """Return whether times are of a member's devices, and of passes as it runs them."""
    own = (member.activation_checkpointing, member.compile, member.emulated_seconds_per_sequence or 0.0)
    if (setting.recomputes, setting.compiled, setting.emulated) != own:
        return False
    if member.attention not in ("auto", setting.attention):
        return False
    if member.device == "cpu":
        cores = (member.cpus_per_rank, member.cpu_share)
        return setting.host in member.hosts and (setting.threads, setting.cpu_share) == cores
    return setting.device in driver_names(member)
