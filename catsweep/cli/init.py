"""`catsweep init`: files to start from."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from catsweep.cli.console import output
from catsweep.errors import Problem, SpecError
from catsweep.spec.base import Name

TASK = """\
# One task. Field names follow lm-evaluation-harness; see docs/yaml.md for all of them.
task: {name}
group: generation                      # kind of task; kinds weigh equally in macro means
source:
  kind: files                          # or hub (a dataset of the Hugging Face hub), or package
  format: csv
  train: {name}.csv                    # beside this file; validation, calibration and test are cut from it
output_type: generate_until            # or multiple_choice, with doc_to_choice
doc_to_text: "{{{{question}}}}"            # Jinja2; a row's columns are its names
doc_to_target: "{{{{answer}}}}"
# doc_to_group: "{{{{topic}}}}"            # rows of one group never lie in two splits; default: the prompt
target_delimiter: " "                  # stands between prompt and answer
generation_kwargs: {{max_gen_toks: 16}}
metric_list:
  - metric: exact_match                # the first is the one that is searched
"""

ROWS = [("question", "answer"), *((f"What is {a} plus {b}?", str(a + b)) for a in range(30) for b in range(30))]

SWEEP = """\
# One sweep: `catsweep validate {name}.yaml`, `catsweep plan {name}.yaml`, `catsweep run {name}.yaml`.
name: {name}
tasks:
  - tasks/{name}.yaml                  # a file, a name of `catsweep ls --tasks`, a pattern or a tag

# The model that is trained. A checkpoint instead: {{pretrained: google/t5-v1_1-small}}
small:
  config: {{model_type: llama, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 1, num_attention_heads: 4}}
  tokenizer: {{kind: char}}

# The model that answers what the small one defers. It trains on one half of the groups, the small ones on the other.
large:
  config: {{model_type: llama, hidden_size: 128, intermediate_size: 256, num_hidden_layers: 3, num_attention_heads: 4}}
  finetune: {{steps: 300, batch_size: 64, learning_rate: 2e-3}}

training:
  steps: 150
  batch_size: 32

search:
  num_samples: 4                       # trials for each task and each stratum
  stratify: [loss.kind, loss.filter.kind]
  confirm_seeds: 3                     # the winners again with new seeds; only these see test
  space:
    learning_rate: {{space: loguniform, lower: 1e-3, upper: 1e-2}}
    loss:
      space: choice
      options:
        - {{kind: xent}}                                    # plain fine-tuning: the baseline
        - {{kind: dist, weight: 0.5}}                       # distillation
        - {{kind: cat_xent, filter: {{kind: either}}}}        # cascade-aware training
        - {{kind: cat_xent, filter: {{kind: shuffled}}}}      # its control
"""


def init_command(name: str, *, folder: Path) -> None:
    """Write NAME.yaml, tasks/NAME.yaml and tasks/NAME.csv. Raises SpecError: a bad name, or a file that exists."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        expected = "letters, digits, dots, dashes and underscores, at most 64"
        raise SpecError([Problem("command line", "NAME", repr(name), expected)]) from None
    rows = "".join(f"{question},{answer}\n" for question, answer in ROWS)
    files = {
        folder / f"{name}.yaml": SWEEP.format(name=name),
        folder / "tasks" / f"{name}.yaml": TASK.format(name=name),
        folder / "tasks" / f"{name}.csv": rows,
    }
    for path in files:
        if path.exists():
            raise SpecError([Problem(str(path), "file", "a file of that name", "none, so that nothing is overwritten")])
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        output.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    output.print(f"next: catsweep validate {folder / name}.yaml", markup=False, highlight=False, soft_wrap=True)
