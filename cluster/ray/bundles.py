"""The bundles that a gang holds on Ray's nodes: a placement group with one bundle a rank."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from cluster.host.console import print_line
from cluster.members import distinct_nodes
from cluster.placement import Placement
from cluster.ray.capacity import Capacity
from cluster.ray.connection import RayWaiter, first_line
from cluster.ray.nodes import describe_nodes, live_nodes
from configs.base import InfrastructureError, StartUpError, UserError

SECONDS_BETWEEN_POLLS = 0.02
SECONDS_UNTIL_SAID = 10.0
"""After how long a wait for resources is told."""

SECONDS_BETWEEN_COUNTS = 0.5
"""How often to check whether the nodes have changed."""


@dataclass(frozen=True)
class Bundles:
    """A placement group that Ray has reserved."""

    group: PlacementGroup
    nodes: tuple[str, ...]
    """Ray's id of the node of each rank."""

    counts: tuple[int, ...]
    """How many ranks each of the pool's members has, in their order; without members the one number."""


_RESOURCES = {"cuda": "GPU", "xpu": "GPU", "hpu": "HPU"}
"""Ray's names of accelerators, by PyTorch's type of the device."""


def rank_resources(placement: Placement) -> dict[str, float]:
    """Return what a rank of a pool of one kind, or of one member, takes of its node, by Ray's names."""
    device = _RESOURCES.get(placement.device)
    return {"CPU": placement.cpu_share} | ({device: 1.0} if device else {})


def are_still_valid(bundles: Bundles, capacity: Capacity) -> bool:
    """Return whether Ray still holds the bundles and ranks may still be on all their nodes."""
    state = placement_group_table(bundles.group)["state"]
    return state == "CREATED" and set(bundles.nodes) <= {node.id for node in distinct_nodes(capacity.usable_nodes())}


def reserve_bundles(capacity: Capacity, placement: Placement, *, before: Sequence[int], label: str) -> Bundles:
    """Wait for bundles for as many ranks as the capacity allows; asks anew when the nodes change.

    `before`: how many ranks of each member the gang had before its restart; empty at first. Raises StartUpError if the
    bundles do not become free within the placement's `start_timeout_seconds`.
    """
    waiter, began, counted = RayWaiter(label), time.monotonic(), float("-inf")
    asked: tuple[tuple[int, ...], list[dict[str, str]]] = ((), [])
    group: PlacementGroup | None = None
    is_said = False
    try:
        while group is None or not _is_ready(group, label):
            waited = time.monotonic() - began
            if waited > placement.start_timeout_seconds:
                raise StartUpError(capacity.describe_shortage(_describe_need(capacity, placement)))
            if waited > SECONDS_UNTIL_SAID and not is_said:
                is_said = True
                need, there = _describe_need(capacity, placement), capacity.describe_nodes()
                print_line(f"{label}: waiting for {need}; the pool's nodes are {there}")
            if time.monotonic() - counted > SECONDS_BETWEEN_COUNTS:
                counted = time.monotonic()
                nodes = capacity.usable_nodes()
                counts = capacity.choose_counts(nodes, before=before, waited_seconds=waited)
                wanted = counts, capacity.selectors(nodes, counts)
                if wanted != asked and (group is None or not _is_ready(group, label)):
                    release_group(group)
                    group, asked = _ask_for_group(placement, *wanted), wanted
            waiter.sleep(SECONDS_BETWEEN_POLLS)  # which a signal ends, while Ray's own wait takes whole seconds only
    except BaseException:
        release_group(group)
        raise
    by_bundle, counts = placement_group_table(group)["bundles_to_node_id"], asked[0]
    return Bundles(group, tuple(by_bundle[index] for index in range(sum(counts))), counts)


def wait_for_room(probes: Sequence[Any], need: Mapping[str, float], *, timeout_seconds: float, label: str) -> None:
    """Wait until Ray has run one of the tasks that do nothing but take what is needed, said after SECONDS_UNTIL_SAID.

    Ray itself would keep work in its queue for ever, without a word, and is late to say what is free: what ran had
    room. Raises StartUpError when the time is up.
    """
    waiter, began, is_said = RayWaiter(label), time.monotonic(), False
    words = describe_resources(need)
    while not waiter.wait(probes)[0]:
        waited = time.monotonic() - began
        if waited > timeout_seconds:
            raise StartUpError(
                f"{label}: {words} did not become free in {timeout_seconds:g} s; the cluster's nodes are "
                f"{describe_nodes(live_nodes())}; wait for other work to end, ask for less with cpus_per_task, or "
                "wait longer with start_timeout_seconds in the cluster file"
            )
        if waited > SECONDS_UNTIL_SAID and not is_said:
            is_said = True
            print_line(f"{label}: waiting for {words}; the cluster's nodes are {describe_nodes(live_nodes())}")


def describe_resources(need: Mapping[str, float]) -> str:
    """Say what of a node is needed: `2 CPU cores and a GPU`."""
    device = "" if set(need) <= {"CPU"} else " and a GPU"
    return f"{need['CPU']:g} CPU core{'s' if need['CPU'] != 1 else ''}{device}"


def release_group(group: PlacementGroup | None) -> None:
    """Give a placement group back to Ray, if there is one."""
    if group is not None:
        remove_placement_group(group)


def _ask_for_group(
    placement: Placement, counts: Sequence[int], selectors: Sequence[dict[str, str]]
) -> PlacementGroup | None:
    """Ask Ray for a bundle a rank, member by member, on as few nodes as possible; None if there are to be no ranks yet.

    Each bundle is what a rank of its member takes, on the nodes that its selector, of those for each rank, allows.
    """
    if not any(counts):
        return None
    needs = [rank_resources(placement.of_member(member)) for member in range(len(counts))]
    bundles = [need for need, number in zip(needs, counts, strict=True) for _ in range(number)]
    return placement_group(bundles, strategy="PACK", bundle_label_selector=list(selectors))


def _describe_need(capacity: Capacity, placement: Placement) -> str:
    bounds = capacity.bounds
    each = [
        (most, describe_resources(rank_resources(placement.of_member(member))))
        for member, most in enumerate(bounds.most)
        if most != 0
    ]
    if bounds.is_fixed:
        return f"places for {' and '.join(f'{number} ranks of {words}' for number, words in each)}"
    return f"places for {bounds.least} or more ranks of {' or '.join(dict.fromkeys(words for _, words in each))}"


def _is_ready(group: PlacementGroup, label: str) -> bool:
    try:
        return bool(group.wait(0))
    except UserError:  # raised by a signal handler
        raise
    except Exception as error:  # Ray raises no narrower one, when its node is gone
        raise InfrastructureError(
            f"{label}: Ray itself has failed ({first_line(error)}); run the same command to go on"
        ) from error
