"""Deferral rules: how uncertain the small model is about each answer. High defers (docs/curves.md)."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from catsweep.cascade.order import hash_ids
from catsweep.cascade.ragged import FloatArray, Ragged
from catsweep.cascade.signals import Signals
from catsweep.errors import DataError, Problem, SpecError

MOST_UNCERTAIN = 1e30
"""Uncertainty of an answer without tokens, for every token rule, and the cap of all uncertainties. [ours] An empty answer
tells nothing, so it is deferred first; the value is finite, so that every number computed from it is."""

TokenKind = Literal["mean", "sum", "max", "token_entropy", "token_margin"]
ChoiceKind = Literal["choice_max_probability", "choice_margin", "choice_entropy"]


@dataclass(frozen=True)
class TokenRule:
    """A reduction over the N tokens of the answer, with u_i = -log p_S(y_i | x, y_<i) in nats.

    mean: (1/N) sum u_i, the paper's rule. sum: sum u_i. max: the largest u_i. token_entropy: mean entropy of a token.
    token_margin: 1 - mean of (probability of the first minus that of the second token), in [0, 1].
    """

    kind: TokenKind = "mean"

    @property
    def name(self) -> str:
        return self.kind


@dataclass(frozen=True)
class QuantileRule:
    """The quantile of the token uncertainties u_i, linear between order statistics; share 1 is `max`, 0 the surest token."""

    share: float
    kind: Literal["quantile"] = "quantile"

    @property
    def name(self) -> str:
        return f"quantile:{self.share:g}"


@dataclass(frozen=True)
class ChoiceRule:
    """A function of p = softmax of the choices' summed log-probabilities.

    choice_max_probability: 1 - largest p. choice_margin: 1 - (largest - second p), the second of a single choice is 0.
    choice_entropy: -sum p log p, nats.
    """

    kind: ChoiceKind

    @property
    def name(self) -> str:
        return self.kind


@dataclass(frozen=True)
class RandomRule:
    """A hash of the id and the seed, uniform in [0, 1): the same at every run, independent of the answers."""

    seed: int = 0
    kind: Literal["random"] = "random"

    @property
    def name(self) -> str:
        return f"random:{self.seed}" if self.seed else "random"


@dataclass(frozen=True)
class OracleRule:
    """The quality that is gained by deferring, which only a judge of both answers knows (see lines.quality_gain)."""

    kind: Literal["oracle"] = "oracle"

    @property
    def name(self) -> str:
        return self.kind


@dataclass(frozen=True)
class LearnedRule:
    """An estimate of the quality that is gained by deferring, fitted on calibration (see learned.learned_gains)."""

    kind: Literal["learned"] = "learned"

    @property
    def name(self) -> str:
        return self.kind


DeferralRule = TokenRule | QuantileRule | ChoiceRule | RandomRule | OracleRule | LearnedRule

_SIMPLE_RULES: dict[str, DeferralRule] = {
    **{kind: TokenRule(kind) for kind in ("mean", "sum", "max", "token_entropy", "token_margin")},
    **{kind: ChoiceRule(kind) for kind in ("choice_max_probability", "choice_margin", "choice_entropy")},
    "random": RandomRule(),
    "oracle": OracleRule(),
    "learned": LearnedRule(),
}  # fmt: skip


def parse_rule(text: str) -> DeferralRule:
    """The rule of a name: `mean`, `quantile:0.9`, `random:7` ...; the inverse of `rule.name`.

    Raises SpecError for an unknown name or a bad parameter.
    """
    name, _, parameter = text.partition(":")
    if not parameter and name in _SIMPLE_RULES:
        return _SIMPLE_RULES[name]
    if name == "random" and parameter.isdecimal():
        return RandomRule(int(parameter))
    if name == "quantile":
        try:
            share = float(parameter)
        except ValueError:
            share = np.nan
        if 0 <= share <= 1:
            return QuantileRule(share)
        raise _unknown_rule(text, "quantile:Q with Q in [0, 1], for example quantile:0.9", "")
    close = difflib.get_close_matches(name, [*_SIMPLE_RULES, "quantile"], n=1)
    expected = f"one of {', '.join(_SIMPLE_RULES)}, quantile:Q with Q in [0, 1]"
    raise _unknown_rule(text, expected, f"Did you mean {close[0]!r}?" if close else "")


def uncertainty(rule: DeferralRule, signals: Signals, *, gain: FloatArray | None = None) -> FloatArray:
    """(n,) float64, at most MOST_UNCERTAIN: how uncertain the small model is about each answer; high defers.

    gain: (n,) quality gained by deferring, known for the oracle, estimated for the learned rule; no other needs it.
    Raises DataError for a choice rule on a row without choices, and for signals that are NaN.
    """
    match rule:
        case TokenRule(kind=token_kind):
            values = _token_uncertainty(token_kind, signals)
        case QuantileRule(share=share):
            values = token_uncertainties(signals).quantile(share, empty=MOST_UNCERTAIN)
        case ChoiceRule(kind=choice_kind):
            values = choice_uncertainty(choice_kind, signals)
        case RandomRule(seed=seed):
            # 53 bits, so that the quotient is exact and below 1.
            values = (hash_ids(signals.ids, seed=seed + 1) >> np.uint64(11)) / 2.0**53
        case OracleRule() | LearnedRule():
            if gain is None:
                source = "lines.quality_gain" if rule.kind == "oracle" else "learned.learned_gains"
                raise ValueError(f"the {rule.kind} rule needs `gain`; compute it with {source}")
            values = np.asarray(gain, dtype=np.float64)
        case _:
            assert_never(rule)
    if np.isnan(values).any():
        row = int(np.isnan(values).argmax())
        raise DataError(
            f"rule {rule.name}: the signals of row {signals.ids[row]} are not a number; expected finite "
            "log-probabilities. The model that answered it has diverged, or overflowed in float16"
        )
    return np.minimum(values, MOST_UNCERTAIN)


def token_uncertainties(signals: Signals) -> Ragged:
    """u_i = -log p of every token, capped so that a probability of 0 stays finite in sums."""
    logprobs = signals.token_logprobs
    return logprobs.map(np.minimum(-logprobs.values.astype(np.float64), MOST_UNCERTAIN))


def _token_uncertainty(kind: TokenKind, signals: Signals) -> FloatArray:
    match kind:
        case "mean":
            return token_uncertainties(signals).mean(empty=MOST_UNCERTAIN)
        case "sum":
            tokens = token_uncertainties(signals)
            return np.where(tokens.lengths > 0, tokens.sum(), MOST_UNCERTAIN)
        case "max":
            return token_uncertainties(signals).max(empty=MOST_UNCERTAIN)
        case "token_entropy":
            return signals.token_entropies.mean(empty=MOST_UNCERTAIN)
        case "token_margin":
            # The margins are float32: a mean of 1s must not give an uncertainty below 0.
            return np.maximum(1.0 - signals.token_margins.mean(empty=1.0 - MOST_UNCERTAIN), 0.0)
        case _:
            assert_never(kind)


def choice_uncertainty(kind: ChoiceKind, signals: Signals) -> FloatArray:
    """(n,) uncertainty of a choice rule. Raises DataError for a row without choices."""
    logprobs = signals.choice_logprobs
    without = logprobs.lengths == 0
    if without.any():
        raise DataError(
            f"rule {kind}: row {signals.ids[int(without.argmax())]} has no choices; expected the score of each choice. "
            "Use a rule of the answer's tokens, for example mean"
        )
    row_of = np.repeat(np.arange(len(logprobs)), logprobs.lengths)
    weights = logprobs.map(np.exp(logprobs.values.astype(np.float64) - logprobs.max()[row_of]))
    probabilities = weights.map(weights.values / weights.sum()[row_of])
    largest = probabilities.max()
    match kind:
        case "choice_max_probability":
            return 1.0 - largest
        case "choice_margin":
            return 1.0 - (largest - _second_largest(probabilities, row_of, largest))
        case "choice_entropy":
            p: NDArray[np.float64] = probabilities.values
            return -probabilities.map(p * np.log(np.where(p > 0, p, 1.0))).sum()
        case _:
            assert_never(kind)


def _second_largest(probabilities: Ragged, row_of: NDArray[np.int64], largest: FloatArray) -> FloatArray:
    """(n,) second largest value of each row, equal to the largest where that stands twice; 0 for a single value."""
    is_largest = probabilities.values == largest[row_of]
    others = probabilities.map(np.where(is_largest, 0.0, probabilities.values)).max()
    return np.where(probabilities.map(is_largest).sum() > 1, largest, others)


def _unknown_rule(text: str, expected: str, hint: str) -> SpecError:
    return SpecError([Problem("deferral rule", text, "an unknown rule", expected, hint)])
