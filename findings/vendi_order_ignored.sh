#!/usr/bin/env bash
# Expected: the Vendi score of order q (Pasarkar & Dieng, arXiv 2310.12952) of the same rows is the same number by
#   score_X, score_dual and score_K, which all take `q`; small q looks for rare kinds, large q for what is repeated.
# Happens: score_X takes `q` and ignores it: it always answers the order 1.
# Matters to: whoever asks with a large order whether a generator repeats itself: half the samples are one image, and
#   order "inf" through score_X says four times as many kinds as the other two.
# ambient_nb: counts copies within the samples as clusters, and says so; its Vendi score has the order 1 only.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile vendi-score==0.0.3 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
from vendi_score import vendi

rows = np.random.default_rng(0).normal(size=(100, 64))
rows[50:] = rows[0]  # half of the samples are one image
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
print('vendi-score', version('vendi-score'))
got = {}
for q in (0.5, 1, 2, 'inf'):
    got[q] = vendi.score_X(rows, q=q), vendi.score_dual(rows, q=q), vendi.score_K(rows @ rows.T, q=q)
    print(f'order {q}: score_X {got[q][0]:.3f}, score_dual {got[q][1]:.3f}, score_K {got[q][2]:.3f}')
assert len({round(x, 9) for x, *_ in got.values()}) == 1
for q, (x, dual, kernel) in got.items():
    assert abs(dual - kernel) < 1e-6 and (abs(x - dual) < 1e-6) == (q == 1)
assert got['inf'][0] > 4 * got['inf'][1]
PY
