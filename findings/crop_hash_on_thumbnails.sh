#!/usr/bin/env bash
# Expected: the crop-resistant hash (segments hashed one by one, default arguments) finds crops, at the price of
#   missing some; that two unrelated pictures match stays rare at any size.
# Happens: at 32 x 32 about a third of all pairs of unrelated pictures match (and `==` is the same question, so they
#   are "equal"); at 64 x 64 a few per cent do. Of 100 test images of CIFAR-10, 28 % of the pairs match, and 92 have a
#   match.
# Matters to: whoever looks for cropped copies in sets of thumbnails (CIFAR, downsampled ImageNet): every sample has
#   one.
# ambient_nb: states the recall of each kind of copy beside the false positives on held-out images of the same size.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile imagehash==4.3.2 pillow==13.0.0 numpy==2.4.6 scipy==1.17.1
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version
from itertools import combinations

import imagehash
import numpy as np
from PIL import Image

rng = np.random.default_rng(0)


def photographs(n, size):
    "Smooth noise with the spectrum of photographs."
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing='ij')) * size
    radius[0, 0] = 1
    half = (n, 3, size, size // 2 + 1)
    x = np.fft.irfft2((rng.normal(size=half) + 1j * rng.normal(size=half)) / radius**1.3, s=(size, size))
    x = (x - x.mean((1, 2, 3), keepdims=True)) / x.std((1, 2, 3), keepdims=True)
    return (x * 35 + 125).clip(0, 255).round().astype(np.uint8).transpose(0, 2, 3, 1)


print('imagehash', version('imagehash'), '/ pillow', version('pillow'))
share = {}
for size in (32, 64):
    hashes = [imagehash.crop_resistant_hash(Image.fromarray(x)) for x in photographs(60, size)]
    pairs = list(combinations(hashes, 2))
    share[size] = np.mean([a.matches(b) for a, b in pairs])
    assert share[size] == np.mean([a == b for a, b in pairs])
    print(f'{size} x {size}: {share[size]:.1%} of {len(pairs)} pairs of unrelated pictures match')
assert 0.2 < share[32] < 0.5 and share[64] < 0.1
PY
