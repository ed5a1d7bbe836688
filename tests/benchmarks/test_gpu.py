"""The GPU benchmark on small shapes and a CPU: all its parts run, and none needs Ray, MLflow or pyarrow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from catsweep.train import CHUNKED_ABOVE

ROOT = Path(__file__).parents[2]
RUN = """
import runpy, sys
for name in ("ray", "mlflow", "optuna", "datasets", "pyarrow", "sacrebleu", "rich"):
    sys.modules[name] = None  # as if it were not installed
sys.argv = ["gpu.py", "--device", "cpu", "--small", "--repeats", "1"]
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
"""


def test_chunks_begin_where_training_begins_them() -> None:
    text = (ROOT / "benchmarks" / "gpu.py").read_text()
    assert f"\nCHUNKED_ABOVE = 2**{CHUNKED_ABOVE.bit_length() - 1}\n" in text


@pytest.mark.slow
def test_every_part_runs_with_torch_and_transformers_alone() -> None:
    done = subprocess.run([sys.executable, "-c", RUN], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for what in ("decoder, small", "cat_xent, 64 targets", "a trial's step, small, 3 at once"):
        assert what in done.stdout
