"""Tasks as text: rows of a source, cut into four splits, rendered into prompts and targets. No tokens, no tensors.

examples.py    load_examples, load_task_data, preview: the whole way, top to bottom
sources.py     rows of any kind of source by the splits that it gives: hub.py, files.py, package.py, sacrebleu_sets.py
hub.py         a dataset in a local folder, else on the hub (hub_remote.py); slices.py, expect.py: which rows, and whether
               they are those that the task expects
process.py     the row steps that a task names
splits.py      group keys -> train, validation, calibration, test without a shared key
render.py      a row -> prompt, target, references, choices, label; columns.py: columns inside structs
fetch.py       a copy of what tasks read, with manifest.json (manifest.py)
fingerprint.py what caches depend on: the content of the rows' files, the commit, or the version of a package
overlap.py     texts that two tasks share
store.py       rows and examples on storage, so that memory does not grow with the texts
"""
