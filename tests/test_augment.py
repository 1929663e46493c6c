"Augmentation: golden values that equalled NVlabs/edm's given the same draws; the rest is beside the code."

import json
from pathlib import Path
import pytest, torch
from ambient_nb.augment import DRAWS, VALUES, AugmentPipe
from ambient_nb.core import rng

GOLDEN = Path(__file__).parent / 'golden' / 'augment.json'
OFF = dict(xflip=0, yflip=0, scale=0, rotate_frac=0, aniso=0, translate_frac=0)
CASES = {
    'edm': AugmentPipe(),
    'edm-often': AugmentPipe(p=0.8),
    **{name: AugmentPipe(p=0.8, **{**OFF, name: 1.0}) for name in VALUES},
    'all': AugmentPipe(p=0.6, **{name: 1.0 for name in VALUES}),
}


def batch(channels):
    return torch.randn(16, channels, 16, 16, generator=rng(0, 'img', channels)).clamp(-1, 1), torch.randn(
        16, DRAWS, generator=rng(0, 'z', channels)
    )


def projections(name):  # of images and labels, for RGB and grey
    out = []
    for channels in (3, 1):
        x, z = batch(channels)
        pipe = CASES[name]
        params = pipe.params(z, x.shape)
        for v in (pipe.transform(x, params), pipe.labels(params)):
            out += [(v.double() * torch.randn(v.shape, generator=rng(k, 'w'))).sum().item() for k in range(2)]
    return out


@pytest.mark.parametrize('name', CASES)
def test_golden(name):
    assert projections(name) == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=1e-4, abs=1e-4)


if __name__ == '__main__':
    GOLDEN.write_text(json.dumps({name: projections(name) for name in CASES}, indent=1) + '\n')
