"""Which commit of a checkpoint on the hub a sweep uses: all that belongs to a task takes one, and once its files are in the
library's cache, no process asks the hub for them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import file_exists, hf_hub_download

from catsweep.errors import ModelError
from catsweep.models import cannot_load, model_key
from catsweep.records import read_json
from catsweep.spec.model import AnyModel, PretrainedModel
from catsweep.spec.sweep import SweepSpec, TrialSpec

AnySpec = TypeVar("AnySpec", SweepSpec, TrialSpec)
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def small_facts(spec: AnyModel, path: Path) -> dict[str, Any]:
    """What prepared facts hold of the small model: its key, and `commit`, that of the facts at `path` where they have one, else
    what its revision names now; None of a local folder and of a model from scratch. Raises ModelError."""
    key, known = model_key(spec), read_json(path) if path.exists() else {}
    if known.get("commit") and known["small"] == key:
        return {"small": key, "commit": known["commit"]}
    return {"small": key, "commit": _commit_now(spec)}


def at_commit(spec: AnySpec, commit: str | None) -> AnySpec:
    """The sweep or trial with its small model at this commit."""
    if commit is None:
        return spec
    return spec.model_copy(update={"small": spec.small.model_copy(update={"revision": commit})})


def _commit_now(spec: AnyModel) -> str | None:
    if not isinstance(spec, PretrainedModel) or Path(spec.pretrained).is_dir():
        return None
    try:  # in the library's cache a file lies below a folder named after its commit
        commit = Path(hf_hub_download(spec.pretrained, "config.json", revision=spec.revision)).parent.name
    except (OSError, ValueError) as error:
        raise cannot_load(spec, error) from None
    try:
        is_there = any(file_exists(spec.pretrained, name, revision=commit) for name in WEIGHTS)
    except Exception:  # out of reach, in any of several libraries' ways: who loads the weights finds out
        return commit
    if not is_there:
        raise ModelError(
            f"pretrained: {spec.pretrained!r} has no {WEIGHTS[0]} at commit {commit}; expected weights in safetensors. Give "
            "a revision that has them (the hub offers conversions as pull requests: refs/pr/NUMBER)"
        )
    return commit
