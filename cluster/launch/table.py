"""The launchers, by their kind in a cluster file."""

from importlib import import_module

from cluster.launch.launcher import Launcher
from configs.cluster import ClusterConfig

LAUNCHERS = {
    "local": "cluster.launch.local.LocalProcess",
    "ray": "cluster.launch.ray_jobs.RayJobs",
    "slurm": "cluster.launch.slurm.Slurm",
    "kubernetes": "cluster.launch.kubernetes.Kubernetes",
}
"""Module and class, imported when used: Ray's takes a second."""


def launcher_for(cluster: ClusterConfig) -> Launcher:
    """The launcher that a cluster file asks for."""
    module, _, name = LAUNCHERS[cluster.launcher.kind].rpartition(".")
    settings = {"allow_no_token": cluster.allow_no_token} if cluster.launcher.kind == "ray" else {}
    made: Launcher = getattr(import_module(module), name)(cluster.launcher, **settings)
    return made
