"""What cluster files and recipes must not contain: secrets, unsafe names, impossible numbers."""

import pytest
from pydantic import ValidationError

from configs.cluster import ClusterConfig
from configs.launchers import SlurmLauncher
from configs.pools import MachinesConfig, PoolConfig
from configs.run import RunConfig
from configs.secrets import SECRET_NAME

STEP = {"stage": "export", "inputs": {}}


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "db_password", "SSH_KEY"])
def test_a_secret_in_a_cluster_file_is_refused(name):
    with pytest.raises(ValidationError, match=f"{name} is a secret, which no file may hold"):
        ClusterConfig(environment={name: "x"})


@pytest.mark.parametrize("name", ["NCCL_SOCKET_IFNAME", "RAY_AUTH_TOKEN_PATH", "MONKEYS", "TOKENIZERS_PARALLELISM"])
def test_what_is_no_secret_is_taken(name):
    assert ClusterConfig(environment={name: "x"}).environment == {name: "x"}


def test_slurm_must_warn_earlier_than_a_checkpoint_takes():
    slurm = {"kind": "slurm", "signal_seconds": 60}
    with pytest.raises(ValidationError, match="signal_seconds is 60, and a pool's grace_seconds 60"):
        ClusterConfig.model_validate({"launcher": slurm})
    ClusterConfig.model_validate({"launcher": slurm, "pools": {"default": {"grace_seconds": 59}}})


MACHINES = {"cpus_per_node": 8, "memory_gib_per_node": 64, "accelerators_per_node": 8}
SLURM = {"kind": "slurm", "signal_seconds": 120}


@pytest.mark.parametrize(
    ("launcher", "pool", "problem"),
    [
        (SLURM | {"gpus_per_node": 4}, {}, "pool 'default': gpus_per_node is 4, and accelerators_per_node .* is 8"),
        (SLURM, {"slurm": {"gpus_per_node": 4}}, "gpus_per_node is 4, and accelerators_per_node"),
        (SLURM | {"gpus_per_node": 8}, {}, ""),
        (SLURM | {"gpus_per_node": 4}, {"device": "cpu"}, ""),
        (SLURM | {"gpus_per_node": 4}, {"slurm": {"options": {"gres": "gpu:a100:8"}}}, ""),
    ],
)
def test_a_job_asks_for_the_gpus_that_the_machines_have(launcher, pool, problem):
    told = {"launcher": launcher, "pools": {"default": {"machines": MACHINES, "num_nodes": 1} | pool}}
    if not problem:
        ClusterConfig.model_validate(told)
        return
    with pytest.raises(ValidationError, match=problem):
        ClusterConfig.model_validate(told)


@pytest.mark.parametrize(
    "settings",
    [
        {"partition": "gpu\n#SBATCH --uid=0"},
        {"account": "a b"},
        {"qos": 'a"'},
        {"options": {"comment": "a\nb"}},
        {"options": {"wrap\n": ""}},
        {"cpus_per_node": 10**8},
        {"memory_gib_per_node": 1e300},
    ],
)
def test_what_would_break_a_batch_script_or_a_plan_is_refused(settings):
    with pytest.raises(ValidationError):
        SlurmLauncher(kind="slurm", **settings)


@pytest.mark.parametrize("settings", [{"cpus_per_node": 10**8}, {"memory_gib_per_node": 1e300}])
def test_machines_that_cannot_be_are_refused(settings):
    with pytest.raises(ValidationError):
        MachinesConfig(**{"cpus_per_node": 1, "memory_gib_per_node": 1} | settings)


@pytest.mark.parametrize("name", ["A B", "1A", "A=B", "", "A\nB"])
def test_a_variable_that_is_no_name_is_refused(name):
    with pytest.raises(ValidationError):
        ClusterConfig(environment={name: "x"})
    with pytest.raises(ValidationError):
        ClusterConfig(pass_environment=(name,))


def test_the_variables_that_are_passed_on_are_secrets_or_paths():
    passed = ClusterConfig().pass_environment
    assert all(SECRET_NAME.search(name) for name in passed)


def test_fewer_ranks_than_the_least_are_refused():
    with pytest.raises(ValidationError, match="min_ranks is 3, more than num_ranks, 2"):
        PoolConfig(num_ranks=2, min_ranks=3)


def test_an_offloaded_optimizer_needs_a_stage_that_shards_it():
    PoolConfig(offload_optimizer=True)
    with pytest.raises(ValidationError, match="offload_optimizer is for ZeRO stages 1 to 3"):
        PoolConfig(offload_optimizer=True, zero_stage=0)


@pytest.mark.parametrize("store", ["s3://me:secret@bucket/x", "https://key@host/x"])
def test_a_store_with_a_password_is_refused(store):
    with pytest.raises(ValidationError, match="must hold no user and password"):
        RunConfig(name="r", store=store, steps={"e": STEP})


@pytest.mark.parametrize("store", ["s3://bucket/x", "store", "/data/a@b", "memory://x"])
def test_a_store_without_one_is_taken(store):
    assert RunConfig(name="r", store=store, steps={"e": STEP}).store == store


@pytest.mark.parametrize("name", ["../x", "a/b", ".x", "a b", "", "x" * 101, "a\n"])
def test_names_that_could_leave_the_store_are_refused(name):
    with pytest.raises(ValidationError):
        RunConfig(name=name, steps={"e": STEP})
    with pytest.raises(ValidationError):
        RunConfig(name="r", steps={name: STEP})
    with pytest.raises(ValidationError):
        ClusterConfig(pools={name: PoolConfig()})
