"""Checkpoints in local folders: their paths made absolute, and what is missing in them found before anything starts."""

from __future__ import annotations

from pathlib import Path

from catsweep.errors import Problem
from catsweep.spec.paths import is_folder, resolved
from catsweep.spec.yaml import Document


def resolve_checkpoints(document: Document) -> list[Problem]:
    """Make local `pretrained` folders of a sweep's document absolute, and return what is wrong with them.

    A path is relative to the sweep file, else to the current folder. Workers may run elsewhere, so they get it absolute.
    What is no such folder and does not begin with /, ./, ../ or ~ is a name on the hub.
    """
    problems: list[Problem] = []
    chain = document.data.get("chain")
    places: list[tuple[tuple[str | int, ...], object]] = [
        *(((name,), document.data.get(name)) for name in ("small", "large")),
        *((("chain", index), fields) for index, fields in enumerate(chain if isinstance(chain, list) else [])),
    ]
    for place, fields in places:
        given = fields.get("pretrained") if isinstance(fields, dict) else None
        if not isinstance(given, str) or not given or not isinstance(fields, dict):
            continue
        path = Path(given) if resolved(Path(given)) is None else Path(given).expanduser()
        found = next((folder for folder in (document.path.parent / path, path) if is_folder(folder)), None)
        if found is not None:
            fields["pretrained"] = str(found.resolve())
            problems += _missing_files(document, place, found, is_served="endpoint" in fields)
        elif given.startswith(("/", "./", "../", "~")):
            expected = "a folder with config.json, safetensors and the tokeniser's files, or a name on the hub"
            hint = f"A path is relative to {document.path.parent.resolve()}"
            problems.append(document.problem((*place, "pretrained"), found=repr(given), expected=expected, hint=hint))
    return problems


def _missing_files(document: Document, place: tuple[str | int, ...], folder: Path, *, is_served: bool) -> list[Problem]:
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not any(folder.glob("*.safetensors")) and not is_served:
        missing.append("*.safetensors")
    if not any(folder.glob("tokenizer*")) and not any(folder.glob("*.model")) and not any(folder.glob("vocab*")):
        missing.append("a tokeniser's files")
    if not missing:
        return []
    names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    expected = f"a checkpoint; missing: {', '.join(missing)}"
    hint = "Write it with model.save_pretrained(folder) and tokenizer.save_pretrained(folder)"
    return [document.problem((*place, "pretrained"), found=f"{folder} with {names}", expected=expected, hint=hint)]
