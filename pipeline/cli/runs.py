"""The commands for runs that are submitted, which go on without the terminal, on this machine or on a cluster."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from configs.base import UserError
from pipeline.cli.options import (
    AnotherClusterOption,
    ClusterOption,
    ProfileOption,
    RecipeArgument,
    RunArgument,
    SetOption,
    StoreOption,
    SubjectArgument,
    WorkOption,
)

out = Console(highlight=False, soft_wrap=True)

CheckOption = Annotated[bool, typer.Option("--check/--no-check", help="Try the nodes first; leave out bad ones.")]
StartOption = Annotated[int | None, typer.Option("--start", metavar="NUMBER", min=1)]


def submit(
    recipe: RecipeArgument,
    cluster: ClusterOption = "local",
    overrides: SetOption = None,
    profile: ProfileOption = None,
    run_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The run's id; left out, it follows from the recipe.")
    ] = None,
    check: CheckOption = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be submitted, and do nothing.")] = False,
) -> None:
    """Start a run that goes on without this terminal, and say its id. The same recipe again is the same run."""
    from pipeline.recipe import read_recipe

    loaded = read_recipe(recipe, tuple(overrides or ()))  # before what would start it is imported, which takes longer
    from pipeline.runs.submit import submit_run

    submit_run(
        loaded,
        cluster,
        out,
        run_id=run_id,
        check_first=check,
        dry_run=dry_run,
        profile=profile,
    )


def resume(
    run: RunArgument,
    store: StoreOption = "store",
    work_dir: WorkOption = None,
    cluster: AnotherClusterOption = None,
    profile: ProfileOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Go on in spite of doubtful differences.")] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Pass over a driver that is cut off; it can commit nothing more.")
    ] = False,
    check: CheckOption = True,
) -> None:
    """Start a run again where it ended, after saying what differs from the last start."""
    from pipeline.runs.directory import open_run
    from pipeline.runs.resume import resume_run

    directory = open_run(store, run, work_dir=work_dir)
    resume_run(directory, out, cluster=cluster, yes=yes, take_over=take_over, check_first=check, profile=profile)


def logs(
    subject: SubjectArgument = None,
    overrides: SetOption = None,
    store: StoreOption = "store",
    work_dir: WorkOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until the run ends.")] = False,
    rank: Annotated[
        int | None, typer.Option("--rank", metavar="NUMBER", min=0, help="What this rank of a training printed.")
    ] = None,
) -> None:
    """Print what a run's drivers have printed; of a step or an artifact, those of the last run that makes it."""
    from cluster.host.redact import redact
    from cluster.leases.lease import store_holder
    from pipeline.cli.subject import find_artifact, find_run, find_subject
    from pipeline.runs.logs import read_logs, read_rank_output

    found = find_subject(subject, store=store, work_dir=work_dir, overrides=overrides)
    if rank is None:
        texts = read_logs(find_run(found), follow=follow)
    else:
        training = find_artifact(found, stage="train")
        printed = read_rank_output(
            training.path,
            rank,
            follow=follow,
            is_made=lambda: store_holder(training.remote, training.home, training.name) is not None,
            remote=training.remote,
        )
        texts = map(redact, printed)
    try:
        for text in texts:
            sys.stdout.write(text)
            sys.stdout.flush()
    except KeyboardInterrupt:  # the way to end -f
        return


def stop(run: RunArgument, store: StoreOption = "store", work_dir: WorkOption = None) -> None:
    """Have a run save a checkpoint and end."""
    from pipeline.runs.directory import open_run
    from pipeline.runs.stop import stop_run

    stop_run(open_run(store, run, work_dir=work_dir), out)


def checkpoint_now(run: RunArgument, store: StoreOption = "store", work_dir: WorkOption = None) -> None:
    """Have a run save a checkpoint after its present step, and wait for it."""
    from pipeline.runs.directory import open_run
    from pipeline.runs.stop import save_checkpoint_now

    save_checkpoint_now(open_run(store, run, work_dir=work_dir), out)


def ls(store: StoreOption = "store") -> None:
    """List the runs of a store."""
    from pipeline.cli.show_run import list_runs

    list_runs(store, out)


def drive(
    run: RunArgument,
    store: StoreOption = "store",
    work_dir: WorkOption = None,
    start: StartOption = None,
    ray_address: Annotated[str | None, typer.Option("--ray-address", metavar="HOST:PORT")] = None,
) -> None:
    """Be the driver of a run. Launchers start this."""
    from configs.cluster import ClusterConfig
    from pipeline.runs.directory import open_run
    from pipeline.runs.driver import drive_run

    directory = open_run(store, run, work_dir=work_dir)
    starts = directory.starts()
    if not starts:
        raise UserError(f"run {run} was not started; `concord submit` or `concord resume` starts a driver")
    record = starts[(start or len(starts)) - 1]
    machines = ClusterConfig.model_validate(record.cluster)
    raise typer.Exit(drive_run(directory, record, machines, ray_address=ray_address))


def attempt(
    run: RunArgument,
    store: StoreOption = "store",
    work_dir: WorkOption = None,
    start: StartOption = None,
    take_over: Annotated[bool, typer.Option("--take-over")] = False,
    ray_address: Annotated[str | None, typer.Option("--ray-address", metavar="HOST:PORT")] = None,
) -> None:
    """Make one attempt of a run. Its driver starts this."""
    from configs.cluster import ClusterConfig
    from pipeline.runs.attempt import end_with_parent, make_attempt
    from pipeline.runs.directory import open_run

    end_with_parent()
    directory = open_run(store, run, work_dir=work_dir)
    starts = directory.starts()
    record = starts[(start or len(starts)) - 1]
    machines = ClusterConfig.model_validate(record.cluster)
    if ray_address is not None:
        machines = machines.model_copy(update={"ray_address": ray_address})
    make_attempt(directory, record, machines, out, take_over=take_over)


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command `concord`."""
    for function in (submit, resume, logs, stop, ls):
        app.command()(function)
    app.command("checkpoint-now")(checkpoint_now)
    app.command(hidden=True)(drive)
    app.command(hidden=True)(attempt)
