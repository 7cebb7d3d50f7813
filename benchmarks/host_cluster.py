"""The cluster of real hosts that host_faults.py strikes, and the run that it trains there."""

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
from training.log.attempts_file import Attempt, read_attempts
from training.log.metrics_file import FILE as METRICS
from training.log.metrics_file import StepMetrics, last_metrics, read_metrics

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
      held_out: {{documents_per_language: 5}}
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
  default: {{{ranks}, cpus_per_rank: 1, zero_stage: 1, micro_batch_size: 4, hang_timeout_seconds: 120,
    grace_seconds: 20, max_restarts: 20, start_timeout_seconds: 120}}
"""


class Trouble(Exception):
    """A run that does not go on."""


@dataclass
class Cluster:
    """Hosts of one core, the first of which is the head of a Ray, or of Slurm."""

    hosts: list[Host]
    launcher: str
    """As a cluster file has it."""

    environment: dict[str, str]
    """For commands."""

    @property
    def head(self) -> Host:
        """Where drivers run."""
        return self.hosts[0]

    @property
    def token(self) -> Path:
        """Of the Ray."""
        return Path(self.environment["RAY_AUTH_TOKEN_PATH"])

    def start(self) -> None:
        """Start the Ray, or start it again."""
        for host in self.hosts:
            ray_stop(host)
        address = ray_head(self.head, self.token, dashboard=True)
        for host in self.hosts[1:]:
            ray_join(host, address, self.token)

    def renew(self, host: Host) -> None:
        """Have a host join as if it were new."""
        host.mend()
        host.power_off()
        ray_join(host, f"{self.head.address}:6379", self.token)

    def with_rank(self) -> Host:
        """A host other than the head on which a rank works."""
        return next(host for host in self.hosts[1:] if self.ranks(host))

    def ranks(self, host: Host) -> list[int]:
        """The processes of ranks on a host."""
        return [pid for pid, args in host.processes().items() if re.search(RANK, args)]


@dataclass
class Run:
    """One training on the cluster, in a store of its own."""

    cluster: Cluster
    directory: Path
    name: str

    def prepare(self, steps: int, data: Path, *, ranks: str = "num_ranks: 2") -> None:
        """Its store, with the data in it, its recipe and its cluster file."""
        copytree(data, self.store)
        text = RECIPE.format(store=self.store) + MODEL.format(steps=steps, every=CHECKPOINT_EVERY_STEPS)
        self.path("recipe").write_text(text, encoding="utf-8")
        self.path("cluster").write_text(CLUSTER.format(launcher=self.cluster.launcher, ranks=ranks), encoding="utf-8")

    def path(self, what: str) -> Path:
        """A file of the run's that is not in its store."""
        return self.directory / f"{self.name}-{what}.yaml"

    @property
    def store(self) -> Path:
        """Shared by all hosts, as everything in `directory` is."""
        return self.directory / self.name

    @property
    def out(self) -> Path:
        """Where the model is made."""
        return next(iter(self.store.glob("train-*")), self.store / "train")

    def command(self, *words: str) -> str:
        """Give a `concord` command on the head; what it printed."""
        command, env = [sys.executable, "-m", "pipeline.cli", *words], self.cluster.environment
        return self.cluster.head.call(command, env=env, timeout=LIMIT_SECONDS)

    def submit(self) -> None:
        """`concord submit`."""
        files = str(self.path("recipe")), "--cluster", str(self.path("cluster"))
        self.command("submit", *files, "--id", self.name, "--no-check")

    def resume(self) -> None:
        """`concord resume`, once the run is known to have ended."""
        self.wait_for(lambda: self.state() not in ("waiting", "starting", "running"), pause=1.0)
        self.command("resume", self.name, "--store", str(self.store), "--yes", "--no-check")

    def state(self) -> str:
        """What `concord status` calls it."""
        said = self.command("status", self.name, "--store", str(self.store), "--json")
        return str(json.loads(said.splitlines()[-1])["state"])

    def last(self) -> StepMetrics | None:
        """The line of the last step."""
        return last_metrics(self.out / METRICS)

    def step(self) -> int:
        """The last step."""
        return line.step if (line := self.last()) else 0

    def first_after(self, moment: float) -> StepMetrics | None:
        """The line of the first step that was done after a Unix time."""
        lines = read_metrics(self.out / METRICS) if (self.out / METRICS).exists() else []
        return next((line for line in lines if line.time > moment), None)

    def attempts(self) -> list[Attempt]:
        """All starts of its ranks."""
        return [event for event in read_attempts(self.out) if isinstance(event, Attempt)]

    def finished(self) -> bool:
        """Whether the model is there."""
        return (self.out / "record.json").exists()

    def wait_for(self, found: Callable[[], Any], *, pause: float = 0.05) -> Any:
        """What `found()` returns once it is true."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not (result := found()):
            if time.monotonic() > deadline:
                raise Trouble(self.command("logs", self.name, "--store", str(self.store))[-3000:])
            time.sleep(pause)
        return result


def ray_cluster(hosts: list[Host], directory: Path) -> Cluster:
    """A Ray over the hosts, with a token."""
    launcher = f'{{kind: ray, dashboard_address: "http://{hosts[0].address}:8265"}}'
    cluster = Cluster(hosts, launcher, ray_variables(ray_token(directory)))
    cluster.start()
    return cluster


def slurm_cluster(slurm: Slurm) -> Cluster:
    """Each job brings a Ray up over all nodes."""
    launcher = f"{{kind: slurm, num_nodes: {len(slurm.nodes)}, signal_seconds: 60, start_timeout_seconds: 180}}"
    return Cluster(slurm.nodes, launcher, {"SLURM_CONF": str(slurm.conf), "OMP_NUM_THREADS": "1"})


def make_data(directory: Path) -> Path:
    """A store with the steps before training made."""
    store, recipe = directory / "data", directory / "data.yaml"
    recipe.write_text(RECIPE.format(store=store), encoding="utf-8")
    command = [sys.executable, "-m", "pipeline.cli", "run", str(recipe), "--cluster", "inline"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return store
