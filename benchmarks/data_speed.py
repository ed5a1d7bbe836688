"""Preparing examples (read, render, tokenise, cut, cache) against `datasets.map(batched=True)`, in pairs on one machine.

    python benchmarks/data_speed.py [--rows 100000] [--pairs 3] [--write benchmarks/data_speed.md]

Both read the same Parquet file and use the same tokeniser (a byte-level BPE made for this, 8,000 entries). The peer does
what TRL's SFTTrainer does with prompt-completion data: an f-string prompt, then the tokens of the prompt and of prompt
with completion. catsweep renders a Jinja2 template, groups rows, cuts four splits and writes texts and tokens. Each run is
a process of its own; seconds and peak memory are of the preparation alone, imports left out. Memory is anonymous memory
(RssAnon): pages of files that are mapped, which the kernel drops when it needs room, do not count.

catsweep does what a sweep does: it also makes the keys of each example's source texts, by which texts that training shows
and an evaluation split too are found. The peer has nothing like it.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

TASK = """
task: bench/data
group: bench
source: {{kind: files, format: parquet, train: {file}}}
output_type: generate_until
doc_to_text: "Passage: {{{{passage}}}}\\nQuestion: {{{{question}}}}?\\nAnswer:"
doc_to_target: answer
doc_to_group: passage
metric_list: [{{metric: exact_match}}]
"""


def make_data(folder: Path, num_rows: int) -> None:
    """Rows of made-up words with the lengths of a reading task: a passage of some 60 words, a question, an answer."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    draw = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(20_000)]

    def text(low: int, high: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(low, high)))

    rows = [{"passage": text(40, 80), "question": text(5, 12), "answer": text(1, 4)} for _ in range(num_rows)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<end>"]
    trainer = trainers.BpeTrainer(
        vocab_size=8_000, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([row["passage"] for row in rows[:20_000]], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    fast.save_pretrained(folder / "tokenizer")


def prepare_with_catsweep(folder: Path, output: Path) -> int:
    """Number of training examples; the second call with the same output reads what the first one wrote."""
    from transformers import AutoTokenizer

    from catsweep.data import write_task_data
    from catsweep.spec.load import load_task
    from catsweep.tasks.examples import load_examples

    (folder / "task.yaml").write_text(TASK.format(file="rows.parquet"))
    task = load_task(folder / "task.yaml")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    examples = load_examples(task, cache=output, with_sources=True)
    data = write_task_data(
        output / "data", examples, task, tokenizer, "decoder", max_prompt_tokens=512, max_target_tokens=64
    )
    return sum(len(data.tokens(split)) for split in examples)


def prepare_with_datasets(folder: Path, output: Path) -> int:
    """The same rows and tokens through `datasets.map`."""
    import datasets
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    datasets.disable_progress_bars()

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        prompts = [
            f"Passage: {p}\nQuestion: {q}?\nAnswer:" for p, q in zip(batch["passage"], batch["question"], strict=True)
        ]
        whole = [f"{prompt} {answer}" for prompt, answer in zip(prompts, batch["answer"], strict=True)]
        prompt_ids = tokenizer(prompts)["input_ids"]
        whole_ids = tokenizer(whole)["input_ids"]
        end = [tokenizer.eos_token_id]
        answers = [ids[len(first) :] + end for ids, first in zip(whole_ids, prompt_ids, strict=True)]
        return {"prompt_ids": prompt_ids, "target_ids": answers}

    rows = datasets.load_dataset(
        "parquet", data_files=str(folder / "rows.parquet"), split="train", cache_dir=str(output / "datasets")
    )
    return len(rows.map(encode, batched=True, remove_columns=rows.column_names))


def measure(which: str, folder: Path, output: Path) -> dict[str, float]:
    """Seconds and peak memory of one preparation, in this process."""
    import datasets  # noqa: F401  (imports are not what is measured)
    import transformers  # noqa: F401

    import catsweep.data
    import catsweep.tasks.examples  # noqa: F401

    gc.collect()
    before, peak = anonymous_mib(), [0.0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], anonymous_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, cpu = time.perf_counter(), time.process_time()
    num_rows = (prepare_with_catsweep if which == "catsweep" else prepare_with_datasets)(folder, output)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    ended.set()
    watcher.join()
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "more_mib": peak[0] - before, "rows": num_rows}


def anonymous_mib() -> float:
    """Anonymous memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def run(which: str, folder: Path, output: Path) -> dict[str, float]:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--measure", which, str(folder), str(output)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Run the pairs and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--measure", nargs=3, metavar=("WHICH", "FOLDER", "OUTPUT"))
    arguments = parser.parse_args()
    if arguments.measure:
        which, folder, output = arguments.measure
        print(json.dumps(measure(which, Path(folder), Path(output))))
        return
    with tempfile.TemporaryDirectory() as name:
        sizes = {num: Path(name) / str(num) for num in (arguments.rows // 10, arguments.rows)}
        for num, folder in sizes.items():
            folder.mkdir()
            make_data(folder, num)
        full = sizes[arguments.rows]
        pairs = []
        for number in range(arguments.pairs):
            output = Path(name) / f"out{number}"
            pairs.append((run("catsweep", full, output), run("datasets", full, output)))
        again = run("catsweep", full, output)
        small, peers_small = (
            run(which, sizes[arguments.rows // 10], Path(name) / "small") for which in ("catsweep", "datasets")
        )
    ratios = [peer["cpu_seconds"] / ours["cpu_seconds"] for ours, peer in pairs]
    ours, peer = ([pair[index] for pair in pairs] for index in (0, 1))

    def middle(runs: list[dict[str, float]], key: str) -> float:
        return statistics.median(entry[key] for entry in runs)

    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("datasets", "tokenizers", "pyarrow"))
    lines = [
        "# Preparing examples",
        "",
        f"{arguments.rows:,} rows; medians of {arguments.pairs} pairs. {versions}, Python {platform.python_version()}, "
        f"{platform.machine()}.",
        f"Made by `python benchmarks/data_speed.py --rows {arguments.rows} --pairs {arguments.pairs}`.",
        "",
        "| | catsweep | datasets.map | ratio (min-max) |",
        "|---|---|---|---|",
        f"| CPU seconds, nothing cached | {middle(ours, 'cpu_seconds'):.1f} | {middle(peer, 'cpu_seconds'):.1f} | "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |",
        f"| seconds by the clock | {middle(ours, 'seconds'):.1f} | {middle(peer, 'seconds'):.1f} | |",
        f"| anonymous memory above the imports, MiB | {middle(ours, 'more_mib'):.0f} | {middle(peer, 'more_mib'):.0f} | |",
        f"| the same with a tenth of the rows, MiB | {small['more_mib']:.0f} | {peers_small['more_mib']:.0f} | |",
        f"| CPU seconds of a second run | {again['cpu_seconds']:.2f} | | |",
    ]
    print("\n".join(lines))
    if arguments.write:
        arguments.write.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
