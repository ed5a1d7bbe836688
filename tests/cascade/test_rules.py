import math

import numpy as np
import pytest

from catsweep.cascade.ragged import Ragged
from catsweep.cascade.rules import (
    MOST_UNCERTAIN,
    LearnedRule,
    OracleRule,
    QuantileRule,
    TokenRule,
    parse_rule,
    uncertainty,
)
from catsweep.cascade.signals import Signals
from catsweep.errors import DataError, SpecError

LOGPROBS = [[-0.1, -2.0, -0.3], [], [-0.5]]
ENTROPIES = [[0.2, 0.8, 0.5], [], [1.5]]
MARGINS = [[0.9, 0.1, 0.5], [], [1.0]]
TOKEN_RULES = ("mean", "sum", "max", "token_entropy", "token_margin", "quantile:0.5")


def signals(logprobs: list[list[float]] = LOGPROBS, choices: list[list[float]] | None = None) -> Signals:
    tokens = Ragged.from_lists(logprobs)
    chosen = Ragged.from_lists(choices or [[] for _ in logprobs])
    ids = np.array([f"q{row}" for row in range(len(logprobs))])
    entropies = Ragged.from_lists(ENTROPIES) if logprobs is LOGPROBS else tokens
    margins = Ragged.from_lists(MARGINS) if logprobs is LOGPROBS else tokens
    return Signals(ids, tokens, entropies, margins, chosen, chosen.map(np.ones(len(chosen.values))))


def test_token_rules_give_the_values_worked_out_by_hand() -> None:
    expected = {
        "mean": [0.8, MOST_UNCERTAIN, 0.5],
        "sum": [2.4, MOST_UNCERTAIN, 0.5],
        "max": [2.0, MOST_UNCERTAIN, 0.5],
        "token_entropy": [0.5, MOST_UNCERTAIN, 1.5],
        "token_margin": [0.5, MOST_UNCERTAIN, 0.0],
        "quantile:0.5": [0.3, MOST_UNCERTAIN, 0.5],
        "quantile:0.75": [1.15, MOST_UNCERTAIN, 0.5],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(uncertainty(parse_rule(name), signals()), values, rtol=1e-14, err_msg=name)


@pytest.mark.parametrize("name", TOKEN_RULES)
def test_an_empty_answer_is_deferred_first_and_stays_finite(name: str) -> None:
    values = uncertainty(parse_rule(name), signals())
    assert values.argmax() == 1
    assert np.isfinite(values).all()


@pytest.mark.parametrize("name", ["mean", "sum", "max"])
def test_a_token_of_probability_zero_stays_finite(name: str) -> None:
    values = uncertainty(parse_rule(name), signals([[-math.inf, -1.0], [-1.0]]))
    assert values[1] == 1.0
    assert 1e29 < values[0] <= MOST_UNCERTAIN


def test_quantile_1_is_max_and_quantile_0_the_surest_token() -> None:
    np.testing.assert_array_equal(uncertainty(QuantileRule(1.0), signals()), uncertainty(TokenRule("max"), signals()))
    assert uncertainty(QuantileRule(0.0), signals())[0] == pytest.approx(0.1)


def test_choice_rules_give_the_values_worked_out_by_hand() -> None:
    # Softmax of logs is the normalised number: [.5, .3, .2], [1], and a tie of [.5, .5]. The constant 700 must not matter.
    choices = [[math.log(5) - 700, math.log(3) - 700, math.log(2) - 700], [-3.0], [-1.0, -1.0]]
    several = signals([[-1.0]] * 3, choices)
    entropy = -(0.5 * math.log(0.5) + 0.3 * math.log(0.3) + 0.2 * math.log(0.2))
    expected = {
        "choice_max_probability": [0.5, 0.0, 0.5],
        "choice_margin": [0.8, 0.0, 1.0],
        "choice_entropy": [entropy, 0.0, math.log(2)],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(uncertainty(parse_rule(name), several), values, atol=1e-12, err_msg=name)


def test_a_choice_rule_on_generated_text_names_the_row_and_another_rule() -> None:
    with pytest.raises(DataError, match=r"choice_margin: row q0 has no choices.*mean"):
        uncertainty(parse_rule("choice_margin"), signals())


def test_signals_that_are_not_a_number_name_the_row() -> None:
    with pytest.raises(DataError, match="row q1"):
        uncertainty(parse_rule("mean"), signals([[-1.0], [math.nan]]))


def test_random_is_uniform_repeats_itself_and_changes_with_the_seed() -> None:
    many = signals([[-1.0]] * 20_000)
    values = uncertainty(parse_rule("random"), many)
    np.testing.assert_array_equal(values, uncertainty(parse_rule("random"), many))
    assert 0 <= values.min() < values.max() < 1
    assert abs(values.mean() - 0.5) < 0.01
    other = uncertainty(parse_rule("random:7"), many)
    assert abs(np.corrcoef(values, other)[0, 1]) < 0.03


def test_the_oracle_is_the_gain_and_asks_for_it() -> None:
    gain = np.array([0.0, 1.0, -1.0])
    np.testing.assert_array_equal(uncertainty(OracleRule(), signals(), gain=gain), gain)
    with pytest.raises(ValueError, match="quality_gain"):
        uncertainty(OracleRule(), signals())


def test_the_learned_rule_is_the_estimate_that_it_is_given_and_asks_for_it() -> None:
    estimate = np.array([0.0, 1.0, -1.0])
    np.testing.assert_array_equal(uncertainty(LearnedRule(), signals(), gain=estimate), estimate)
    with pytest.raises(ValueError, match="learned_gains"):
        uncertainty(LearnedRule(), signals())


@pytest.mark.parametrize(
    "name", [*TOKEN_RULES, "choice_max_probability", "choice_entropy", "random", "random:7", "oracle", "learned"]
)
def test_a_rule_is_found_again_by_its_name(name: str) -> None:
    assert parse_rule(name).name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("meen", "Did you mean 'mean'"),
        ("choice_margn", "Did you mean 'choice_margin'"),
        ("quantile", r"quantile:Q with Q in \[0, 1\]"),
        ("quantile:1.5", r"quantile:Q with Q in \[0, 1\]"),
        ("quantile:nan", r"quantile:Q with Q in \[0, 1\]"),
        ("mean:3", "mean:3.*expected one of"),
    ],
)
def test_an_unknown_rule_says_what_is_expected(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_rule(text)


def test_signals_of_different_numbers_of_rows_are_refused() -> None:
    one, two = Ragged.from_lists([[]]), Ragged.from_lists([[], []])
    with pytest.raises(ValueError, match="token_margins has 2 rows; expected 1"):
        Signals(np.array(["a"]), one, one, two, one, one)
