"""YAML text -> plain data that remembers its lines, and pydantic's errors -> problems with file, line and a hint."""

from __future__ import annotations

import contextlib
import difflib
import functools
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Tag, ValidationError
from pydantic_core import ErrorDetails

from catsweep.errors import Problem, SpecError
from catsweep.redact import has_credentials
from catsweep.spec.base import Mismatch, Spec

KeyPath = tuple[str | int, ...]
MAX_BYTES = 1_000_000
MAX_NODES = 100_000
"""More nodes than this, aliases expanded, is no settings file but an attack (a "YAML bomb")."""
MAX_LEVELS = 64
MAX_PROBLEMS = 100
"""Problems of one validation that are worded; of the rest the number is told."""
MAX_HINTED = 200
"""Characters of a word that is compared with the words that were expected."""


@dataclass
class Document:
    """One YAML file as plain data, with what it includes.

    lines: a path of keys -> its line. files: the file of paths that stand in another one than `path`. sources: another
    origin of a path, such as an override of the command line.
    """

    path: Path
    data: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)
    sources: dict[KeyPath, str] = field(default_factory=dict)
    files: dict[KeyPath, Path] = field(default_factory=dict)

    def where(self, keys: KeyPath) -> str:
        """FILE:LINE of the deepest part of the path that the document has."""
        for length in range(len(keys), -1, -1):
            if keys[:length] in self.sources:
                return self.sources[keys[:length]]
            if keys[:length] in self.lines:
                return f"{self.file_of(keys[:length])}:{self.lines[keys[:length]]}"
        return f"{self.path}:1"

    def file_of(self, keys: KeyPath) -> Path:
        """The file in which the deepest known part of a path stands."""
        known = next((keys[:length] for length in range(len(keys), -1, -1) if keys[:length] in self.lines), ())
        return self.files.get(known, self.path)

    def problem(self, keys: KeyPath, *, found: str, expected: str, hint: str = "") -> Problem:
        """A problem at a path of this document."""
        return Problem(self.where(keys), dotted(keys) or "document", found, expected, hint)


def dotted(keys: KeyPath) -> str:
    """`a.b.0.c` of a path of keys."""
    return ".".join(str(key) for key in keys)


def read_yaml(path: Path) -> Document:
    """Read one YAML file. Raises SpecError: missing, not YAML, a key twice, too large."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a path that no file can have
        hint = "Save it as UTF-8" if isinstance(error, UnicodeDecodeError) else "Check the path"
        raise SpecError([Problem(str(path), "document", _reason(error), "a readable YAML file", hint)]) from None
    if len(data) > MAX_BYTES:
        expected = f"at most {MAX_BYTES:,} bytes of settings"
        raise SpecError([Problem(str(path), "document", "a larger file", expected)])
    return parse_yaml(text.replace("\r\n", "\n").replace("\r", "\n"), path)


def parse_yaml(text: str, path: Path) -> Document:
    """The document of a YAML text; `path` stands in messages. Raises SpecError."""
    document = Document(path, None)
    try:
        node = _compose(text)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        problem = Problem(where, "document", f"broken YAML ({reason})", "valid YAML", _way_out(text, mark, reason))
        raise SpecError([problem]) from None
    except RecursionError:
        raise SpecError([Problem(str(path), "document", "too many nested levels", f"at most {MAX_LEVELS}")]) from None
    if node is not None:
        document.data = _Builder(document, text).build(node, ())
    return document


def _compose(text: str) -> yaml.Node | None:
    """The nodes of a text. libyaml reads some eight times as fast as PyYAML's own reader, which words what is wrong."""
    if yaml.__with_libyaml__:
        with contextlib.suppress(yaml.YAMLError, ValueError):  # ValueError: half a character
            return yaml.compose(text, Loader=yaml.CSafeLoader)
    return yaml.compose(text, Loader=_Loader)


def _way_out(text: str, mark: Any, reason: str) -> str:
    """What to change in a text that is no YAML. mark: where reading stopped, lines and columns counted from 0."""
    lines = text.splitlines()
    if mark is None or mark.line >= len(lines):
        return "Check that every quote and bracket is closed"
    line, above = lines[mark.line], next((other for other in reversed(lines[: mark.line]) if other.strip()), "")
    indents = [len(each) - len(each.lstrip()) for each in (line, above)]
    if "\t" in line[: indents[0]]:
        return "Indent with spaces: the line begins with a tab"
    if re.search(r"[:\-]\s+\{[{%]", line):
        return "Put a template that begins with a brace in quotes"
    if "',' or" in reason:
        return "Close the bracket, or put a comma between its items"
    if indents[0] != indents[1] and ("mapping values" in reason or "block end" in reason):
        return f"Check the indentation: the line begins with {indents[0]} spaces, the one above with {indents[1]}"
    if "mapping values" in reason:
        return "Put a text that holds `: ` in quotes"
    if "cannot start" in reason:
        return f"Put the text that begins with {line[mark.column]} in quotes"
    return "Check quotes, brackets and the line above"


class _Loader(yaml.SafeLoader):
    """Stops at brackets that are nested too deep: PyYAML reads thousands of them before its recursion ends."""

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level > MAX_LEVELS:
            raise RecursionError
        super().fetch_flow_collection_start(token)


class _Builder:
    """Turns composed nodes into plain data and notes their lines."""

    def __init__(self, document: Document, text: str) -> None:
        self.document, self.text = document, text
        self.constructor = yaml.SafeLoader("")
        self.num_nodes = 0
        self.merging: list[yaml.Node] = []

    def build(self, node: yaml.Node, keys: KeyPath) -> Any:
        self.num_nodes += 1
        line = node.start_mark.line + 1
        if self.num_nodes > MAX_NODES or len(keys) > MAX_LEVELS:
            expected = f"at most {MAX_NODES} nodes and {MAX_LEVELS} levels"
            raise SpecError([Problem(f"{self.document.path}:{line}", "document", "a larger file", expected)])
        self.document.lines.setdefault(keys, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, keys)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*keys, index)) for index, child in enumerate(node.value)]
        try:
            value = self.constructor.construct_object(node, deep=True)
        except Exception:  # what PyYAML raises for `!!bool maybe` or `!!timestamp x` depends on the tag
            found = f"{node.tag} {_short(node.value)}"
            raise SpecError([Problem(f"{self.document.path}:{line}", dotted(keys), found, "plain YAML")]) from None
        if isinstance(node.value, str) and has_credentials(node.value):
            found, expected = "a URI with a password", "none in a file: settings stand in records, reports and MLflow"
            hint = "Put it into the environment of the cluster"
            raise SpecError([Problem(f"{self.document.path}:{line}", dotted(keys), found, expected, hint)])
        # A date, a set or bytes is text to every field of ours.
        value = value if isinstance(value, str | int | float | bool) or value is None else node.value
        return self._whole(value, line, keys) if isinstance(value, str) else value

    def _whole(self, text: str, line: int, keys: KeyPath) -> str:
        """The text, in which two escapes that are one character (JSON writes so) are put together. Raises SpecError where it has
        half of one, or a NUL."""
        if "\0" in text:
            found, expected = f"a NUL character in {ascii(text)[:80]}", "a text that may name a file"
            raise SpecError([Problem(f"{self.document.path}:{line}", dotted(keys), found, expected)])
        try:
            return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            found, expected = f"half a character in {ascii(text)[:80]}", "a text that can be written as UTF-8"
            hint = "Write the character itself"
            raise SpecError([Problem(f"{self.document.path}:{line}", dotted(keys), found, expected, hint)]) from None

    def _mapping(self, node: yaml.MappingNode, keys: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *anchor` gives defaults to this map
                parts = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for part in reversed(parts):
                    if not isinstance(part, yaml.MappingNode):
                        where = f"{self.document.path}:{part.start_mark.line + 1}"
                        raise SpecError(
                            [Problem(where, dotted((*keys, "<<")), "no map", "a map to merge, such as *anchor")]
                        )
                    if part in self.merging:
                        where = f"{self.document.path}:{part.start_mark.line + 1}"
                        raise SpecError(
                            [Problem(where, dotted((*keys, "<<")), "a map in itself", "another map to merge")]
                        )
                    self.merging.append(part)
                    merged |= self.build(part, keys)
                    self.merging.pop()
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._no_key(node, keys)
            line = key_node.start_mark.line + 1
            key = self._whole(str(key_node.value), line, keys)
            if key in result:
                first = self.document.lines[(*keys, key)]
                raise SpecError([Problem(
                    f"{self.document.path}:{line}", dotted((*keys, key)), f"the key {key!r} again (first on line {first})",
                    "every key once",
                )])  # fmt: skip
            self.document.lines[(*keys, key)] = line
            result[key] = self.build(value_node, (*keys, key))
        return merged | result

    def _no_key(self, node: yaml.MappingNode, keys: KeyPath) -> SpecError:
        """A map or list where a key should be: as a rule a template without quotes."""
        where = f"{self.document.path}:{node.start_mark.line + 1}"
        text = self.text[node.start_mark.index : node.end_mark.index][:80]
        if text.startswith("{{"):
            found, hint = f"{text} without quotes", f'Write "{text}", in quotes'
            return SpecError([Problem(where, dotted(keys) or "document", found, "a text", hint)])
        return SpecError([Problem(where, dotted(keys) or "document", "a map or list as a key", "a name as a key")])


def apply_override(document: Document, override: str) -> None:
    """Set `dotted.path=value` (value read as YAML) in the document. Raises SpecError."""
    path, separator, text = override.partition("=")
    keys: list[str | int] = [int(key) if re.fullmatch("[0-9]{1,9}", key) else key for key in path.strip().split(".")]
    source = f"override {override}"
    if not separator or not path.strip():
        raise SpecError([Problem(source, "", "no value", "KEY=VALUE, for example search.num_samples=4")])
    value = parse_yaml(text, Path(source)).data
    here = document.data
    for key in keys[:-1]:
        if isinstance(here, dict):
            here = here.setdefault(str(key), {})
        elif isinstance(here, list) and isinstance(key, int) and key < len(here):
            here = here[key]
        else:
            raise SpecError([Problem(source, path, f"no map or list at {key!r}", "a path that the YAML has")])
    last = keys[-1]
    if isinstance(here, dict):
        here[str(last)] = value
    elif isinstance(here, list) and isinstance(last, int) and last < len(here):
        here[last] = value
    else:
        raise SpecError([Problem(source, path, f"no map or list around {last!r}", "a path that the YAML has")])
    document.sources[tuple(keys)] = source


def validation_problems(
    error: ValidationError,
    document: Document,
    root: type[Spec],
    prefix: KeyPath = (),
    origin: dict[KeyPath, KeyPath] | None = None,
) -> list[Problem]:
    """Problems of a pydantic error.

    prefix: path of the validated value in the document. origin: where parts of a value that was put together came
    from, as paths in the document.
    """
    problems = []
    details = error.errors(include_url=False)
    for detail in details[:MAX_PROBLEMS]:
        keys, spec, field_name = _walk(root, detail)
        shown = prefix + keys
        if origin is not None:
            deepest = next(keys[:n] for n in range(len(keys), -1, -1) if keys[:n] in origin)
            shown = origin[deepest] + keys[len(deepest) :]
        problems.append(_problem(detail, document, shown, spec, field_name))
    if (more := len(details) - MAX_PROBLEMS) > 0:
        expected = f"the first {MAX_PROBLEMS} mended, which may mend these"
        problems.append(Problem(str(document.path), dotted(prefix), f"{more:,} more problems", expected))
    return problems


def _problem(
    detail: ErrorDetails, document: Document, keys: KeyPath, spec: type[Spec] | None, name: str | None
) -> Problem:
    kind, value = detail["type"], detail["input"]
    fields = sorted([*spec.model_fields, *spec.other_keys]) if spec else []
    if spec and kind == "extra_forbidden":
        key = str(keys[-1])
        return document.problem(
            keys,
            found=f"unknown key {keys[-1]!r}",
            expected=f"one of {', '.join(fields)}",
            hint=did_you_mean(key, fields) or _further_down(key, spec),
        )
    if kind == "missing":
        info = spec.model_fields.get(name) if spec and name else None
        expected = f"a value ({info.description})" if info and info.description else "a value"
        hint = "For example:\n" + "\n".join(map(str, info.examples)) if info and info.examples else ""
        return document.problem(keys, found="nothing", expected=expected, hint=hint)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tags = detail.get("ctx", {}).get("expected_tags", "").replace("'", "")
        tag = str(detail.get("ctx", {}).get("tag", ""))
        key = detail.get("ctx", {}).get("discriminator", "kind").strip("'()")
        here = (*keys, key) if (*keys, key) in document.lines else keys
        if not tag:
            expected = f"a map with `{key}`, which says what it is (docs/yaml.md lists them)"
            return document.problem(here, found=f"no {key!r} in {_short(value)}", expected=expected)
        return document.problem(
            here, found=f"{key} {tag!r}", expected=f"{key}: one of {tags}", hint=did_you_mean(tag, tags.split(", "))
        )
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, Mismatch):
        return document.problem(keys, found=cause.found, expected=cause.expected)
    if kind == "value_error" and not keys and isinstance(value, dict):  # the line of the first setting that it names
        named = next((word for word in re.findall(r"\w+", message) if word in value), None)
        if named is not None:
            shown = _short(value[named])
            return document.problem((named,), found=shown, expected="a valid combination", hint=message)
    if kind == "value_error":
        return document.problem(keys, found=_short(value), expected="a valid combination", hint=message)
    hint = ""
    if kind in ("literal_error", "enum"):
        options = [option.strip("' ") for option in message.replace(" or ", ", ").split(",")]
        hint = did_you_mean(str(value), options)
    return document.problem(keys, found=_short(value), expected=message, hint=hint)


def did_you_mean(word: str, options: typing.Iterable[str]) -> str:
    """`Did you mean 'x'?`, or nothing where no option is close."""
    return _did_you_mean(word, tuple(options)) if len(word) <= MAX_HINTED else ""


@functools.lru_cache(maxsize=1_000)
def _did_you_mean(word: str, options: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else ""


def _further_down(key: str, spec: type[Spec]) -> str:
    """`Did you mean 'a.key'?` where one field of that name lies less deep than all others, or nothing."""
    paths = sorted((path.count("."), path) for path in field_paths(spec) if path.endswith(f".{key}"))
    is_clear = len(paths) == 1 or (len(paths) > 1 and paths[0][0] < paths[1][0])
    return f"Did you mean {paths[0][1]!r}?" if is_clear else ""


def field_paths(spec: type[Spec], prefix: str = "") -> set[str]:
    """The dotted paths of all fields of a spec, those of every variant of a union included."""
    found: set[str] = set()
    for name, info in spec.model_fields.items():
        path = f"{prefix}{name}"
        found.add(path)
        for inner in _spec_classes(info.annotation):
            found |= field_paths(inner, f"{path}.")
    return found


def _spec_classes(annotation: Any) -> list[type[Spec]]:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    return [spec for argument in typing.get_args(annotation) for spec in _spec_classes(argument)]


def _walk(root: type[Spec], detail: ErrorDetails) -> tuple[KeyPath, type[Spec] | None, str | None]:
    """The path of an error without pydantic's union tags, the spec class that holds it, and its last field."""
    keys: list[str | int] = []
    annotation: Any = root
    holder: type[Spec] | None = None
    name: str | None = None
    for part in detail["loc"]:
        annotation = _unwrap(annotation)
        if isinstance(annotation, type) and issubclass(annotation, Spec):
            holder, name = annotation, str(part)
            keys.append(part)
            info = annotation.model_fields.get(str(part))
            annotation = _field_type(info) if info else Any
            continue
        members = typing.get_args(annotation) if _is_union(annotation) else ()
        chosen = next((member for member in members if str(part) in _tags(member)), None)
        if chosen is not None:
            annotation = chosen
        elif members:
            annotation = Any  # a plain union such as str | dict: pydantic names the branch, the YAML does not have it
        else:
            keys.append(part)
            arguments = typing.get_args(annotation)
            annotation = arguments[-1] if arguments else Any
    annotation = _unwrap(annotation)
    return tuple(keys), holder, name


def _field_type(info: Any) -> Any:
    metadata = [item for item in info.metadata if isinstance(item, Tag)]
    return Annotated[info.annotation, metadata[0]] if metadata else info.annotation


def _unwrap(annotation: Any) -> Any:
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if _is_union(annotation):
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        if len(members) == 1:
            return _unwrap(members[0])
    return annotation


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _tags(member: Any) -> set[str]:
    tags: set[str] = set()
    if typing.get_origin(member) is Annotated:
        tags |= {str(item.tag) for item in typing.get_args(member)[1:] if isinstance(item, Tag)}
    inner = _unwrap(member)
    if isinstance(inner, type) and issubclass(inner, Spec):
        for key in ("kind", "type", "space"):
            if key in inner.model_fields:
                tags |= {str(value) for value in typing.get_args(inner.model_fields[key].annotation)}
    return tags


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
