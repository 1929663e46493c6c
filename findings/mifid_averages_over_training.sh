#!/usr/bin/env bash
# Expected: MiFID (Bai et al., arXiv 2106.03062) divides FID by the mean, over the GENERATED images, of the cosine
#   distance to the nearest training image, so a generator that gives nothing but training images is punished hardest.
# Happens: torchmetrics takes the mean over the TRAINING images, of the distance to the nearest generated one. A
#   generator that only ever gives 900 of 1,000 training images is not punished at all; one whose 9,000 samples are
#   new, and which also gives each of 200 training images once, is punished by fourteen orders of magnitude. And where
#   samples and training set are equal the score is 0, the best there is.
# Matters to: whoever reads a MiFID equal to the FID as "no memorization".
# ambient_nb: gives no single number for copies and quality; every sample is judged, copies are counted with an
#   interval.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile torch==2.13.0 torchmetrics==1.9.0 scipy==1.17.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import torch
import torchmetrics
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance


class Pixels(torch.nn.Module):
    num_features = 48

    def forward(self, x):
        return x.flatten(1).float() - 127.5


def both(train, samples):
    "MiFID and FID of `samples` against `train`."
    metrics = MemorizationInformedFrechetInceptionDistance(feature=Pixels()), FrechetInceptionDistance(feature=Pixels())
    for metric in metrics:
        metric.update(torch.tensor(train), real=True)
        metric.update(torch.tensor(samples), real=False)
    return [float(metric.compute()) for metric in metrics]


rng = np.random.default_rng(0)
images = rng.integers(0, 256, (10_000, 3, 4, 4), dtype=np.uint8)
train = images[:1000]
copier = both(train, train[rng.integers(0, 900, 1000)])
honest = both(train[:200], np.concatenate([images[1000:], train[:200]]))
same = both(train, train)

print('torchmetrics', torchmetrics.__version__, '/ torch', torch.__version__)
print(f'only copies, of 900 of 1,000 training images: MiFID / FID = {copier[0] / copier[1]:.3g}')
print(f'9,000 new samples and each of 200 training images once: MiFID / FID = {honest[0] / honest[1]:.3g}')
print(f'samples equal to the training set: MiFID = {same[0]:.3g}')
assert abs(copier[0] / copier[1] - 1) < 1e-6
assert honest[0] / honest[1] > 1e12
assert same[0] == 0
PY
