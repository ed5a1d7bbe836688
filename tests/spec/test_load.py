"""YAML -> specs: every problem at once, each with file and line, what was expected, and a hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from catsweep.errors import SpecError
from catsweep.spec.load import load_sweep, load_task, search_spaces_folder, task_files
from catsweep.spec.noise import LabelNoise
from catsweep.spec.yaml import apply_override, parse_yaml

GOOD = """\
name: good
tasks: [emoji/en-fr]
small: {config: {model_type: llama}, tokenizer: {kind: char}}
large: {pretrained: some/model}
training: {steps: 100}
search:
  space:
    learning_rate: {space: loguniform, lower: 1e-5, upper: 1e-3}
    loss:
      space: choice
      options:
        - {kind: xent}
        - {kind: dist, weight: {space: uniform, lower: 0, upper: 1}}
"""

# Each line of GOOD that is replaced, by what, and the whole message that follows.
BROKEN = [
    ("name: good", "name: ../../etc", "F:1: name: found '../../etc'; expected String should match pattern"),
    ("training: {steps: 100}", "training: {stebs: 100}", "F:5: training.stebs: found unknown key 'stebs'; expected one of"),
    ("training: {steps: 100}", "training: {stebs: 100}", "F:5: training.steps: found nothing; expected a value (Optimiser steps)"),
    ("training: {steps: 100}", "training: {steps: 0}", "F:5: training.steps: found 0; expected greater than or equal to 1"),
    ("training: {steps: 100}", "training: {steps: many}", "F:5: training.steps: found 'many'; expected a valid integer"),
    ("kind: char", "kind: charr", "F:3: small.tokenizer.kind: found kind 'charr'; expected kind: one of byte, char, bpe. Did you mean 'char'?"),
    ("emoji/en-fr", "emoji/en-fra", "F:2: tasks.0: found 'emoji/en-fra'; expected a task, a pattern, a tag, or a .yaml file"),
    ("        - {kind: xent}", "        - {kind: xnet}", "F:12: search.space.loss.options.0.kind: found kind 'xnet'; expected kind: one of"),
    ("upper: 1}}", "upper: 2}}", "F:13: search.space.loss.options.1.weight: found 2.0; expected less than or equal to 1"),
    ("weight:", "wait:", "F:13: search.space.loss.options.1.wait: found unknown key 'wait'; expected one of divergence, jsd_beta, kind, normalize, weight."),
    ("weight: {", "divergence: {space: choice, options: [forward_kl, jsd]}, weight: {", "F:13: search.space.loss.options.1.divergence.options.1: found divergence jsd with distribution.kind sampled; expected `distribution: {kind: top_k}`"),
    ("training: {steps: 100}", "training: {steps: 100, loss: {kind: dist, divergence: reverse_kl}}", "F:5: training.loss.divergence: found divergence reverse_kl with distribution.kind sampled; expected"),
    ("lower: 1e-5", "lower: 1e-2", "F:8: search.space.learning_rate: found lower 0.01 and upper 0.001; expected lower below upper"),
    ("lower: 1e-5", "lower: 0", "F:8: search.space.learning_rate: found lower 0; expected loguniform: lower above 0"),
    ("lower: 1e-5", "lower: tiny", "F:8: search.space.learning_rate.lower: found 'tiny'; expected a valid number"),
    (", upper: 1e-3", "", "F:8: search.space.learning_rate.upper: found nothing; expected a value (Largest value)"),
    ("upper: 1e-3", "uper: 1e-3", "F:8: search.space.learning_rate.uper: found unknown key 'uper'; expected one of lower, space, upper. Did you mean 'upper'?"),
    ("loguniform", "logunifrm", "F:8: search.space.learning_rate.space: found space 'logunifrm'; expected space: one of choice, uniform, loguniform, randint. Did you mean 'loguniform'?"),
    ("      options:", "      option:", "F:11: search.space.loss.option: found unknown key 'option'; expected one of options, space. Did you mean 'options'?"),
    ("emoji/en-fr", "tasks/none.yaml", "F:2: tasks.0: found 'tasks/none.yaml', no such file; expected a task file; paths are relative to "),
    ("learning_rate: {space: loguniform, lower: 1e-5, upper: 1e-3}", "steps: {space: randint, lower: 5, upper: 9}", "F:8: search.space.steps: found the field 'steps'; expected a field other"),
    ("learning_rate: {", "lerning_rate: {", "F:8: search.space.lerning_rate: found unknown key 'lerning_rate'; expected one of"),
    ("training: {steps: 100}", "training: {steps: 100}\nresources: {num_workers: 2, gpus_per_worker: 0.5}", "F:6: resources.gpus_per_worker: found 0.5 GPUs a worker with num_workers: 2; expected a whole number of GPUs"),
    ("training: {steps: 100}", "training: {steps: 100}\nresources: {large: {gpus_per_worker: 1.5}}", "F:6: resources.large.gpus_per_worker: found 1.5 GPUs a worker; expected a whole number of GPUs, or a fraction below one"),
    ("some/model", "https://me:hunter2@hub/model", "F:4: large.pretrained: found a URI with a password; expected none in a file"),
]  # fmt: skip


TASK = (
    "task: mine/additions\nsource: {kind: files, format: csv, train: rows.csv}\noutput_type: generate_until\n"
    "doc_to_text: a\ndoc_to_target: b\nmetric_list: [{metric: exact_match}]\n"
)


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_sweep(path, list(overrides))
    return [str(problem).replace(str(path), "F") for problem in caught.value.problems]


def test_a_good_file_loads_and_numbers_in_text_become_numbers(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, GOOD))
    assert sweep.spec.training.steps == 100
    assert [task.task for task in sweep.tasks] == ["emoji/en-fr"]


@pytest.mark.parametrize(("old", "new", "message"), BROKEN)
def test_a_mistake_is_reported_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    found = problems(write(tmp_path, GOOD.replace(old, new)))
    assert any(problem.startswith(message) for problem in found), found


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    text = GOOD
    for old, new, _ in BROKEN[0], BROKEN[1], BROKEN[5], BROKEN[6]:
        text = text.replace(old, new)
    assert len(problems(write(tmp_path, text))) == 5


def test_of_very_many_mistakes_the_first_hundred_are_worded(tmp_path: Path) -> None:
    found = problems(write(tmp_path, GOOD + "".join(f"k{n}: 1\n" for n in range(2130))))
    assert len(found) == 101
    assert found[99].startswith("F:113: k99: found unknown key 'k99'")
    assert found[100] == "F: found 2,030 more problems; expected the first 100 mended, which may mend these"


def test_a_typo_gets_a_hint(tmp_path: Path) -> None:
    found = problems(write(tmp_path, GOOD.replace("steps: 100", "stepps: 100")))
    assert any(problem.endswith("Did you mean 'steps'?") for problem in found)


def test_a_key_at_the_wrong_depth_gets_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    for key, place in (
        ("num_samples", "search.num_samples"),
        ("steps", "training.steps"),
        ("rate", "data.label_noise.rate"),
    ):
        (message,) = problems(path, f"{key}=2")
        assert message.startswith(f"override {key}=2: {key}: found unknown key '{key}'")
        assert message.endswith(f"Did you mean '{place}'?")


def test_the_file_of_a_task_is_no_sweep(tmp_path: Path) -> None:
    assert problems(write(tmp_path, TASK)) == [
        "F:3: output_type: found 'output_type': this is the file of a task; expected a sweep, which names this file "
        "under `tasks:`; `catsweep init NAME` writes one"
    ]


def test_a_task_beside_a_sweep_is_found_by_its_path_and_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "sums.yaml").write_text(TASK + "group: school\n")
    for name in ("sums", "mine/additions", "mine/*", "tasks/sums.yaml"):
        (task,) = load_sweep(write(tmp_path, GOOD.replace("[emoji/en-fr]", f"['{name}']"))).tasks
        assert task.task == "mine/additions"
    (tmp_path / "tasks" / "sums.yaml").write_text(TASK.replace("mine/additions", "emoji/en-fr") + "group: school\n")
    (task,) = load_sweep(write(tmp_path, GOOD)).tasks
    assert task.group == "school"  # what lies beside the sweep wins


@pytest.mark.parametrize("text", ["task: [oops", "task: [a]\ntag: 5\ngroup: {a: b}\n", "tag: [{a: b}, hello]\n", "- a"])
def test_a_broken_task_file_that_nobody_names_is_in_nobodys_way(tmp_path: Path, text: str) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "half.yaml").write_text(text)
    assert len(load_sweep(write(tmp_path, GOOD.replace("emoji/en-fr", "quickstart"))).tasks) == 5
    assert problems(write(tmp_path, GOOD.replace("emoji/en-fr", "half")))


def test_an_override_replaces_a_value_and_is_named_in_errors(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    sweep = load_sweep(path, ["training.steps=7", "search.num_samples=3", "search.space.loss.options.1.weight=0.5"])
    assert (sweep.spec.training.steps, sweep.spec.search.num_samples) == (7, 3)
    assert problems(path, "training.steps=none")[0].startswith(
        "override training.steps=none: training.steps: found 'none'"
    )
    assert problems(path, "training.steps")[0].endswith("expected KEY=VALUE, for example search.num_samples=4")
    for key in ("\u00b2", "9" * 5_000):
        assert "found unknown key" in problems(path, f"{key}=1")[0]


def test_a_key_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    (problem,) = problems(write(tmp_path, GOOD + "name: again\n"))
    assert problem == "F:14: name: found the key 'name' again (first on line 1); expected every key once"


def test_broken_yaml_names_its_line(tmp_path: Path) -> None:
    (problem,) = problems(write(tmp_path, GOOD + "x: [1, 2\ny: 3\n"))
    assert problem.startswith("F:15: document: found broken YAML")


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("a:\n\tb: 1\n", 2, "Indent with spaces: the line begins with a tab"),
        ("a:\n  b: 1\n c: 2\n", 3, "Check the indentation: the line begins with 1 spaces, the one above with 2"),
        ("a: 1\n  b: 2\n", 2, "Check the indentation: the line begins with 2 spaces, the one above with 0"),
        ("a: b: c\n", 1, "Put a text that holds `: ` in quotes"),
        ("a: @x\n", 1, "Put the text that begins with @ in quotes"),
        ("a: [1, 2\nb: 3\n", 2, "Close the bracket, or put a comma between its items"),
        ("a: 'x\n", 2, "Check that every quote and bracket is closed"),
    ],
)
def test_broken_yaml_says_what_to_change(text: str, line: int, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, Path("f.yaml"))
    (problem,) = map(str, caught.value.problems)
    assert problem.startswith(f"f.yaml:{line}: document: found broken YAML (")
    assert problem.endswith(hint)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path / "none.yaml")
    assert "No such file" in problem


def test_a_bomb_of_aliases_is_refused_in_time() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 9)]
    with pytest.raises(SpecError, match="at most 100000 nodes"):
        parse_yaml("\n".join(lines), Path("bomb.yaml"))


def test_every_shipped_sweep_loads() -> None:
    files = [path for pattern in ("*.yaml", "ablations/*.yaml") for path in search_spaces_folder().glob(pattern)]
    assert files
    for file in files:
        assert load_sweep(file).tasks


@pytest.mark.parametrize("name", sorted(task_files()))
def test_every_shipped_task_loads_and_is_named_as_its_file(name: str) -> None:
    assert load_task(task_files()[name]).task == name


def test_both_readers_of_yaml_give_the_same_data_and_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [path.read_text() for path in search_spaces_folder().rglob("*.yaml")]
    texts += [
        "&a {x: [1, *a]}",
        "a: &t {b: 1}\nc: {<<: *t}",
        'a: "\\ud83d\\ude42 \U0001f642 \u00e9"\nb: {{x}}',
        "a: [",
        "[" * 500,
    ]
    read = {}
    for fast in (True, False):
        monkeypatch.setattr("yaml.__with_libyaml__", fast)
        read[fast] = [told(text) for text in texts]
    assert read[True] == read[False]


def told(text: str) -> tuple[object, ...]:
    """What a YAML text means, or what is wrong with it."""
    try:
        document = parse_yaml(text, Path("some.yaml"))
    except SpecError as error:
        return (str(error),)
    return document.data, document.lines


def test_anchors_and_merges_give_defaults_to_a_map() -> None:
    document = parse_yaml("first: &a {x: 1, y: 2}\nsecond: {<<: *a, y: 3}\n", Path("merge.yaml"))
    assert document.data["second"] == {"x": 1, "y": 3}


def test_a_typo_in_stratify_is_an_error(tmp_path: Path) -> None:
    text = GOOD.replace("search:\n", "search:\n  stratify: [loss.knd]\n")
    (problem,) = problems(write(tmp_path, text))
    assert problem.startswith("F:7: search.stratify.0: found 'loss.knd'; expected a dotted path of `training`")
    assert problem.endswith("Did you mean 'loss.kind'?")


FEDERATED = "training: {steps: 100, federated: {clients: 2, rounds: 10, local_steps: 10, partition: {kind: iid}}}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rounds: 10", "rounds: 9", "F:5: training.federated: found rounds 9 * local_steps 10 = 90; expected as many as training.steps, 100"),
        ("kind: iid}", "kind: iidd}", "F:5: training.federated.partition.kind: found kind 'iidd'; expected kind: one of iid, by_group, dirichlet. Did you mean 'iid'?"),
        (", partition: {kind: iid}", "", "F:5: training.federated.partition: found nothing; expected a value (Which training examples"),
        ("kind: iid}", "kind: dirichlet}", "F:5: training.federated.partition.alpha: found nothing; expected a value (Concentration"),
        ("search:\n", "search:\n  scheduler: {type: asha, grace_period: 15}\n", "F:5: training.federated.local_steps: found evaluations after steps 15, 45, 100 with local_steps 10; expected every evaluation behind a whole round. Choose search.scheduler.grace_period"),
        ("tasks: [emoji/en-fr]", "tasks: [{mixture: both, tasks: [emoji/en-fr, emoji/en-de]}]", "F:5: training.federated: found clients with a mixture; expected tasks alone"),
        ("large: {pretrained: some/model}", "large: {pretrained: some/model, finetune: {steps: 5, learning_rate: 1e-3, cross_fit: 2}}", "F:5: training.federated: found clients with large.finetune.cross_fit or unseen_signal; expected holdout"),
        ("search:\n", "resources: {num_workers: 2}\nsearch:\n", "F:5: training.federated: found clients with resources.num_workers 2; expected num_workers: 1"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_clients_is_reported_with_its_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    good = GOOD.replace("training: {steps: 100}", FEDERATED)
    assert load_sweep(write(tmp_path, good)).spec.training.num_clients == 2
    (problem,) = problems(write(tmp_path, good.replace(old, new)))
    assert problem.startswith(message)


def test_federated_options_of_a_space_are_checked_where_they_stand(tmp_path: Path) -> None:
    options = "    federated:\n      space: choice\n      options:\n        - null\n        - {clients: 2, rounds: 5, local_steps: 20, partition: {kind: iid}}\n"
    good = GOOD.replace("  space:\n", f"  space:\n{options}")
    assert load_sweep(write(tmp_path, good)).spec.training.federated is None
    (problem,) = problems(write(tmp_path, good.replace("rounds: 5", "rounds: 4")))
    assert problem.startswith(
        "F:12: search.space.federated.options.1: found rounds 4 * local_steps 20 = 80; expected as many"
    )
    asha = good.replace("search:\n", "search:\n  scheduler: {type: asha, grace_period: 30}\n")
    (problem,) = problems(write(tmp_path, asha))
    assert problem.startswith(
        "F:13: search.space.federated.options.1.local_steps: found evaluations after steps 30, 90, 100"
    )


NOISY = "data: {label_noise: {rate: 0.1}}\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rate: 0.1", "rate: 1.0", "F:1: data.label_noise.rate: found 1.0; expected less than 1"),
        ("rate: 0.1", "rate: 0.1, kind: unform", "F:1: data.label_noise.kind: found 'unform'; expected 'uniform' or 'confusable'. Did you mean 'uniform'?"),
        ("rate: 0.1", "rate: 0.1, clean_large: true", "F:1: data.label_noise.clean_large: found clean_large with a large model that is used as it is; expected"),
        ("{label_noise: {rate: 0.1}}", "{}", "F:13: search.space.loss.options.0.filter.kind: found filter drop_injected without data.label_noise; expected `data: {label_noise: {rate: ...}}`"),
        ("{label_noise: {rate: 0.1}}", "{label_noise: null}", "F:13: search.space.loss.options.0.filter.kind: found filter drop_injected without"),
        ("filter: {kind: drop_injected}", "filter: {kind: clean_only, filter: {kind: eithr}}", "F:13: search.space.loss.options.0.filter.filter.kind: found kind 'eithr'; expected kind: one of"),
        ("filter: {kind: drop_injected}", "filter: {kind: clean_only, filter: {kind: drop_injected}}", "F:13: search.space.loss.options.0.filter.filter.kind: found kind 'drop_injected'; expected kind: one of"),
    ],
)  # fmt: skip
def test_what_label_noise_needs_is_reported_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    good = NOISY + GOOD.replace("        - {kind: xent}", "        - {kind: cat_xent, filter: {kind: drop_injected}}")
    spec = load_sweep(write(tmp_path, good)).spec
    assert spec.data.label_noise is not None
    assert spec.to_json()["data"]["label_noise"] == {"rate": 0.1, "kind": "uniform", "seed": 0, "clean_large": False}
    found = problems(write(tmp_path, good.replace(old, new)))
    assert any(problem.startswith(message) for problem in found), found


def test_a_filter_of_clean_tokens_needs_noise_wherever_it_stands(tmp_path: Path) -> None:
    clean = "{kind: cat_xent, filter: {space: choice, options: [{kind: either}, {kind: clean_only, filter: {kind: large}}]}}"
    (problem,) = problems(write(tmp_path, GOOD.replace("{kind: xent}", clean)))
    assert problem.startswith(
        "F:12: search.space.loss.options.0.filter.options.1.kind: found filter clean_only without"
    )
    sweep = load_sweep(write(tmp_path, GOOD.replace("{kind: xent}", clean)), ["data.label_noise.rate=0.2"])
    assert sweep.spec.data.label_noise == LabelNoise(rate=0.2)


def test_patterns_and_tags_name_tasks(tmp_path: Path) -> None:
    by_pattern = load_sweep(write(tmp_path, GOOD.replace("[emoji/en-fr]", "['emoji/en-[df]*', emoji/en-de]")))
    assert [task.task for task in by_pattern.tasks] == ["emoji/en-de", "emoji/en-fr"]
    by_tag = load_sweep(write(tmp_path, GOOD.replace("emoji/en-fr", "quickstart")))
    assert len(by_tag.tasks) == 5


@pytest.mark.parametrize("text", ["doc_to_target: {{swapped}}", "a: 1\ndoc_to_target: [{{swapped}}]"])
def test_braces_without_quotes_are_shown_with_the_quotes_that_they_need(text: str) -> None:
    with pytest.raises(
        SpecError, match=r'found {{swapped}} without quotes; expected a text. Write "{{swapped}}", in quotes'
    ):
        parse_yaml(text, Path("bad.yaml"))


def test_braces_that_begin_a_longer_text_ask_for_quotes() -> None:
    with pytest.raises(SpecError, match="Put a template that begins with a brace in quotes"):
        parse_yaml("doc_to_text: {{name}} flows into\n", Path("bad.yaml"))


def test_an_override_without_a_value_names_its_place_once() -> None:
    with pytest.raises(SpecError) as raised:
        apply_override(parse_yaml("a: 1", Path("x.yaml")), "training.steps")
    assert str(raised.value) == (
        "override training.steps: found no value; expected KEY=VALUE, for example search.num_samples=4"
    )


@pytest.mark.parametrize("model", ["small", "large"])
def test_a_missing_model_is_shown_as_one_could_write_it(tmp_path: Path, model: str) -> None:
    text = "\n".join(line for line in GOOD.splitlines() if not line.startswith(f"{model}:"))
    (message,) = problems(write(tmp_path, text))
    assert message.startswith(f"F:1: {model}: found nothing; expected a value (The model that ")
    assert message.endswith(f". For example:\n{model}:\n  pretrained: google/t5-v1_1-{model}")


def test_a_missing_group_is_shown_as_one_could_write_it(tmp_path: Path) -> None:
    (tmp_path / "sums.yaml").write_text(TASK)
    (message,) = problems(write(tmp_path, GOOD.replace("emoji/en-fr", "sums.yaml")))
    assert message.endswith(
        "sums.yaml:1: group: found nothing; expected a value (Kind of task; kinds weigh equally in macro means). For example:\n"
        "task: mine/reviews\ngroup: sentiment"
    )


def test_a_character_in_two_escapes_is_one_and_half_of_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    assert parse_yaml('a: "\\ud83d\\ude42"\n"\\ud83d\\ude42": 🙂', path).data == {"a": "🙂", "🙂": "🙂"}
    with pytest.raises(SpecError) as error:
        parse_yaml('a:\n  b: ["x\\ud800"]', path)
    assert str(error.value) == (
        f"{path}:2: a.b.0: found half a character in 'x\\ud800'; expected a text that can be written as UTF-8. "
        "Write the character itself"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks:\n- " + "a" * 5_000 + ".yaml\n", "no such file; expected a task file"),
        ("small: {pretrained: ./" + "a" * 5_000 + "}\n", "expected a folder with config.json"),
        ('data_root: "a\\0b"\n', "data_root: found a NUL character in 'a\\x00b'; expected a text that may name a file"),
    ],
)
def test_a_name_that_no_file_can_have_is_a_mistake_like_others(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as error:
        load_sweep(path)
    assert message in str(error.value)
