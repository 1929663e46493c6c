"The page on noisy images against quality, and what laws its rows obey."

import pytest
import torch

from ambient_nb.data import digits, to_float, to_uint8
from ambient_nb.papers import known
from ambient_nb.residual import noise_scale, plant_noise
from ambient_nb.rows import committed

POOL, HELDOUT = digits()
SCALE = noise_scale(HELDOUT.pixels)


def test_each_claim_of_the_page_has_a_row():
    speaking = {r.claim for r in committed('repro_tweedie_fid', 'quick') if r.claim}
    claims = [c for c in known().values() if c.notebook == 'repro_tweedie_fid']
    assert speaking == {c.id for c in claims if c.kind == 'direction'}


def test_the_copies_hold_their_own_noise():
    "What the scale finds in committed rows where the noise is known."
    rows = [r for r in committed('repro_tweedie_fid', 'quick') if r.kind == 'null' and r.labels['metric'] == 'noise']
    found = {r.labels['x']: r.ours.value for r in rows}
    assert set(found) == {0.0, 0.2, 0.4} and all(abs(found[s] - s) < 0.03 for s in (0.2, 0.4)) and abs(found[0.0]) < 0.1


@pytest.mark.parametrize('seed', [1, 2])
@pytest.mark.parametrize('sigma', [0.2, 0.4, 0.8])
def test_planted_noise_is_found(sigma, seed):
    e = SCALE.left(plant_noise(POOL.pixels[:500], sigma, seed))
    assert e.lo - 0.02 < sigma < e.hi + 0.02 and e.n == 500


def test_more_noise_is_never_less():
    "And the scale of three-channel images is that of grey ones, said three times."
    found = [SCALE.left(plant_noise(POOL.pixels[:300], sigma)).value for sigma in (0.0, 0.1, 0.2, 0.3, 0.6, 1.2)]
    assert found == sorted(found)
    grey = HELDOUT.pixels.repeat(1, 3, 1, 1)
    assert noise_scale(grey).sigma(0.0) == 0 and noise_scale(grey).growth[-1] > 0


def test_samples_like_real_images_have_none():
    assert SCALE.left(HELDOUT.pixels[398:]).value == 0
    faded = to_uint8(0.5 * to_float(POOL.pixels) + 0.5 * to_float(POOL.pixels).mean(0))
    assert SCALE.left(faded).hi < 0 and torch.equal(plant_noise(faded, 0.0), faded)
