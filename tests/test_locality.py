"Patch oracles against loops over pixels, in every sampler; and what the committed rows of their page say."

from functools import lru_cache, partial

import pytest
import torch
from tree import NBS

from ambient_nb.core import rng
from ambient_nb.locality import PLACES, PatchOracle, Shrinking
from ambient_nb.papers import claim, papers
from ambient_nb.rows import load_rows, verdict
from ambient_nb.sampling import Churn, ablation, euler, heun, sample
from ambient_nb.schedules import VPSchedule

F64 = torch.float64


def pictures(count, *shape, name='x'):
    return torch.randn(count, *shape, generator=rng(0, 'test locality', name), dtype=F64)


def patch(image, i, j, r, wrap):  # what lies around a pixel, by offset
    h, w = image.shape[1:]
    near = [(a, b) for a in range(-r, r + 1) for b in range(-r, r + 1)]
    if wrap:
        return {(a, b): image[:, (i + a) % h, (j + b) % w] for a, b in near}
    return {(a, b): image[:, i + a, j + b] for a, b in near if 0 <= i + a < h and 0 <= j + b < w}


def by_loops(x, sigma, images, size, places):
    "The formula, pixel by pixel and patch by patch."
    r, out, wrap = size // 2, torch.zeros_like(x), places == 'all'
    h, w = x.shape[2:]
    pixels = [(i, j) for i in range(h) for j in range(w)]
    for k, (i, j) in ((k, at) for k in range(len(x)) for at in pixels):
        seen, logs, centres = patch(x[k], i, j, r, wrap), [], []
        for image in images:
            for a, b in pixels if places != 'own' else [(i, j)]:
                other = patch(image, a, b, r, wrap)
                if set(other) == set(seen):
                    apart = sum((seen[at] - other[at]).square().sum() for at in seen)
                    logs.append(-apart / (2 * sigma[k] ** 2))
                    centres.append(other[0, 0])
        out[k, :, i, j] = torch.stack(logs).softmax(0) @ torch.stack(centres)
    return out


@pytest.mark.parametrize('places', PLACES)
@pytest.mark.parametrize('size', [1, 3, 5])
def test_the_formula_by_loops(size, places):
    "Images that are not square, in colour, a level for each."
    if places == 'all' and size > 4:
        return
    images, sigma = pictures(3, 2, 4, 5, name='images'), torch.tensor([0.3, 1.5], dtype=F64)
    x = images[:2] + sigma.reshape(-1, 1, 1, 1) * pictures(2, 2, 4, 5)
    got = PatchOracle(images, size, places)(x, sigma)
    torch.testing.assert_close(got, by_loops(x, sigma, images, size, places), rtol=0, atol=1e-12)


SAMPLERS = dict(
    heun=partial(heun, churn=Churn(5)),
    euler=euler,
    VP=partial(ablation, schedule=VPSchedule(), scaling='vp'),
    midpoint=partial(ablation, alpha=0.5),
)


@pytest.mark.parametrize('name', SAMPLERS)
def test_every_sampler_takes_an_oracle(name):
    "A sample is a mosaic of training pixels, whatever the sampler, and belongs to its seed."
    images = pictures(6, 1, 4, 4, name='images').clamp(-1, 1).float()
    oracles = PatchOracle(images, 3, 'alike'), Shrinking(images, {0.1: (1, 'own'), 1.0: (3, 'alike'), 10.0: (7, 'own')})
    for D in oracles:
        draw = partial(sample, D, shape=(1, 4, 4), steps=60, sampler=SAMPLERS[name], block=4)
        drawn = draw(range(6))
        assert torch.equal(draw([5, 1]), drawn[[5, 1]])
        assert (drawn[..., None] - images.unique()).abs().amin(-1).quantile(0.95) < 0.01


@lru_cache(maxsize=1)
def judged():
    "The committed rows that speak to a claim."
    return {r.claim: r for r in load_rows(NBS / 'results' / 'repro_locality.quick.json') if r.claim}


def test_every_claim_is_judged_by_todays_rule():
    assert set(judged()) == {c.id for c in papers()['locality'].claims}
    for id, r in judged().items():
        assert r.verdict == verdict(claim(id), r.ours, r.detail['values'], profile=r.profile), id
        assert r.profile == 'quick' and len(r.detail['values']) == 3 and r.ours.over == 'seeds', id
        assert claim(id).law != 'identity' or r.verdict == 'holds', id


def test_networks_are_those_of_table_1():
    "The rows about networks name trainings whose rows of Table 1 are committed, and their seeds."
    table1 = {key for r in load_rows(NBS / 'results' / 'repro_table1.quick.json') for key in r.runs}
    for id, r in judged().items():
        if claim(id).kind == 'direction':
            assert r.runs and set(r.runs) <= table1 and r.seeds == (1, 2, 3), id
