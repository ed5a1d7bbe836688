from typing import Any

import pytest

from catsweep.cascade.metrics import get_metric, metric_of
from catsweep.errors import TableError
from catsweep.spec.task import MetricSpec


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("blue", {}, "Did you mean 'bleu'"),
        ("BLEU", {}, "Did you mean 'bleu'"),
        ("rougeL", {}, "expected one of accuracy"),
        ("bleu", {"tokenize": "cha"}, "Did you mean 'char'"),
        ("chrf", {"tokenize": "zh"}, "only bleu has a tokenizer"),
        ("f1", {}, "found no positive class"),
        ("multirc_f1a", {}, "found no positive class"),
        ("macro_f1", {"positive": "yes"}, "only f1 and multirc_f1a have a positive class"),
    ],
)
def test_an_unknown_metric_or_setting_says_what_is_expected(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TableError, match=message):
        get_metric(name, **settings)


def test_a_task_file_gives_a_metric_its_settings() -> None:
    assert metric_of(MetricSpec(metric="bleu", tokenize="zh")) == get_metric("bleu", tokenize="zh")
    assert metric_of(MetricSpec(metric="f1", positive="yes")).signature == "f1|positive:yes"
