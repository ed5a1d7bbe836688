import itertools

import numpy as np
import pytest

from catsweep.cascade.metrics import get_metric
from catsweep.errors import DataError

from .slow import Row, multirc_em, statistics

EM = get_metric("multirc_em")


def test_a_question_is_right_where_all_its_rows_are() -> None:
    rows = [("yes", "yes", "1"), ("no", "no", "1"), ("yes", "no", "2"), ("no", "no", "2"), (" no", "no", "3")]
    found = statistics(EM, [Row(output, (wanted,), question) for output, wanted, question in rows])
    assert EM.quality(found) == pytest.approx(2 / 3)
    assert EM.right(found).tolist() == [1, 1, 0, 1, 1]


def test_a_row_without_a_question_says_where_keys_come_from() -> None:
    with pytest.raises(DataError, match=r"found no key of the question.*`question_key`.*column `key`"):
        EM.statistics("yes", ["yes"])


def test_the_oracle_wins_as_many_questions_as_any_choice_of_deferred_rows() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        questions = [f"q{number}" for number in random.integers(0, 4, size=9)]
        models = [
            [Row(str(random.choice(["yes", "no"])), ("yes",), question) for question in questions] for _ in range(2)
        ]
        small, large = EM.align(*(statistics(EM, model) for model in models))
        gain = EM.gain(small, large)
        order = np.argsort(-gain, kind="stable")
        path = EM.mixed(small[order], large[order])
        best_by_size = [
            max(
                multirc_em([models[1 if row in chosen else 0][row] for row in range(9)])
                for chosen in map(set, itertools.combinations(range(9), k))
            )
            for k in range(10)
        ]
        assert path.max() == pytest.approx(max(best_by_size))
        # While something is still to win, no choice of so many rows wins more.
        for k in range(int((gain > 0).sum()) + 1):
            assert path[k] == pytest.approx(best_by_size[k])


def test_copies_of_a_question_are_questions_of_their_own() -> None:
    rows = EM.align(*[np.array([[1.0, 7.0], [0.0, 7.0], [1.0, 9.0]])] * 2)[0]
    drawn = EM.drawn(rows, np.array([2, 2, 3]))
    assert len(np.unique(drawn[:, 1])) == 5
    assert EM.mixed(drawn, drawn).tolist() == [3 / 5] * 8
