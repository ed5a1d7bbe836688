"""The same trials through `catsweep run` and through two scripts as one would write them: `python benchmarks/speed/sweep.py`.

    (i)   Tune -> TorchTrainer with one worker -> the Hugging Face Trainer, for each trial
    (ii)  a Tune function that runs the Hugging Face Trainer

Two trials at once on two cores. Each trains the study's small model with the CAT loss and answers 500 validation rows. The
scripts ask the large model in the loop; catsweep asks it once beforehand, answers with it as well, and draws a cascade curve
of each trial; its confirmed runs answer three splits. Seconds a trial: from the first trial's start to the last one's end,
divided by the number of trials. Start-up of Ray, and catsweep's pass of the large model, stand in the notes. All three run in
turn, as often as REPEATS says. All of it takes an hour; `--steps 220` measures trials of three seconds alone, and writes
benchmarks/results/sweep_220.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import RESULTS, Row, row, write

from catsweep.records import read_records

sys.path.insert(0, str(Path(__file__).parents[1]))
from work_share import loading_seconds

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
LARGE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
LENGTHS = {220: 12, 1_500: 6, 9_000: 4}
"""Steps of a trial, some 3, 20 and 120 seconds of ours, and how many trials are run of it."""
REPEATS = {220: 3}
NUM_ROWS, NUM_VALIDATION, NEW_TOKENS = 6_000, 500, 16
TASK = """task: bench/reverse
group: made
source: {kind: files, format: jsonl, train: rows.jsonl}
output_type: generate_until
doc_to_text: "{{text}} ="
doc_to_target: answer
generation_kwargs: {max_gen_toks: 16}
metric_list: [{metric: exact_match}]
"""


def make_inputs(folder: Path) -> None:
    """Rows, both models untrained, and the task."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    from catsweep.spec.model import CharTokenizer
    from catsweep.tokenization import make_tokenizer

    draw = random.Random(0)
    rows = [{"text": "".join(draw.choices("abcdefghij", k=draw.randint(4, 14)))} for _ in range(NUM_ROWS)]
    lines = [json.dumps(row | {"answer": row["text"][::-1]}) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    (folder / "task.yaml").write_text(TASK)
    tokenizer = make_tokenizer(CharTokenizer(), [row["text"] + " =" for row in rows])
    for name, shape in (("small", SMALL), ("large", LARGE)):
        config = LlamaConfig(**shape, vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, bos_token_id=None)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def run_catsweep(folder: Path, steps: int, num_trials: int) -> tuple[float, float, str]:
    """Seconds a trial, the share of both slots' time that was spent in trials, and what else it took."""
    sweep = {
        "name": "bench",
        "tasks": ["./task.yaml"],
        "small": {"pretrained": str(folder / "small")},
        "large": {"pretrained": str(folder / "large")},
        "training": {"steps": steps, "batch_size": 32, "warmup_share": 0.1},
        "search": {
            "num_samples": num_trials // 2,
            "confirm_seeds": 1,
            "stratify": ["loss.filter.kind"],
            "space": {
                "learning_rate": {"space": "loguniform", "lower": 1e-3, "upper": 1e-2},
                "loss": {
                    "space": "choice",
                    "options": [{"kind": "cat_xent", "filter": {"kind": kind}} for kind in ("either", "large")],
                },
            },
        },
        "data": {"max_evaluation_rows": NUM_VALIDATION},
    }
    (folder / "bench.yaml").write_text(json.dumps(sweep))
    command = [sys.executable, "-m", "catsweep.cli.main", "run", "bench.yaml", "--out", str(folder / f"root{steps}")]
    started = time.time()
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=os.environ | {"RAY_worker_niceness": "0"})
    root = folder / f"root{steps}" / "bench"
    records = [record for role in ("trials", "confirm") for record in read_records(root, role)]
    assert len(records) == num_trials + 2, f"{len(records)} runs"
    first, last = min(record.started_at for record in records), max(record.ended_at for record in records)
    loading = statistics.median(seconds for record in records for seconds in loading_seconds(root, record))
    share = sum(record.ended_at - record.started_at - loading for record in records) / (2 * (last - first))
    note = f"{first - started:.0f} s before the first trial, {time.time() - last:.0f} s of curves and report behind the last"
    return (last - first) / len(records), share, note


def train_one(config: dict[str, Any]) -> dict[str, float]:
    """A trial of both scripts."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    torch.set_num_threads(1)
    started, folder = time.time(), Path(config["folder"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "small")
    small = AutoModelForCausalLM.from_pretrained(folder / "small")
    large = AutoModelForCausalLM.from_pretrained(folder / "large").eval()
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]

    def encode(row: dict[str, str]) -> dict[str, list[int]]:
        prompt = tokenizer(row["text"] + " =")["input_ids"]
        answer = tokenizer(" " + row["answer"])["input_ids"] + [tokenizer.eos_token_id]
        return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}

    class CatTrainer(Trainer):  # type: ignore[misc]
        """Cross-entropy of the target tokens that at least one of the two models gets right."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            targets = inputs.pop("labels")[:, 1:]
            outputs = model(**inputs)
            with torch.no_grad():
                theirs = large(**inputs).logits[:, :-1]
            ours = outputs.logits[:, :-1]
            is_target = targets != -100
            kept = is_target & ((ours.argmax(-1) == targets) | (theirs.argmax(-1) == targets))
            losses = torch.nn.functional.cross_entropy(ours.transpose(1, 2), targets, reduction="none")
            loss = (losses * kept).sum() / is_target.sum()
            return (loss, outputs) if return_outputs else loss

    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output, max_steps=config["steps"], per_device_train_batch_size=32, learning_rate=config["learning_rate"],
            warmup_steps=config["steps"] // 10, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        data = [encode(row) for row in rows[NUM_VALIDATION:]]
        CatTrainer(small, arguments, train_dataset=data, data_collator=DataCollatorForSeq2Seq(tokenizer)).train()
    small.eval()
    tokenizer.padding_side = "left"
    right, confidences = [], []
    for start in range(0, NUM_VALIDATION, 64):
        batch = rows[start : min(start + 64, NUM_VALIDATION)]
        inputs = tokenizer([row["text"] + " =" for row in batch], return_tensors="pt", padding=True)
        inputs.pop("token_type_ids", None)
        found = small.generate(
            **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, output_scores=True, return_dict_in_generate=True
        )
        new = found.sequences[:, inputs["input_ids"].shape[1] :]
        scores = small.compute_transition_scores(found.sequences, found.scores, normalize_logits=True)
        confidences += scores.mean(1).tolist()
        answers = tokenizer.batch_decode(new, skip_special_tokens=True)
        right += [answer.strip() == row["answer"] for answer, row in zip(answers, batch, strict=True)]
    return {"exact_match": float(np.mean(right)), "started_at": started, "ended_at": time.time()}


def tune_function(config: dict[str, Any]) -> None:
    """Script (ii)."""
    from ray import tune

    tune.report(train_one(config))


def tune_torch_trainer(config: dict[str, Any]) -> None:
    """Script (i)."""
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    def loop(config: dict[str, Any]) -> None:
        ray.train.report(train_one(config))

    TorchTrainer(
        loop,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=ray.train.RunConfig(
            name=f"trial-{time.time_ns()}", storage_path=config["folder"] + "/train", callbacks=[TuneReportCallback()]
        ),
    ).fit()


def run_script(folder: Path, function: Any, steps: int, num_trials: int) -> float:
    """Seconds a trial of a script."""
    import ray
    from ray import tune

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  (its name)
    # The trial that starts a TorchTrainer holds a part of a core which does not exist.
    ray.init(address="local", num_cpus=3, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    held = 0.5 if function is tune_torch_trainer else 1
    tuner = tune.Tuner(
        tune.with_resources(function, {"cpu": held}),
        param_space={"learning_rate": tune.loguniform(1e-3, 1e-2), "steps": steps, "folder": str(folder)},
        tune_config=tune.TuneConfig(num_samples=num_trials, max_concurrent_trials=2),
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
    )
    results = list(tuner.fit())
    ray.shutdown()
    assert not any(result.error for result in results)
    metrics = [result.metrics for result in results]
    return (max(m["ended_at"] for m in metrics) - min(m["started_at"] for m in metrics)) / num_trials


def main() -> None:
    """Run all three for each length of a trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=list(LENGTHS), help="of a trial")
    parser.add_argument("--trials", type=int, help="instead of those that LENGTHS names")
    arguments = parser.parse_args()
    rows = []
    for steps in arguments.steps:
        rows += measure(steps, arguments.trials or LENGTHS.get(steps, 12))
    command = "python benchmarks/speed/sweep.py"
    if arguments.steps == list(LENGTHS):
        write("sweep", rows, command)
        for part in RESULTS.glob("sweep_*.json"):  # of some lengths alone, and older
            part.unlink()
    else:
        name = "_".join(map(str, arguments.steps))
        command += f" --steps {' '.join(map(str, arguments.steps))}"
        write(f"sweep_{name}", rows, command + (f" --trials {arguments.trials}" if arguments.trials else ""))


def measure(steps: int, num_trials: int) -> list[Row]:
    """The rows of trials of some length."""
    scripts = {"Tune, TorchTrainer, Trainer": tune_torch_trainer, "Tune function, Trainer": tune_function}
    ours, shares, notes = list[float](), list[float](), list[str]()
    theirs: dict[str, list[float]] = {title: [] for title in scripts}
    for number in range(REPEATS.get(steps, 1)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_inputs(folder)
            seconds, share, note = run_catsweep(folder, steps, num_trials)
            ours, shares, notes = [*ours, seconds], [*shares, share], [*notes, note]
            print(f"run {number}: {seconds:.2f} s, work share {share:.3f}, {note}", flush=True)
            for title, function in scripts.items():
                theirs[title].append(run_script(folder, function, steps, num_trials))
                print(f"run {number}: {title} {theirs[title][-1]:.2f} s", flush=True)
    rows = []
    for title, taken in theirs.items():
        target = "at least 5 at 3 s" if (title, steps) == ("Tune, TorchTrainer, Trainer", 220) else ""
        note = f"{num_trials} trials; {notes[-1]}"
        rows.append(
            row(f"a trial of {steps} steps, two at once", (ours, taken), peer_name=title, target=target, note=note)
        )
    wanted = {220: "at least 0.75 at 3 s", 1_500: "at least 0.9 at 20 s"}.get(steps, "")
    outside = 1 - statistics.median(shares)
    note = "the ratio is the work share: seconds in trials behind their first step / (wall x slots)"
    return [
        *rows,
        Row(
            f"slots' time outside training and evaluation, {steps} steps",
            outside,
            1.0,
            "share",
            "all of it",
            shares,
            wanted,
            note,
        ),
    ]


if __name__ == "__main__":
    main()
