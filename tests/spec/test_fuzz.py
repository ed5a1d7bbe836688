"""Any text is either a sweep or a task, or an error that says what is wrong: in bounded time and memory."""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from catsweep.errors import CatsweepError
from catsweep.spec.load import check_sweep, load_task, search_spaces_folder
from catsweep.spec.yaml import MAX_BYTES, apply_override, parse_yaml

MAX_SECONDS = 10.0
MAX_GROWTH_KIB = 1_000_000
SLOW = ("offline.yaml", "study.yaml")
"""Sweeps whose task lists take seconds to read."""
SHIPPED = sorted(path for path in search_spaces_folder().rglob("*.yaml") if path.name not in SLOW)
SWEEPS = [path for path in SHIPPED if "tasks" not in path.parts]
TEXTS = {path: path.read_text() for path in SHIPPED}
NASTY = [
    "", "null", "~", "true", "[]", "{}", "[[[]]]", "{space: choice, options: []}", "{space: uniform, lower: 1, upper: 0}", "-1",
    "1e400", "1.0e+400", ".nan", "-.inf", "9" * 5_000, "1:2:3:4", "2001-99-99", "!!bool maybe", "!!timestamp x", "!!int ''",
    "!!python/object/apply:os.system [ls]", "!!binary '%'", "!!set {a, b}", "!!omap [a]", "&a [*a]", "*nowhere", "../../etc/passwd",
    "~nobody/x", "/dev/zero", "a" * 70_000, "'\\0'", '"\\0"', '"\\ud800"', "'{{ x '", "'{% for x in y %}'", "'" + "{{(" * 800 + "'",
    "'{{ 10**10**8 }}'", "'{{" + "(" * 3_000 + "1" + ")" * 3_000 + "}}'", "x.yaml", "*", "[*]", "'*'", "'[!'", "http://u:secret1@host/x",
    "{kind: 3}", "{kind: [a]}", "{kind: {a: b}}", "[{mixture: a, tasks: ['*/*', 3]}]", "{group: 3}", "{config: {model_type: 3}}", "\t", "\x85",
    "\u2028", "🙂", "a" * 5_000 + ".yaml", '"\\0.yaml"', "[fuzz.yaml, fuzz.yaml]", "/dev/stdin", "- - - -", "? a", "? [a]: b", "<<: *a", "<<: [1]", "|", ">", "%YAML 9.9", "---", "...", "@", "`",
]  # fmt: skip
"""Values that break readers."""


def bomb(generator: random.Random) -> str:
    """Texts that are small and mean much: aliases of aliases, maps that merge themselves, deep nesting, long keys."""
    levels, width = generator.randint(5, 40), generator.randint(2, 10)
    aliases = "a0: &a0 [x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]\n" for n in range(1, levels)
    )
    merges = "a0: &a0 {x: 1}\n" + "".join(
        f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * width)}]}}\n" for n in range(1, levels)
    )
    depth = generator.choice([50, 70, 990, 5_000])
    return generator.choice([
        aliases, merges, "a: &a {<<: *a}", "&a {x: 1, <<: {<<: *a}}", "tasks: &t [*t]", "[" * depth, "[" * depth + "]" * depth,
        "{a: " * depth, "- " * depth, "".join(f"{' ' * n}a:\n" for n in range(depth)), "? " * depth, "\n".join(f"k{n}: 1" for n in range(20_000)),
        "tasks:\n" + "".join(f"- nope{n}.yaml\n" for n in range(500)), "tasks:\n" + "".join(f"- '*{n}*'\n" for n in range(500)),
        "tasks:\n" + "- '*'\n" * 30_000, "include: [" + "fuzz.yaml, " * 300 + "]", "data_root: '" + "a/" * 30_000 + "'",
        "search:\n  stratify:\n" + "".join(f"  - loss.kin{n}\n" for n in range(5_000)),
        "training: {}\nsearch:\n  space:\n    loss:\n      kind: {space: choice, options: [" + "a, " * 3_000 + "]}\n"
        + "".join(f"      b{n}: 1\n" for n in range(3_000)),
        "name: " + "://a:b" * 100_000, "name: " + "://?" * 100_000, "a: " + "x" * (MAX_BYTES + 1), "x" * 100_000 + ": 1", "tasks:\n" + "- '*'\n" * 300, "'" + "\\" * 5_000,
    ])  # fmt: skip


def mutated(text: str, generator: random.Random) -> str:
    """A text with a few lines lost, doubled, swapped, indented, cut, or with another value."""
    lines = text.splitlines()
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(lines)) if lines else 0
        line = lines[at] if lines else ""
        match generator.randrange(8):
            case 0:
                del lines[at : at + 1]
            case 1:
                lines.insert(at, line)
            case 2:
                lines[at : at + 1] = [" " * generator.randint(0, 6) + line.strip()]
            case 3:
                key, colon, _ = line.partition(": ")
                lines[at : at + 1] = [f"{key}{colon}{generator.choice(NASTY)}"]
            case 4:
                cut = generator.randint(0, len(line))
                lines[at : at + 1] = [line[:cut] + generator.choice(NASTY) + line[cut:]]
            case 5:
                cut = generator.randint(0, len(line))
                lines[at : at + 1] = [line[:cut] + line[cut + 1 :]]
            case 6:
                other = generator.randrange(len(lines)) if lines else 0
                lines[at : at + 1] = [lines[other] if lines else ""]
            case _:
                lines = lines[: max(1, at)] + generator.choice([[], ["include: x.yaml"], [generator.choice(NASTY)]])
    return "\n".join(lines)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["*", "xent", "choice", "x.yaml"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.sampled_from(["kind", "space", "tasks"]), inner),
    max_leaves=12,
)  # fmt: skip


def replaced(data: Any, value: Any, generator: random.Random) -> Any:
    """Data with one value at any depth replaced."""
    if isinstance(data, dict) and data and generator.random() < 0.85:
        key = generator.choice(list(data))
        return data | {key: replaced(data[key], value, generator)}
    if isinstance(data, list) and data and generator.random() < 0.85:
        at = generator.randrange(len(data))
        return [*data[:at], replaced(data[at], value, generator), *data[at + 1 :]]
    return value


@st.composite
def texts(draw: st.DrawFn) -> str:
    """What the loader is given."""
    generator = random.Random(draw(st.integers(0, 2**32)))
    way = draw(st.sampled_from(["mutated"] * 6 + ["replaced"] * 3 + ["text", "bomb"]))
    if way == "text":
        return draw(st.text(max_size=200) | st.text(alphabet="a:-{}[]&*!|>'\"%#\n \t,?", max_size=80))
    if way == "bomb":
        return bomb(generator)
    path = draw(st.sampled_from(SWEEPS) | st.sampled_from(SHIPPED))
    if way == "mutated":
        return mutated(TEXTS[path], generator)
    return json.dumps(replaced(yaml.safe_load(TEXTS[path]), draw(JSON), generator))


def paths_of(data: Any, above: tuple[str, ...] = ()) -> list[str]:
    """The dotted path of every value."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else []
    found = [path for key, value in inner for path in paths_of(value, (*above, str(key)))]
    return [".".join(above), *found] if above else found


def override(generator: random.Random) -> tuple[Path, str]:
    """A shipped sweep, and an argument of the command line that sets one of its values, or one that it does not have."""
    path = generator.choice(SWEEPS)
    places = paths_of(yaml.safe_load(TEXTS[path]))
    place = generator.choice(
        [*places, "tasks.9", "tasks.-1", "search.space.loss.kind", "name.x", "", "..", "a" * 5_000]
    )
    return path, f"{place}{generator.choice(['=', '=', '=', ''])}{generator.choice([*NASTY, bomb(generator)])}"


def read_sweep(path: Path, overrides: tuple[str, ...] = ()) -> None:
    sweep, problems = check_sweep(path, overrides)
    assert sweep is not None or problems
    assert all(map(str, problems))


def refusal(action: Callable[[], object]) -> str | None:
    """What a CatsweepError says; None where the action went well. Anything else that is raised is a defect."""
    try:
        action()
    except CatsweepError as error:
        return str(error)
    return None


def load(folder: Path, text: str) -> None:
    """Read a text as a sweep, as a task, and as an override, and now and then a shipped sweep with an override that
    follows from the text:
    what is refused is refused with a CatsweepError."""
    path = folder / "fuzz.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    started = time.process_time()
    assert refusal(lambda: read_sweep(path)) != ""
    assert refusal(lambda: load_task(path)) != ""
    assert refusal(lambda: apply_override(parse_yaml("a: {b: [1]}", path), text)) != ""
    generator = random.Random(text)
    shipped, argument = override(generator)
    if generator.random() < 0.1:  # reading a whole sweep takes longest
        assert refusal(lambda: read_sweep(shipped, (argument,))) != ""
    assert time.process_time() - started < MAX_SECONDS, (text[:500], argument[:500])


def fuzz(folder: Path, number: int, *, derandomize: bool) -> int:
    """Load so many texts. Returns by how many KiB the process has grown at its largest."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(
        max_examples=number, deadline=None, database=None, derandomize=derandomize, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(texts())
    def one(text: str) -> None:
        load(folder, text)

    one()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def test_some_hundred_texts_load_or_are_refused(tmp_path: Path) -> None:
    assert fuzz(tmp_path, 200, derandomize=True) < MAX_GROWTH_KIB


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_texts_load_or_are_refused(tmp_path: Path) -> None:
    assert fuzz(tmp_path, 10_000, derandomize=False) < MAX_GROWTH_KIB
