"""Which commit of a checkpoint on the hub a sweep uses: all trials of a task take one, and once its files are in the library's
cache, no process asks the hub for them again."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download

from catsweep.models import model_key
from catsweep.records import read_json
from catsweep.spec.model import AnyModel, PretrainedModel
from catsweep.spec.sweep import TrialSpec


def small_commit(spec: AnyModel, path: Path) -> str | None:
    """The commit of the small model: that of the prepared facts at `path` where they have one, else what its revision names
    now. None: a local folder, or no checkpoint."""
    known = read_json(path) if path.exists() else {}
    if known.get("commit") and known["small"] == model_key(spec):
        return str(known["commit"])
    if not isinstance(spec, PretrainedModel) or Path(spec.pretrained).is_dir():
        return None
    # In the library's cache a file lies below a folder named after its commit.
    return Path(hf_hub_download(spec.pretrained, "config.json", revision=spec.revision)).parent.name


def at_commit(spec: TrialSpec, commit: str | None) -> TrialSpec:
    """The trial with its small model at this commit."""
    if commit is None:
        return spec
    return spec.model_copy(update={"small": spec.small.model_copy(update={"revision": commit})})
