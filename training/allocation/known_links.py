"""What collectives take between devices, as the store has it, and which of it is of the devices of a plan.

Imports nothing heavy: plans read it, too.
"""

import hashlib
from collections.abc import Sequence
from math import log

from pydantic import BaseModel, ConfigDict, Field

from cluster.devices import devices_by_ray_name
from cluster.placement import Placement


class Link(BaseModel):
    """What a collective takes: alpha_seconds, and its bytes over bytes_per_second."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    devices: tuple[str, ...] = Field(min_length=1)
    """Names of the devices that took part, each once."""

    num_ranks: int = Field(ge=2)
    num_hosts: int = Field(ge=1)
    hosts: tuple[str, ...] = ()
    """Names of the machines, of CPUs; empty for GPUs."""

    alpha_seconds: float = Field(gt=0, lt=1e9)
    bytes_per_second: float = Field(gt=0, lt=1e18)
    """Bytes that a rank sends, (ranks - 1) / ranks of all, over the time beside alpha."""

    @property
    def file_name(self) -> str:
        """Its file in PASS_TIMES."""
        names = "-".join("".join(c if c.isalnum() else "_" for c in name) for name in self.devices)
        where = hashlib.sha256("\n".join(self.hosts).encode()).hexdigest()[:8] if self.hosts else ""
        return f"link-{self.num_ranks}-ranks-{self.num_hosts}-hosts-{names}{where and '-'}{where}.json"


def find_link(links: Sequence[Link], members: Sequence[Placement], *, one_machine: bool) -> Link | None:
    """Return the link of the same devices, on one machine or on several; None if it is not known.

    Of several it is that of the number of ranks that is closest, then the newest.
    """
    num_ranks = sum(one.num_ranks for one in members)
    fitting = [one for one in links if (one.num_hosts == 1) == one_machine and _links(one, members)]
    return min(fitting, key=lambda one: abs(log(one.num_ranks / num_ranks)), default=None)


def _links(link: Link, members: Sequence[Placement]) -> bool:
    """Return whether a link is of the devices of these members, and of no others."""
    if any(one.device == "cpu" for one in members):
        hosts = {host for one in members for host in one.hosts}
        return all(one.hosts for one in members) and bool(link.hosts) and set(link.hosts) <= hosts
    names = [driver_names(one) for one in members]
    of_all = all(own & set(link.devices) for own in names)
    return of_all and set(link.devices) <= set[str].union(*names)


def driver_names(member: Placement) -> set[str]:
    """Return what the driver may call a member's GPUs; nothing where their kind is not known."""
    return {name for device in devices_by_ray_name(member.accelerator) for name in device.driver_names}
