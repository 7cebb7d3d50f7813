import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.connect import executor_for
from cluster.host.limits import OBJECT_STORE_BYTES, memory_bytes
from cluster.launch import slurm_script
from cluster.launch.launcher import DriverStatus, Submission
from cluster.launch.slurm import Slurm
from configs.base import ConfigError, StartUpError
from configs.cluster import ClusterConfig, fewest_nodes
from configs.launchers import SlurmLauncher
from tests.cluster.launch.submissions import ROOT, submission
from tests.slurm import Slurm as RealSlurm
from tests.slurm import needs_slurm, slurm

DRIVER = """
import os, signal, sys, time, ray
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
print("DRIVER", os.environ["HF_TOKEN"], sys.argv[1], flush=True)
if os.path.exists("saved"):
    print("DRIVER goes on", flush=True)
    sys.exit(0)
hears = signal.getsignal(signal.SIGTERM)
ray.init(address=sys.argv[2], log_to_driver=False, logging_level="ERROR")
signal.signal(signal.SIGTERM, hears)
print("DRIVER works", flush=True)
while not told:
    time.sleep(0.1)
time.sleep(2)  # longer than Ray would live after SIGTERM
nodes = [node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]]
open("saved", "w").close()
print("DRIVER saved with", *sorted(nodes), flush=True)
sys.exit(75)
"""

COUNT = """
import json, sys, ray
ray.init(address=sys.argv[2], log_to_driver=False, logging_level="ERROR")
has = [(node["Resources"].get("GPU"), node["Resources"]["memory"]) for node in ray.nodes() if node["Alive"]]
print("NODES", json.dumps(has), flush=True)
"""

OUTLIVE = """
import sys, time, ray
ray.init(address=sys.argv[2], log_to_driver=False, logging_level="ERROR")
seen = 0
while True:
    now = sum(node["Alive"] for node in ray.nodes())
    if now != seen:
        print("DRIVER sees", now, flush=True)
    seen = now
    time.sleep(0.5)
"""

LABELS = """
import sys, time, ray
ray.init(address=sys.argv[2], log_to_driver=False, logging_level="ERROR")
for node in ray.nodes():
    if node["Alive"]:
        print("NODE", node["NodeManagerHostname"], node["Labels"].get("kind"), node["Labels"].get("disk"), flush=True)
"""

SETUP = (f"export PATH={Path(sys.executable).parent}:$PATH",)


def script(directory: Path, **settings: object) -> str:
    return Slurm(SlurmLauncher(kind="slurm", **settings)).render(submission(directory, "-m", "pipeline.cli", "drive"))


def directives(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]


def test_the_script_asks_slurm_for_what_the_cluster_file_says(tmp_path):
    settings = {
        "num_nodes": 4,
        "cpus_per_node": 32,
        "gpus_per_node": 8,
        "memory_gib_per_node": 100.5,
        "partition": "gpu",
        "account": "lab",
        "qos": "high",
        "time_limit_minutes": 90,
        "signal_seconds": 120,
        "options": {"constraint": "a100", "contiguous": ""},
    }
    assert directives(script(tmp_path, **settings)) == [
        "job-name=smoke-1a2b-1",
        "nodes=4",
        "ntasks-per-node=1",
        "cpus-per-task=32",
        "gpus-per-node=8",
        "mem=102912M",
        "partition=gpu",
        "account=lab",
        "qos=high",
        "time=90",
        f'output="{tmp_path}/run/log.txt"',
        "open-mode=append",
        "signal=B:USR1@120",
        "requeue",
        "constraint=a100",
        "contiguous",
    ]


def test_whole_nodes_are_asked_for_where_no_cores_are_named(tmp_path):
    asked = directives(script(tmp_path, requeue=False))
    assert "exclusive" in asked and "no-requeue" in asked and not [line for line in asked if line.startswith("cpus")]
    assert "mem=0" in asked  # the partition's default is rarely all there is
    assert "mem=2048M" in directives(script(tmp_path, memory_gib_per_node=2))
    assert not [line for line in directives(script(tmp_path, cpus_per_node=2)) if line.startswith("mem")]


def test_an_allocation_may_lose_nodes_where_a_fewest_number_is_given(tmp_path):
    asked = directives(script(tmp_path, num_nodes=8, min_nodes=3))
    assert "nodes=3-8" in asked and "no-kill" in asked
    assert not [line for line in asked if line.startswith("ntasks")]  # Slurm 22.05 would take the fewest nodes
    assert "no-kill" not in directives(script(tmp_path, num_nodes=8))


@pytest.mark.parametrize(
    ("launcher", "pools", "fewest"),
    [
        ({}, {"default": {}}, 4),
        ({"gpus_per_node": 8}, {"default": {"min_ranks": 9}}, 2),
        ({"gpus_per_node": 8}, {"default": {"min_ranks": 9}, "eval": {}}, 2),
        ({"gpus_per_node": 8}, {"cpus": {"device": "cpu"}, "default": {"min_ranks": 9}}, 2),
        ({"gpus_per_node": 8}, {"default": {"min_ranks": 9}, "eval": {"num_ranks": 24}}, 3),
        ({"gpus_per_node": 8, "cpus_per_node": 8}, {"default": {"min_ranks": 16, "cpus_per_rank": 2}}, 4),
        ({"cpus_per_node": 8}, {"default": {"min_ranks": 9, "cpus_per_rank": 2}}, 3),
        ({"min_nodes": 1}, {"default": {"min_ranks": 2}}, 1),
        (  # of two kinds that Slurm is asked for together, the larger first
            {},
            {
                "default": {
                    "min_ranks": 20,
                    "members": [
                        {"labels": {"kind": kind}, "machines": {"cpus_per_node": cores, "memory_gib_per_node": 8}}
                        | more
                        for kind, cores, more in (("small", 4, {}), ("large", 8, {"num_nodes": 1}))
                    ],
                }
            },
            4,
        ),
        (
            {},
            {
                "default": {
                    "min_ranks": 16,
                    "num_nodes": 4,
                    "machines": {
                        "cpus_per_node": 8,
                        "memory_gib_per_node": 8,
                        "accelerators_per_node": 8,
                    },
                }
            },
            2,
        ),
    ],
)
def test_the_fewest_nodes_hold_the_fewest_ranks(launcher, pools, fewest):
    machines = ClusterConfig.model_validate({"launcher": {"kind": "slurm", "num_nodes": 4, **launcher}, "pools": pools})
    assert isinstance(machines.launcher, SlurmLauncher)
    assert fewest_nodes(machines.launcher, machines.pools) == fewest


def test_a_launcher_that_asks_for_gpus_wants_them():
    """A broken driver on a node would else train on its CPUs, with a line in the log."""
    asks = {"launcher": {"kind": "slurm", "gpus_per_node": 8}}
    machines = ClusterConfig.model_validate(asks | {"pools": {"default": {}, "cpus": {"device": "cpu"}}})
    assert machines.pool("default").wants_gpus and not machines.pool("cpus").wants_gpus
    executor = executor_for(machines, "default")
    assert executor._pool.device == "gpu"
    assert not ClusterConfig().pool("default").wants_gpus


@pytest.mark.parametrize(
    ("launcher", "pool", "problem"),
    [
        ({"min_nodes": 5}, {}, r"launcher.min_nodes is 5, more than num_nodes, 4"),
        ({}, {"min_ranks": 2}, r"nothing says how many nodes hold the ranks of each pool; set launcher.min_nodes"),
        ({"gpus_per_node": 8}, {"min_ranks": 99}, r"the pools want at least 13 nodes .* launcher.num_nodes is 4"),
    ],
)
def test_a_range_of_nodes_that_cannot_be_is_refused(launcher, pool, problem):
    with pytest.raises(ValueError, match=problem):
        ClusterConfig.model_validate(
            {"launcher": {"kind": "slurm", "num_nodes": 4, **launcher}, "pools": {"default": pool}}
        )


def test_the_script_is_bash_whatever_is_in_names_and_setup(tmp_path):
    text = script(tmp_path / "it's 100% $HOME", setup=("module load cuda", 'echo "$(date)"'))
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert "100%% $HOME" in next(line for line in directives(text) if line.startswith("output"))


def test_what_has_spaces_is_quoted_and_a_path_that_cannot_be_is_refused(tmp_path):
    asked = directives(script(tmp_path, options={"comment": "two words # of it", "constraint": "a100"}))
    assert asked[-2:] == ['comment="two words # of it"', "constraint=a100"]
    with pytest.raises(ConfigError, match="which sbatch cannot read; give another store"):
        script(tmp_path / 'a "b"')


def test_a_machine_without_slurm_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no `sbatch` on this machine's PATH; submit from a login node"):
        Slurm(SlurmLauncher(kind="slurm")).check()


TOLD_OFTEN = """
eval "$(sed -n '/^asked_to_end()/,/^}/p; /^wait_for_driver()/,/^}/p' "$1")"
signalled= told= driver=
trap asked_to_end USR1
"$2" -c '
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), sys.exit(75)))
print("up", flush=True)
time.sleep(60)' &
driver=$!
wait_for_driver
echo "code $code"
"""


def test_a_job_that_is_told_to_end_many_times_ends_with_the_driver_s_code():
    """Each node's step hears of a pre-emption and tells the script: signals come while others are handled."""
    job = ["bash", "-c", TOLD_OFTEN, "job", str(Path(slurm_script.__file__).with_name("slurm_job.sh")), sys.executable]
    for seconds in (0, 0, 0.0001, 0.0001, 0.0005, 0.0005) * 2:
        with subprocess.Popen(job, stdout=subprocess.PIPE, text=True) as told:
            assert told.stdout is not None and told.stdout.readline() == "up\n"
            for _ in range(30):
                told.send_signal(signal.SIGUSR1)
                time.sleep(seconds)
            assert told.stdout.read() == "code 75\n"


def unlike(directory: Path, *command: str, pools: dict[str, object], **launcher: object) -> tuple[Slurm, Submission]:
    """A launcher and a submission of a cluster file with these pools."""
    told = {"kind": "slurm", "setup": SETUP, **launcher}
    machines = ClusterConfig.model_validate({"launcher": told, "pools": pools})
    assert isinstance(machines.launcher, SlurmLauncher)
    return Slurm(machines.launcher), replace(submission(directory, *command, HF_TOKEN="sesame"), cluster=machines)


H100 = {"accelerator": "H100", "num_nodes": 2, "slurm": {"constraint": "h100&nvme", "gpus_per_node": 8}}
A100 = {"accelerator": "A100-80G", "num_nodes": 1, "slurm": {"partition": "old", "options": {"gres": "gpu:a100:4"}}}


def test_a_job_has_a_component_for_each_kind_of_nodes(tmp_path):
    pools = {
        "default": {"device": "cpu", "num_nodes": 3, "slurm": {"gpus_per_node": 0, "memory_gib_per_node": 1}},
        "gpus": {"members": [H100, A100], "num_ranks": 8},
        "eval": {**A100, "num_nodes": 2},  # shares the nodes of the second member, and wants one more
    }
    asks = {"cpus_per_node": 32, "partition": "new", "account": "lab", "time_limit_minutes": 90}
    job, submitted = unlike(tmp_path, pools=pools, **asks, options={"comment": "all"})
    text = job.render(submitted)
    log = f'output="{tmp_path}/run/log.txt"'
    assert [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")] == [
        "--job-name=smoke-1a2b-1",
        *("--nodes=3", "--ntasks-per-node=1", "--cpus-per-task=32", "--mem=1024M", "--partition=new"),
        *("--account=lab", "--time=90", f"--{log}", "--open-mode=append", "--signal=B:USR1@180", "--requeue"),
        "--comment=all",
        "hetjob",
        *("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=32", "--gpus-per-node=8", "--partition=new"),
        *("--account=lab", "--time=90", "--requeue", "--comment=all", "--constraint=h100&nvme"),
        "hetjob",
        *("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=32", "--partition=old"),
        *("--account=lab", "--time=90", "--requeue", "--comment=all", "--gres=gpu:a100:4"),
    ]
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_pools_that_need_the_same_nodes_are_one_component(tmp_path):
    pools = {
        "default": {"accelerator": "H100", "num_nodes": 4, "labels": {"kind": "h"}},
        "more": {"accelerator": "H100", "num_nodes": 2, "labels": {"kind": "h"}, "num_ranks": 1},
        "eval": {"device": "cpu", "num_nodes": 1},  # any node does
    }
    text = (lambda job, submitted: job.render(submitted))(*unlike(tmp_path, pools=pools))
    assert "nodes=4" in directives(text) and "hetjob" not in text.partition("setup()")[0]
    assert "labels=(kind=h)" in text


@pytest.mark.parametrize(
    ("pools", "number"),
    [
        ({"default": {}}, 1),
        ({"default": {"num_nodes": 3}}, 3),
        ({"default": {"accelerator": "H100"}, "eval": {"accelerator": "A100"}}, 1),  # nobody says how many of each
    ],
)
def test_a_job_of_one_kind_has_the_nodes_of_its_pools(tmp_path, pools, number):
    job, submitted = unlike(tmp_path, pools=pools)
    assert f"nodes={number}" in directives(job.render(submitted))


@pytest.mark.parametrize(
    ("launcher", "members", "problem"),
    [
        ({"num_nodes": 2}, [H100, A100], r"launcher.num_nodes is 2, and the pools ask for 3 nodes .*; leave it out"),
        ({"min_nodes": 1}, [H100, A100], r"launcher.min_nodes is for nodes of one kind, .*; leave min_nodes out"),
        ({}, [H100, {**A100, "num_nodes": None}], r"pools.default: nothing says how many nodes its member 2 has"),
        (
            {},
            [{"accelerator": "H100", "num_nodes": 1}, {"accelerator": "A100", "num_nodes": 1}],
            r"same nodes for H100 and for A100; say under `slurm` of their pool or member what tells them apart: part",
        ),
    ],
)
def test_kinds_of_nodes_that_cannot_be_asked_for_are_refused(launcher, members, problem):
    with pytest.raises(ValueError, match=problem):
        ClusterConfig.model_validate(
            {"launcher": {"kind": "slurm", **launcher}, "pools": {"default": {"members": members}}}
        )


def test_an_elastic_job_of_several_kinds_begins_with_all_its_nodes(tmp_path):
    """Slurm 22.05 ends the first component of a job that loses a node, whatever --no-kill says."""
    job, submitted = unlike(tmp_path, pools={"default": {"members": [H100, A100], "min_ranks": 2}}, cpus_per_node=8)
    text = job.render(submitted)
    assert "fewest=3 " in text and "no-kill" not in directives(text) and "nodes=2" in directives(text)


def test_a_kind_for_which_gpus_are_asked_wants_them():
    pools = {"default": {"members": [H100, {**A100, "slurm": {"gpus_per_node": 4}}]}, "cpus": {"slurm": {}}}
    told = {"launcher": {"kind": "slurm"}, "pools": {**pools, "cpus": {"num_nodes": 1, "slurm": {"partition": "c"}}}}
    machines = ClusterConfig.model_validate(told)
    assert [kind.device for kind in machines.pool("default").kinds()] == ["gpu", "gpu"]
    assert machines.pool("cpus").device == "auto"


def test_a_cluster_file_with_members_is_the_same_when_it_is_read_back():
    """A run writes it down with every default, and a member's own would take the place of what the pool says."""
    pool = {"labels": {"kind": "x"}, "max_restarts": 9, "members": [H100, {**A100, "labels": {"kind": "y"}}]}
    machines = ClusterConfig.model_validate({"launcher": {"kind": "slurm"}, "pools": {"default": pool}})
    again = ClusterConfig.model_validate(machines.model_dump(mode="json"))
    assert again.model_dump(mode="json") == machines.model_dump(mode="json")
    assert [kind.labels for kind in again.pools["default"].kinds()] == [{"kind": "x"}, {"kind": "y"}]


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Iterator[tuple[RealSlurm, Path]]:
    """A Slurm of two nodes, found by SLURM_CONF, and a directory that they share."""
    directory = tmp_path_factory.mktemp("slurm")
    with slurm(directory, 2, gpus=2, grace_seconds=60) as cluster, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(cluster.conf))
        yield cluster, directory
        assert [leftover for node in cluster.nodes for leftover in node.temp.glob("ray-*")] == []


def launcher(**settings: object) -> Slurm:
    return Slurm(SlurmLauncher(kind="slurm", **({"num_nodes": 2, "cpus_per_node": 1, "setup": SETUP} | settings)))


def sent(directory: Path, name: str) -> Submission:
    return submission(directory / name, "-c", DRIVER, HF_TOKEN="sesame")


def until(happened: Callable[[], bool], submitted: Submission) -> None:
    deadline = time.monotonic() + 250
    while not happened():
        assert time.monotonic() < deadline, submitted.log.read_text() if submitted.log.exists() else "no log"
        time.sleep(0.2)


def says(submitted: Submission, words: str) -> bool:
    return submitted.log.exists() and words in submitted.log.read_text()


@pytest.mark.timeout(600)  # Ray comes up four times, on cores that may have much else to do
@needs_slurm
def test_a_pre_empted_job_saves_on_all_its_nodes_is_queued_again_and_goes_on(real):
    cluster, directory = real
    job, submitted = launcher(time_limit_minutes=60), sent(directory, "preempted")
    job.check()
    handle = job.submit(submitted)
    submitted.log.with_name("smoke-1a2b-1.slurm.json").unlink()  # as if it had been cut off before it could note it
    assert job.submit(submitted) == handle
    until(lambda: says(submitted, "DRIVER works"), submitted)
    assert job.status(handle) == DriverStatus("running", "RUNNING")
    cluster.preempt()  # SIGTERM to the steps that run Ray
    until(lambda: says(submitted, "DRIVER saved with host1 host2"), submitted)
    until(lambda: job.status(handle).state == "ended", submitted)
    assert job.status(handle) == DriverStatus("ended", "COMPLETED, exit code 0")
    assert says(submitted, "DRIVER goes on") and cluster.restarts(str(json.loads(handle)["job"])) == 1
    assert (submitted.log.with_name("smoke-1a2b-1.code")).read_text().split() == ["75", "0"]
    files = [path for path in submitted.log.parent.iterdir() if path != submitted.log]
    assert not [path for path in files if path.suffix == ".token" or "sesame" in path.read_text()]


@needs_slurm
@pytest.mark.parametrize(
    ("asked", "number"),
    [
        ({"cpus_per_node": None}, 2.0),
        pytest.param({"gpus_per_node": 1}, 1.0, marks=pytest.mark.long),
        pytest.param({}, None, marks=pytest.mark.long),
    ],
)
def test_the_ray_of_a_job_has_the_gpus_of_its_nodes_and_the_memory_that_it_may_use(real, asked, number):
    """Slurm gives a step of whole nodes (--exclusive) none of their GPUs, unless the step asks for them itself."""
    _, directory = real
    submitted = submission(directory / f"gpus-{number}", "-c", COUNT)
    job = launcher(**asked)
    handle = job.submit(submitted)
    until(lambda: job.status(handle).state == "ended", submitted)
    (line,) = [line for line in submitted.log.read_text().splitlines() if line.startswith("NODES ")]
    nodes = json.loads(line.removeprefix("NODES "))
    assert [gpus for gpus, _ in nodes] == [number] * 2
    assert [memory for _, memory in nodes] == [memory_bytes()[1] - OBJECT_STORE_BYTES] * 2


UNLIKE = {"members": [{"num_nodes": 1, "labels": {"kind": name, "disk": f"disk-{name}"}} for name in ("one", "other")]}


@pytest.mark.timeout(400)
@needs_slurm
def test_the_nodes_of_each_component_have_the_labels_of_their_kind(real):
    _, directory = real
    job, submitted = unlike(directory / "labels", "-c", LABELS, pools={"default": UNLIKE}, cpus_per_node=1)
    handle = job.submit(submitted)
    until(lambda: job.status(handle).state == "ended", submitted)
    assert job.status(handle).detail == "COMPLETED, exit code 0", submitted.log.read_text()
    seen = sorted(line.split()[2:] for line in submitted.log.read_text().splitlines() if line.startswith("NODE "))
    assert seen == [["one", "disk-one"], ["other", "disk-other"]]


@pytest.mark.long
@pytest.mark.timeout(400)
@needs_slurm
@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        (({"gpus_per_node": 2}, {"gpus_per_node": 1}), [1.0, 2.0]),
        (({}, {"options": {"gres": "gpu:1"}}), [0.0, 1.0]),
        (({"gpus_per_node": 1}, {}), [0.0, 1.0]),
    ],
)
def test_the_nodes_of_each_component_have_the_gpus_that_it_asks_for(real, asked, numbers):
    _, directory = real
    pools = {
        f"pool-{number}": {"device": "cpu", "num_nodes": 1, "labels": {"kind": f"{number}"}, "slurm": slurm}
        for number, slurm in enumerate(asked)
    }
    name = "-".join(str(number) for number in (*numbers, *map(len, asked)))
    job, submitted = unlike(directory / name, "-c", COUNT, pools=pools, cpus_per_node=1)
    handle = job.submit(submitted)
    until(lambda: job.status(handle).state == "ended", submitted)
    (line,) = [line for line in submitted.log.read_text().splitlines() if line.startswith("NODES ")]
    assert sorted(gpus or 0.0 for gpus, _ in json.loads(line.removeprefix("NODES "))) == numbers


RECIPE = """\
name: toy
store: store
steps:
  corpus: {stage: clean, config: {sources: [{name: words, kind: json_lines, paths: [words.jsonl], language: en}]}}
  tokenizer: {stage: train_tokenizer, pool: other, inputs: {corpus: corpus}, config: {vocab_size: 300}}
  tokens: {stage: tokenize, pool: both, inputs: {corpus: corpus, tokenizer: tokenizer}}
"""
CLUSTER = """\
launcher: {kind: slurm, cpus_per_node: 1}
pools:
  default: {device: cpu, num_nodes: 1, labels: {kind: one}}
  other: {device: cpu, num_nodes: 1, labels: {kind: other}}
  both: {device: cpu, num_nodes: 1, members: [{labels: {kind: one}}, {labels: {kind: other}}]}
  unused: {accelerator: H100, num_nodes: 7, slurm: {partition: nowhere}}
"""


@pytest.mark.long
@pytest.mark.timeout(400)
@needs_slurm
def test_a_run_is_submitted_to_two_components_and_its_steps_use_the_nodes_of_their_pools(real, monkeypatch):
    cluster, directory = real
    where = directory / "whole"
    where.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    texts = (f"document number {number} says something of its own, to be learned from" for number in range(200))
    (where / "words.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (where / "toy.yaml").write_text(RECIPE)
    (where / "mine.yaml").write_text(CLUSTER)
    words = ["submit", "toy.yaml", "--cluster", "mine.yaml", "--id", "whole", "--no-check"]
    command = [sys.executable, "-m", "pipeline.cli", *words]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    assert "pool 'unused' is used by no step that is to be made; nodes" in done.stdout, done.stdout + done.stderr
    (handle,) = (json.loads(file.read_text()) for file in where.glob("store/runs/whole/**/*.slurm.json"))
    assert cluster.wait_for(str(handle["job"]), "COMPLETED", timeout=250) == "COMPLETED"
    records = [json.loads(file.read_text()) for file in where.glob("store/*/record.json")]
    nodes = {record["step"]: record["placement"]["found"].count("1 node ") for record in records}
    assert nodes == {"corpus": 1, "tokenizer": 1, "tokens": 2}


@pytest.mark.long
@pytest.mark.timeout(600)
@needs_slurm
@pytest.mark.parametrize("victim", [0, 1])
def test_a_job_of_two_components_saves_when_it_is_pre_empted_and_goes_on(real, victim):
    cluster, directory = real
    job, submitted = unlike(directory / f"two-{victim}", "-c", DRIVER, pools={"default": UNLIKE}, cpus_per_node=1)
    handle = job.submit(submitted)
    submitted.log.with_name("smoke-1a2b-1.slurm.json").unlink()
    assert job.submit(submitted) == handle
    until(lambda: says(submitted, "DRIVER works"), submitted)
    cluster.call("sbatch", "--partition=urgent", f"--nodelist=host{victim + 1}", "--output=/dev/null", "--wrap=sleep 1")
    until(lambda: says(submitted, "DRIVER saved with host1 host2"), submitted)
    until(lambda: job.status(handle).state == "ended", submitted)
    assert job.status(handle) == DriverStatus("ended", "COMPLETED, exit code 0")
    assert says(submitted, "DRIVER goes on")


@pytest.mark.long
@pytest.mark.timeout(400)
@needs_slurm
def test_a_job_of_two_components_that_loses_a_node_is_queued_again_with_another(tmp_path, monkeypatch):
    with slurm(tmp_path, 3, node_timeout_seconds=5) as cluster:
        monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
        job, submitted = unlike(tmp_path / "loss", "-c", OUTLIVE, pools={"default": UNLIKE}, cpus_per_node=1)
        handle = job.submit(submitted)
        until(lambda: says(submitted, "DRIVER sees 2"), submitted)
        cluster.nodes[1].power_off()
        until(lambda: says(submitted, "start 2, on host1 host3"), submitted)
        until(lambda: submitted.log.read_text().count("DRIVER sees 2") == 2, submitted)
        job.stop(handle)
        until(lambda: job.status(handle).state == "ended", submitted)


@pytest.mark.long
@pytest.mark.timeout(400)
@needs_slurm
def test_an_elastic_job_outlives_the_loss_of_a_node(tmp_path, monkeypatch):
    """Slurm ends a job that loses a node, unless it was told not to."""
    with slurm(tmp_path, 2, node_timeout_seconds=5) as cluster:
        monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
        submitted = submission(tmp_path / "elastic", "-c", OUTLIVE)
        job = launcher(min_nodes=1, requeue=False)
        handle = job.submit(submitted)
        until(lambda: says(submitted, "DRIVER sees 2"), submitted)
        cluster.nodes[1].power_off()
        until(lambda: says(submitted, "DRIVER sees 1"), submitted)
        until(lambda: "down" in cluster.call("sinfo", "--noheader", "--Node", "--format=%T"), submitted)
        time.sleep(5)  # in which Slurm would end it
        assert job.status(handle).state == "running"
        job.kill(handle)


@needs_slurm
def test_a_job_that_somebody_stops_saves_and_is_not_queued_again(real):
    _, directory = real
    job, submitted = launcher(), sent(directory, "stopped")
    handle = job.submit(submitted)
    until(lambda: says(submitted, "DRIVER works"), submitted)
    job.stop(handle)
    until(lambda: job.status(handle).state == "ended", submitted)
    assert job.status(handle).detail.endswith("exit code 75") and says(submitted, "DRIVER saved with host1 host2")
    assert "queued again" not in job.last_output(handle)
    job.stop(handle)


@needs_slurm
def test_a_job_that_waits_is_taken_out_of_the_queue_and_a_bad_one_refused(real):
    cluster, directory = real
    submitted = sent(directory, "waiting")
    job = launcher(options={"begin": "now+1hour"})
    handle = job.submit(submitted)
    until(lambda: job.status(handle) == DriverStatus("waiting", "PENDING (BeginTime)"), submitted)
    job.stop(handle)
    assert job.status(handle).state == "ended"
    with pytest.raises(ConfigError, match=r"Slurm takes no such job: .*partition"):
        launcher(partition="nowhere").submit(sent(directory, "refused"))
    assert cluster.call("squeue", "--noheader") == ""


@pytest.mark.skipif(shutil.which("scontrol") is None, reason="needs Slurm's commands (apt-get install slurm-client)")
def test_a_controller_that_does_not_answer_is_told(tmp_path, monkeypatch):
    (tmp_path / "slurm.conf").write_text("ClusterName=none\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort=1\n")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    with pytest.raises(StartUpError, match="controller does not answer"):
        Slurm(SlurmLauncher(kind="slurm")).check()
