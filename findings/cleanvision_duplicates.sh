#!/usr/bin/env bash
# Expected: "exact duplicates" are pictures that look exactly alike, whatever file they come from, and "near
#   duplicates" are those within some distance by a perceptual hash, so that noise of four grey levels does not hide a
#   copy.
# Happens: exact means equal stored bytes, without mode, palette or size: two pictures of four colours each that share
#   no colour are exact duplicates, and so are a picture and its pixels read at half the height; the first one and its
#   own RGB twin are not. Near means EQUAL hashes: noise of four levels hides about half the copies, noise of eight
#   more.
# Matters to: whoever takes "no near duplicates" of a training set for granted before training, and whoever removes
#   the exact ones of a set of palette pictures (label maps, pixel art) without a look.
# ambient_nb: compares decoded pixels of one size and one mode, exactly and by distance, and shows the largest
#   clusters.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile cleanvision==0.3.7 imagehash==4.3.2 pillow==13.0.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY' 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
import contextlib
import io
from importlib.metadata import version
from pathlib import Path

import numpy as np
from cleanvision import Imagelab
from PIL import Image

rng = np.random.default_rng(0)


def photographs(n, size=32):
    "Smooth noise with the spectrum of photographs."
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing='ij')) * size
    radius[0, 0] = 1
    half = (n, 3, size, size // 2 + 1)
    x = np.fft.irfft2((rng.normal(size=half) + 1j * rng.normal(size=half)) / radius**1.3, s=(size, size))
    x = (x - x.mean((1, 2, 3), keepdims=True)) / x.std((1, 2, 3), keepdims=True)
    return (x * 35 + 125).clip(0, 255).round().astype(np.uint8).transpose(0, 2, 3, 1)


def sets(name, pictures):
    "Groups of exact and of near duplicates among the named pictures."
    folder = Path(name)
    folder.mkdir()
    for key, picture in pictures.items():
        picture.save(folder / f'{key}.png')
    with contextlib.redirect_stdout(io.StringIO()):
        lab = Imagelab(data_path=str(folder))
        lab.find_issues({'exact_duplicates': {}, 'near_duplicates': {}}, n_jobs=1)
    return [
        [sorted(Path(p).stem for p in group) for group in lab.info[kind]['sets']]
        for kind in ('exact_duplicates', 'near_duplicates')
    ]


print('cleanvision', version('cleanvision'), '/ imagehash', version('imagehash'), '/ pillow', version('pillow'))
first = Image.fromarray(rng.integers(0, 4, (32, 32), dtype=np.uint8)).convert('P')
first.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255] + [0] * 756)
second = first.copy()
second.putpalette([255, 255, 255, 10, 80, 10, 80, 10, 200, 90, 90, 0] + [0] * 756)
palettes = sets('palettes', {'first': first, 'second': second, 'first_rgb': first.convert('RGB')})
print('same indices, no colour shared, and the first in RGB: exact duplicates', palettes[0])
assert palettes[0] == [['first', 'second']]

photos = photographs(100)
shapes = sets('shapes', {'square': Image.fromarray(photos[0]), 'flat': Image.fromarray(photos[0].reshape(16, 64, 3))})
print('32 x 32 pixels, and the same bytes as 16 x 64: exact duplicates', shapes[0])
assert shapes[0] == [['flat', 'square']]

found = {}
for level in (4, 8):
    noisy = (photos + rng.normal(0, level, photos.shape)).clip(0, 255).round().astype(np.uint8)
    pictures = {f'{i:03d}{kind}': Image.fromarray(x[i]) for i in range(100) for kind, x in (('', photos), ('n', noisy))}
    found[level] = len(sets(f'noise{level}', pictures)[1])
    print(f'copies with noise of {level} grey levels: {found[level]} of 100 are near duplicates')
assert found[8] < found[4] < 70
PY
