"""Each of the 21 directions of WMT22 on made-up training data in the hub's layout and a planted test set.

What is expected comes from hub_columns.py, not from the task files; the rows go through the real loader.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_columns import WMT22
from made_rows import make_dataset, make_test_set
from test_hub_suites import rows_of_a_sweep, shipped

from catsweep.spec.source import HubPart, SacrebleuSource, SplitsSource
from catsweep.tasks.examples import load_task_data

PAIRS = sorted(WMT22)
CUT = {"wmt/wmt19": "train[:1000000]"}
"""What is read of training sets of tens of millions of rows."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with all training data, and a test set of each direction with all its reference sets."""
    root = tmp_path_factory.mktemp("made")
    for pair, direction in WMT22.items():
        make_dataset(root, direction.train)
        make_test_set(root, "wmt22", pair, direction.references)
        if direction.validation == "wmt21":
            make_test_set(root, "wmt21", pair, ("A", "B", "C", "D"))
    return root


@pytest.mark.parametrize("pair", PAIRS)
def test_a_task_file_says_what_the_table_says(pair: str) -> None:
    direction, task = WMT22[pair], shipped(f"wmt22/{pair}")
    source, copy = task.source, direction.train
    assert isinstance(source, SplitsSource)
    assert isinstance(source.train, HubPart)
    assert (source.train.dataset_path, source.train.dataset_name) == (copy.path, copy.config)
    assert source.train.revision == copy.revision
    assert source.train.split == CUT.get(copy.path, "train")
    assert set(source.train.expect.columns) == set(copy.columns)
    assert source.train.expect.num_rows.items() <= copy.sizes.items()
    match direction.validation:
        case "own":
            assert isinstance(source.validation, HubPart)
            assert (source.validation.dataset_path, source.validation.split) == (copy.path, "validation")
            assert source.validation.expect.num_rows == {"validation": copy.sizes["validation"]}
        case "wmt21":
            assert isinstance(source.validation, SacrebleuSource)
            assert (source.validation.test_set, source.validation.langpair) == ("wmt21", pair)
        case _:
            assert source.validation is None
    assert isinstance(source.test, SacrebleuSource)
    assert (source.test.test_set, source.test.langpair) == ("wmt22", pair)
    metrics = [(item.metric, item.tokenize or "13a") for item in task.metric_list]
    assert metrics == [("bleu", direction.tokenize), ("chrf", "13a")]
    assert ("420 segments" in task.metadata.notes) == (direction.num_segments < 500)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_direction_goes_from_validate_to_rows(
    pair: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rows_of_a_sweep(f"wmt22/{pair}", made, tmp_path, capsys)


@pytest.mark.parametrize("pair", PAIRS)
def test_translations_go_into_the_target_language_and_are_judged_by_the_set_that_sacrebleu_scores(
    pair: str, made: Path, tmp_path: Path
) -> None:
    direction, (source, target) = WMT22[pair], pair.split("-")
    splits = load_task_data(shipped(f"wmt22/{pair}"), data_root=made, cache=tmp_path, verify="schema").splits
    assert len(splits["test"]) == 60
    for examples in splits.values():
        for example in examples[:20]:
            assert f"The {source} text" in example.prompt
            assert example.target.startswith(f"The {target} text")
            assert example.target not in example.prompt
    for example in splits["test"]:
        assert example.references == (example.target,)
        assert f"of set {direction.scored}:" in example.target
    validated = splits["validation"][0].prompt
    assert ("wmt21" in validated) == (direction.validation == "wmt21")
    assert ("validation" in validated) == (direction.validation == "own")
