from typing import Any

import pytest
from pydantic import ValidationError

from catsweep.spec.task import MetricSpec, TaskSpec


def task(*metrics: dict[str, Any], output_type: str = "generate_until") -> TaskSpec:
    return TaskSpec.model_validate({
        "task": "suite/name",
        "group": "kind",
        "source": {"kind": "files", "format": "csv", "train": "train.csv"},
        "output_type": output_type,
        "doc_to_text": "{{question}}",
        "doc_to_target": "answer",
        "metric_list": list(metrics),
        **({"doc_to_choice": ["yes", "no"]} if output_type == "multiple_choice" else {}),
    })  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {"metric": "f1", "positive": "yes"},
        {"metric": "multirc_f1a", "positive": ""},
        {"metric": "multirc_em"},
        {"metric": "multirc_em", "key": "{{idx.paragraph}}-{{idx.question}}"},
        {"metric": "bleu", "tokenize": "zh"},
        {"metric": "spearman"},
    ],
)
def test_a_metric_takes_the_settings_it_needs(settings: dict[str, Any]) -> None:
    assert MetricSpec.model_validate(settings).to_json() == {"tokenize": None, "positive": None, "key": None} | settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "f1"}, "`positive` is needed by f1"),
        ({"metric": "macro_f1", "positive": "yes"}, "by no other metric"),
        ({"metric": "rouge1", "tokenize": "zh"}, "rouge1 has no tokeniser"),
        ({"metric": "accuracy", "key": "question"}, "`key` belongs to multirc_em"),
        ({"metric": "rougeL"}, "rougeLsum"),
    ],
)
def test_a_metric_refuses_settings_of_another_one(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MetricSpec.model_validate(settings)


def test_choices_are_judged_by_every_metric_but_those_of_free_texts() -> None:
    accepted = [{"metric": name} for name in ("accuracy", "macro_f1", "matthews", "token_f1", "squad_em", "spearman")]
    assert len(task(*accepted, output_type="multiple_choice").metric_list) == len(accepted)
    for name in ("bleu", "chrf", "rouge1", "rouge2", "rougeLsum"):
        with pytest.raises(ValidationError, match=f"{name} compares free texts"):
            task({"metric": name}, output_type="multiple_choice")
