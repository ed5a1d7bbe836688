"""`catsweep VERB`: arguments in, exit codes out. 0 ok, 1 failed, 2 wrong usage or invalid input."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from catsweep.cli.console import errors
from catsweep.errors import CatsweepError

app = typer.Typer(
    help="Train the small model of a language-model cascade.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

METRICS = (
    "accuracy, exact_match, token_f1, squad_em, bleu, chrf, rouge1, rouge2, rougeLsum, macro_f1, f1, matthews, pearson, "
    "spearman, multirc_f1a, multirc_em"
)
"""For the help text, which must not wait for the specs to load; a test compares the two."""
SweepFile = Annotated[Path, typer.Argument(help="A sweep's YAML file", metavar="FILE")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings such as search.num_samples=4", metavar="KEY=VALUE")
]
Out = Annotated[
    Path | None,
    typer.Option(help="Root of all results, a folder or s3://BUCKET/FOLDER; default: CATSWEEP_HOME, else ~/catsweep"),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow server or sqlite:/// URI; default: MLFLOW_TRACKING_URI, else <root>/mlflow.db"),
]


def sweep_name(text: str | None) -> str | None:
    """The name of a sweep as YAML could have it: one that leads out of the root is refused."""
    if text is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise typer.BadParameter(f"found {text!r}; expected a sweep's name: letters, digits, dots, dashes, underscores")
    return text


SweepName = Annotated[str, typer.Argument(help="Name of a sweep below the root", metavar="NAME", callback=sweep_name)]
ClusterName = Annotated[
    str | None,
    typer.Option(
        help="A file of clusters/, or the address of a head node's dashboard; default: RAY_API_SERVER_ADDRESS, else "
        "http://127.0.0.1:8265"
    ),
]
Trust = Annotated[
    list[str] | None,
    typer.Option(
        help="A repository of models whose own Python code may run here, as the sweep names it; repeat it for several. "
        "Without it such models are refused"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines")]


@app.command()
def run(
    file: SweepFile,
    overrides: Overrides = None,
    out: Out = None,
    tracking_uri: TrackingUri = None,
    trust_remote_code: Trust = None,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over", help="Go on also where a driver on another machine runs the sweep, which then ends"
        ),
    ] = False,
) -> None:
    """Run a sweep, or whatever of it is not on storage yet: prepare, search, confirm, curves, MLflow, report."""
    from catsweep.cli.run import run_command

    trust(trust_remote_code or [])
    raise typer.Exit(run_command(file, overrides or [], out=out, tracking_uri=tracking_uri, take_over=take_over))


@app.command()
def submit(
    file: SweepFile,
    overrides: Overrides = None,
    cluster: ClusterName = None,
    follow: Annotated[bool, typer.Option("--follow", help="Print the job's log until it ends")] = False,
    working_dir: Annotated[Path, typer.Option(help="Folder that is sent along; FILE lies in it")] = Path("."),
    out: Annotated[
        str | None, typer.Option(help="Root of all results, as the cluster sees it; default: its CATSWEEP_HOME")
    ] = None,
    tracking_uri: TrackingUri = None,
    trust_remote_code: Trust = None,
) -> None:
    """Run a sweep as a job of a cluster, under the sweep's name; what is on its storage is not run again."""
    authenticate()
    from catsweep.cli.jobs import submit_command

    code = submit_command(
        file,
        overrides or [],
        cluster=cluster,
        working_dir=working_dir,
        follow=follow,
        out=out,
        tracking_uri=tracking_uri,
        trusted=trust_remote_code or [],
    )
    raise typer.Exit(code)


@app.command()
def status(
    name: SweepName,
    cluster: ClusterName = None,
    follow: Annotated[bool, typer.Option("--follow", help="Print the last job's log until it ends")] = False,
    log: Annotated[bool, typer.Option("--log", help="Print what the last job has printed so far")] = False,
) -> None:
    """The jobs of a sweep on a cluster, the oldest first."""
    authenticate()
    from catsweep.cli.jobs import status_command

    raise typer.Exit(status_command(name, cluster=cluster, follow=follow, log=log))


@app.command()
def stop(name: SweepName, cluster: ClusterName = None) -> None:
    """End the job of a sweep. The same `submit` goes on where it was."""
    authenticate()
    from catsweep.cli.jobs import stop_command

    raise typer.Exit(stop_command(name, cluster=cluster))


@app.command()
def doctor(
    cluster: Annotated[
        str | None,
        typer.Option(help="A file of clusters/, or an address: look at that cluster, from here and from its head"),
    ] = None,
    out: Annotated[str | None, typer.Option(help="Root of all results, as the cluster sees it")] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Look at what a sweep needs: versions, token, job server, State API, tracking store, storage from every node."""
    authenticate()
    from catsweep.cli.doctor import doctor_command

    raise typer.Exit(doctor_command(cluster=cluster, out=out, tracking_uri=tracking_uri))


@app.command()
def validate(file: SweepFile, overrides: Overrides = None, out: Out = None) -> None:
    """Check a sweep's YAML and tasks, and render three real rows of each task. Reports every problem at once."""
    from catsweep.cli.inspect import validate_command

    raise typer.Exit(validate_command(file, overrides or [], out=out))


@app.command()
def plan(
    file: SweepFile,
    overrides: Overrides = None,
    out: Out = None,
    as_json: AsJson = False,
    cluster: ClusterName = None,
    accelerator_flops: Annotated[
        float | None,
        typer.Option(help="Peak FLOP/s of one accelerator, to say accelerator-hours: 1e15 for an H100's bf16", min=1),
    ] = None,
    utilisation: Annotated[
        float, typer.Option(help="Share of the peak that training reaches (with --accelerator-flops)", min=1e-6, max=1)
    ] = 0.3,
    trust_remote_code: Trust = None,
) -> None:
    """Trials, rungs, FLOPs, disk, and what the caches hold, without starting Ray."""
    authenticate()
    from catsweep.cli.plan import plan_command

    trust(trust_remote_code or [])
    speed = None if accelerator_flops is None else accelerator_flops * utilisation
    code = plan_command(file, overrides or [], out=out, as_json=as_json, cluster=cluster, flops_per_second=speed)
    raise typer.Exit(code)


@app.command()
def curves(
    name: Annotated[
        str | None,
        typer.Argument(help="Name of a sweep, to compute all its curves again", metavar="[NAME]", callback=sweep_name),
    ] = None,
    table: Annotated[Path | None, typer.Option(help="A .csv or .parquet file with results of any system")] = None,
    metric: Annotated[str, typer.Option(help=f"One of {METRICS} (with --table)")] = "accuracy",
    tokenize: Annotated[str | None, typer.Option(help="Tokeniser of BLEU, for example zh (with --table)")] = None,
    positive: Annotated[
        str | None, typer.Option(help="The answer that is the positive class of f1 and multirc_f1a (with --table)")
    ] = None,
    deferral: Annotated[
        list[str] | None,
        typer.Option(help="Deferral rules in place of the sweep's (with NAME); repeat it, or separate them by commas"),
    ] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option(
            help="Cost models in place of the sweep's (with NAME): flops, latency, price (the sweep's own) or "
            "price:A/B/C/D, dollars for a million tokens: in and out of the small model, then of the large one"
        ),
    ] = None,
    as_json: AsJson = False,
    points: Annotated[
        int | None, typer.Option(help="Print about so many points instead of all (with --table)", min=2)
    ] = None,
    out: Out = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Cascade curves: of a finished sweep as Ray tasks, or of a table with results of any system.

    With --deferral or --cost the curves of a finished sweep under these, without Ray, in a folder of their own.
    """
    if (name is None) == (table is None):
        raise typer.BadParameter("give either the NAME of a sweep or --table FILE")
    if table is not None:
        if deferral or cost:
            raise typer.BadParameter("--deferral and --cost belong to NAME; a table has its own scores and costs")
        from catsweep.cli.table import table_command

        table_command(
            table, metric=metric, tokenize=tokenize, positive=positive, as_json=as_json, num_points=points, out=out
        )
        return
    if deferral or cost:
        from catsweep.cli.recompute import recompute_command

        recompute_command(str(name), deferral or [], cost or [], out=out, as_json=as_json)
        return
    from catsweep.cli.run import curves_command

    curves_command(str(name), out=out, tracking_uri=tracking_uri, as_json=as_json)


@app.command()
def track(name: SweepName, out: Out = None, tracking_uri: TrackingUri = None) -> None:
    """Write to MLflow what it does not have of a sweep, from the records and curves on storage."""
    from catsweep.cli.track import track_command

    raise typer.Exit(track_command(name, out=out, tracking_uri=tracking_uri))


@app.command()
def clean(
    name: SweepName,
    out: Out = None,
    keep_models: Annotated[
        int | None,
        typer.Option(help="Keep the weights of the best so many confirmed runs; default: as the sweep says", min=0),
    ] = None,
    cache: Annotated[
        bool,
        typer.Option("--cache", help="Also what can be made again and no other sweep uses: data, large model, signal"),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes/--dry-run", help="Delete it, or, as without either, only list it", show_default=False)
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List what of a sweep may go, and with --yes delete it. Rows, records and results are never among it."""
    from catsweep.cli.clean import clean_command

    clean_command(name, out=out, keep=keep_models, cache=cache, yes=yes, as_json=as_json)


@app.command()
def report(name: SweepName, out: Out = None, as_json: AsJson = False) -> None:
    """Print the results table of a sweep and write its report.html."""
    from catsweep.cli.run import report_command

    report_command(name, out=out, as_json=as_json)


@app.command()
def ls(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="With --stats: tasks, patterns or tags; default: all", metavar="[TASK]..."),
    ] = None,
    out: Out = None,
    tasks: Annotated[bool, typer.Option("--tasks", help="List the tasks that a sweep can name")] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="Read tasks: rows of each split, and what can be had without a model")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the sweeps of a root, or the tasks that catsweep ships."""
    from catsweep.cli.inspect import ls_command, stats_command

    if names and not stats:
        raise typer.BadParameter("names of tasks belong to --stats")
    if stats:
        raise typer.Exit(stats_command(names or [], out=out, as_json=as_json))
    ls_command(out=out, tasks=tasks, as_json=as_json)


@app.command()
def fetch(
    tasks: Annotated[
        list[str],
        typer.Argument(help="Names, patterns or tags of tasks, task files, or a sweep's file", metavar="TASKS"),
    ],
    to: Annotated[Path, typer.Option(help="Folder for the copy; what is there already is kept")],
    max_rows: Annotated[int | None, typer.Option(help="Only the first so many rows of each split", min=1)] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Look here before the hub is asked; default: CATSWEEP_DATA")
    ] = None,
    verify: Annotated[
        Literal["all", "schema"], typer.Option(help="Compare all that tasks expect, or leave row counts uncompared")
    ] = "all",
) -> None:
    """Copy the data of tasks into a folder that `data_root` or CATSWEEP_DATA names on machines without a hub."""
    from catsweep.cli.fetch import fetch_command

    raise typer.Exit(fetch_command(tasks, to=to, max_rows=max_rows, data_root=data_root, verify=verify))


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Name of the new sweep", metavar="NAME")],
    folder: Annotated[Path, typer.Option(help="Where to write NAME.yaml and tasks/NAME.yaml")] = Path("."),
) -> None:
    """Write a commented sweep and task YAML that validate, to start from."""
    from catsweep.cli.init import init_command

    init_command(name, folder=folder)


def authenticate() -> None:
    """Let Ray, which is imported after it, send the user's token to clusters."""
    from catsweep.sweep.launch import choose_authentication

    choose_authentication()


def trust(repositories: list[str]) -> None:
    """Let the code of these repositories run, in this process and in the workers that it starts."""
    if repositories:
        os.environ["CATSWEEP_TRUST_REMOTE_CODE"] = ",".join(repositories)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except CatsweepError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
