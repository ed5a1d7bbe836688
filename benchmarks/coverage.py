"""How often the 95% intervals of docs/statistics.md hold the truth, simulated: `python benchmarks/coverage.py`, a minute.

Prints both tables of that page: of one task with 2 to 5 seeds, where an effect of the examples that all seeds share and an effect
of each seed have a total standard error of 1; and over tasks, where kinds and tasks of a kind have effects of their own.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import t as student

from catsweep.cascade.compare import half_width, macro_difference, small_sample_factor

SEEDS, SEED_SHARES, NUM_CASES = (2, 3, 5), (0.0, 0.1, 0.3, 0.5, 0.8, 1.0), 40_000
DESIGNS, EFFECTS, NUM_MACRO_CASES = ((3, 4), (5, 4), (8, 5), (12, 5)), ((0, 1), (0.5, 1), (1, 0.5), (1, 0.05)), 600
"""(kinds, tasks of each); standard deviations of the effects of kinds and of tasks."""


def one_task(num_seeds: int, seed_share: float) -> str:
    """A line: coverage and mean width of t on the whole, Satterthwaite's degrees, and each part with its own quantile."""
    random = np.random.default_rng([num_seeds, round(10 * seed_share)])
    example = math.sqrt(1 - seed_share) * random.normal(size=(NUM_CASES, 1))
    values = example + math.sqrt(seed_share * num_seeds) * random.normal(size=(NUM_CASES, num_seeds))
    from_seeds, from_examples = values.var(axis=1, ddof=1) / num_seeds, 1 - seed_share
    whole = from_examples + from_seeds
    with np.errstate(divide="ignore"):
        satterthwaite = (num_seeds - 1) * (whole / from_seeds) ** 2
    halves = {
        "t": student.ppf(0.975, num_seeds - 1) * np.sqrt(whole),
        "satterthwaite": student.ppf(0.975, satterthwaite) * np.sqrt(whole),
        "own": np.array([half_width(from_examples, value, num_seeds) for value in from_seeds.tolist()]),
    }
    distance = np.abs(values.mean(axis=1))
    cells = [f"{np.mean(distance <= half):.3f} ({2 * half.mean():.1f})" for half in halves.values()]
    return f"| {num_seeds} | {seed_share} | {' | '.join(cells)} |"


def over_tasks(num_kinds: int, num_tasks: int, between: float, within: float) -> str:
    """A line: coverage of a bootstrap's percentiles, and of those stretched as catsweep does."""
    random = np.random.default_rng([num_kinds, num_tasks, round(100 * between), round(100 * within)])
    kinds = np.repeat(np.arange(num_kinds), num_tasks).astype(str).tolist()
    factor = small_sample_factor(num_kinds)
    bare = stretched = 0
    for case in range(NUM_MACRO_CASES):
        effects = np.repeat(between * random.normal(size=num_kinds), num_tasks)
        values = effects + within * random.normal(size=num_kinds * num_tasks)
        found = macro_difference(kinds, values, num_resamples=2_000, seed=case)
        stretched += found.lower <= 0 <= found.upper
        lower, upper = (found.value + (bound - found.value) / factor for bound in (found.lower, found.upper))
        bare += lower <= 0 <= upper
    cells = [f"{count / NUM_MACRO_CASES:.2f}" for count in (bare, stretched)]
    return f"| {num_kinds} x {num_tasks} | {between} | {within} | {' | '.join(cells)} |"


def main() -> None:
    """Print both tables."""
    print("| seeds | Var_s / all | t on the whole | Satterthwaite | each its own (ours) |\n|---:|---:|---:|---:|---:|")
    for num_seeds in SEEDS:
        for share in SEED_SHARES:
            print(one_task(num_seeds, share), flush=True)
    print("\n| kinds x tasks | b | w | percentiles | stretched (ours) |\n|---|---:|---:|---:|---:|")
    for num_kinds, num_tasks in DESIGNS:
        for between, within in EFFECTS:
            print(over_tasks(num_kinds, num_tasks, between, within), flush=True)


if __name__ == "__main__":
    main()
