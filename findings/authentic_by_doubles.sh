#!/usr/bin/env bash
# Expected: AuthPct is the share of samples that are authentic, in per cent ("the % of authentic samples"): about 0 for
#   near-copies of training rows, well above half for independent samples. That some training rows stand twice changes
#   little: a copy of a row that stands twice is a copy.
# Happens: 50 is taken off, so it runs from -50 to 50 and 0 means half; held-out rows score 29 for 79 %. And a sample
#   counts as authentic if it is farther from its nearest training row than that one is from the nearest other row:
#   where a row stands twice that is 0, so every near-copy of it is authentic. 200 near-copies score -50 where the
#   200 rows stand once and 50, the best there is, where they stand twice.
# Matters to: whoever reads a memorization score on data with repeats, which is where models memorize first.
# ambient_nb: its AuthPct is a share from 0 to 1, takes the nearest row of another cluster of near-duplicates, and
#   names the repeats.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile torch==2.13.0 numpy==2.4.6
source=git+https://github.com/marcojira/fld
"$work/venv/bin/pip" install --quiet --no-compile --no-deps "$source@ffbbf2041115814fd1074f0117bcb96c5af840b7"
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
from fld.metrics.AuthPct import AuthPct

print('fld', version('fld'))
torch.manual_seed(0)
rows = torch.randn(2000, 32)
train, heldout = rows[:1000], rows[1000:]
copied = train[:200]
near_copies = copied + 0.01 * torch.randn(200, 32)


def score(train, samples):
    return float(AuthPct().compute_metric(train, heldout, samples))


found = {
    'independent samples': score(train, heldout[:200]),
    'near-copies of rows that stand once': score(train, near_copies),
    'near-copies of rows that stand twice': score(torch.cat([train, copied]), near_copies),
}
print(found)
independent, once, twice = found.values()
assert 0 < independent < 40 and once == -50 and twice == 50
PY
