from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from catsweep.cascade.metrics import get_metric

WMT22 = Path(__file__).parents[4] / "shared" / "data" / "wmt22"
OUTPUTS = ["the cat sat on the mat", "", "🙂 hello 🎉🎉 world", "a b c d e f g", "  spaces  here ", "naïve café", "x"]
REFERENCES = [
    ["the cat is on the mat", "there is a cat on the mat"],
    ["something", "nothing"],
    ["🙂 hello world 🎉", "hello 🎉🎉 world 🙂"],
    ["a b c d x f g", "a b"],
    ["spaces here", "spaces  here."],
    ["naïve café", "naive cafe"],
    ["y", "z"],
]


def scorer(name: str, tokenize: str | None) -> BLEU | CHRF:
    return BLEU(tokenize=tokenize) if name == "bleu" else CHRF()


def assert_equals_sacrebleu_at_every_point(
    name: str, tokenize: str | None, small: list[str], large: list[str], references: list[list[str]]
) -> None:
    """Rows 0..k-1 take the large answer, the others the small one, for every k, as along a curve."""
    metric = get_metric(name, tokenize=tokenize)
    one, other = (
        np.array([metric.statistics(*pair) for pair in zip(texts, references, strict=True)]) for texts in (small, large)
    )
    deferred = np.concatenate([np.zeros((1, one.shape[1])), (other - one).cumsum(axis=0)])
    scores = metric.score(one.sum(axis=0) + deferred)
    streams = list(zip(*references, strict=True))
    for k, score in enumerate(scores):
        expected = scorer(name, tokenize).corpus_score([*large[:k], *small[k:]], streams).score
        assert score == pytest.approx(expected, abs=1e-9), f"k = {k}"


@pytest.mark.parametrize(("name", "tokenize"), [("bleu", None), ("bleu", "char"), ("bleu", "none"), ("chrf", None)])
@pytest.mark.parametrize("num_references", [1, 2])
def test_corpus_scores_equal_sacrebleu_with_emoji_empty_outputs_and_several_references(
    name: str, tokenize: str | None, num_references: int
) -> None:
    references = [row[:num_references] for row in REFERENCES]
    assert_equals_sacrebleu_at_every_point(name, tokenize, OUTPUTS, OUTPUTS[::-1], references)


@pytest.mark.parametrize(
    "outputs",
    [
        ["", ""],  # no output at all
        ["q", "w"],  # no match
        ["a b", "c"],  # no n-gram of order 3 and 4
        ["a x c y e", "z b w d v"],  # matches of order 1 only: smoothing of three orders
        ["a b x d e", "q"],  # smoothing of two orders
        ["a b c d e f g h", "h i j k"],  # longer than the reference
    ],
)
@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_zero_matches_and_smoothing_equal_sacrebleu(name: str, outputs: list[str]) -> None:
    references = ["a b c d e", "h i j k l"]
    metric = get_metric(name)
    sums = np.sum([metric.statistics(*pair) for pair in zip(outputs, [[text] for text in references], strict=True)], 0)
    expected = scorer(name, None).corpus_score(outputs, [references]).score
    assert float(metric.score(sums)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.skipif(not WMT22.exists(), reason="the WMT22 texts are not there")
@pytest.mark.parametrize(("name", "tokenize"), [("bleu", "13a"), ("bleu", "intl"), ("chrf", None)])
def test_corpus_scores_of_real_text_with_two_references_equal_sacrebleu(name: str, tokenize: str | None) -> None:
    english = [
        (WMT22 / f"generaltest2022.cs-en.ref.{letter}.en").read_text("utf-8").splitlines()[:40] for letter in "BC"
    ]
    german = [
        (WMT22 / f"generaltest2022.de-en.ref.{letter}.en").read_text("utf-8").splitlines()[:40] for letter in "AB"
    ]
    # Halves of the references stand in for systems: many matches in one, few in the other.
    small = [line[: len(line) // 2] for line in english[0]]
    large = [line[len(line) // 3 :] if row % 3 else german[0][row] for row, line in enumerate(english[1])]
    assert_equals_sacrebleu_at_every_point(
        name, tokenize, small, large, [list(row) for row in zip(*english, strict=True)]
    )


@pytest.mark.skipif(not WMT22.exists(), reason="the WMT22 texts are not there")
@pytest.mark.parametrize(("name", "tokenize"), [("bleu", "zh"), ("bleu", "char"), ("chrf", None)])
def test_corpus_scores_of_chinese_equal_sacrebleu(name: str, tokenize: str | None) -> None:
    first, second = (
        (WMT22 / f"generaltest2022.en-zh.ref.{letter}.zh").read_text("utf-8").splitlines()[:30] for letter in "AB"
    )
    small = [line[::2] for line in second]
    assert_equals_sacrebleu_at_every_point(name, tokenize, small, second, [[line] for line in first])


def test_signatures_are_those_of_sacrebleu() -> None:
    bleu = BLEU(tokenize="char")
    bleu.corpus_score(["a"], [["a"], ["b"]])
    assert get_metric("bleu", tokenize="char").signature_for(2) == str(bleu.get_signature())
    chrf = CHRF()
    chrf.corpus_score(["a"], [["a"]])
    assert get_metric("chrf").signature == str(chrf.get_signature())
    assert "nrefs:var" in get_metric("chrf").signature_for(-1)
