#!/usr/bin/env bash
# Expected: an estimate of intrinsic dimension from 1,000 rows does not hang on one of them, and an estimator that
#   cannot stand two equal rows says so.
# Happens: one exact pair among 1,000 rows on a five-dimensional plane turns the maximum-likelihood estimate (MLE,
#   default arguments) from 5 to exactly 0 and that of MiND_ML to 1, without a word; the mean of the same pointwise
#   estimates still says 5. TwoNN stands 15 % of doubled rows and falls to .2 at 20 %, where the tenth it throws away
#   is used up.
# Matters to: whoever explains memorization by the local dimension of data or samples (Ross et al., arXiv 2411.00113):
#   copies are what is looked for there, and training sets of pictures hold doubles (CIFAR-10 does).
# ambient_nb: finds near-duplicates of the training set first, and gives their clusters, so that one of each can be
#   kept.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile scikit-dimension==0.5.0 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import skdim

rows = np.zeros((1000, 20))
rows[:, :5] = np.random.default_rng(0).normal(size=(1000, 5))


def doubled(n):
    "The rows, of which n are equal to another one."
    x = rows.copy()
    x[:n] = x[n : 2 * n]
    return x


def mle(x, **how):
    return float(skdim.id.MLE().fit(x, **how).dimension_)


print('scikit-dimension', version('scikit-dimension'))
pair = doubled(1)
seen = {
    'MLE': (mle(rows), mle(pair)),
    'MLE, mean of rows': (mle(rows, comb='mean'), mle(pair, comb='mean')),
    'MiND_ML': tuple(float(skdim.id.MiND_ML().fit(x).dimension_) for x in (rows, pair)),
}
for name, (clean, one) in seen.items():
    print(f'{name}: {clean:.2f} without, {one:.2f} with one equal pair among 1,000 rows')
two = {n: float(skdim.id.TwoNN().fit(doubled(n)).dimension_) for n in (0, 1, 150, 200)}
print('TwoNN, by doubled rows of 1,000:', {n: round(d, 2) for n, d in two.items()})
assert seen['MLE'][0] > 4.5 and seen['MLE'][1] == 0 and seen['MLE, mean of rows'][1] > 4.5
assert seen['MiND_ML'][0] > 4.5 and seen['MiND_ML'][1] <= 1
assert two[150] > 4 and two[200] < 1
PY
