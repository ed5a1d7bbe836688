"""What thousands of trials cost the driver: `python benchmarks/speed/scale.py` (--trials 300 for a first look).

A real sweep over 64 tasks and two strata: `run_sweep` with Tune, TPE, records and MLflow in SQLite, as `catsweep run` has them.
Only `run_trial` and `prepare_task`, which a sweep takes as arguments, do nothing: a trial writes 25 steps, twenty rows and a
record with a made-up objective. What is measured are the last 500 trials beside the first 500, by the clock and by the CPU
seconds of the driver's process; a suggestion's CPU time; memory and bytes a trial; and how long MLflow takes for a run.

--out keeps the folder, and the same command goes on in it. --slots-a-core and --seconds show what the number of trials
at once costs the driver.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from measure import Row, write

import catsweep.sweep.search
from catsweep.cli.execute import Logging
from catsweep.damage import set_aside_damaged
from catsweep.records import (
    StepMetrics,
    TrialRecord,
    append_step,
    rows_schema,
    write_json,
    write_record,
    write_rows,
)
from catsweep.retention import size
from catsweep.spec.load import Sweep
from catsweep.spec.sweep import SweepSpec, TrialSpec
from catsweep.spec.task import TaskSpec
from catsweep.spec.yaml import Document
from catsweep.sweep.driver import run_sweep
from catsweep.sweep.progress import Event
from catsweep.sweep.search import Search
from catsweep.sweep.studies import Observation

NUM_STRATA, NUM_CONFIRM, NUM_ROWS, NUM_STEPS = 2, 3, 20, 25
WINDOW = 500


def make_sweep(num_trials: int, cpus_per_worker: float = 1.0) -> Sweep:
    """About so many runs: 64 tasks, fewer where a study would have less than 16 trials. cpus_per_worker: what each holds."""
    num_tasks = max(1, min(64, num_trials // (NUM_STRATA * 19)))
    num_samples = max(1, -(-num_trials // (NUM_STRATA * num_tasks)) - NUM_CONFIRM)
    names = [f"made/{number:02d}" for number in range(num_tasks)]
    rate = {"space": "loguniform", "lower": 1e-5, "upper": 1e-3}
    decay = {"space": "uniform", "lower": 0.0, "upper": 0.1}
    loss = {"space": "choice", "options": [{"kind": "xent"}, {"kind": "cat_xent"}]}
    data: dict[str, Any] = {
        "name": "scale",
        "tasks": names,
        "small": {"pretrained": "small"},
        "large": {"pretrained": "large"},
        "training": {"steps": NUM_STEPS},
        "search": {
            "num_samples": num_samples,
            "confirm_seeds": NUM_CONFIRM,
            "stratify": ["loss.kind"],
            "space": {"learning_rate": rate, "weight_decay": decay, "loss": loss},
        },
        "resources": {"cpus_per_worker": cpus_per_worker},
    }
    return Sweep(SweepSpec.model_validate(data), tuple(map(make_task, names)), Document(Path("scale.yaml"), data))


def make_task(name: str) -> TaskSpec:
    """A task that nobody reads."""
    return TaskSpec.model_validate(
        {
            "task": name, "group": "made", "output_type": "generate_until", "doc_to_text": "{{ text }}",
            "doc_to_target": "{{ target }}", "metric_list": [{"metric": "exact_match"}],
            "source": {"kind": "files", "format": "jsonl", "train": "/nowhere/train.jsonl"},
        }
    )  # fmt: skip


def prepare_nothing(task: TaskSpec, spec: SweepSpec, *, root: Path) -> dict[str, Any]:
    """What trials are told of a prepared task, without data."""
    facts = {"keys": {"data": task.task.replace("/", "-")}, "num_rows": NUM_ROWS}
    write_json(root / spec.name / "prepared" / f"{task.task}.json", facts)
    return facts


def train_nothing(
    spec: TrialSpec, *, root: Path, folder: Path, report: Callable[[StepMetrics], None]
) -> TrialRecord:  # fmt: skip
    """The files of a trial. Its objective is best at a learning rate of 1e-4."""
    started_at = time.time()
    time.sleep(float(os.environ.get("SCALE_SECONDS", "0")))
    rate = spec.training.learning_rate
    objective = 1.0 - 0.01 * max(rate / 1e-4, 1e-4 / rate) + spec.seed % 7 * 1e-6
    names = ("loss", "grad_norm", "learning_rate", "kept_share", "quadrant/both", "quadrant/neither")
    for step in range(1, spec.training.steps + 1):
        append_step(folder, step, {f"train/{name}": objective / step for name in names})
    append_step(folder, spec.training.steps, {"validation/objective": objective})
    columns: dict[str, Any] = {field.name: [None] * NUM_ROWS for field in rows_schema(["exact_match"])}
    columns |= {"id": [str(number) for number in range(NUM_ROWS)], "split": ["validation"] * NUM_ROWS}
    write_rows(folder / "rows.parquet", pa.table(columns, schema=rows_schema(["exact_match"])))
    metrics = {"validation/exact_match": objective, "validation/exact_match_audc": objective}
    record = TrialRecord(
        trial_id=spec.trial_id, task=spec.task.task, stratum=spec.stratum, number=spec.number, role=spec.role,
        seed=spec.seed, status="finished", parameters=dict(spec.parameters), num_steps=spec.training.steps,
        objective=objective, metrics=metrics, started_at=started_at, ended_at=time.time(),
    )  # fmt: skip
    write_record(folder, record)
    report(StepMetrics(spec.training.steps, objective, metrics, True))
    return record


@dataclass
class Watch:
    """What the driver sees, one entry a trial that ended. memory: resident bytes of its process."""

    walls: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    suggestions: list[float] = field(default_factory=list)  # CPU seconds of those that looked at a history
    logged: list[float] = field(default_factory=list)  # seconds of MLflow, one entry a run
    logged_cpu: list[float] = field(default_factory=list)

    def ended(self) -> None:
        """A trial ended."""
        self.walls.append(time.perf_counter())
        self.cpus.append(time.process_time() - sum(self.logged_cpu))
        self.memory.append(resident_bytes("self"))

    def last_to_first(self, values: list[float]) -> tuple[float, float]:
        """Seconds a trial of the last and of the first trials: WINDOW of them, or a third of all where there are less."""
        num = min(WINDOW, len(values) // 3)
        return (values[-1] - values[-1 - num]) / num, (values[num] - values[0]) / num


def resident_bytes(process: str | int) -> int:
    """What a process holds in memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def rays_processes() -> dict[str, int]:
    """Resident bytes of Ray's own processes of this machine, by name; of several the largest."""
    found: dict[str, int] = defaultdict(int)
    for path in Path("/proc").glob("[0-9]*"):
        try:
            name = (path / "comm").read_text().strip()
            if name in ("gcs_server", "raylet"):
                found[name] = max(found[name], resident_bytes(path.name))
        except OSError:  # it ended just now
            continue
    return dict(found)


def run(sweep: Sweep, root: Path, watch: Watch) -> tuple[dict[str, int], float]:
    """The whole sweep. Returns the bytes of Ray's processes at its end, and the seconds that MLflow still took behind it."""
    plain = catsweep.sweep.search.suggest

    def suggest(tree: Any, sampler: Any, objectives: Any, task: str, number: int, history: Any, told: Any) -> Any:
        started = time.thread_time()
        found = plain(tree, sampler, objectives, task, number, history, told)
        if number >= sampler.num_startup_trials:
            watch.suggestions.append(time.thread_time() - started)
        return found

    def on_event(event: Event) -> None:
        if event.kind == "trial_ended" and event.num_ended % 100 == 0:
            print(f"{time.strftime('%H:%M:%S')} {event.num_ended} of {event.num_total}", flush=True)
        elif event.kind in ("warning", "task_failed"):
            print(event.text, flush=True)

    rays: dict[str, int] = {}
    catsweep.sweep.search.suggest = suggest
    try:
        with Logging(f"sqlite:///{root / 'mlflow.db'}", root, sweep.spec.name) as logging:
            logging.thread.submit(time_logging, logging, watch)

            def on_record(folder: Path, record: TrialRecord) -> None:
                logging.log_record(folder, record)
                watch.ended()
                if len(watch.walls) % 200 == 0:
                    rays.update(rays_processes())

            run_sweep(
                sweep, root=root, run_trial=train_nothing, prepare_task=prepare_nothing, on_event=on_event,
                on_record=on_record,
            )  # fmt: skip
            ended = time.perf_counter()
            logging.thread.submit(lambda: None).result()
    finally:
        catsweep.sweep.search.suggest = plain
    return rays, time.perf_counter() - ended


def suggestion_milliseconds(sweep: Sweep, num_trials: int, repeats: int = 9) -> list[float]:
    """CPU milliseconds of a suggestion of TPE in a study of so many trials that have ended."""
    study = Search(sweep, Path("nowhere")).studies[sweep.tasks[0].task, "xent"]
    objectives, sampler, random = sweep.spec.search.objectives, sweep.spec.search.sampler, np.random.default_rng(0)
    history, told, taken = [], dict[Any, Any](), []
    for number in range(num_trials):
        rate, decay = float(10 ** random.uniform(-5, -3)), float(random.uniform(0, 0.1))
        parameters = {"learning_rate": rate, "weight_decay": decay, "loss.kind": "xent"}
        history.append(Observation(number, parameters, 1 - abs(np.log10(rate) + 4)))
    for number in range(num_trials, num_trials + repeats + 1):
        started = time.thread_time()
        value, parameters = catsweep.sweep.search.suggest(
            study.tree, sampler, objectives, "made/00", number, history, told
        )
        taken.append(1e3 * (time.thread_time() - started))
        history.append(Observation(number, parameters, 1 - abs(np.log10(value["learning_rate"]) + 4)))
    return taken[1:]  # the first one makes all trials as Optuna takes them


def time_logging(logging: Logging, watch: Watch) -> None:
    """From now on note what each run takes to be logged."""
    tracker = logging.tracker.result()
    plain = tracker.log_record

    def timed(folder: Path, record: TrialRecord) -> None:
        started, cpu = time.perf_counter(), time.thread_time()
        plain(folder, record)
        watch.logged.append(time.perf_counter() - started)
        watch.logged_cpu.append(time.thread_time() - cpu)

    tracker.log_record = timed


def file_bytes(root: Path, num_runs: int) -> dict[str, float]:
    """Bytes a run of each kind of file, and of MLflow's database."""
    found: dict[str, float] = defaultdict(float)
    for role in ("trials", "confirm"):
        for path in (root / "scale" / role).rglob("*.*"):
            found[path.name] += path.stat().st_size / num_runs
    return dict(found) | {"mlflow.db": size(root / "mlflow.db") / num_runs}


def main() -> None:
    """Run, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=3_072)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--slots-a-core", type=int, default=1, help="trials at once on each core")
    parser.add_argument("--seconds", type=float, default=0.0, help="that each trial sleeps")
    arguments = parser.parse_args()
    os.environ["SCALE_SECONDS"] = str(arguments.seconds)  # the trials' processes inherit it
    sweep, watch = make_sweep(arguments.trials, 1 / arguments.slots_a_core), Watch()
    with tempfile.TemporaryDirectory() as name:
        root = (arguments.out or Path(name)).absolute()
        rays, behind = run(sweep, root, watch)
        num_runs = len(watch.walls)
        files = file_bytes(root, num_runs)
        started = time.perf_counter()
        assert not set_aside_damaged(root / "scale")
        assert Search(sweep, root / "scale").finished
        opening = time.perf_counter() - started
    last, first = watch.last_to_first(watch.walls)
    last_cpu, first_cpu = watch.last_to_first(watch.cpus)
    start = min(WINDOW, num_runs // 3)
    memory = (watch.memory[-1] - watch.memory[start]) / (num_runs - start)
    suggestion = 1e3 * statistics.median(watch.suggestions)
    shown = ", ".join(f"{name} {value:,.0f}" for name, value in sorted(files.items()))
    ray_note = ", ".join(f"{name} {value / 2**20:.0f} MiB" for name, value in sorted(rays.items()))
    much = f"{num_runs} trials of {len(sweep.tasks)} tasks"
    long = []
    for num_trials in (25, 100, 500):
        ours = statistics.median(suggestion_milliseconds(sweep, num_trials))
        what = f"a suggestion of TPE, {num_trials} trials of its study before it"
        long.append(Row(what, ours, 5.0, "ms", "what was allowed", [5.0 / ours], "", "CPU time, made-up trials"))
    rows = [
        Row(f"a trial, {much}", last, first, "s", "the first trials of the same sweep", [first / last], "at least 0.77",
            "ours: the last ones. By the clock, two trials at once, MLflow beside them"),
        Row("the same, the driver's CPU without MLflow", last_cpu, first_cpu, "s", "the first trials", [first_cpu / last_cpu],
            "at least 0.77"),
        Row("a suggestion of TPE", suggestion, 5.0, "ms", "what was allowed", [5.0 / suggestion], "at most 5 ms",
            f"CPU time of the driver; 95% below {1e3 * statistics.quantiles(watch.suggestions, n=20)[-1]:.1f} ms"),
        *long,
        Row("the driver's memory a trial", memory / 1024, 0.0, "KiB", "none", [], "stated",
            f"{watch.memory[0] / 2**20:.0f} MiB at the first trial; {ray_note} at the last"),
        Row("files a trial", sum(files.values()) / 1024, 0.0, "KiB", "none", [], "stated", f"bytes: {shown}"),
        Row("MLflow, a run", 1e3 * statistics.mean(watch.logged), 0.0, "ms", "none", [], "",
            f"of them {1e3 * statistics.mean(watch.logged_cpu):.0f} ms CPU of the driver; {behind:.0f} s behind the last trial"),
        Row("what a driver reads of a finished trial when it starts", 1e3 * opening / num_runs, 0.0, "ms", "none", [], ""),
    ]  # fmt: skip
    for item in rows:
        print(item.what, f"{item.ours:.4g} {item.peer:.4g} {item.unit}", item.ratios, item.note)
    if (arguments.slots_a_core, arguments.seconds) == (1, 0.0):
        write("scale", rows, f"python benchmarks/speed/scale.py --trials {arguments.trials}")


if __name__ == "__main__":
    main()
