#!/usr/bin/env bash
# Expected: a score of "protection from overfitting" that counts how many samples lie nearer to the training rows than
#   to held-out ones is 1 for independent samples, whatever the sizes of the two, and low for copies.
# Happens: sizes are not accounted for. Independent samples score about 1 when both have 500 rows, under .2 when 50
#   are held out, and a generator half of whose samples are copies scores over .75 when 2,000 are. A tie counts for
#   the held-out side, so where that holds the training rows, a pure copier scores 1: perfect protection.
# Matters to: whoever splits nine to one and reads the score, and whoever has a leak between the two.
# ambient_nb: takes its null from held-out images against the same training set, so sizes drop out; a holdout that
#   leaks is named and left out.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile sdmetrics==0.32.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import pandas as pd
import sdmetrics
from sdmetrics.single_table import DCROverfittingProtection

NAMES = [f'f{i}' for i in range(5)]
META = {'tables': {'t': {'columns': {name: {'sdtype': 'numerical'} for name in NAMES}}}}


def score(train, samples, holdout):
    frames = [pd.DataFrame(x, columns=NAMES) for x in (train, samples, holdout)]
    return float(DCROverfittingProtection.compute(*frames, metadata=META, table_name='t'))


print('sdmetrics', sdmetrics.__version__)
rows = np.random.default_rng(0).uniform(size=(3000, 5))
train, new = rows[:500], rows[500:1000]
independent = {n: score(train, new, rows[1000 : 1000 + n]) for n in (50, 500)}
half = {n: score(train, np.concatenate([train[:250], new[:250]]), rows[1000 : 1000 + n]) for n in (500, 2000)}
leak = score(train, train, train)
print('500 training rows; independent samples by held-out rows:', independent)
print('half of the samples are copies, by held-out rows:', half)
print('samples, training and held-out rows are the same:', leak)
assert independent[500] > 0.9 and independent[50] < 0.2
assert half[500] < 0.55 and half[2000] > 0.75
assert leak == 1
PY
