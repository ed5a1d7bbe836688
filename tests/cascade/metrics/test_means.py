import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from catsweep.cascade.metrics import get_metric


def test_several_accepted_answers_are_alternatives() -> None:
    for name in ("accuracy", "exact_match"):
        metric = get_metric(name)
        assert metric.statistics(" Paris\n", ["London", "Paris"]) == [1.0, 1.0]
        assert metric.statistics("paris", ["London", "Paris"]) == [0.0, 1.0]


def test_token_f1_follows_squad() -> None:
    f1 = get_metric("token_f1")
    # given {red, fox, runs}, wanted {quick, red, fox}: two common words, precision and recall 2/3.
    assert f1.statistics("The red fox runs.", ["a quick red fox"])[0] == pytest.approx(2 / 3)
    assert f1.statistics("red red", ["red"])[0] == pytest.approx(2 / 3)
    assert f1.statistics("blue", ["red", "Blue!"]) == [1.0, 1.0]
    assert f1.statistics("the", [""])[0] == 1.0
    assert f1.statistics("", ["red"])[0] == 0.0


@pytest.mark.parametrize(
    ("output", "references", "expected"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1.0),
        ("eiffel  tower", ["an Eiffel-Tower"], 0.0),  # punctuation goes without leaving a space
        ("eiffeltower", ["an Eiffel-Tower"], 1.0),
        ("tower eiffel", ["eiffel tower"], 0.0),
        ("1889", ["in 1889", "1889."], 1.0),
        ("", [""], 1.0),  # no answer, and none given
        ("the.", [""], 1.0),
        ("Paris", [""], 0.0),
        ("", ["Paris"], 0.0),
        ("unanswerable", ["unanswerable"], 1.0),
        ("theatre", ["atre"], 0.0),
    ],
)
def test_squad_em_follows_squad(output: str, references: list[str], expected: float) -> None:
    assert get_metric("squad_em").statistics(output, references) == [expected, 1.0]


def test_a_mean_is_the_mean_over_any_leading_axes_and_nan_of_no_rows() -> None:
    metric = get_metric("accuracy")
    np.testing.assert_array_equal(
        metric.score([[[1.0, 2.0], [3.0, 3.0]], [[0.0, 0.0], [0.0, 4.0]]]), [[0.5, 1], [np.nan, 0]]
    )


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeLsum"])
def test_rouge_is_that_of_the_package_with_its_stemmer(name: str) -> None:
    output, references = "The foxes were running.\nIt rained.", ["A fox runs.\nIt was raining!", "nothing at all"]
    best = RougeScorer([name], use_stemmer=True).score_multi(references, output)[name].fmeasure
    assert get_metric(name).statistics(output, references) == [100 * best, 1.0]
    assert best > RougeScorer([name]).score_multi(references, output)[name].fmeasure
    assert "stemmer:yes" in get_metric(name).signature


def test_rouge_by_hand_and_of_nothing() -> None:
    assert get_metric("rouge1").statistics("a b c", ["a b d"])[0] == pytest.approx(200 / 3)
    assert get_metric("rouge2").statistics("a b c", ["a b d"])[0] == pytest.approx(50)
    # Lines are sentences: the union of the longest common subsequences with each line of the answer.
    assert get_metric("rougeLsum").statistics("c d\na b", ["a b\nc d"])[0] == pytest.approx(100)
    assert get_metric("rougeLsum").statistics("c d a b", ["a b c d"])[0] == pytest.approx(50)
    for name in ("rouge1", "rouge2", "rougeLsum"):
        assert get_metric(name).statistics("", ["a b"])[0] == 0
        assert get_metric(name).statistics("日本語", ["日本語"])[0] == 0  # its tokeniser keeps a-z and 0-9 only
