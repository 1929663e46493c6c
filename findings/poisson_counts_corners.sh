#!/usr/bin/env bash
# Expected: a Poisson-disc mask asked for acceleration 4 reads a quarter of what the scan covers, and two calls without
#   a seed draw two masks, as other mask functions of MRI do.
# Happens: the corners are left out (`crop_corner`, by default) and still counted as covered: over the whole plane the
#   factor is met, inside the disc that is sampled it is 3.2 for 4 and 6.3 for 8.
#   `seed` is 0 by default, so every call draws the same mask.
# Matters to: whoever compares reconstructions "at R = 4" between tools, or trains on masks drawn call by call.
# ambient_nb: keeps exactly W//R columns, drawn by image; its page on Fourier operators lists what R means where.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile sigpy==0.1.27 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import sigpy
from sigpy.mri import poisson

print('sigpy', sigpy.__version__)
y, x = np.mgrid[-1:1:128j, -1:1:128j]
disc = y**2 + x**2 < 1
for asked in (4, 8):
    mask = poisson((128, 128), asked, calib=(8, 8)).real
    plane, inside = mask.size / mask.sum(), disc.sum() / mask[disc].sum()
    print(f'asked {asked}: {plane:.2f} over the plane, {inside:.2f} in the disc')
    assert abs(plane - asked) < 0.1 and inside < 0.8 * asked
    again = poisson((128, 128), asked, calib=(8, 8)).real
    assert (mask == again).all()
print('a second call without a seed gives the same masks')
PY
