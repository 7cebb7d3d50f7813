"""What a cluster file may say: where work runs. Placement, never identity, so nothing here is hashed."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from configs.base import Config, Name
from configs.launchers import Launcher, LocalLauncher, SlurmLauncher
from configs.pools import PoolConfig
from configs.secrets import is_secret


def _no_secret(name: str) -> str:
    if is_secret(name):
        raise ValueError(
            f"{name} is a secret, which no file may hold: set it in the environment, and name it in `pass_environment`"
        )
    return name


VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]
"""Name of an environment variable."""


class WandbConfig(Config):
    """Weights & Biases: a copy of the metrics, online where the user has logged in, else kept on disk."""

    project: str = Field(default="concord", min_length=1)
    """Project to log to."""

    entity: str | None = None
    """User or team; the account's default if left out."""

    mode: Literal["auto", "online", "offline"] = "auto"
    """`auto` is online when an API key is there, else offline."""


class RetriesConfig(Config):
    """How often a run that was submitted is begun again by itself, by what ended it. A user's error, running out of
    memory and a bug end it at once."""

    infrastructure: int = Field(default=5, ge=0)
    """Ray or a node has failed, or the driver was killed."""

    preemption: int = Field(default=100, ge=0)
    """Somebody else asked for the machines."""

    start_up: int = Field(default=3, ge=0)
    """The resources did not come in time, or the cluster did not answer."""

    backoff_seconds: float = Field(default=5, ge=0)
    """Wait before the first of a class; doubled each time."""

    max_backoff_seconds: float = Field(default=300, ge=0)
    """No wait is longer."""


class StorageConfig(Config):
    """For a store that is a URL."""

    work_dir: str = Field(default=".concord", min_length=1)
    """A directory that all nodes share: what is being made, and a cache of what is in the store."""

    num_transfers: int = Field(default=8, ge=1)
    """Files sent or fetched at a time."""


class ClusterConfig(Config):
    """Where a run takes place."""

    executor: Literal["ray", "inline"] = "ray"
    """`ray` runs work in parallel, on this machine or a cluster; `inline` in this process, one item at a time."""

    ray_address: str = "local"
    """`local` starts a private Ray on this machine for the time of the run; `host:port` joins a running one."""

    allow_no_token: bool = False
    """Use a Ray on another machine although it wants no token. Whoever reaches it can run any code on it."""

    launcher: Launcher = LocalLauncher()
    """How `concord submit` starts the run."""

    pools: dict[Name, PoolConfig] = {"default": PoolConfig()}
    """Pools by name; a step's `pool` names one."""

    storage: StorageConfig = StorageConfig()
    """How a store that is a URL is used."""

    environment: dict[Annotated[VariableName, AfterValidator(_no_secret)], str] = {}
    """Variables for the driver and all it starts, such as NCCL_SOCKET_IFNAME. Workers of a Ray that is joined by
    `ray_address` have those that it was started with."""

    pass_environment: tuple[VariableName, ...] = ("WANDB_API_KEY", "HF_TOKEN", "RAY_AUTH_TOKEN_PATH")
    """Variables that `concord submit` passes on from its own environment, secrets among them, where they are set."""

    time_limit_minutes: float | None = Field(default=None, gt=0)
    """A submitted run that takes longer, over all its attempts, saves a checkpoint and ends."""

    retries: RetriesConfig = RetriesConfig()
    """How often a submitted run is begun again by itself."""

    wandb: WandbConfig | None = None
    """Where to copy training metrics; null keeps them in metrics.jsonl alone."""

    @model_validator(mode="after")
    def _slurm_warns_in_time(self) -> Self:
        if isinstance(self.launcher, SlurmLauncher):
            grace = max((pool.grace_seconds for pool in self.pools.values()), default=0)
            if self.launcher.signal_seconds <= grace:
                raise ValueError(
                    f"launcher.signal_seconds is {self.launcher.signal_seconds}, and a pool's grace_seconds {grace:g}: "
                    "Slurm would end the job before a checkpoint is saved; set signal_seconds higher"
                )
        return self
