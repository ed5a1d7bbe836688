"""Tasks as text: rows of a source, cut into four splits, rendered into prompts and targets. No tokens, no tensors.

examples.py  load_examples, load_task_data, preview: the whole way, top to bottom
hub.py  files.py  package.py    the three sources; each gives plain rows
splits.py    group keys -> train, validation, calibration, test without a shared key
render.py    a row -> prompt, target, references, choices, label
"""
