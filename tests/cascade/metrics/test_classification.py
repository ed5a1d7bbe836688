import numpy as np
import pytest
from sklearn.metrics import f1_score

from catsweep.cascade.metrics import get_metric
from catsweep.cascade.metrics.cells import expected_empty
from catsweep.errors import DataError

from .slow import Row, statistics


def rows(outputs: list[str], wanted: list[str]) -> list[Row]:
    return [Row(output, (text,), "") for output, text in zip(outputs, wanted, strict=True)]


def test_macro_f1_by_hand_counts_classes_that_are_never_predicted_or_never_right() -> None:
    metric = get_metric("macro_f1")
    # a: 1 right of 2 answers and 1 reference: 2/3. b: 1 of 1 and 2: 2/3. c is never predicted: 0. x is no class: 0.
    found = statistics(metric, rows(["a", "a", "b", "x"], ["a", "b", "b", "c"]))
    assert metric.quality(found) == pytest.approx((2 / 3 + 2 / 3) / 4)
    assert metric.right(found).tolist() == [1, 0, 1, 0]


def test_f1_by_hand_takes_every_other_answer_as_negative() -> None:
    metric = get_metric("f1", positive="yes")
    # 1 both, 2 answered yes, 3 are yes.
    found = statistics(metric, rows([" yes ", "yes", "", "perhaps", "no"], ["yes", "no", "yes", "yes", "no"]))
    assert metric.quality(found) == pytest.approx(2 * 1 / 5)
    assert metric.right(found).tolist() == [1, 0, 0, 0, 1]
    assert metric.quality(statistics(metric, rows(["no"], ["no"]))) == 0 == f1_score([0], [0], zero_division=0)


def test_matthews_by_hand_and_of_one_class_is_zero() -> None:
    metric = get_metric("matthews")
    # tp 2, tn 1, fp 1, fn 0: (2*1 - 1*0) / sqrt(3*2*2*1)
    found = statistics(metric, rows(["1", "1", "1", "0"], ["1", "1", "0", "0"]))
    assert metric.quality(found) == pytest.approx(2 / np.sqrt(12))
    assert metric.quality(statistics(metric, rows(["0", "1"], ["1", "0"]))) == pytest.approx(-1)
    assert metric.quality(statistics(metric, rows(["1", "1"], ["1", "0"]))) == 0
    assert metric.quality(statistics(metric, rows(["1", "0"], ["1", "1"]))) == 0


@pytest.mark.parametrize("name", ["macro_f1", "f1", "matthews", "multirc_f1a"])
def test_a_class_has_no_alternatives(name: str) -> None:
    metric = get_metric(name, positive="yes" if "f1" in name and name != "macro_f1" else None)
    assert metric.statistics("yes", ["yes", " yes"]) == metric.statistics("yes", ["yes"])
    with pytest.raises(DataError, match=r"found 2 references, .*; expected one right class"):
        metric.statistics("yes", ["yes", "no"])


@pytest.mark.parametrize("name", ["macro_f1", "matthews"])
def test_the_gain_of_a_row_is_its_swap_among_rows_that_count_half_from_each_model(name: str) -> None:
    random = np.random.default_rng(2)
    wanted = random.integers(0, 3, 25)
    small, large = (np.where(random.random(25) < rate, wanted, random.integers(0, 5, 25)) for rate in (0.3, 0.7))
    metric = get_metric(name)
    aligned = metric.align(*(np.stack([wanted, answers], axis=1).astype(float) for answers in (small, large)))
    gain = metric.gain(*aligned)
    for row in range(25):
        scores = []
        for share in (1.0, 0.0):  # of the large model's answer in this row; all others count half from each
            counts = np.zeros((5, 3))
            for other in range(25):
                own = share if other == row else 0.5
                for answer, weight in ((large[other], own), (small[other], 1 - own)):
                    counts[answer] += [weight * (answer == wanted[other]), weight, 0]
                counts[wanted[other], 2] += 1
            right, given, true = counts.T
            if name == "macro_f1":
                seen = given + true > 0
                scores.append((2 * right[seen] / (given + true)[seen]).mean())
            else:
                spread = (25**2 - (given**2).sum()) * (25**2 - (true**2).sum())
                scores.append((right.sum() * 25 - (given * true).sum()) / np.sqrt(spread))
        assert gain[row] == pytest.approx(25 * (scores[0] - scores[1]), abs=1e-9)


def test_rows_of_two_models_must_have_the_same_references() -> None:
    metric = get_metric("macro_f1")
    one, other = (statistics(metric, rows(["a"], [text])) for text in "ab")
    with pytest.raises(ValueError, match="different references"):
        metric.align(one, other)


def test_the_expected_number_of_empty_cells_is_that_of_independent_rows() -> None:
    # Cells: one row to defer; two rows to keep; one of each; a row that stays.
    counts = np.array([[1, 0, 0], [0, 2, 0], [1, 1, 0], [1, 0, 1]]).T
    found = expected_empty(counts[0], counts[1], counts[2], np.array([0.0, 0.25, 1.0]))
    assert found == pytest.approx([1.0, 0.25 + 0.75**2 + 0.25 * 0.75, 1.0])
