"""The cluster of hosts (tests/hosts.py) and the run on it, for host_faults.py, elastic_hosts.py and launchers.py."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

from tests.hosts import Host, ray_head, ray_join, ray_stop, ray_token, ray_variables
from tests.slurm import Slurm
from training.log.metrics_file import METRICS_FILE, StepMetrics, read_last_metrics, read_metrics
from training.log.sessions_file import GangStart, read_session_events

ROOT = Path(__file__).parents[1]
CHECKPOINT_EVERY_STEPS = 5
LIMIT_SECONDS = 300.0
RANK = r"^ray::RankProcess\.run"

RECIPE = """
name: faults
store: {store}
steps:
  corpus:
    stage: clean
    config:
      sources: [{{name: science, kind: docstrings, packages: [networkx], language: en}}]
      held_out: {{share: 0.005}}
  tokenizer:
    stage: train_tokenizer
    inputs: {{corpus: corpus}}
    config: {{vocab_size: 1024, sample_bytes: 500000}}
  tokens:
    stage: tokenize
    inputs: {{corpus: corpus, tokenizer: tokenizer}}
"""
MODEL = """
  model:
    stage: train
    inputs: {{tokens: tokens, tokenizer: tokenizer}}
    config:
      model: {{hidden_size: 128, intermediate_size: 352, num_layers: 4, num_attention_heads: 4}}
      sequence_length: 128
      global_batch_size: 16
      num_steps: {steps}
      precision: fp32
      optimizer: {{learning_rate: 1e-3}}
      schedule: {{kind: cosine, num_warmup_steps: 10}}
      checkpoint_every_steps: {every}
"""
CLUSTER = """
launcher: {launcher}
retries: {{backoff_seconds: 1}}
pools:
  default: {{{ranks}, cpus_per_rank: 1, zero_stage: 1, micro_batch_size: 4, hang_timeout_seconds: {hang},
    grace_seconds: 20, max_restarts: 20, start_timeout_seconds: 120}}
"""


class RunStuck(Exception):
    """A run makes no progress within LIMIT_SECONDS; the message has the end of its logs."""


@dataclass
class Cluster:
    """Hosts of one core; the first is the head of a Ray or Slurm cluster."""

    hosts: list[Host]
    launcher: str
    """The `launcher` of the cluster file, as YAML."""

    environment: dict[str, str]
    """Environment variables of commands on the head."""

    @property
    def head(self) -> Host:
        """The host that drivers run on."""
        return self.hosts[0]

    @property
    def token(self) -> Path:
        """File of the Ray cluster's token."""
        return Path(self.environment["RAY_AUTH_TOKEN_PATH"])

    def start(self) -> None:
        """Start the Ray cluster, or start it again."""
        for host in self.hosts:
            ray_stop(host)
        address = ray_head(self.head, self.token, dashboard=True)
        for host in self.hosts[1:]:
            ray_join(host, address, self.token)

    def rejoin(self, host: Host) -> None:
        """Restart a host and have it join as if it were new."""
        host.mend()
        host.power_off()
        ray_join(host, f"{self.head.address}:6379", self.token)

    def find_host_with_rank(self) -> Host:
        """Return a host that runs a rank, other than the head unless that is the only one."""
        return next(host for host in self.hosts[1:] or self.hosts if self.rank_pids(host))

    def rank_pids(self, host: Host) -> list[int]:
        """Return the process ids of the ranks on a host."""
        return [pid for pid, args in host.processes().items() if re.search(RANK, args)]


@dataclass
class Run:
    """One training on the cluster, in a store of its own."""

    cluster: Cluster
    directory: Path
    name: str

    def prepare(self, steps: int, data: Path, *, ranks: str = "num_ranks: 2", hang_seconds: float = 120) -> None:
        """Write the run's store, with the data in it, its recipe and its cluster file."""
        copytree(data, self.store)
        text = RECIPE.format(store=self.store) + MODEL.format(steps=steps, every=CHECKPOINT_EVERY_STEPS)
        self.path("recipe").write_text(text, encoding="utf-8")
        text = CLUSTER.format(launcher=self.cluster.launcher, ranks=ranks, hang=hang_seconds)
        self.path("cluster").write_text(text, encoding="utf-8")

    def path(self, what: str) -> Path:
        """Return the path of a file of the run that is not in its store."""
        return self.directory / f"{self.name}-{what}.yaml"

    @property
    def store(self) -> Path:
        """The run's store, which all hosts share, as they share all of `directory`."""
        return self.directory / self.name

    @property
    def out(self) -> Path:
        """The directory of the `train` artifact."""
        return next(iter(self.store.glob("train-*")), self.store / "train")

    def command(self, *words: str) -> str:
        """Run a `concord` command on the head and return what it printed."""
        command, env = [sys.executable, "-m", "pipeline.cli", *words], self.cluster.environment
        return self.cluster.head.call(command, env=env, timeout=LIMIT_SECONDS)

    def submit(self) -> None:
        """Run `concord submit`."""
        files = str(self.path("recipe")), "--cluster", str(self.path("cluster"))
        self.command("submit", *files, "--id", self.name, "--no-check")

    def resume(self) -> None:
        """Run `concord resume` as soon as `concord status` says that the run has ended."""
        self.wait_for(lambda: self.state() not in ("waiting", "starting", "running"), pause=1.0)
        self.command("resume", self.name, "--store", str(self.store), "--yes", "--no-check")

    def state(self) -> str:
        """Return the run's state by `concord status`."""
        said = self.command("status", self.name, "--store", str(self.store), "--json")
        return str(json.loads(said.splitlines()[-1])["state"])

    def last_metrics(self) -> StepMetrics | None:
        """Return the metrics of the last step."""
        return read_last_metrics(self.out / METRICS_FILE)

    def last_step(self) -> int:
        """Return the last step, or 0."""
        return line.step if (line := self.last_metrics()) else 0

    def first_step_after(self, moment: float) -> StepMetrics | None:
        """Return the metrics of the first step that was done after a Unix time."""
        lines = read_metrics(self.out / METRICS_FILE) if (self.out / METRICS_FILE).exists() else []
        return next((line for line in lines if line.time > moment), None)

    def gang_starts(self) -> list[GangStart]:
        """Return all starts of the run's ranks."""
        return [event for event in read_session_events(self.out) if isinstance(event, GangStart)]

    def finished(self) -> bool:
        """Return whether the `train` artifact is finished."""
        return (self.out / "record.json").exists()

    def wait_for(self, found: Callable[[], Any], *, pause: float = 0.05) -> Any:
        """Return what `found()` returns once it is true. Raises RunStuck after LIMIT_SECONDS."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not (result := found()):
            if time.monotonic() > deadline:
                raise RunStuck(self.command("logs", self.name, "--store", str(self.store))[-3000:])
            time.sleep(pause)
        return result


def ray_cluster(hosts: list[Host], directory: Path) -> Cluster:
    """Start a Ray cluster on the hosts, with a token."""
    launcher = f'{{kind: ray, dashboard_address: "http://{hosts[0].address}:8265"}}'
    cluster = Cluster(hosts, launcher, ray_variables(ray_token(directory)))
    cluster.start()
    return cluster


def slurm_cluster(slurm: Slurm) -> Cluster:
    """Return a cluster on which each Slurm job starts a Ray cluster on all nodes."""
    launcher = f"{{kind: slurm, num_nodes: {len(slurm.nodes)}, signal_seconds: 60, start_timeout_seconds: 180}}"
    return Cluster(slurm.nodes, launcher, {"SLURM_CONF": str(slurm.conf), "OMP_NUM_THREADS": "1"})


def local_cluster(host: Host) -> Cluster:
    """Return one host, on which each attempt starts a private Ray."""
    return Cluster([host], "{kind: local}", {"OMP_NUM_THREADS": "1"})


def make_data(directory: Path) -> Path:
    """Make a store with all steps before training; return its path."""
    store, recipe = directory / "data", directory / "data.yaml"
    recipe.write_text(RECIPE.format(store=store), encoding="utf-8")
    command = [sys.executable, "-m", "pipeline.cli", "run", str(recipe), "--cluster", "inline"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return store
