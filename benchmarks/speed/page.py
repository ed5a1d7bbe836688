"""benchmarks/results.md from the figures in benchmarks/results/: `python benchmarks/speed/page.py`."""

from __future__ import annotations

import json
import statistics

from measure import RESULTS

HEAD = """# Benchmarks

`make bench` measures this again, in some two and a half hours, but the part Work share and what needs a GPU, and puts all
lengths of a sweep's trials into one part; each part's command measures that part. Peers are installed by `pip install -e
'.[benchmarks]'` and used the way their documentation shows. A ratio is the peer's figure divided by ours, the median of pairs
taken in turn in one run, with the smallest and the largest; one number is one pair. More is better for us. `goal` was set
before anything was measured; how many rows are taken at once was chosen later.
[docs/performance.md](../docs/performance.md) says what bounds each figure, and what was tried and dropped.
"""
WITHOUT_GPU = """
## Gpu

`python benchmarks/gpu.py`, on a machine with a card, writes this part: the step, the chunked loss beside Liger's fused linear
cross-entropy, and packed trials. It needs torch, transformers and pydantic only, and `pip install -e
'.[benchmarks-gpu]'` for Liger's rows. No card's figures are here yet.
"""
ORDER = (
    "step",
    "memory",
    "logits",
    "padding",
    "choices",
    "generation",
    "large_pass",
    "curves",
    "sweep",
    "sweep_220",
    "sweep_1500",
    "sweep_9000",
    "work_share",
    "loading",
    "scale",
    "packed",
    "packed_trials",
    "floor",
    "gpu",
)


def main() -> None:
    """Write the page."""
    parts = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    known = [name for name in ORDER if name in parts] + sorted(set(parts) - set(ORDER))
    text = HEAD
    for name in known:
        part = parts[name]
        versions = ", ".join(f"{package} {version}" for package, version in part["versions"].items())
        text += (
            f"\n## {name.replace('_', ' ').capitalize()}\n\n`{part['command']}` on {part['machine']}"
            f"{when(part)}; {versions}.\n\n"
        )
        text += "| measurement | ours | peer | unit | ratio (min-max) | goal | peer, notes |\n|---|--:|--:|---|--:|---|---|\n"
        for row in part["rows"]:
            notes = row["peer_name"] + (f". {row['note']}" if row["note"] else "")
            text += (
                f"| {row['what']} | {row['ours']:.4g} | {row['peer']:.4g} | {row['unit']} | {ratio(row['ratios'])} "
                f"| {row['target']} | {notes} |\n"
            )
    text += "" if "gpu" in parts else WITHOUT_GPU
    (RESULTS.parent / "results.md").write_text(text)


def when(part: dict[str, str]) -> str:
    """Date and commit, where the part has them."""
    return f", {part['date']}, commit {part['commit']}" if "date" in part else ""


def ratio(values: list[float]) -> str:
    """The median of some pairs, and their range; nothing where there is no peer."""
    if not values:
        return ""
    middle = f"{statistics.median(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g}-{max(values):.3g})"


if __name__ == "__main__":
    main()
