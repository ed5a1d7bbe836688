"""What a sweep will do and cost, before it does: trials, steps, FLOPs, disk, and what the caches already hold."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from catsweep.cache import is_complete
from catsweep.cascade.cost import ModelShape, forward_flops, train_flops_per_step
from catsweep.cascade.ragged import Ragged
from catsweep.encode import token_ids
from catsweep.errors import CatsweepError, OutOfReachError
from catsweep.inputs import Inputs, read_inputs, shared_texts
from catsweep.large import EVALUATION_SPLITS
from catsweep.mixture import read_mixture
from catsweep.models import load_config
from catsweep.prepare import prepared_path
from catsweep.records import read_json, read_records
from catsweep.shapes import model_shape
from catsweep.space import check_search, mean_clients, rungs, strata, training_tree
from catsweep.spec.load import Sweep
from catsweep.spec.mixture import MixtureSpec, members, result_name
from catsweep.spec.sweep import SweepSpec
from catsweep.spec.task import TaskSpec
from catsweep.tasks.examples import Example
from catsweep.tasks.sources import describe_splits
from catsweep.teacher import bytes_a_target
from catsweep.train import LOGGED_STEPS

Rates = NDArray[np.float64]
"""The share of each member of a mixture; 1 for a task."""
MapFunction = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]

SAMPLED_EXAMPLES = 500
"""Token counts are estimated from so many training examples."""
MOST = 0.5
"""Where more than this share of the prompts is cut, a plan warns."""
CHECKPOINT_BYTES = 12
"""A parameter: the weight and AdamW's two moments, 4 bytes each."""
MLFLOW_VALUE_BYTES = 310
"""One value of a metric in MLflow's SQLite database with its four indices: measured, 3.17."""
MLFLOW_CURVE_BYTES = 260_000
"""The figure and the table of one curves run, and its values: measured."""
STEP_BYTES = 45
"""One value of steps.jsonl."""
VALUES_A_STEP = 8
"""Training metrics of one logged step: loss, gradient's norm, rate, kept share, four quadrants."""


@dataclass(frozen=True)
class MemberPlan:
    """A member of a mixture. num_rows: of each split, without what was dropped. num_evaluated_small,
    num_evaluated_large: training examples of S's part, and of L's, that are left out since their source text stands in an
    evaluation split of a member. num_signal_large: further ones of L's part, which stand in S's part of a member. rate: its
    share of the training examples."""

    task: str
    group: str
    num_rows: dict[str, int]
    num_evaluated_small: int
    num_evaluated_large: int
    num_signal_large: int
    rate: float

    def describe(self) -> str:
        """Its share, what was dropped of how many and is left, and the remedy where half or more is lost."""
        parts, lost = [], [0.0]
        for model, split, evaluated, signal in (
            ("S", "train", self.num_evaluated_small, 0),
            ("L", "large_train", self.num_evaluated_large, self.num_signal_large),
        ):
            if split in self.num_rows:
                left, dropped = self.num_rows[split], evaluated + signal
                seen = f" and {signal:,} that stand in S's part of a member" if signal else ""
                parts.append(f"{model} {evaluated:,}{seen} of {left + dropped:,}, {left:,} left")
                lost.append(dropped / (left + dropped))
        if len(parts) == 1:
            parts = [parts[0].replace("S ", "S and L ", 1)]
        remedy = (
            " Tasks that show the same texts lose less with one doc_to_group on that text" if max(lost) >= 0.5 else ""
        )
        return (
            f"{self.rate:.1%} of the training examples are of {self.task}; dropped since an evaluation split of a member "
            f"shows their source text: {'; '.join(parts)}.{remedy}"
        )


@dataclass(frozen=True)
class TaskPlan:
    """One task's or mixture's part of a sweep: estimates, with all trials trained to their last step.

    Token counts are means over some training examples, cut at the sweep's limits; choice tokens are those of all choices
    of an example. flops_folds: fine-tuning the fold models of a cross-fitted signal, which `holdout` would not need; their
    passes together are one pass. flops_chain: preparing the further models of the chain. disk_bytes: what is there at the
    end, MLflow's database and artifacts included. While it is fine-tuned, the large model's checkpoint takes
    disk_bytes_large_checkpoint more, and each trial in flight disk_bytes_trial_checkpoint. warnings: about its splits.
    """

    task: str
    group: str
    num_rows: dict[str, int]
    num_search_trials: int
    num_confirm_runs: int
    num_done: int
    small_parameters: int
    large_parameters: int
    mean_prompt_tokens: float
    mean_target_tokens: float
    mean_choice_tokens: float
    flops_search: float
    flops_confirm: float
    flops_large_finetune: float
    flops_folds: float
    flops_chain: float
    flops_large_pass: float
    disk_bytes: float
    disk_bytes_large_checkpoint: float
    disk_bytes_trial_checkpoint: float
    cached: dict[str, bool]
    members: list[MemberPlan]
    warnings: list[str]

    @property
    def flops(self) -> float:
        """All FLOPs of the task."""
        large = self.flops_large_finetune + self.flops_folds + self.flops_large_pass + self.flops_chain
        return self.flops_search + self.flops_confirm + large


@dataclass(frozen=True)
class Plan:
    """A whole sweep's plan.

    problems: a line for each task that could not be planned; totals are without them. advice: what helps against all of
    them. splits: how each task, those of
    mixtures included, is cut.
    """

    sweep: str
    strata: list[str]
    rungs: list[int]
    num_samples: int
    confirm_seeds: int
    tasks: list[TaskPlan]
    problems: list[str]
    advice: list[str]
    splits: dict[str, str]

    def accelerator_hours(self, flops_per_second: float) -> float:
        """Hours of one accelerator for all FLOPs of the sweep, where it does so many a second."""
        return sum(task.flops for task in self.tasks) / flops_per_second / 3600

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, totals included."""
        total: dict[str, float] = {
            "num_search_trials": sum(task.num_search_trials for task in self.tasks),
            "num_confirm_runs": sum(task.num_confirm_runs for task in self.tasks),
            "flops": sum(task.flops for task in self.tasks),
            "disk_bytes": sum(task.disk_bytes for task in self.tasks),
            # Units of tasks, and trials, run side by side as far as a cluster has room: at least one at a time.
            "disk_bytes_at_peak": sum(task.disk_bytes for task in self.tasks)
            + max((task.disk_bytes_large_checkpoint for task in self.tasks), default=0.0)
            + max((task.disk_bytes_trial_checkpoint for task in self.tasks), default=0.0),
        }
        return {**asdict(self), "total": total}


def make_plan(sweep: Sweep, *, root: Path, map_function: MapFunction = map) -> Plan:
    """The plan of a sweep: reads every task's data, but starts neither Ray nor a model. map_function: as `map`;
    a cluster's calls the function on many processes."""
    spec = sweep.spec
    check_search(spec)
    names = list(strata(training_tree(spec), spec.search.stratify))
    done = _num_done(root / spec.name)
    plan_one = functools.partial(_plan_or_problem, spec=spec, num_strata=len(names), root=root)
    found = list(map_function(plan_one, [(task, done[task.task]) for task in sweep.tasks]))
    problems = [item for item in found if isinstance(item, _Problem)]
    advice = (
        f"Where there is a network run `catsweep fetch {sweep.document.path} --to DIR`; then `data_root: DIR` or "
        "CATSWEEP_DATA=DIR reads that copy here. `catsweep validate` says of each task where it was looked for"
    )
    every = [member for unit in sweep.tasks for member in (unit.members if isinstance(unit, MixtureSpec) else [unit])]
    return Plan(
        spec.name,
        names,
        rungs(spec),
        spec.search.num_samples,
        spec.search.confirm_seeds,
        [item for item in found if isinstance(item, TaskPlan)],
        [problem.text for problem in problems],
        [advice] if any(problem.out_of_reach for problem in problems) else [],
        {task.task: describe_splits(task.source) for task in every},
    )


@dataclass(frozen=True)
class _Problem:
    """Why a task has no plan. out_of_reach: its data is on a hub that cannot be reached."""

    text: str
    out_of_reach: bool


def _plan_or_problem(
    unit: tuple[TaskSpec | MixtureSpec, int], *, spec: SweepSpec, num_strata: int, root: Path
) -> TaskPlan | _Problem:
    task, num_done = unit
    try:
        return _plan_task(task, spec, num_strata, num_done, root)
    except OutOfReachError as error:
        return _Problem(f"task {task.task}: {error.short}", out_of_reach=True)
    except CatsweepError as error:
        text = str(error)
        return _Problem(text if task.task in text else f"task {task.task}: {text}", out_of_reach=False)


def _plan_task(task: TaskSpec | MixtureSpec, spec: SweepSpec, num_strata: int, num_done: int, root: Path) -> TaskPlan:
    parts, rates, planned = _read(task, spec, root)
    inputs = parts[0]
    small = model_shape(load_config(spec.small, inputs.tokenizer))
    large = model_shape(load_config(spec.large, inputs.tokenizer))
    work = _Work(
        parts,
        rates,
        [
            _Tokens.of(part.examples["train"], part.tokenizer, member, spec)
            for member, part in zip(members(task), parts, strict=True)
        ],
    )
    prompt, target, num_rows = work.mean_prompt_tokens, work.mean_target_tokens, _num_rows(parts)
    training, finetune = spec.training, spec.large.finetune
    finetuned = work.steps_flops(large, finetune.steps, finetune.batch_size) if finetune else 0.0
    num_folds = (finetune.cross_fit or 0) if finetune else 0
    run = work.steps_flops(small, training.steps, training.batch_size) * _mean_clients(spec)
    num_search = num_strata * spec.search.num_samples
    num_confirm = num_strata * spec.search.confirm_seeds
    evaluated = num_search * len(rungs(spec)) * work.answer_flops(small, ("validation",))
    folders = [part.folders(root) for part in parts]
    cached = {name: all(is_complete(found[name], hashes=False) for found in folders) for name in folders[0]}
    shared = [] if planned else shared_texts(task.task, inputs.examples)
    return TaskPlan(
        task=task.task,
        group=task.group,
        num_rows=num_rows,
        num_search_trials=num_search,
        num_confirm_runs=num_confirm,
        num_done=num_done,
        small_parameters=_parameters(small),
        large_parameters=_parameters(large),
        mean_prompt_tokens=prompt,
        mean_target_tokens=target,
        mean_choice_tokens=float(rates @ [found.choices.sum().mean() for found in work.tokens]),
        flops_search=num_search * run + evaluated,
        flops_confirm=num_confirm * (run + work.answer_flops(small, EVALUATION_SPLITS)),
        flops_large_finetune=finetuned,
        flops_folds=num_folds * finetuned,
        flops_chain=_chain_flops(spec, work),
        flops_large_pass=work.answer_flops(large, EVALUATION_SPLITS) + work.signal_flops(large),
        disk_bytes=_disk_of_cache(inputs, num_rows, prompt + target, target, _parameters(large) if finetune else 0)
        + _disk_of_runs(spec, num_rows, target, _parameters(small), num_strata),
        # A new checkpoint is whole before the old one goes.
        disk_bytes_large_checkpoint=2.0 * CHECKPOINT_BYTES * _parameters(large) if finetune else 0.0,
        disk_bytes_trial_checkpoint=2.0 * CHECKPOINT_BYTES * _parameters(small) if len(rungs(spec)) > 1 else 0.0,
        cached=cached,
        members=planned,
        warnings=[*shared, *_long_prompts(task, spec, work), *_measured(task, spec, parts, root)],
    )


def _read(task: TaskSpec | MixtureSpec, spec: SweepSpec, root: Path) -> tuple[list[Inputs], Rates, list[MemberPlan]]:
    """The inputs of a task, or of each member of a mixture with its share and its plan."""
    if not isinstance(task, MixtureSpec):
        return [read_inputs(task, spec, root=root)], np.ones(1), []
    mixed = read_mixture(task, spec, root=root)
    planned = [
        MemberPlan(
            task=member.task,
            group=member.group,
            num_rows=_num_rows([mixed.inputs[member.task]]),
            num_evaluated_small=mixed.num_dropped[member.task]["small_evaluated"],
            num_evaluated_large=mixed.num_dropped[member.task].get("large_evaluated", 0),
            num_signal_large=mixed.num_dropped[member.task].get("large_signal", 0),
            rate=mixed.rates[member.task],
        )
        for member in task.members
    ]
    return list(mixed.inputs.values()), np.array(list(mixed.rates.values())), planned


@dataclass(frozen=True)
class _Work:
    """What models have to do on the examples of a task, or of the members of a mixture. tokens: of each part's training
    examples, which stand for those of all its splits."""

    parts: list[Inputs]
    rates: Rates
    tokens: list[_Tokens]

    @property
    def mean_prompt_tokens(self) -> float:
        return float(self.rates @ [found.prompts.mean() for found in self.tokens])

    @property
    def mean_target_tokens(self) -> float:
        return float(self.rates @ [found.targets.mean() for found in self.tokens])

    def steps_flops(self, shape: ModelShape, steps: int, batch_size: int) -> float:
        """Training for so many steps."""
        return steps * train_flops_per_step(
            shape,
            batch_size=batch_size,
            mean_prompt_tokens=self.mean_prompt_tokens,
            mean_target_tokens=self.mean_target_tokens,
        )

    def answer_flops(self, shape: ModelShape, splits: tuple[str, ...]) -> float:
        """Answering all examples of some splits."""
        return sum(
            float(forward_flops(shape, found.prompts, found.targets, found.choices).mean()) * len(part.examples[split])
            for found, part in zip(self.tokens, self.parts, strict=True)
            for split in splits
        )

    def signal_flops(self, shape: ModelShape) -> float:
        """The pass over the small models' training targets."""
        return sum(
            float(forward_flops(shape, found.prompts, found.targets).mean()) * len(part.examples["train"])
            for found, part in zip(self.tokens, self.parts, strict=True)
        )


def _chain_flops(spec: SweepSpec, work: _Work) -> float:
    """Preparing the further models of the chain."""
    flops = 0.0
    for model in spec.chain:
        shape, tuned = model_shape(load_config(model, work.parts[0].tokenizer)), model.finetune
        flops += work.answer_flops(shape, EVALUATION_SPLITS) + work.signal_flops(shape)
        if tuned is not None:
            flops += (1 + (tuned.cross_fit or 0)) * work.steps_flops(shape, tuned.steps, tuned.batch_size)
    return flops


def _long_prompts(task: TaskSpec | MixtureSpec, spec: SweepSpec, work: _Work) -> list[str]:
    """A line for each task of whose training prompts most are longer than the limit."""
    limit = spec.training.max_prompt_tokens
    return [
        f"{member.task}: training.max_prompt_tokens {limit} cuts the beginning of {found.cut_share:.0%} of the prompts, half "
        f"of which have {found.median_prompt:.0f} tokens or more; raise it, or shorten doc_to_text"
        for member, found in zip(members(task), work.tokens, strict=True)
        if found.cut_share > MOST
    ]


def _measured(task: TaskSpec | MixtureSpec, spec: SweepSpec, parts: list[Inputs], root: Path) -> list[str]:
    """What preparing has found out about the large model, where these very data and models have been prepared."""
    found = []
    for member, part in zip(members(task), parts, strict=True):
        path = prepared_path(root, spec.name, result_name(task, member))
        facts = read_json(path) if path.exists() else {}
        if facts.get("keys") == part.keys:
            found += facts.get("large_warnings", [])
    return found


def _mean_clients(spec: SweepSpec) -> float:
    """How many models train side by side in a run, each for all steps; the mean over strata."""
    return float(np.mean([mean_clients(tree) for tree in strata(training_tree(spec), spec.search.stratify).values()]))


def _num_rows(parts: list[Inputs]) -> dict[str, int]:
    return {split: sum(len(part.examples[split]) for part in parts) for split in parts[0].examples}


@dataclass(frozen=True)
class _Tokens:
    """Token counts of some examples: of each prompt and target, and of each choice of each example. cut_share: of the
    prompts that the limit cuts. median_prompt: tokens before the cut."""

    prompts: NDArray[np.int64]
    targets: NDArray[np.int64]
    choices: Ragged
    cut_share: float
    median_prompt: float

    @classmethod
    def of(
        cls, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, task: TaskSpec, spec: SweepSpec
    ) -> _Tokens:
        some = examples[:: max(1, len(examples) // SAMPLED_EXAMPLES)]

        def count(texts: list[str], *, special: bool) -> NDArray[np.int64]:
            return np.array([len(ids) for ids in token_ids(tokenizer, texts, special=special)], dtype=np.int64)

        end = 0 if task.output_type == "multiple_choice" else 1
        prompts = count([f"{example.prompt}{task.target_delimiter.rstrip()}" for example in some], special=True)
        targets = count([example.target for example in some], special=False) + end
        choices = count([choice for example in some for choice in example.choices], special=False)
        offsets = np.concatenate([[0], np.cumsum([len(example.choices) for example in some])]).astype(np.int64)
        limits = spec.training.max_prompt_tokens, spec.training.max_target_tokens
        return cls(
            prompts.clip(max=limits[0]),
            targets.clip(max=limits[1]),
            Ragged(choices, offsets),
            cut_share=float(np.mean(prompts > limits[0])),
            median_prompt=float(np.median(prompts)),
        )


def _parameters(shape: ModelShape) -> int:
    return (
        shape.decoder_parameters + shape.head_parameters + shape.encoder_parameters + shape.cross_key_value_parameters
    )


def _disk_of_cache(inputs: Inputs, num_rows: dict[str, int], tokens: float, target: float, large: int) -> float:
    """Bytes of data (4 a token id, 40 a row of texts), the large model's signal, and the large model (4 a weight)."""
    entry = bytes_a_target(inputs.distribution, len(inputs.tokenizer))
    return (4 * tokens + 40) * sum(num_rows.values()) + num_rows["train"] * target * entry + 4 * large


def _disk_of_runs(spec: SweepSpec, num_rows: dict[str, int], target: float, small: int, num_strata: int) -> float:
    """Bytes of all runs: rows (12 an output token and 50 a row), logged steps, the confirmed runs' weights; and what
    MLflow keeps of them: metric values, the curves' artifacts, and a copy of the confirmed rows."""
    search, steps = spec.search, spec.training.steps
    num_search, num_confirm = num_strata * search.num_samples, num_strata * search.confirm_seeds
    row = 12 * target + 50
    tested = row * sum(num_rows[name] for name in EVALUATION_SPLITS)
    logged = steps / max(1, steps // LOGGED_STEPS)
    values = VALUES_A_STEP * logged + 3 * len(rungs(spec))
    a_run = (STEP_BYTES * VALUES_A_STEP * logged) + MLFLOW_VALUE_BYTES * values
    runs = (num_search + num_confirm) * a_run + num_search * row * num_rows["validation"] + tested  # L's rows
    # Of N kept weights a task has its share, rounded up; one more is there before it is compared.
    share = num_confirm if spec.keep_models is None else min(num_confirm, -(-spec.keep_models // len(spec.tasks)) + 1)
    return runs + num_confirm * 2 * tested + share * 4 * small + MLFLOW_CURVE_BYTES * num_strata


def _num_done(folder: Path) -> Counter[str]:
    """The ended runs of each task or mixture of a sweep."""
    return Counter(record.task for role in ("trials", "confirm") for record in read_records(folder, role))
