"""The bundles that a gang holds on Ray's nodes: a placement group with one bundle a rank."""

import time
from dataclasses import dataclass

from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from cluster.placement import Placement
from cluster.ray.capacity import Capacity
from cluster.ray.connection import RayWaiter, first_line
from configs.base import InfrastructureError, StartUpError, UserError

SECONDS_BETWEEN_POLLS = 0.02
SECONDS_BETWEEN_COUNTS = 0.5
"""How often to check whether the nodes have changed."""


@dataclass(frozen=True)
class Bundles:
    """A placement group that Ray has reserved."""

    group: PlacementGroup
    nodes: tuple[str, ...]
    """Ray's id of the node of each rank."""


_RESOURCES = {"cuda": "GPU", "xpu": "GPU", "hpu": "HPU"}
"""Ray's names of accelerators, by PyTorch's type of the device."""


def rank_resources(placement: Placement) -> dict[str, float]:
    """Return what a rank takes of its node, by Ray's names."""
    device = _RESOURCES.get(placement.device)
    return {"CPU": placement.cpu_share} | ({device: 1.0} if device else {})


def are_still_valid(bundles: Bundles, capacity: Capacity) -> bool:
    """Return whether Ray still holds the bundles and ranks may still be on all their nodes."""
    state = placement_group_table(bundles.group)["state"]
    return state == "CREATED" and set(bundles.nodes) <= {node.id for node in capacity.usable_nodes()}


def reserve_bundles(capacity: Capacity, placement: Placement, *, before: int, label: str) -> Bundles:
    """Wait for bundles for as many ranks as the capacity allows; asks anew when the nodes change.

    `before`: how many ranks the gang had before its restart; 0 at first. Raises StartUpError if the bundles do not
    become free within the placement's `start_timeout_seconds`.
    """
    waiter, began, counted = RayWaiter(label), time.monotonic(), float("-inf")
    asked: tuple[int, dict[str, str]] = (0, {})
    group: PlacementGroup | None = None
    try:
        while group is None or not _is_ready(group, label):
            waited = time.monotonic() - began
            if waited > placement.start_timeout_seconds:
                raise StartUpError(capacity.describe_shortage(_describe_need(capacity, placement)))
            if time.monotonic() - counted > SECONDS_BETWEEN_COUNTS:
                counted = time.monotonic()
                nodes = capacity.usable_nodes()
                num_ranks = capacity.choose_num_ranks(nodes, before=before, waited_seconds=waited)
                wanted = num_ranks, capacity.selector(nodes)
                if wanted != asked and (group is None or not _is_ready(group, label)):
                    release_group(group)
                    group, asked = _ask_for_group(placement, *wanted), wanted
            waiter.sleep(SECONDS_BETWEEN_POLLS)  # which a signal ends, while Ray's own wait takes whole seconds only
    except BaseException:
        release_group(group)
        raise
    by_bundle = placement_group_table(group)["bundles_to_node_id"]
    return Bundles(group, tuple(by_bundle[index] for index in range(asked[0])))


def release_group(group: PlacementGroup | None) -> None:
    """Give a placement group back to Ray, if there is one."""
    if group is not None:
        remove_placement_group(group)


def _ask_for_group(placement: Placement, num_ranks: int, selector: dict[str, str]) -> PlacementGroup | None:
    """Ask Ray for a bundle a rank, on as few nodes as possible; None if there are to be no ranks yet."""
    if not num_ranks:
        return None
    return placement_group(
        [rank_resources(placement)] * num_ranks, strategy="PACK", bundle_label_selector=[selector] * num_ranks
    )


def _describe_need(capacity: Capacity, placement: Placement) -> str:
    least, most = capacity.bounds.least, capacity.bounds.most
    number = f"{least}" if least == most else f"{least} or more"
    gpu = "" if placement.device == "cpu" else " and a GPU"
    return f"places for {number} ranks of {placement.cpu_share:g} CPU cores{gpu}"


def _is_ready(group: PlacementGroup, label: str) -> bool:
    try:
        return bool(group.wait(0))
    except UserError:  # raised by a signal handler
        raise
    except Exception as error:  # Ray raises no narrower one, when its node is gone
        raise InfrastructureError(
            f"{label}: Ray itself has failed ({first_line(error)}); run the same command to go on"
        ) from error
