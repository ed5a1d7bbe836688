"""Cascades in plain numbers: rows of answers in, curves and comparisons out. numpy only, but for scikit-learn in
learned.py; nothing is downloaded or drawn.

ragged.py      rows of different lengths as one flat array
order.py       a hash of ids, and the order in which queries are deferred
signals.py     what the small model said about its own answers
rules.py       deferral rules: signals -> uncertainty, high defers
learned.py     the learned deferral rule: an estimate of the gain, fitted on calibration
metrics/       answers -> statistics -> quality of any mix of answers
cost.py        token counts -> FLOPs
latency.py     measured seconds of batches -> seconds a query
curve.py       the n+1 points of a cascade, and what is read off them
chain.py       chains of more than two models: the front of cost and quality over all thresholds
chain_compare.py  a chain beside its pairs and single models at given costs
lines.py       the lines beside a cascade: oracle, random, a router
confidence.py  how well the uncertainty knows where the small model is wrong
student.py     Student's t distribution
resample.py    audc of resampled tables
compare.py     bootstrap over groups, paired differences, macro means, Holm
savings.py     what a threshold saves, with its interval
rows.py        rows on storage to curves
columns.py     the columns of a csv or parquet file, and what is wrong with them
table.py       results of other systems from csv or parquet
"""
