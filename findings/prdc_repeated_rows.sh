#!/usr/bin/env bash
# Expected: precision, recall, density and coverage say how two sets of features lie to each other. That some real
#   pictures stand more than once, as they do in scraped data sets, makes little difference to perfect samples.
# Happens: the radius of a real row is the distance to its k-th neighbour. Where each row stands k+1 times that
#   distance is 0 for all, and "inside" means nearer than 0: precision, density and coverage of perfect samples fall
#   to 0. Where half of the rows stand that often, coverage falls from .97 to .09. Nothing is said.
# Matters to: whoever scores samples against a data set with repeated pictures, above all in work on memorization,
#   where repeats are planted.
# ambient_nb: its precision and recall have the same radii, and fall too; `ambient-nb audit` finds repeats and names
#   them, so that they can be taken out before.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile prdc==0.2 numpy==2.4.6 scikit-learn==1.9.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
from prdc import compute_prdc

print('prdc', version('prdc'))
rows = np.random.default_rng(0).normal(size=(2000, 16))
real, samples = rows[:1000], rows[1000:]  # of one distribution: perfect samples
sets = {
    'each row once': real,
    'half of them six times': np.repeat(real, np.where(np.arange(1000) < 500, 6, 1), axis=0),
    'each row six times': np.repeat(real, 6, axis=0),
}
found = {name: compute_prdc(real_features=x, fake_features=samples, nearest_k=5) for name, x in sets.items()}
for name, scores in found.items():
    print(f'{name}:', {k: round(float(v), 3) for k, v in scores.items()})
once, half, all_six = found.values()
assert min(once['precision'], once['density'], once['coverage']) > 0.6
assert max(all_six[k] for k in ('precision', 'density', 'coverage')) < 0.01
assert half['coverage'] < 0.2 * once['coverage']
PY
