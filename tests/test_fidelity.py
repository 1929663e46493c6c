"Distances and shares of fidelity: without bias where that is claimed, and fast."

import time

import numpy as np
import torch

from ambient_nb.core import rng
from ambient_nb.fidelity import frechet, frechet_infinity, prdc


def normal(*shape, name='x'):
    return torch.randn(*shape, generator=rng(0, 'test', name), dtype=torch.float64).numpy()


def test_infinity_takes_the_bias_away():
    "Over 30 pairs of sets the plain distance is too large, the extrapolated one is right."
    d, n = 24, 600
    truth = d * 0.15**2 + d * 0.2**2
    pairs = [(0.15 + 1.2 * normal(n, d, name=f'a{k}'), normal(n, d, name=f'b{k}')) for k in range(30)]
    plain = np.array([frechet(a, b) for a, b in pairs])
    limit = [frechet_infinity(a, b, n_boot=20, generator=rng(k)) for k, (a, b) in enumerate(pairs)]
    values = np.array([e.value for e in limit])
    error = values.std() / 30**0.5
    assert (
        plain.mean() > truth + 10 * plain.std() / 30**0.5
        and abs(values.mean() - truth) < 3 * error
        and error < 0.05 * truth
    )
    assert np.mean([e.lo <= truth <= e.hi for e in limit]) >= 0.8 and limit[0] == frechet_infinity(
        *pairs[0], n_boot=20, generator=rng(0)
    )


def test_infinity_of_one_law_is_about_zero_and_may_be_negative():
    values = [
        frechet_infinity(normal(300, 8, name=f'a{k}'), normal(300, 8, name=f'b{k}'), n_boot=10, generator=rng(k)).value
        for k in range(20)
    ]
    assert abs(np.mean(values)) < 0.05 and min(values) < 0


def test_density_and_coverage_mean_what_they_say():
    real, x = normal(400, 4, name='r'), normal(400, 4)
    same, copies, one = (prdc(g, real, n_half=20, generator=rng(0)) for g in (x, real, np.repeat(real[:1], 400, 0)))
    assert (
        abs(same['density'].value - 1) < 0.15
        and same['coverage'].value > 0.9
        and copies['coverage'].value == copies['precision'].value == 1
    )
    assert one['precision'].value == 1 and one['coverage'].hi < 0.1 and one['recall'].value < 0.1
    assert all(e.lo <= e.value <= e.hi and e.n == 400 for r in (same, copies, one) for e in r.values())


def test_frechet_of_colour_pixels_is_fast():
    a, b = normal(200, 3072), normal(200, 3072, name='y')
    start = time.process_time()
    frechet(a, b)
    assert time.process_time() - start < 1
