"""The RayJob that runs a submission: a YAML template, and the user's own mappings merged over it."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from cluster.launch.entry import entry_command
from cluster.launch.launcher import Submission
from cluster.launch.shared import grace_before_kill_seconds, public_environment
from configs.base import ConfigError
from configs.launchers import KubernetesLauncher, NodeGroup, kubernetes_for, node_groups
from configs.load import dump_yaml, parse, quote_yaml
from configs.nodes import KEY_OF_ITEMS

MAX_NAME = 47
"""Most characters in the name of a RayJob: KubeRay makes other names from it, of at most 63 characters."""

HEAD, WORKER = "ray-head", "ray-worker"
"""Names of Ray's containers in the two kinds of pods."""

_KEPT = (("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace"), ("spec", "entrypoint"))
"""What Concord finds the run again by, and starts it with."""


def rayjob_name(name: str) -> str:
    """Return a name that Kubernetes takes, the same for the same submission and, in practice, for no other."""
    plain = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    if plain == name and len(name) <= MAX_NAME and name[0].isalpha():
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"c-{plain}"[: MAX_NAME - 9].strip("-") + f"-{digest}"


def rayjob(config: KubernetesLauncher, submission: Submission) -> str:
    """Return the manifest in YAML. Secrets come from the Secret that the cluster file names, never from the manifest.

    `pod` of the config is merged over the template of every pod, then `rayjob` over the whole. Raises ConfigError if
    they do not fit, or if no volume of the pods holds the run.
    """
    _check_mounted(config, submission)
    groups = [group for group in node_groups(config, submission.cluster.pools) if group.num_nodes]
    manifest: dict[str, Any] = parse(_fill_template(config, submission, groups))
    kept = {path: _at(manifest, path) for path in _KEPT}
    cluster = manifest["spec"]["rayClusterSpec"]
    pod = config.pod.model_dump(exclude_unset=True)
    for group, own in ((cluster["headGroupSpec"], HEAD), *((group, WORKER) for group in cluster["workerGroupSpecs"])):
        group["template"] = merge(group["template"], _for_pod(pod, own), "launcher.pod")
    for group, kind in zip(cluster["workerGroupSpecs"], groups, strict=True):
        if (asked := kind.kind.kubernetes) is not None:
            pod, pool = asked.pod.model_dump(exclude_unset=True), kind.name.rpartition("-")[0]
            group["template"] = merge(group["template"], _for_pod(pod, WORKER), f"pools.{pool}.kubernetes.pod")
    manifest = merge(manifest, config.rayjob, "launcher.rayjob")
    for path, value in kept.items():
        if _at(manifest, path) != value:
            raise ConfigError(
                f"launcher.rayjob would change {'.'.join(path)}, by which Concord starts and finds it; leave it out"
            )
    _check_containers(manifest)
    return dump_yaml(manifest)


def merge(base: Any, over: Any, where: str) -> Any:
    """Return `base` with `over` merged in, in the manner of Kubernetes' strategic merge patch; `base` stays as it is.

    Mappings are merged key by key, and a null takes a key out. Items of a list are merged with the item that has the
    same key (KEY_OF_ITEMS), or put at its end; but a variable is replaced, and so is a volume of another kind, which
    would else have two sources. A list of plain values is replaced. `where` is the place of `over` in the cluster file.
    Raises ConfigError if a mapping meets a list, or either of them a single value.
    """
    if base is None:
        return _without_nulls(over)
    if isinstance(base, dict) and isinstance(over, dict):
        merged = {key: value for key, value in base.items() if over.get(key, value) is not None}
        new = {key: value for key, value in over.items() if value is not None}
        return merged | {key: merge(base.get(key), value, f"{where}.{key}") for key, value in new.items()}
    if isinstance(base, list) and isinstance(over, list):
        return _merge_lists(base, over, where)
    if isinstance(base, dict | list) or isinstance(over, dict | list):
        kind = "a mapping" if isinstance(base, dict) else "a list" if isinstance(base, list) else "a single value"
        raise ConfigError(f"{where} must be {kind}, as it is in a RayJob; mend it in the cluster file")
    return over


def _merge_lists(base: list[Any], over: list[Any], where: str) -> list[Any]:
    if not any(isinstance(item, dict) for item in [*base, *over]):
        return over
    name = where.rpartition(".")[2]
    key = KEY_OF_ITEMS.get(name)
    merged = list(base)
    for item in over:
        same = (i for i, own in enumerate(merged) if key and isinstance(own, dict) and own.get(key) == item.get(key))
        if (place := next(same, None)) is None:
            merged.append(_without_nulls(item))
        elif name == "env" or (name == "volumes" and not (merged[place].keys() & item.keys()) - {key}):
            merged[place] = _without_nulls(item)
        else:
            merged[place] = merge(merged[place], item, f"{where}.{item[key]}")
    return merged


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _check_containers(manifest: Mapping[str, Any]) -> None:
    """Raise ConfigError if a group of pods is without its container of Ray, which `null` may have taken away."""
    cluster = manifest["spec"].get("rayClusterSpec") or {}
    groups = [(cluster.get("headGroupSpec"), HEAD), *((g, WORKER) for g in cluster.get("workerGroupSpecs") or [])]
    for group, name in groups:
        containers = _at(group or {}, ("template", "spec", "containers")) or []
        if not any(container.get("name") == name for container in containers):
            raise ConfigError(
                f"launcher.pod or launcher.rayjob leaves a group of pods without the container {name!r}, in which Ray "
                "runs; leave it in"
            )


def _for_pod(pod: Mapping[str, Any], own: str) -> dict[str, Any]:
    """Return the user's mapping for a pod whose Ray container is called `own`.

    An item of `containers` without a name is Ray's container, of every pod. What is for the other kind is left out.
    """
    spec = dict(pod.get("spec", {}))
    if containers := spec.get("containers"):
        other = WORKER if own == HEAD else HEAD
        named = [{"name": own} | item for item in containers]
        spec["containers"] = [item for item in named if item["name"] != other]
    return {**pod, "spec": spec} if spec else dict(pod)


def _worker_groups(config: KubernetesLauncher, groups: Sequence[NodeGroup]) -> list[dict[str, Any]]:
    """Return what the template has to know of each group of workers; one alone is called `workers`."""
    return [
        {
            "name": "workers" if len(groups) == 1 else re.sub(r"[^a-z0-9-]+", "-", group.name.lower()),
            "replicas": group.num_nodes,
            "asked": kubernetes_for(config, group.kind),
            "labels": group.labels,
        }
        for group in groups
    ]


def _fill_template(config: KubernetesLauncher, submission: Submission, groups: Sequence[NodeGroup]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"yaml": quote_yaml, "mebibytes": lambda gib: math.ceil(gib * 1024)}
    grace = grace_before_kill_seconds(submission)
    limit = submission.cluster.time_limit_minutes
    return environment.get_template("rayjob.yaml.j2").render(
        config=config,
        groups=_worker_groups(config, groups),
        submission=submission,
        name=rayjob_name(submission.name),
        entrypoint=entry_command(submission),
        environment=public_environment(submission) | {"PYTHONPATH": config.code_path},
        runtime_env=json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(grace)}}),
        grace_seconds=grace,
        deadline_seconds=None if limit is None else math.ceil(limit * 60) + grace + config.keep_seconds,
        ray_version=version("ray"),
    )


def _at(manifest: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = manifest
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _check_mounted(config: KubernetesLauncher, submission: Submission) -> None:
    mounts = [volume.mount_path for volume in config.volumes]
    if not any(submission.log.absolute().is_relative_to(mount) for mount in mounts):
        raise ConfigError(
            f"{submission.log.absolute().parent}, where the run is kept, is in no volume of the pods, which are "
            f"mounted at {', '.join(mounts)}; give a store there (of a URL: storage.work_dir), or mount its volume at "
            "its path"
        )
