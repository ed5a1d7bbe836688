"""Curves of a cascade: every threshold of a million rows, BLEU at every threshold, paired resamples of 100,000 rows.

    python benchmarks/speed/curves.py          a quarter of an hour or more, nearly all of it sacrebleu's

All work is single-threaded and timed in seconds of the processor. sacrebleu is called for every one of the 2,001 points, once;
what it returns is compared with our curve there.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
from measure import Row, paired, row, write
from sacrebleu.metrics import BLEU
from scipy.stats import bootstrap
from sklearn.metrics import roc_curve

from catsweep.cascade.compare import System, bootstrap_curves
from catsweep.cascade.curve import cascade_curve
from catsweep.cascade.metrics import get_metric
from catsweep.cascade.ragged import FloatArray, Ragged
from catsweep.cascade.rows import Cascade
from catsweep.cascade.signals import Signals

RULES = ("mean", "sum", "max", "quantile:0.9", "token_entropy", "token_margin")
ACCURACY = get_metric("accuracy")


def right(random: np.random.Generator, num_rows: int, share: float) -> FloatArray:
    """Statistics of accuracy of answers of which a share is right."""
    return np.stack([(random.random(num_rows) < share).astype(np.float64), np.ones(num_rows)], axis=1)


def make_cascade(num_rows: int, mean_tokens: int) -> Cascade:
    """Random answers, each token with its log-probability, entropy and margin."""
    random = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(1 + random.poisson(mean_tokens - 1, num_rows))])
    tokens = [-random.exponential(0.3, offsets[-1]), random.exponential(0.5, offsets[-1]), random.random(offsets[-1])]
    ids = np.char.add("test-", np.arange(num_rows).astype(str))
    empty = Ragged(np.empty(0), np.zeros(num_rows + 1, np.int64))
    signals = Signals(ids, *(Ragged(values, offsets) for values in tokens), empty, empty)
    costs = {"flops": (1 + random.random(num_rows), 10 + random.random(num_rows))}
    return Cascade(signals, [], right(random, num_rows, 0.6), right(random, num_rows, 0.8), costs, ACCURACY)


def every_threshold(num_rows: int = 1_000_000, mean_tokens: int = 4) -> Row:
    """Six rules from the tokens' signals to all points."""
    cascade = make_cascade(num_rows, mean_tokens)
    uncertainties = [cascade.uncertainty(rule) for rule in RULES]
    wrong = cascade.small_statistics[:, 0] == 0

    def ours() -> None:
        fresh = replace(cascade)  # which has not hashed the ids yet
        for rule in RULES:
            assert len(fresh.curve(rule).quality) == num_rows + 1

    def theirs() -> None:
        for values in uncertainties:
            roc_curve(wrong, values, drop_intermediate=False)

    return row(
        "1,000,000 rows, 6 deferral rules, every threshold",
        paired(ours, theirs, clock=time.process_time),
        peer_name="scikit-learn roc_curve(drop_intermediate=False) of the 6 finished uncertainties",
        target="under 2 s",
        note=f"ours begins at the signals of {mean_tokens} tokens a row and gives qualities of mix, kept and deferred, costs and "
        "thresholds; the peer begins at the uncertainty and gives two rates",
    )


def texts(num_rows: int) -> tuple[list[str], list[str], list[str]]:
    """References of 8 to 39 words, and two models' answers in which words are replaced."""
    random = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(3_000)])
    often = 1 / np.arange(1, len(words) + 1)
    often /= often.sum()
    references = [random.choice(words, size=random.integers(8, 40), p=often) for _ in range(num_rows)]

    def answers(share: float) -> list[str]:
        kept = [
            np.where(random.random(len(text)) < share, text, random.choice(words, len(text), p=often))
            for text in references
        ]
        return [" ".join(text) for text in kept]

    return answers(0.6), answers(0.8), [" ".join(text) for text in references]


def bleu_at_every_threshold(num_rows: int = 2_000) -> list[Row]:
    """BLEU of all points, from the rows' statistics and from the texts, beside sacrebleu called for each point."""
    small, large, references = texts(num_rows)
    metric, uncertainty = get_metric("bleu"), np.random.default_rng(1).random(num_rows)
    ids, ones = np.arange(num_rows).astype(str), np.ones(num_rows)

    def extract() -> list[FloatArray]:
        return [
            np.array([metric.statistics(*pair) for pair in zip(model, ([text] for text in references), strict=True)])
            for model in (small, large)
        ]

    def curve(found: list[FloatArray]) -> FloatArray:
        return cascade_curve(
            ids=ids, small_statistics=found[0], large_statistics=found[1], uncertainty=uncertainty, small_cost=ones,
            large_cost=ones, metric=metric,
        ).quality  # fmt: skip

    start = time.process_time()
    found = extract()
    extracted = time.process_time() - start
    seconds = []
    for _ in range(7):
        start = time.process_time()
        quality = curve(found)
        seconds.append(time.process_time() - start)
    ours = statistics.median(seconds[2:])
    scorer, mixed, scores = BLEU(), list(small), []
    scorer.corpus_score(mixed, [references])  # its tokeniser remembers texts
    scorer.corpus_score(large, [references])
    start = time.process_time()
    for deferred in (None, *np.argsort(-uncertainty)):
        if deferred is not None:
            mixed[deferred] = large[deferred]
        scores.append(scorer.corpus_score(mixed, [references]).score)
    theirs = time.process_time() - start
    off = float(np.abs(quality - scores).max())
    if off > 1e-9:
        raise AssertionError(f"a point differs from sacrebleu's by {off}; expected at most 1e-9")
    note = f"all {num_rows + 1:,} points called once; largest difference {off:.1e}"
    peer = "sacrebleu corpus_score at each threshold, its tokeniser's cache warm"
    return [
        Row(
            f"BLEU at every threshold of {num_rows:,} rows, from the statistics in the rows", ours, theirs, "s", peer,
            [theirs / ours], "1,000x, equal to 1e-9", note,
        ),
        Row(
            f"BLEU at every threshold of {num_rows:,} rows, texts included", ours + extracted, theirs, "s", peer,
            [theirs / (ours + extracted)], "none",
            "a trial takes its statistics once, when it is evaluated; the floor is one statistic for each of 2 answers a row",
        ),
    ]  # fmt: skip


def resampled_systems(num_rows: int) -> tuple[dict[str, System], list[str]]:
    """Two cascades on the same rows, each row a group."""
    random = np.random.default_rng(0)
    large = right(random, num_rows, 0.8)
    ids = [f"test-{number}" for number in range(num_rows)]
    share = {"first": 0.6, "second": 0.62}
    return {
        name: System(np.array(ids), right(random, num_rows, part), large, random.random(num_rows))
        for name, part in share.items()
    }, ids


def resample(num_rows: int, num_resamples: int) -> None:
    """The draws of both curves, on the same resamples."""
    systems, groups = resampled_systems(num_rows)
    bootstrap_curves(systems, groups=groups, metric=ACCURACY, num_resamples=num_resamples)


def paired_resamples(num_rows: int = 100_000, num_resamples: int = 1_000) -> Row:
    """Differences of two curves' audc under paired resamples, beside those of two mean qualities."""
    systems, groups = resampled_systems(num_rows)
    qualities = [system.small_statistics[:, 0] for system in systems.values()]

    def difference(first: FloatArray, second: FloatArray, axis: int) -> FloatArray:
        return np.mean(first, axis=axis) - np.mean(second, axis=axis)

    seconds = paired(
        lambda: bootstrap_curves(systems, groups=groups, metric=ACCURACY, num_resamples=num_resamples),
        lambda: bootstrap(
            qualities,
            difference,
            paired=True,
            vectorized=True,
            method="percentile",
            n_resamples=num_resamples,
            batch=10,
        ),
        clock=time.process_time,
    )
    command = [sys.executable, __file__, "memory", str(num_rows), str(num_resamples)]
    peak = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return row(
        "1,000 paired bootstrap resamples of two curves on 100,000 rows",
        seconds,
        peer_name="scipy.stats.bootstrap(paired=True, batch=10) of the difference of two mean qualities, no curve",
        target="under 5 s and 1 GiB",
        note=f"each row a group; peak of a process that does only this, imports included: {peak:.2f} GiB",
    )


def main() -> None:
    """Measure and write; `memory ROWS RESAMPLES` prints the peak of one call in GiB."""
    if sys.argv[1:2] == ["memory"]:
        resample(int(sys.argv[2]), int(sys.argv[3]))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        return
    rows = [every_threshold(), paired_resamples(), *bleu_at_every_threshold()]
    write("curves", rows, "python benchmarks/speed/curves.py")
    for item in rows:
        print(item)


if __name__ == "__main__":
    main()
