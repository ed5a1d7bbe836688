"""What a task's prepared folders are made from, and their keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from catsweep.errors import DataError, ModelError
from catsweep.folds import Folds, cut_folds
from catsweep.models import Architecture, architecture_of, check_pair, load_config, load_tokenizer, model_key
from catsweep.space import training_tree
from catsweep.spec.base import digest
from catsweep.spec.dimensions import option_values, parse_space
from catsweep.spec.model import AnyModel, LargePretrained, LargeScratch, ScratchModel
from catsweep.spec.sweep import DistributionSpec, SweepSpec
from catsweep.spec.task import TaskSpec
from catsweep.spec.training import distils
from catsweep.tasks.examples import StoredExamples, has_ids, load_examples
from catsweep.tasks.fingerprint import source_fingerprint
from catsweep.tokenization import tokenizer_key


@dataclass(frozen=True)
class Inputs:
    """A task's examples and tokeniser, and the keys of everything that is made from them. folds: of the training
    examples, where the signal is cross-fitted."""

    examples: dict[str, StoredExamples]
    tokenizer: PreTrainedTokenizerBase
    architecture: Architecture
    distribution: DistributionSpec | None
    keys: dict[str, str | None]
    folds: Folds | None = None

    def folders(self, root: Path) -> dict[str, Path]:
        """The folder of each key."""
        return {name: root / "cache" / name / key for name, key in self.keys.items() if key is not None}


def read_inputs(task: TaskSpec, spec: SweepSpec, *, root: Path) -> Inputs:
    """Read a task's data and the tokeniser of the pair, and check that both models fit. Raises DataError, ModelError."""
    examples = read_examples(task, spec, root=root)
    refuse_empty(examples, f"task {task.task}")
    tokenizer, architecture = tokenizer_of_pair(spec, [examples])
    key = data_key(task, spec, tokenizer, architecture)
    finetune = spec.large.finetune
    num_folds = finetune.cross_fit if finetune else None
    folds = cut_folds(examples["train"].column("group"), num_folds, task.task) if num_folds else None
    return make_inputs(task, spec, examples, tokenizer, architecture, key, large_key(spec, key), folds=folds)


def chain_inputs(inputs: Inputs, task: TaskSpec, changed: SweepSpec) -> Inputs:
    """The same data with a further model of the chain, the large one of `changed`: its keys. Raises ModelError."""
    tokenizer_of_pair(changed, [inputs.examples])
    data, finetune = str(inputs.keys["data"]), changed.large.finetune
    num_folds = finetune.cross_fit if finetune else None
    folds = cut_folds(inputs.examples["train"].column("group"), num_folds, task.task) if num_folds else None
    large = large_key(changed, data)
    return make_inputs(task, changed, inputs.examples, inputs.tokenizer, inputs.architecture, data, large, folds=folds)


def read_examples(task: TaskSpec, spec: SweepSpec, *, root: Path) -> dict[str, StoredExamples]:
    """A task's examples, with the keys of their source texts; where groups are held out from the large model, the split
    `large_train` holds its part of train."""
    examples = load_examples(
        task,
        max_train_rows=spec.data.max_train_rows,
        max_evaluation_rows=spec.data.max_evaluation_rows,
        cache=root / "cache",
        data_root=spec.data_folder,
        verify=spec.data.verify,
        with_sources=True,
    )
    share = spec.large.finetune.holdout if spec.large.finetune else None
    return hold_out(examples, share) if share else examples


def data_key(task: TaskSpec, spec: SweepSpec, tokenizer: PreTrainedTokenizerBase, architecture: Architecture) -> str:
    """The key of a task's token ids."""
    finetune = spec.large.finetune
    version = 2 if task.doc_to_group is not None or has_ids(task) else 3  # 3: prompts as groups without letter case
    return digest(
        [
            *[
                version,
                task.data_key(),
                source_fingerprint(task, spec.data_folder),
                tokenizer_key(tokenizer),
                architecture,
            ],
            *[spec.data.data_key(), spec.training.max_prompt_tokens, spec.training.max_target_tokens],
            finetune.holdout if finetune else None,
        ]
    )


def large_key(spec: SweepSpec, data: object) -> str:
    """The key of the large model that answers a task's queries. data: key of what it may be fine-tuned on.

    Trained on all groups it is the same model wherever the signal comes from.
    """
    large, finetune = spec.large, spec.large.finetune
    if finetune is not None and finetune.holdout is None:
        alone = finetune.model_copy(update={"cross_fit": None, "unseen_signal": True})
        large = large.model_copy(update={"finetune": alone})
    return digest([1, data, model_key(large)])


def make_inputs(
    task: TaskSpec,
    spec: SweepSpec,
    examples: dict[str, StoredExamples],
    tokenizer: PreTrainedTokenizerBase,
    architecture: Architecture,
    data: str,
    large: str,
    opinions: str | None = None,
    folds: Folds | None = None,
) -> Inputs:
    """Inputs with all keys. data, large: keys of the token ids and of the large model. opinions: what the large model's
    pass and answers on them depend on; default: `large`, which for a task depends on the data."""
    distribution = spec.distribution if needs_distribution(spec) else None
    opinions = opinions or large
    signal: list[object] = [opinions, distribution.to_json() if distribution else None]
    keys = {
        "data": data,
        "large": large if spec.large.finetune else None,
        "signal": digest([*signal, {"cross_fit": len(folds)}] if folds else signal),
        "answers": digest([opinions, [metric.cache_key() for metric in task.metric_list], task.normalize]),
    }
    return Inputs(examples, tokenizer, architecture, distribution, keys, folds)


def hold_out(examples: dict[str, StoredExamples], share: float) -> dict[str, StoredExamples]:
    """Cut the training groups in two: `large_train` for the large model, `train` for every small one.

    A group goes by a hash of its key, so that no group lies on both sides.
    """

    bound = share * 2**64

    def is_held_out(group: str) -> bool:
        return int.from_bytes(hashlib.blake2b(f"holdout:{group}".encode(), digest_size=8).digest()) < bound

    train = examples["train"]
    held = np.array([is_held_out(group) for group in train.column("group")], dtype=bool)
    return {"large_train": train.select(~held), **examples, "train": train.select(held)}


def refuse_empty(examples: dict[str, StoredExamples], name: str, lost: str = "") -> None:
    """Raise DataError where one of the models has nothing to train on. name: `task made/reverse`. lost: what a
    mixture dropped before, as the end of a sentence."""
    for split, model in (("large_train", "L"), ("train", "S")):
        if split in examples and not len(examples[split]):
            leave = ", or leave the task out of the mixture" if lost else ""
            raise DataError(
                f"{name}: found no training example for {model}{lost}; expected at least one. Groups go whole to S or to L: "
                "write another doc_to_group, which gives more groups, or change large.finetune.holdout, S's share of them"
                f"{leave}"
            )


def shared_texts(task: str, examples: dict[str, StoredExamples]) -> list[str]:
    """A line for a person where training examples show a source text (see tasks.overlap) of an evaluation split under
    another group; none where there are no such."""
    shown = pa.chunked_array([_source_keys(examples[name])[0] for name in ("validation", "calibration", "test")])
    num_rows, num_shared = 0, 0
    for name in ("large_train", "train"):
        if name in examples:
            keys, rows = _source_keys(examples[name])
            num_rows += len(examples[name])
            num_shared += len(pc.unique(rows.filter(pc.is_in(keys, value_set=shown))))
    if not num_shared:
        return []
    return [
        f"{task}: {num_shared:,} of {num_rows:,} training examples show a text that an evaluation split shows too, under "
        "another group; they are kept. Name that text in doc_to_group, so that it lies in one split"
    ]


def _source_keys(examples: StoredExamples) -> tuple[pa.Array, pa.Array]:
    """The keys of all examples' source texts behind one another, and the example of each."""
    lists = examples.table.column("sources").take(pa.array(examples.indices)).combine_chunks()
    return pc.list_flatten(lists), pc.list_parent_indices(lists)


def needs_distribution(spec: SweepSpec) -> bool:
    """Whether any loss of the sweep distils: then the large model's pass keeps its distribution too. A loss that the space
    overlays counts as well."""
    losses = (training_tree(spec), parse_space(spec.training.to_json()))
    return any(distils(kind) for tree in losses for kind in option_values(tree, ("loss", "kind")))


def tokenizer_of_pair(
    spec: SweepSpec, tasks: Sequence[dict[str, StoredExamples]]
) -> tuple[PreTrainedTokenizerBase, Architecture]:
    """The tokeniser of both models; one from scratch is made from the training texts of all these tasks. Raises
    ModelError where the two models do not fit."""

    def texts() -> Iterator[str]:
        for examples in tasks:
            for name in ("large_train", "train"):
                if name in examples:
                    yield from map("".join, examples[name].texts("prompt", "target"))
        yield from sorted({choice for examples in tasks for row in examples["train"][:1000] for choice in row.choices})

    small = load_tokenizer(spec.small, texts())
    large_spec = large_with_tokenizer(spec.large, spec.small)
    large = small if _make_one_tokenizer(spec.small, large_spec) else load_tokenizer(large_spec, texts())
    small_config, large_config = load_config(spec.small, small), load_config(spec.large, large)
    check_pair(small, large, small_config, large_config)
    check_served(spec, architecture_of(large_config))
    return small, architecture_of(small_config)


def check_served(spec: SweepSpec, architecture: Architecture) -> None:
    """Raise ModelError where a server cannot give what the sweep needs of its large model."""
    if not isinstance(spec.large, LargePretrained) or spec.large.endpoint is None:
        return
    if architecture != "decoder":
        raise ModelError(f"large.endpoint: found an {architecture}; expected a decoder, whose prompts a server judges")
    if needs_distribution(spec) and spec.distribution.kind == "sampled":
        raise ModelError(
            "large.endpoint: found losses that distil with `distribution: {kind: sampled}`; expected {kind: top_k}, since a "
            "server tells the most probable tokens only"
        )


def _make_one_tokenizer(small: AnyModel, large: AnyModel) -> bool:
    """Whether both tokenisers are made by the same settings from the same texts, so that one is the other."""
    return isinstance(small, ScratchModel) and isinstance(large, ScratchModel) and small.tokenizer == large.tokenizer


def large_with_tokenizer(large: LargePretrained | LargeScratch, small: AnyModel) -> AnyModel:
    """The large model's spec; from scratch and without a tokeniser of its own it takes the small model's."""
    if isinstance(large, LargeScratch) and large.tokenizer is None:
        if not isinstance(small, ScratchModel):
            return small
        return large.model_copy(update={"tokenizer": small.tokenizer})
    return large
