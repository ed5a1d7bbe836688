"""How much of the slots' time a finished sweep has spent in its runs: `python benchmarks/work_share.py ~/catsweep/study`.

Seconds from the start to the record of each run, however it ended, without those before its first step, over the clock from the
first start to the last record, times the slots. Of `all`, what is left is the driver's: processes, suggestions, records,
waiting; and the making of models. Confirmed runs of one task may go on beside trials of others; then the shares of either alone
are too low. An interrupted sweep counts its pause as waiting. `--write COMMAND` writes the share as a row
of benchmarks/results.md; COMMAND is what the sweep was run by.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

from catsweep.records import TrialRecord, read_records, read_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Folder of the sweep")
    parser.add_argument("--slots", type=int, default=2, help="Runs that the cluster has room for at once")
    parser.add_argument("--write", metavar="COMMAND", help="Write benchmarks/results/work_share.json")
    arguments = parser.parse_args()
    roles = {role: read_records(arguments.folder, role) for role in ("trials", "confirm")}
    roles["all"] = [*roles["trials"], *roles["confirm"]]
    share, text = 0.0, ""
    for role, records in roles.items():
        if not records:
            continue
        loading = [seconds for record in records for seconds in loading_seconds(arguments.folder, record)]
        before = median(loading) if loading else 0.0
        seconds = sum(record.ended_at - record.started_at - before for record in records)
        clock = max(record.ended_at for record in records) - min(record.started_at for record in records)
        share = seconds / (clock * arguments.slots)
        text = f"{len(records)} runs of {seconds / len(records):.2f} s in {clock:.0f} s, each first step after {before:.3f} s"
        print(f"{role}: {text}, work share {share:.3f}")
    if arguments.write:
        sys.path.insert(0, str(Path(__file__).parent / "speed"))
        from measure import Row, write

        note = f"the ratio is the work share; {text}"
        command = f"{arguments.write}; python benchmarks/work_share.py ~/catsweep/{arguments.folder.name}"
        what = f"slots' time outside training and evaluation, {len(roles['all'])} runs of {arguments.folder.name}"
        write("work_share", [Row(what, 1 - share, 1.0, "share", "all of it", [share], "at least 0.9", note)], command)


def loading_seconds(folder: Path, record: TrialRecord) -> list[float]:
    """Seconds from a run's start to its first step, taken to be as long before its first line as the second line is behind it;
    nothing of a run without two lines."""
    at = [line["at"] for line in read_steps(folder / record.trial_id)[:2]]
    return [max(0.0, 2 * at[0] - at[1] - record.started_at)] if len(at) == 2 else []


if __name__ == "__main__":
    main()
