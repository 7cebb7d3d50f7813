"""The places of a gang on Ray's nodes: a placement group with a bundle a rank."""

import time
from dataclasses import dataclass
from typing import Any

from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from cluster.placement import Placement
from cluster.ray.capacity import Room
from cluster.ray.connection import first_line
from cluster.ray.waiting import Watch
from configs.base import InfrastructureError, StartUpError, UserError

SECONDS_BETWEEN_LOOKS = 0.02
SECONDS_BETWEEN_COUNTS = 0.5
"""How often to see whether the nodes have changed."""


@dataclass(frozen=True)
class Places:
    """What was reserved."""

    group: PlacementGroup
    nodes: tuple[str, ...]
    """Ray's id of the node of each rank."""


def gpus_per_rank(placement: Placement) -> int:
    """GPUs of a rank."""
    return 1 if placement.device == "cuda" else 0


def stand(places: Places, room: Room) -> bool:
    """Whether ranks may still be on all nodes of some places."""
    state = placement_group_table(places.group)["state"]
    return state == "CREATED" and set(places.nodes) <= {node.id for node in room.nodes()}


def reserve(room: Room, placement: Placement, *, before: int, label: str) -> Places:
    """Wait for places, as many as the room gives. Raises StartUpError if they do not come in the placement's time.

    `before`: how many the attempt before had; 0 if there was none.
    """
    watch, began, counted = Watch(label), time.monotonic(), float("-inf")
    asked: tuple[int, dict[str, str]] = (0, {})
    group: PlacementGroup | None = None
    try:
        while group is None or not _is_ready(group, label):
            waited = time.monotonic() - began
            if waited > placement.start_timeout_seconds:
                raise StartUpError(room.shortage(_describe(room, placement)))
            if time.monotonic() - counted > SECONDS_BETWEEN_COUNTS:
                counted = time.monotonic()
                nodes = room.nodes()
                wanted = room.number(nodes, before=before, waited_seconds=waited), room.selector(nodes)
                if wanted != asked and (group is None or not _is_ready(group, label)):
                    group, asked = _ask(group, placement, *wanted), wanted
            time.sleep(SECONDS_BETWEEN_LOOKS)  # which a signal ends, while Ray's own wait takes whole seconds only
            watch.look()
    except BaseException:
        release(group)
        raise
    by_bundle = placement_group_table(group)["bundles_to_node_id"]
    return Places(group, tuple(by_bundle[index] for index in range(asked[0])))


def release(group: PlacementGroup | None) -> None:
    """Give places back, if there are any."""
    if group is not None:
        remove_placement_group(group)


def _ask(old: Any, placement: Placement, number: int, selector: dict[str, str]) -> PlacementGroup | None:
    release(old)
    bundles = [_bundle(placement)] * number
    return placement_group(bundles, strategy="PACK", bundle_label_selector=[selector] * number) if number else None


def _bundle(placement: Placement) -> dict[str, float]:
    gpus = gpus_per_rank(placement)
    return {"CPU": float(placement.cpus_per_rank)} | ({"GPU": float(gpus)} if gpus else {})


def _describe(room: Room, placement: Placement) -> str:
    least, most = room.bounds.least, room.bounds.most
    number = f"{least}" if least == most else f"{least} or more"
    gpu = " and a GPU" if gpus_per_rank(placement) else ""
    return f"places for {number} ranks of {placement.cpus_per_rank} CPU cores{gpu}"


def _is_ready(group: PlacementGroup, label: str) -> bool:
    try:
        return bool(group.wait(0))
    except UserError:  # of a signal handler
        raise
    except Exception as error:  # Ray raises no narrower one, when its node is gone
        raise InfrastructureError(
            f"{label}: Ray itself has failed ({first_line(error)}); run the same command to go on"
        ) from error
