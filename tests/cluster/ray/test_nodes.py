"""GPUs of nodes as Ray sees them: a Ray that is told of two A100, and a driver's program that says 80 GB."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.doctor.nodes import pool_findings
from cluster.host.files import write_text
from cluster.host.limits import GpuAnswer
from cluster.machines import Node
from cluster.ray import nodes as ray_nodes
from configs.base import GIB
from configs.cluster import ClusterConfig
from configs.pools import KindConfig, MachinesConfig, PoolConfig

ROOT = Path(__file__).parents[3]

ASK = """
import json, os, sys
from functools import partial
from pathlib import Path
from cluster.ray.executor import RayExecutor
from cluster.ray.nodes import nodes_of
from cluster.ray import spares
from configs.base import UserError
from configs.pools import PoolConfig
from tests.cluster.ray.test_nodes import devices, devices_after_a_loss, warm

spares.START_AFTER_SECONDS = 0.0
place, said = Path(sys.argv[1]), {}
for kind in ("A100", "A100-80G", "A100-40G", "H100"):
    executor = RayExecutor(PoolConfig(accelerator=kind, cpus_per_rank=1, max_restarts=1), address="local")
    try:
        placement = executor.placement()
        said[kind] = [placement.found, placement.memory_bytes_per_rank]
    except UserError as error:
        said[kind] = str(error)
gang = RayExecutor(PoolConfig(device="gpu", cpus_per_rank=1, max_restarts=1), address="local").gang
said["devices"] = gang(devices, place, label="looking")
said["after"] = gang(devices_after_a_loss, place, label="losing", warm=partial(warm, place))
print("SAID", json.dumps(said))
"""


def devices(rank: Any, place: Path) -> list[str]:
    """Return what each rank is shown: the ranks meet in files."""
    write_text(place / f"device-{rank.index}", os.environ["CUDA_VISIBLE_DEVICES"])  # whole, for the others read it
    while rank.index == 0 and len(list(place.glob("device-*"))) < rank.world_size:
        pass
    return sorted(path.read_text() for path in place.glob("device-*"))


def warm(place: Path) -> None:
    """Be a spare, and say so."""
    (place / f"spare-{os.getpid()}").touch()


def devices_after_a_loss(rank: Any, place: Path) -> list[str]:
    """Return what each rank is shown before and after rank 1 was lost, and how many then were spares before."""
    write_text(place / f"start-{rank.num_restarts}-{rank.index}", os.environ["CUDA_VISIBLE_DEVICES"])
    if rank.num_restarts == 0:
        while rank.index == 0 or len(list(place.glob("s*-*"))) < 4:  # two starts and two spares
            time.sleep(0.05)
        time.sleep(1.0)  # the driver notes that the second is ready
        os._exit(3)
    (place / f"pid-{os.getpid()}").touch()
    while len(list(place.glob("pid-*"))) < rank.world_size:
        time.sleep(0.05)
    spares = {path.name.removeprefix("spare-") for path in place.glob("spare-*")}
    were_spares = spares & {path.name.removeprefix("pid-") for path in place.glob("pid-*")}
    shown = [(place / f"start-{start}-{index}").read_text() for start in (0, 1) for index in (0, 1)]
    return [*shown, str(len(were_spares))]


@pytest.fixture
def fake_gpus(tmp_path: Path) -> dict[str, str]:
    """The environment in which a private Ray has two A100 whose driver says 80 GB."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    rows = r"'NVIDIA A100-SXM4-80GB, 81920, 500, Disabled'"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' {rows} {rows}\n")
    program.chmod(0o755)
    return os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": 2, "GPU": 2}),
        "RAY_OVERRIDE_LABELS": json.dumps({ray_nodes.ACCELERATOR: "A100"}),
    }


@pytest.mark.parametrize("noset", [pytest.param("0", marks=pytest.mark.long), "1"])  # the second asks more of us
def test_nodes_say_what_gpus_they_have_and_each_rank_and_spare_sees_its_own(
    tmp_path: Path, fake_gpus: dict[str, str], noset: str
) -> None:
    environment = fake_gpus | {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": noset}
    command = [sys.executable, "-c", ASK, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("SAID ")] or [ended.stderr]
    said = json.loads(line.removeprefix("SAID "))
    text, size = said["A100"]
    assert text == "2 ranks on the GPUs of 1 node with 2 cores and 2 GPUs (A100)"
    assert size == (81920 - 500) * 2**20
    assert said["A100-80G"] == said["A100"]
    assert "there is no node with accelerator A100-40G here" in said["A100-40G"]
    assert "there is no node with accelerator H100 here" in said["H100"]
    assert said["devices"] == ["0", "1"]
    *shown, num_spares = said["after"]
    assert shown[:2] == shown[2:] and sorted(shown[:2]) == ["0", "1"] and num_spares == "2"


def test_a_kind_with_a_size_is_asked_of_ray_by_its_label_without_the_other_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = {"small": 40, "large": 80, "silent": None}
    nodes = [
        Node(name, 8, 8, 2**40, "A100", 40 * GIB, {ray_nodes.ACCELERATOR: "A100"}, id=name, address="1.2.3.4:5")
        for name in sizes
    ]
    answers = {name: GpuAnswer("", None if size is None else size * GIB) for name, size in sizes.items()}
    monkeypatch.setattr(ray_nodes, "live_nodes", lambda: nodes)
    monkeypatch.setattr(ray_nodes, "_ANSWERS", answers)
    for kind, good in (("A100-80G", ["large"]), ("A100-40G", ["small", "silent"]), ("A100", list(sizes))):
        pool = PoolConfig(accelerator=kind)
        assert [node.host for node in ray_nodes.nodes_of(pool)] == good
        selector = ray_nodes.label_selector(pool, avoided=[])
        bad = sorted(set(sizes) - set(good))
        assert selector.get(ray_nodes.NODE_ID) == (f"!in({', '.join(bad)})" if bad else None)
        assert selector[ray_nodes.ACCELERATOR] == (f"in(A100, {kind})" if bad else "A100")


def test_the_autoscaler_is_asked_for_whole_machines_and_the_request_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(ray_nodes, "request_resources", lambda *, bundles: asked.append(bundles))
    machines = MachinesConfig(cpus_per_node=8, memory_gib_per_node=8, accelerators_per_node=4)
    ray_nodes.request_nodes([PoolConfig(num_nodes=2, machines=machines)])
    ray_nodes.request_nodes([])
    assert asked == [[{"CPU": 8, "GPU": 4}] * 2, []]


def test_of_several_kinds_the_autoscaler_is_asked_for_those_that_are_described_by_their_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(ray_nodes, "request_resources", lambda **given: asked.append(given))
    machines = MachinesConfig(cpus_per_node=8, memory_gib_per_node=8, accelerators_per_node=4)
    pool = PoolConfig(
        members=(
            KindConfig(accelerator="H100", num_nodes=2, machines=machines),
            KindConfig(accelerator="L40S"),
            KindConfig(accelerator="A100-80G", labels={"zone": "a"}, machines=machines),
        )
    )
    ray_nodes.request_nodes(pool.kinds())
    kinds = [{ray_nodes.ACCELERATOR: "in(H100)"}] * 2
    assert asked == [
        {
            "bundles": [{"CPU": 8, "GPU": 4}] * 3,
            "bundle_label_selectors": [*kinds, {"zone": "in(a)", ray_nodes.ACCELERATOR: "in(A100, A100-80G)"}],
        }
    ]


def test_work_of_a_pool_with_members_may_be_on_the_nodes_of_all_and_on_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Labels alone do not tell them apart: b has the kind of one member and the zone of the other."""
    places = {"a": ("H100", "x"), "b": ("H100", "y"), "c": ("A100", "y"), "d": ("A100", "z"), "e": ("L40S", "y")}
    nodes = [
        Node(name, 8, 8, 2**40, kind, None, {ray_nodes.ACCELERATOR: kind, "zone": zone}, id=name, address="1.2.3.4:5")
        for name, (kind, zone) in places.items()
    ]
    monkeypatch.setattr(ray_nodes, "live_nodes", lambda: nodes)
    h100, a100 = (KindConfig(accelerator=kind, labels={"zone": z}) for kind, z in (("H100", "x"), ("A100", "y")))
    pool = PoolConfig(members=(h100, a100))
    assert [[node.host for node in own] for own in ray_nodes.nodes_by_kind(pool)] == [["a"], ["c"]]
    assert ray_nodes.label_selector(pool, avoided=[nodes[2]]) == {
        ray_nodes.ACCELERATOR: "in(A100, H100)",
        "zone": "in(x, y)",
        ray_nodes.NODE_ID: "!in(b, c)",
    }
    anywhere = PoolConfig(device="gpu", members=(KindConfig(accelerator="H100"), KindConfig(labels={"zone": "y"})))
    assert ray_nodes.label_selector(anywhere, avoided=[]) == {ray_nodes.NODE_ID: "!in(d)"}


def test_the_doctor_tells_what_is_there_of_each_member_and_whether_they_go_together() -> None:
    machines = MachinesConfig(cpus_per_node=8, memory_gib_per_node=8, accelerators_per_node=8)
    members = (KindConfig(accelerator="H100"), KindConfig(accelerator="A100", num_nodes=2, machines=machines))
    gpus = [Node(name, 8, 8, 2**40, kind, id=name) for name, kind in (("a", "H100"), ("b", "A100"))]
    amd = Node("c", 8, 8, 2**40, "AMD-Instinct-MI300X-OAM", id="c")

    def findings(pool: PoolConfig, *nodes: list[Node]) -> list[tuple[str, str, str]]:
        found = pool_findings(ClusterConfig(pools={"big": pool}), {"big": list(nodes)})
        return [(finding.check, finding.level, finding.seen) for finding in found]

    h100 = ("pool big, H100", "OK", "1 nodes, 8 cores, 8 GPUs")
    missing = "1 nodes, 8 cores, 8 GPUs; missing of its machines: 1 of 2 nodes"
    a100 = ("pool big, A100", "WARN", missing)
    assert findings(PoolConfig(members=members), [gpus[0]], [gpus[1]]) == [h100, a100]
    away = "0 nodes, 0 cores; missing of its machines: 2 of 2 nodes"
    elastic = PoolConfig(members=members, min_ranks=1)
    assert findings(elastic, [gpus[0]], []) == [h100, ("pool big, A100", "WARN", away)]
    no_node = "no node has its accelerator and labels"
    assert findings(elastic, [], [gpus[1]])[0] == ("pool big, H100", "FAIL", no_node)  # nobody knows its machines
    assert findings(PoolConfig(members=members), [gpus[0]], [])[1] == ("pool big, A100", "FAIL", no_node)
    mixed = PoolConfig(members=(KindConfig(), KindConfig(labels={"kind": "other"})), untested=True)
    *_, (check, level, seen) = findings(mixed, [gpus[0]], [amd])
    assert (check, level) == ("pool big", "FAIL")
    assert seen == "the pool's members compute on AMD and NVIDIA, which cannot train together"
