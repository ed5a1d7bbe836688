from __future__ import annotations

import pytest

from catsweep.report.runs import logged_lines


def steps(num: int, evaluate_at: set[int]) -> list[dict[str, float]]:
    return [
        {"step": step, "train/loss": 1.0} | ({"validation/quality": 0.5} if step in evaluate_at else {})
        for step in range(1, num + 1)
    ]


def test_a_run_of_seconds_logs_every_fourth_of_a_hundred_lines_and_each_evaluation() -> None:
    lines = logged_lines(steps(100, {50, 100}), 3.0)
    assert [line["step"] for line in lines] == sorted({*range(4, 101, 4), 50, 100})


@pytest.mark.parametrize(("num", "seconds"), [(100, 61.0), (30, 3.0), (1, 3.0), (0, 3.0)])
def test_a_long_run_and_one_of_few_lines_log_all(num: int, seconds: float) -> None:
    lines = steps(num, set())
    assert logged_lines(lines, seconds) == lines
