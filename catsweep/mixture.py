"""What a mixture needs before its trials: each member's data, one large model for all, its signal and answers.

A training example whose source text stands in an evaluation split of any member is dropped, and the large model also
loses what any member's small-model half shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from catsweep.cascade.metrics import metric_of
from catsweep.commits import at_commit, small_facts
from catsweep.errors import DataError
from catsweep.folds import Folds, cut_folds, hide_leaks
from catsweep.inputs import Inputs, data_key, large_key, make_inputs, read_examples, refuse_empty, tokenizer_of_pair
from catsweep.large import EVALUATION_SPLITS, LargeModel
from catsweep.mixing import leaking
from catsweep.models import Architecture
from catsweep.prepare import cross_fit_signals, prepare_task, prepared_path, refuse_other_data, write_data
from catsweep.records import write_json
from catsweep.spec.base import Json, digest
from catsweep.spec.mixture import MixtureSpec, result_name, sampling_rates
from catsweep.spec.search import lower_is_better
from catsweep.spec.sweep import SweepSpec
from catsweep.spec.task import TaskSpec
from catsweep.tasks.examples import StoredExamples
from catsweep.tasks.fingerprint import unit_fingerprint
from catsweep.train import MixedData
from catsweep.workers import Workers, barrier, current_workers


@dataclass(frozen=True)
class MixtureInputs:
    """A mixture's members, by task name.

    num_dropped: training examples of each that were left out, by reason (see `drop_leaks`). rates: shares in the small
    models' batches. large_rates: shares in the large model's, None where it is used as it is. keys: of all members
    together. num_hidden: what cross-fitting leaves out (see folds.hide_leaks): examples of each member, by fold.
    """

    inputs: dict[str, Inputs]
    num_dropped: dict[str, dict[str, int]]
    rates: dict[str, float]
    large_rates: dict[str, float] | None
    keys: dict[str, str | None]
    num_hidden: dict[str, list[int]]


def prepare_unit(task: TaskSpec | MixtureSpec, spec: SweepSpec, *, root: Path) -> dict[str, Any]:
    """Make what is missing of what a task or a mixture needs; see `prepare.prepare_task`."""
    if isinstance(task, MixtureSpec):
        return prepare_mixture(task, spec, root=root)
    return prepare_task(task, spec, root=root)


def read_mixture(mixture: MixtureSpec, spec: SweepSpec, *, root: Path) -> MixtureInputs:
    """Read all members' data, drop what leaks, and make one tokeniser of the pair. Raises DataError, ModelError."""
    _check_scales(mixture, spec)
    read = {task.task: read_examples(task, spec, root=root) for task in mixture.members}
    kept, dropped = drop_leaks(read)
    for name, splits in kept.items():
        num_dropped = sum(map(len, dropped[name].values()))
        lost = f" after {num_dropped:,} were dropped whose source text another split of a member shows"
        refuse_empty(splits, f"mixture {mixture.task}, task {name}", lost)
    tokenizer, architecture = tokenizer_of_pair(spec, list(kept.values()))
    data_keys = {task.task: data_key(task, spec, tokenizer, architecture) for task in mixture.members}
    data_keys = {
        name: digest([key, dropped[name]]) if any(dropped[name].values()) else key for name, key in data_keys.items()
    }
    finetune = spec.large.finetune
    large_split = finetune.train_split if finetune else "train"
    sizes = {split: [len(splits[split]) for splits in kept.values()] for split in ("train", large_split)}
    rates = {
        split: dict(zip(kept, sampling_rates(mixture.sampling, found), strict=True)) for split, found in sizes.items()
    }
    large_rates = rates[large_split] if finetune else None
    found = MixtureInputs({}, _lengths(dropped), rates["train"], large_rates, {}, {})
    parts = {name: (kept[name], key) for name, key in data_keys.items()}
    return _with_keys(found, mixture, spec, parts, tokenizer, architecture)


def chain_mixture(mixed: MixtureInputs, mixture: MixtureSpec, changed: SweepSpec) -> MixtureInputs:
    """The same data with a further model of the chain, the large one of `changed`: its keys. Raises ModelError."""
    first, finetune = next(iter(mixed.inputs.values())), changed.large.finetune
    tokenizer_of_pair(changed, [found.examples for found in mixed.inputs.values()])
    large_rates = (mixed.rates if finetune.holdout is None else mixed.large_rates) if finetune else None
    parts = {name: (found.examples, str(found.keys["data"])) for name, found in mixed.inputs.items()}
    changed_inputs = MixtureInputs({}, mixed.num_dropped, mixed.rates, large_rates, {}, {})
    return _with_keys(changed_inputs, mixture, changed, parts, first.tokenizer, first.architecture)


def _with_keys(
    mixed: MixtureInputs,
    mixture: MixtureSpec,
    spec: SweepSpec,
    parts: dict[str, tuple[dict[str, StoredExamples], str]],
    tokenizer: PreTrainedTokenizerBase,
    architecture: Architecture,
) -> MixtureInputs:
    """The members' inputs and keys for the large model of a sweep. parts: each member's examples and their key."""
    finetune = spec.large.finetune
    num_folds = finetune.cross_fit if finetune else None
    folds = cut_members({name: examples for name, (examples, _) in parts.items()}, num_folds) if num_folds else {}
    finetuned_on = [{name: key for name, (_, key) in parts.items()}, mixed.large_rates] if finetune else None
    inputs = {}
    for task in mixture.members:
        examples, key = parts[task.task]
        large = large_key(spec, finetuned_on or key)
        opinions = digest([large, key]) if finetuned_on else large
        inputs[task.task] = make_inputs(
            task, spec, examples, tokenizer, architecture, key, large, opinions, folds.get(task.task)
        )
    keys: dict[str, str | None] = {
        name: digest([item.keys[name] for item in inputs.values()]) for name in ("data", "signal", "answers")
    }
    keys["large"] = large_key(spec, finetuned_on) if finetuned_on else None
    num_hidden = {name: found.hidden.sum(axis=1).tolist() for name, found in folds.items()}
    return replace(mixed, inputs=inputs, keys=keys, num_hidden=num_hidden)


def _lengths(dropped: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, int]]:
    return {name: {split: len(ids) for split, ids in found.items()} for name, found in dropped.items()}


def cut_members(members: dict[str, dict[str, StoredExamples]], num_folds: int) -> dict[str, Folds]:
    """The folds of each member's training examples: cut by group, and the model of a fold sees no source text that any
    member shows in that fold."""
    folds = {name: cut_folds(splits["train"].column("group"), num_folds, name) for name, splits in members.items()}
    sources = {
        name: [frozenset(keys) for keys in splits["train"].column("sources")] for name, splits in members.items()
    }
    return hide_leaks(folds, sources)


def drop_leaks(
    members: dict[str, dict[str, StoredExamples]],
) -> tuple[dict[str, dict[str, StoredExamples]], dict[str, dict[str, list[str]]]]:
    """The members' splits without training examples whose source text any member shows elsewhere, and the ids of those, by
    member and reason:

    small_evaluated, large_evaluated: of S's part, and of L's, where an evaluation split shows it.
    large_signal: of L's part, where S's part shows it: the signal there must come from a large model that has not seen it.
    """

    kept = {name: dict(splits) for name, splits in members.items()}
    dropped: dict[str, dict[str, list[str]]] = {name: {} for name in members}
    is_held_out = "large_train" in next(iter(members.values()))

    def sources(*splits: str) -> dict[str, list[frozenset[bytes]]]:
        return {
            name: [frozenset(keys) for split in splits for keys in found[split].column("sources")]
            for name, found in kept.items()
        }

    def drop(split: str, against: tuple[str, ...], reason: str) -> None:
        for name, indices in leaking(sources(split), sources(*against)).items():
            gone, examples = np.isin(np.arange(len(kept[name][split])), indices), kept[name][split]
            dropped[name][reason] = examples.select(gone).column("id")
            kept[name][split] = examples.select(~gone)

    drop("train", EVALUATION_SPLITS, "small_evaluated")
    if is_held_out:
        drop("large_train", EVALUATION_SPLITS, "large_evaluated")
        drop("large_train", ("train",), "large_signal")
    return kept, dropped


def prepare_mixture(mixture: MixtureSpec, spec: SweepSpec, *, root: Path) -> Json:
    """Make what is missing of the members' data, the large model, its signals and answers; returns facts.

    Each member also has facts of its own, as a task has: prepared/<mixture>/<task>.json.
    """
    workers = current_workers(spec.resources.large.parallel)
    path = prepared_path(root, spec.name, mixture.task)
    trials = root / spec.name / "trials" / mixture.task
    known = small_facts(spec.small, path)
    spec = at_commit(spec, known["commit"])
    mixed = read_mixture(mixture, spec, root=root)
    refuse_other_data(path, trials, mixed.keys)
    whole, facts = _prepare_model(mixture, spec, mixed, root=root, workers=workers)
    for found in (whole, *facts.values()):
        found |= known
    for model in spec.chain:
        changed = spec.with_large(model)
        own = chain_mixture(mixed, mixture, changed)
        refuse_other_data(path, trials, own.keys, model.name)
        its_whole, its_facts = _prepare_model(mixture, changed, own, root=root, workers=workers)
        whole.setdefault("chain", {})[model.name] = its_whole
        for member, found in its_facts.items():
            facts[member].setdefault("chain", {})[model.name] = found
    if workers.rank == 0:
        for task in mixture.members:
            write_json(prepared_path(root, spec.name, result_name(mixture, task)), facts[task.task])
        write_json(path, whole)
    barrier(workers)
    return whole


def _prepare_model(
    mixture: MixtureSpec, spec: SweepSpec, mixed: MixtureInputs, *, root: Path, workers: Workers
) -> tuple[Json, dict[str, Json]]:
    """The members' data, the large model, its signals and answers; returns facts about all, and about each member."""
    data = {
        task.task: write_data(mixed.inputs[task.task], task, spec, root=root, workers=workers)
        for task in mixture.members
    }
    first = next(iter(mixed.inputs.values()))
    large = LargeModel(spec.large, first.tokenizer, first.architecture, workers)
    weights = first.folders(root).get("large")
    if spec.large.finetune is not None and weights is not None and mixed.large_rates is not None:
        split, shares = spec.large_split, tuple(mixed.large_rates.values())
        parts = tuple(large.training_data(found.tokens(split)) for found in data.values())
        large.finetune_once(MixedData(parts, shares), spec.large.finetune, weights)
        pairs = [(data[name], inputs) for name, inputs in mixed.inputs.items()]
        cross_fit_signals(pairs, spec, root=root, rates=shares, workers=workers)
    facts = {}
    for task in mixture.members:
        facts[task.task] = large.judge(data[task.task], task, spec, mixed.inputs[task.task], weights, root=root) | {
            "num_dropped": mixed.num_dropped[task.task],
            **({"num_hidden": mixed.num_hidden[task.task]} if mixed.num_hidden else {}),
            "rate": mixed.rates[task.task],
            "large_rate": (mixed.large_rates or mixed.rates)[task.task],
        }
    own = facts[mixture.members[0].task]
    whole: Json = {
        "keys": mixed.keys,
        "num_rows": {split: sum(found["num_rows"][split] for found in facts.values()) for split in own["num_rows"]},
        "source": unit_fingerprint(mixture, spec.data_folder),
        "architecture": own["architecture"],
        "large_shape": own["large_shape"],
        "rates": mixed.rates,
        "num_dropped": mixed.num_dropped,
        "warnings": [text for found in facts.values() for text in found["warnings"]],
        "peak_memory_bytes": own["peak_memory_bytes"],
    }
    return whole, facts


def _check_scales(mixture: MixtureSpec, spec: SweepSpec) -> None:
    """One quality to reach needs one unit."""
    scales = {task.task: metric_of(task.metric_list[0]).scale for task in mixture.members}
    if any(map(lower_is_better, spec.search.objectives)) and len(set(scales.values())) > 1:
        found = ", ".join(f"{name} in [0, {scale:g}]" for name, scale in scales.items())
        raise DataError(
            f"mixture {mixture.task}: search.metric cost_at_quality asks for one quality of members whose metrics have "
            f"different units ({found}); expected one unit. Use audc or quality_at_cost"
        )
