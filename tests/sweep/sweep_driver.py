"""A driver in a process of its own, for tests that kill it: ROOT and make_sweep's arguments as JSON.

It starts a Ray of its own with two slots, or uses the cluster at RAY_ADDRESS.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import ray
from sweep_fakes import make_sweep, note, prepare_task, run_trial

from catsweep.sweep.driver import run_sweep

if __name__ == "__main__":
    root = Path(sys.argv[1])
    if "RAY_ADDRESS" not in os.environ:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            namespace="catsweep",
        )
    result = run_sweep(
        make_sweep(**json.loads(sys.argv[2])),
        root=root,
        run_trial=run_trial,
        prepare_task=prepare_task,
        on_event=lambda event: print(event.text, flush=True),
        on_record=lambda folder, record: note(root, "recorded", record.trial_id),
    )
