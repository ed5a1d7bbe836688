"""Rows of a test set that sacrebleu knows: the source text, and the translations that answers are compared with.

Local files are tried first, below `<data root>/<test set>/`, in any of three layouts (`txt/` and its two folders may be
left out):

    txt/sources/NAME.cs-en.src.cs    txt/references/NAME.cs-en.ref.B.en      as the WMT organisers publish them
    SET.cs-en.src                    SET.cs-en.ref-B                          as sacrebleu keeps them (~/.sacrebleu/SET)

Else sacrebleu reads its own cache, or downloads the set. Either way the texts are those that sacrebleu scores: runs of
white space are one space.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catsweep.errors import DataError, OutOfReachError
from catsweep.spec.base import digest
from catsweep.spec.source import SacrebleuSource
from catsweep.spec.yaml import did_you_mean

logger = logging.getLogger(__name__)

UNNAMED = ""
"""The name of a reference set that has none: sacrebleu's default for liv-en and ru-sah of wmt22."""


@dataclass(frozen=True)
class SetFiles:
    """The files of one test set and direction: line i of each is segment i. references: name -> file."""

    source: Path
    references: dict[str, Path]


def read_sacrebleu(
    source: SacrebleuSource, data_root: Path | None, max_rows: int | None = None
) -> list[dict[str, Any]]:
    """Rows `{translation: {cs: "...", en: "..."}, references: ["...", ...]}` in the order of the test set.

    The translation in the target language is the first reference. Segments without a text on either side are left out.
    data_root: folder of local data, None where there is none. max_rows: the first so many. Raises DataError: unknown
    set, direction or reference set, files that are missing or of different length.
    """
    files = local_files(source, data_root) or downloaded_files(source, data_root)
    source_language, target_language = _languages(source)
    sources = _segments(files.source)
    references = [_segments(path) for path in files.references.values()]
    _check_lengths(source, files, [sources, *references])
    rows = []
    for text, *translations in zip(sources, *references, strict=True):
        given = [translation for translation in translations if translation]
        if text and given:
            pair = {source_language: text, target_language: given[0]}
            rows.append({"translation": pair, "references": given})
    if len(rows) < len(sources):
        logger.warning(
            "%s: left out %d of %d segments: they have no text on one side",
            _shown(source), len(sources) - len(rows), len(sources),
        )  # fmt: skip
    return rows[:max_rows]


def sacrebleu_fingerprint(source: SacrebleuSource, data_root: Path | None) -> str:
    """A key of the content: that of local files, else the checksums of what sacrebleu would download."""
    if local_files(source, data_root) is not None:
        return digest(read_sacrebleu(source, data_root))
    known = _known(source)
    return digest([source.test_set, source.langpair, reference_sets(source), known.md5 or known.data])


def reference_sets(source: SacrebleuSource) -> list[str]:
    """The names of the reference sets that are read: the given ones, else sacrebleu's default for this direction."""
    if source.references:
        return list(source.references)
    known = _known(source)
    pair = known.langpairs[source.langpair]
    names = pair.get("refs") if isinstance(pair, dict) else None
    return list(names or known.kwargs.get("refs") or [UNNAMED])


def local_files(source: SacrebleuSource, data_root: Path | None) -> SetFiles | None:
    """The files below the data root, or None where it holds no source text of this set and direction."""
    wanted = reference_sets(source)
    if data_root is None:
        return None
    folder = data_root.expanduser() / source.test_set
    source_language, _ = _languages(source)
    pair = source.langpair
    places = [folder, folder / "sources", folder / "txt" / "sources"]
    found = [path for place in places for path in sorted(place.glob(f"*.{pair}.src.{source_language}"))]
    found += sorted(folder.glob(f"*.{pair}.src"))
    if not found:
        return None
    if len({tuple(_segments(path)) for path in found}) > 1:
        shown = ", ".join(map(str, found))
        raise DataError(f"{_shown(source)}: found several source files: {shown}; expected one. Remove the others")
    # Copies of one source may lie in several layouts: the first that has the wanted references is read.
    available = [_references_beside(path, source) for path in found]
    best = next((index for index, names in enumerate(available) if set(wanted) <= set(names)), 0)
    return SetFiles(found[best], _chosen(source, wanted, available[best], str(found[best].parent)))


def _references_beside(file: Path, source: SacrebleuSource) -> dict[str, Path]:
    """The reference sets that belong to a source file, by name."""
    pair, target_language = source.langpair, _languages(source)[1]
    name = file.name.split(f".{pair}.src")[0]
    beside = file.parent if file.parent.name != "sources" else file.parent.with_name("references")
    labels = {
        **{path.name: UNNAMED for path in beside.glob(f"{name}.{pair}.ref.{target_language}")},
        **{path.name: UNNAMED for path in beside.glob(f"{name}.{pair}.ref")},
        **{path.name: path.name.rsplit(".", 2)[1] for path in beside.glob(f"{name}.{pair}.ref.*.{target_language}")},
        **{path.name: path.name.rsplit(".ref-", 1)[1] for path in beside.glob(f"{name}.{pair}.ref-*")},
    }
    return {label: beside / file_name for file_name, label in sorted(labels.items())}


def downloaded_files(source: SacrebleuSource, data_root: Path | None) -> SetFiles:
    """The files in sacrebleu's cache; they are downloaded where they are not there yet. data_root: for the message."""
    known = _known(source)
    wanted = reference_sets(source)
    try:
        fields = known.fieldnames(source.langpair)
        files = dict(zip(fields, map(Path, known.get_files(source.langpair)), strict=True))
    except (Exception, SystemExit) as error:  # the network, archives and XML raise dozens of kinds; sacrebleu exits
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        name, (source_language, target_language) = source.test_set, _languages(source)
        raise OutOfReachError(
            f"{_shown(source)}: found no local files below {data_root or '<data root>'}/{name} and no download "
            f"({type(error).__name__}: {reason}); expected one of them. Where there is no network, run `catsweep fetch` "
            f"on a machine that has one, or put {name}.{source.langpair}.src.{source_language} and "
            f"{name}.{source.langpair}.ref.{wanted[0] or 'A'}.{target_language}, one segment a line, into "
            f"<data root>/{name}",
            short=f"{_shown(source)}: not on this machine, nor can sacrebleu download it",
        ) from error
    available = {
        field.removeprefix("ref").removeprefix(":"): path
        for field, path in files.items()
        if field == "ref" or field.startswith("ref:")
    }
    return SetFiles(files["src"], _chosen(source, wanted, available, str(files["src"].parent)))


def _chosen(source: SacrebleuSource, wanted: Sequence[str], available: dict[str, Path], where: str) -> dict[str, Path]:
    """The wanted reference sets in the wanted order. An unnamed set may lie in a file with a name, if it is alone."""
    if list(wanted) == [UNNAMED] and UNNAMED not in available and len(available) == 1:
        return dict(available)
    missing = [name for name in wanted if name not in available]
    if missing:
        names = ", ".join(name or "unnamed" for name in available) or "none"
        raise DataError(
            f"{_shown(source)} in {where}: found the reference sets {names}; expected {', '.join(missing) or 'unnamed'}"
            ". Change `references`, or add the file"
        )
    return {name: available[name] for name in wanted}


def _segments(path: Path) -> list[str]:
    """The lines of a file, cut at line feeds only, as sacrebleu cleans them."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{error.reason} at byte {error.start}"
        raise DataError(f"{path}: {reason}; expected UTF-8 text, one segment a line") from None
    lines = text.removesuffix("\n").split("\n") if text else []
    return [re.sub(r"\s+", " ", line.strip()) for line in lines]


def _check_lengths(source: SacrebleuSource, files: SetFiles, columns: Sequence[Sequence[str]]) -> None:
    if len({len(column) for column in columns}) > 1:
        paths = [files.source, *files.references.values()]
        counts = ", ".join(f"{path} {len(column)}" for path, column in zip(paths, columns, strict=True))
        raise DataError(f"{_shown(source)}: found files of different length: {counts} lines; expected the same number")


def _known(source: SacrebleuSource) -> Any:
    """sacrebleu's description of the set. Raises DataError for an unknown set or direction."""
    from sacrebleu.dataset import DATASETS as sets  # takes a second, and few tasks need it

    if source.test_set not in sets:
        hint = did_you_mean(source.test_set, sets) or "`sacrebleu --list` prints all"
        raise DataError(f"test set: found {source.test_set!r}; expected one that sacrebleu knows. {hint}")
    known = sets[source.test_set]
    if source.langpair not in known.langpairs:
        hint = did_you_mean(source.langpair, known.langpairs)
        raise DataError(
            f"test set {source.test_set}: found the direction {source.langpair!r}; expected one of "
            f"{', '.join(sorted(known.langpairs))}. {hint}".rstrip()
        )
    return known


def _languages(source: SacrebleuSource) -> tuple[str, str]:
    source_language, _, target_language = source.langpair.partition("-")
    return source_language, target_language


def _shown(source: SacrebleuSource) -> str:
    return f"test set {source.test_set} {source.langpair}"
