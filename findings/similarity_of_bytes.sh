#!/usr/bin/env bash
# Expected: measures of similarity that are given two uint8 pictures take 255 for white, and put a picture at spectral
#   angle 0 from itself.
# Happens: white is 4,095 unless told otherwise (satellites give twelve bits), so two unrelated photographs have a
#   PSNR of 38 dB and an SSIM of .9; with max_p=255 they have 14 dB and .05. The spectral angle multiplies in eight
#   bits, which wrap: a picture lies at about 90 degrees from itself, in floats at 0.
# Matters to: whoever calls a sample a copy where SSIM or PSNR exceeds a published threshold: every sample is one.
# ambient_nb: measures in pixels of 0 to 255, and takes its thresholds from held-out images by the same measure.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile image-similarity-measures==0.3.6 numpy==1.26.4
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
from image_similarity_measures.quality_metrics import psnr, sam, ssim

rng = np.random.default_rng(0)


def photographs(n, size=32):
    "Smooth noise with the spectrum of photographs."
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing='ij')) * size
    radius[0, 0] = 1
    half = (n, 3, size, size // 2 + 1)
    x = np.fft.irfft2((rng.normal(size=half) + 1j * rng.normal(size=half)) / radius**1.3, s=(size, size))
    x = (x - x.mean((1, 2, 3), keepdims=True)) / x.std((1, 2, 3), keepdims=True)
    return (x * 35 + 125).clip(0, 255).round().astype(np.uint8).transpose(0, 2, 3, 1)


print('image-similarity-measures', version('image-similarity-measures'), '/ numpy', np.__version__)
photos = photographs(20)
pairs = list(zip(photos[:10], photos[10:]))
seen = {}
for name, how in (('as it comes', {}), ('max_p=255', {'max_p': 255})):
    seen[name] = [np.median([measure(a, b, **how) for a, b in pairs]) for measure in (psnr, ssim)]
    print(f'unrelated photographs, {name}: PSNR {seen[name][0]:.1f} dB, SSIM {seen[name][1]:.2f} (medians)')
angle = {kind: np.median([sam(x.astype(kind), x.astype(kind)) for x in photos]) for kind in ('uint8', 'float64')}
print('a photograph and itself, spectral angle in degrees:', {kind: round(float(a), 2) for kind, a in angle.items()})
assert seen['as it comes'][0] > 30 and seen['as it comes'][1] > 0.7
assert seen['max_p=255'][0] < 20 and seen['max_p=255'][1] < 0.3
assert angle['uint8'] > 80 and angle['float64'] < 0.1
PY
