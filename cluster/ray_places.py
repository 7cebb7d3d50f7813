"""The places of a gang on Ray's nodes: a placement group with a bundle a rank."""

import time

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from cluster.placement import Placement
from cluster.ray_connection import first_line
from cluster.ray_wait import Watch
from configs.base import UserError

SECONDS_BETWEEN_LOOKS = 0.02


def gpus_per_rank(placement: Placement) -> int:
    """GPUs of a rank."""
    return 1 if placement.device == "cuda" else 0


def stands(group: PlacementGroup) -> bool:
    """Whether all nodes of a placement group live."""
    table = placement_group_table(group)
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return table["state"] == "CREATED" and alive >= set(table["bundles_to_node_id"].values())


def reserve(placement: Placement, *, label: str) -> PlacementGroup:
    """Wait for the places; raises UserError if they do not become free in the placement's time."""
    gpus = gpus_per_rank(placement)
    bundle = {"CPU": float(placement.cpus_per_rank)} | ({"GPU": float(gpus)} if gpus else {})
    group = placement_group([bundle] * placement.num_ranks, strategy="PACK")
    watch, deadline = Watch(label), time.monotonic() + placement.start_timeout_seconds
    try:
        while not _is_ready(group, label):
            time.sleep(SECONDS_BETWEEN_LOOKS)  # which a signal ends, while Ray's own wait takes whole seconds only
            watch.look()
            if time.monotonic() > deadline:
                free = {kind: amount for kind, amount in ray.available_resources().items() if kind in ("CPU", "GPU")}
                raise UserError(
                    f"{label}: {placement.num_ranks} times {bundle} did not become free in "
                    f"{placement.start_timeout_seconds:g} s (free now: {free}); wait for other work, or ask for less"
                )
    except BaseException:
        remove_placement_group(group)
        raise
    return group


def _is_ready(group: PlacementGroup, label: str) -> bool:
    try:
        return bool(group.wait(0))
    except UserError:  # of a signal handler
        raise
    except Exception as error:  # Ray raises no narrower one, when its node is gone
        raise UserError(
            f"{label}: Ray itself has failed ({first_line(error)}); run the same command to go on"
        ) from error
