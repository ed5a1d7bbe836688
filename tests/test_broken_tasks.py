"""Broken task files: each is refused with its own message before anything is trained."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catsweep.errors import CatsweepError
from catsweep.large import LargeModel
from catsweep.prepare import prepare_task
from catsweep.spec.load import load_sweep

HUB = """\
task: bad
group: bad
dataset_path: a/b
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: a
generation_kwargs: {max_gen_toks: 8}
metric_list: [{metric: exact_match}]
"""
CHOICE = (
    HUB.replace("generate_until", "multiple_choice")
    .replace("exact_match", "accuracy")
    .replace("a\ngen", 'a\ndoc_to_choice: ["0", "1"]\ngen')
)
FILES = HUB.replace("dataset_path: a/b", "source: {kind: files, format: jsonl, train: rows.jsonl}")
MODEL = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "max_position_embeddings": 64,
}
COLUMNS = "alternatives, data_files, dataset_name, dataset_path, doc_to_choice, doc_to_group, doc_to_reference, doc_to_target, doc_to_text, expect, generation_kwargs, group, include, metadata, metric_list, normalize, num_templates, output_type, process, revision, source, tag, target_delimiter, task, template_seed, test_split, training_split, validation_split"


def rows(**changed: Any) -> list[dict[str, Any]]:
    """250 good rows; the last ones have the changed columns."""
    good = [{"q": f"{n} + 1", "a": str(n % 2), "l": [str(n)], "s": {"x": n % 2}} for n in range(250)]
    return [*good, *([good[0] | {"q": "last"} | changed] if changed else [])]


@dataclass(frozen=True)
class Case:
    """A broken task file, the rows that it reads, and the whole message; D is the folder."""

    text: str
    message: str
    rows: list[dict[str, Any]] = field(default_factory=rows)
    files: dict[str, str] = field(default_factory=dict)


def case(base: str, old: str, new: str, message: str, **more: Any) -> Case:
    assert old in base, old
    return Case(base.replace(old, new), message, **more)


CASES: dict[str, Case] = {
    # the file itself
    "no map": Case("- a\n- b\n", "D/bad.yaml:1: document: found list; expected a map of settings"),
    "broken yaml": case(HUB, "group: bad", "group: [bad", "D/bad.yaml:3: document: found broken YAML (expected ',' or ']', but got ':'); expected valid YAML. Close the bracket, or put a comma between its items"),
    "key twice": Case(HUB + "task: again\n", "D/bad.yaml:9: task: found the key 'task' again (first on line 1); expected every key once"),
    "unknown key": case(HUB, "doc_to_text", "doc_to_txt", f"D/bad.yaml:5: doc_to_txt: found unknown key 'doc_to_txt'; expected one of {COLUMNS}. Did you mean 'doc_to_text'?"),
    "no target": case(HUB, "doc_to_target: a\n", "", "D/bad.yaml:1: doc_to_target: found nothing; expected a value (Jinja2 template of the answer, or the name of a column; a list holds several accepted answers, the first of which is trained on. For multiple_choice: the choice's text or its index)"),
    "name with a space": case(HUB, "task: bad", "task: my task", "D/bad.yaml:1: task: found 'my task'; expected String should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,3}$'"),
    "unknown output type": case(HUB, "generate_until", "generate_untill", "D/bad.yaml:4: output_type: found 'generate_untill'; expected 'multiple_choice' or 'generate_until'. Did you mean 'generate_until'?"),
    "no source": case(HUB, "dataset_path: a/b\n", "", "D/bad.yaml:1: source: found nothing; expected a value (Where the rows come from, or the keys of a hub source at the top level)"),
    "two sources": case(FILES, "group: bad", "group: bad\ndataset_path: a/b", "D/bad.yaml:3: dataset_path: found 'dataset_path' beside `source`; expected either `source` or the keys of a hub source at the top level"),
    "unknown source": case(FILES, "kind: files", "kind: file", "D/bad.yaml:3: source.kind: found kind 'file'; expected kind: one of hub, files, package, splits. Did you mean 'files'?"),
    # include
    "cyclic include": Case(HUB + "include: other.yaml\n", "D/other.yaml:1: include: found a cycle: D/bad.yaml -> D/other.yaml -> D/bad.yaml; expected files that do not include one another", files={"other.yaml": "include: bad.yaml\n"}),
    "missing include": Case(HUB + "include: none.yaml\n", "D/bad.yaml:9: include: found 'none.yaml'; expected an existing file. Names are relative to the file that includes them"),
    "mistake in the included file": Case(HUB + "include: other.yaml\n", "D/other.yaml:1: normalize: found 'mean'; expected 'sum' or 'tokens'", files={"other.yaml": "normalize: mean\n"}),
    # metrics and choices
    "unknown metric": case(HUB, "exact_match", "exact_mach", "D/bad.yaml:8: metric_list.0.metric: found 'exact_mach'; expected 'accuracy', 'exact_match', 'token_f1', 'squad_em', 'bleu', 'chrf', 'rouge1', 'rouge2', 'rougeLsum', 'macro_f1', 'f1', 'matthews', 'pearson', 'spearman', 'multirc_f1a' or 'multirc_em'. Did you mean 'exact_match'?"),
    "no metric": case(HUB, "[{metric: exact_match}]", "[]", "D/bad.yaml:8: metric_list: found []; expected List should have at least 1 item after validation, not 0"),
    "choices of a generation task": Case(HUB + "doc_to_choice: [x, y]\n", "D/bad.yaml:9: doc_to_choice: found ['x', 'y']; expected a valid combination. `doc_to_choice` is needed by output_type multiple_choice, and by no other"),
    # places
    "path outside the data root": case(HUB, "a/b", "../b", "D/bad.yaml:3: dataset_path: found '../b'; expected a valid combination. '../b' leaves the data root; name a path below it, without `..`"),
    "absolute data file": case(HUB, "dataset_path: a/b", "dataset_path: a/b\ndata_files: {train: /etc/passwd}", "D/bad.yaml:4: data_files.train: found '/etc/passwd'; expected a valid combination. '/etc/passwd' is an absolute path; name a file or pattern below dataset_path"),
    "configuration that is a path": case(HUB, "dataset_path: a/b", "dataset_path: a/b\ndataset_name: ../c", "D/bad.yaml:4: dataset_name: found '../c'; expected String should match pattern '^[A-Za-z0-9][A-Za-z0-9._+-]*$'"),
    "bad slice": case(HUB, "dataset_path: a/b", "dataset_path: a/b\ntraining_split: 'train[:10'", "D/bad.yaml:4: training_split: found 'train[:10'; expected a valid combination. 'train[:10' is no split: write a name, or a slice such as train[:1000] or train[10%:20%]"),
    "empty slice": case(HUB, "dataset_path: a/b", "dataset_path: a/b\ntraining_split: train[900:]", "task bad: dataset a/b in D/root/a/b: found no row in 'train[900:]' of 250 rows; expected at least one"),
    "missing file": case(FILES, "rows.jsonl", "row.jsonl", "task bad: D/row.jsonl: No such file or directory; expected a data file of a task. Check the path in the task's YAML"),
    # expectations
    "no type": Case(HUB + "expect: {columns: {q: strin}}\n", "D/bad.yaml:9: expect.columns.q: found 'strin'; expected a valid combination. 'strin' is no type: write one of string, int, float, bool, ClassLabel, any, list<...>, or {name: ...}"),
    "column that is not expected": Case(HUB + "expect: {columns: [q, b]}\n", "D/bad.yaml:6: doc_to_target: found the column 'a'; expected one that `expect.columns` or a step of `process` names: b, q"),
    "other column type": Case(HUB + "expect: {columns: {q: string, a: int}}\n", "task bad: dataset a/b in D/root/a/b, split 'train': found column 'a' of type string; expected int. The dataset is another one, or it has changed: look at it, then correct `expect` and what depends on it, or pin a `revision`"),
    "other row count": Case(HUB + "expect: {num_rows: {train: 9}}\n", "task bad: dataset a/b in D/root/a/b, split 'train': found 250 rows; expected 9 (`data.verify: schema` leaves row counts uncompared). The dataset is another one, or it has changed: look at it, then correct `expect` and what depends on it, or pin a `revision`"),
    "no label names": Case(HUB + "expect: {labels: {a: [x, y]}}\n", "task bad: dataset a/b in D/root/a/b, split 'train': found no names of labels in column 'a'; expected ['x', 'y']. The dataset is another one, or it has changed: look at it, then correct `expect` and what depends on it, or pin a `revision`"),
    # steps
    "unknown step": Case(HUB + "process: [{kind: drop_row, column: a, values: [x]}]\n", "D/bad.yaml:9: process.0.kind: found kind 'drop_row'; expected kind: one of drop_rows, keep_rows, keep_length, keep_distinct, map_values, record, multirc, explode_turns, score_buckets, squad_answers, merge_rows, true_case, fix_punct, word_segment, clean_text. Did you mean 'drop_rows'?"),
    "unknown key of a step": Case(HUB + "process: [{kind: drop_rows, colum: a, values: [x]}]\n", "D/bad.yaml:9: process.0.colum: found unknown key 'colum'; expected one of column, kind, values. Did you mean 'column'?"),
    "step on no column": Case(HUB + "process: [{kind: drop_rows, column: aa, values: [x]}]\n", "D/bad.yaml:9: task bad, split train: process step 0 (drop_rows): row 0: found no column 'aa'; expected one of a, l, q, s. Did you mean 'a'?"),
    "step that leaves nothing": Case(HUB + "process: [{kind: keep_rows, column: a, values: [x]}]\n", "D/bad.yaml:9: task bad, split train: process step 0 (keep_rows): found no row that it keeps, of 250; expected at least one. Check its column and values"),
    "value without a word": Case(HUB + "process: [{kind: map_values, column: a, values: {'0': zero}}]\n", "D/bad.yaml:9: task bad, split train: process step 0 (map_values): row 1: found '1' in column 'a'; expected one of 0"),
    # templates
    "broken template": case(HUB, "{{q}}", "{{q", "D/bad.yaml:5: doc_to_text: found broken Jinja2 '{{q' (unexpected end of template, expected 'end of print statement'); expected a Jinja2 template"),
    "unknown filter": case(HUB, "{{q}}", "{{q|uper}}", "D/bad.yaml:5: doc_to_text: found broken Jinja2 '{{q|uper}}' (no filter named 'uper'; Did you mean 'upper'?); expected a Jinja2 template"),
    "no template": case(HUB, '"{{q}}"', "[]", "D/bad.yaml:5: doc_to_text: found []; expected a valid combination. `doc_to_text` is an empty list; write at least one template"),
    "more templates than there are": Case(HUB + "num_templates: 2\n", "D/bad.yaml:9: num_templates: found 2; expected a valid combination. num_templates is 2, but `doc_to_text` has 1 templates"),
    "wrong column": case(HUB, "{{q}}", "{{qq}}", "D/bad.yaml:5: task bad, row train:0: doc_to_text '{{qq}}': found no column 'qq'; expected one of a, l, q, s. Did you mean 'q'?"),
    "wrong target column": case(HUB, "doc_to_target: a", "doc_to_target: answer", "D/bad.yaml:6: task bad, row train:3: doc_to_target 'answer': found no column 'answer'; expected one of a, l, q, s. For a template write `{{answer}}`"),
    "wrong field of a struct": case(HUB, "doc_to_target: a", "doc_to_target: s.y", "D/bad.yaml:6: task bad, row train:3: doc_to_target 's.y': found no column 's.y'; expected one of a, l, q, s. For a template write `{{s.y}}`"),
    "missing split": case(HUB, "dataset_path: a/b", "dataset_path: a/b\ntest_split: tset", "~found no split 'tset'; expected one of: test, train. Did you mean 'test'?"),
    "missing configuration": case(HUB, "dataset_path: a/b", "dataset_path: a/b\ndataset_name: big", "~D/root/a/b: found no configuration 'big'; expected one of small"),
    "missing dataset": case(HUB, "a/b", "no/where", "~found it neither in D/root, nor as a folder no/where, nor on the hub"),
    "label outside the choices": Case(CHOICE, "D/bad.yaml:6: task bad, row train:250: doc_to_target 'a': found 7; expected an index from 0 to 1, or one of ['0', '1']", rows=rows(a="7")),
    "label of a hidden test": Case(CHOICE, "D/bad.yaml:6: task bad, row train:250: doc_to_target 'a': found -1; expected an index from 0 to 1, or one of ['0', '1']. -1 marks rows whose label is not public: name a labelled split, for example `test_split: validation`", rows=rows(a="-1")),
    "choices that are equal": case(CHOICE, '["0", "1"]', '["0", "0"]', "D/bad.yaml:7: task bad, row train:3: doc_to_choice ['0', '0']: found ['0', '0']; expected at least two choices, each a different text"),
    "choices that are no list": case(CHOICE, '["0", "1"]', "q", "D/bad.yaml:7: task bad, row train:3: doc_to_choice 'q': found '3 + 1'; expected a column that holds a list of texts"),
    "template that renders empty": case(HUB, "{{q}}", "{{q[5:]}}", "D/bad.yaml:5: task bad, row train:0: doc_to_text '{{q[5:]}}': found an empty text; expected some text. Drop such rows, or change the template"),
    "empty answer": Case(HUB, "D/bad.yaml:6: task bad, row train:250: doc_to_target 'a': found an empty text; expected some text. Drop such rows, or change the template", rows=rows(a=" ")),
    "null answer": Case(HUB, "D/bad.yaml:6: task bad, row train:250: doc_to_target 'a': found nothing in column 'a'; expected a value. Drop the row", rows=rows(a=None)),
    "no accepted answer": Case(HUB + "doc_to_reference: l\n", "D/bad.yaml:9: task bad, row train:250: doc_to_reference 'l': found []; expected a list of at least one answer, none of them null", rows=rows(l=[])),
    "way out of the sandbox": case(HUB, "{{q}}", "{{q.__class__.__mro__}}", "D/bad.yaml:5: task bad, row train:0: doc_to_text '{{q.__class__.__mro__}}': found SecurityError: access to attribute '__class__' of 'str' object is unsafe.; expected a template that this row can fill"),
    # sizes
    "too few rows": Case(HUB, "task bad: found 100 training rows (of 100, after those that share a group key with a given split were dropped); expected at least 200: 50 each for test, calibration, validation and train. Give more rows, or name the splits in `source`", rows=rows()[:100]),
    "one group": Case(HUB + "doc_to_group: \"{{'same'}}\"\n", "~found 0 rows for test; expected 50 in whole groups, but the largest of the 1 groups left has 250 rows. Write a finer `doc_to_group`"),
    "target longer than the model": Case(HUB, "~D/bad.yaml:6: task bad: prompt and answer take up to ", rows=[row | {"a": "long" * 40} for row in rows()]),
    "answers longer than the model": case(HUB, "max_gen_toks: 8", "max_gen_toks: 80", "~D/bad.yaml:7: task bad: prompt and answer take up to "),
}  # fmt: skip


def prepare_all(path: Path, root: Path) -> None:
    sweep = load_sweep(path)
    for task in sweep.tasks:
        prepare_task(task, sweep.spec, root=root)  # type: ignore[arg-type]


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a sweep over task files up to the first training step, and returns the message that stopped it."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for step in ("finetune_once", "judge"):
        monkeypatch.setattr(LargeModel, step, lambda *arguments, **keywords: pytest.fail("training was reached"))

    def run(broken: Case, *tasks: str) -> str:
        folder = tmp_path / "root" / "a" / "b"
        (folder / "small").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(broken.rows), folder / "train.parquet")
        pq.write_table(pa.Table.from_pylist(broken.rows[:3]), folder / "test.parquet")
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in broken.rows))
        for name, text in {"bad.yaml": broken.text, **broken.files}.items():
            (tmp_path / name).write_text(text)
        sweep = {
            "name": "broken",
            "tasks": list(tasks) or ["bad.yaml"],
            "data_root": "root",
            "small": {"config": MODEL, "tokenizer": {"kind": "char"}},
            "large": {"config": MODEL, "finetune": {"steps": 1, "learning_rate": 1e-3}},
            "training": {"steps": 1},
        }
        (tmp_path / "sweep.yaml").write_text(json.dumps(sweep))
        with pytest.raises(CatsweepError) as error:
            prepare_all(tmp_path / "sweep.yaml", tmp_path / "home")
        assert error.value.exit_code == 2
        assert not (tmp_path / "home" / "broken").exists()
        return str(error.value).replace(str(tmp_path), "D")

    return run


def test_there_are_at_least_forty_broken_files() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_a_broken_task_is_refused_with_its_message(name: str, refusal: Callable[..., str]) -> None:
    broken = CASES[name]
    message = refusal(broken)
    if broken.message.startswith("~"):  # a part, where the rest lists what else was tried
        assert broken.message[1:] in message
    else:
        assert broken.message in message.splitlines()


def test_two_tasks_of_one_name_are_refused(refusal: Callable[..., str]) -> None:
    message = refusal(
        Case(HUB, "", files={"other.yaml": HUB.replace("group: bad", "group: other")}), "bad.yaml", "other.yaml"
    )
    assert re.search(r"found the (task )?name 'bad' again", message)


def test_a_good_task_reaches_training(refusal: Callable[..., str]) -> None:
    with pytest.raises(pytest.fail.Exception, match="training was reached"):
        refusal(Case(HUB, ""))
