from __future__ import annotations

import pytest

from catsweep.tasks.columns import column_value

ROW = {
    "plain": 1,
    "a.b": "a column may have a dot",
    "answers": {"text": ["x", "y"], "start": [1, 2], "none": None},
    "turns": [{"text": "one"}, {"text": "two"}],
    "empty": None,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("plain", 1),
        ("a.b", "a column may have a dot"),
        ("answers.text", ["x", "y"]),
        ("turns.text", ["one", "two"]),
        ("answers.none", None),
        ("empty.text", None),
    ],
)
def test_a_dotted_name_reaches_into_structs(name: str, value: object) -> None:
    assert column_value(ROW, name) == value


@pytest.mark.parametrize("name", ["other", "plain.text", "answers.texts", "turns.other", "answers.text.0"])
def test_an_unknown_name_is_no_column(name: str) -> None:
    with pytest.raises(KeyError):
        column_value(ROW, name)
