"Samplers for masked denoisers and for measurements, against Gaussian data, where all answers are known."

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from ambient_nb.ambient import MaskedGaussian
from ambient_nb.core import BadInput, rng
from ambient_nb.corruptions import PixelMask
from ambient_nb.denoisers import EDMPrecond
from ambient_nb.fourier import MRILines
from ambient_nb.inverse import Masked, clipped, fixed_mask, masks_of, posterior, reconstruction_guidance, truncated
from ambient_nb.measurements import GaussianMeasurements
from ambient_nb.networks import make_net
from ambient_nb.oracles import GaussianDenoiser
from ambient_nb.sampling import Churn, euler, heun, sample, start_noise
from ambient_nb.schedules import edm_sigmas
from ambient_nb.views import zero_filled

F64 = torch.float64
SHAPE = (1, 4, 4)
A = torch.randn(16, 16, generator=rng(0, 'a'), dtype=F64)
MEAN, COV = torch.randn(SHAPE, generator=rng(0, 'mean'), dtype=F64), A @ A.T / 16 + 0.05 * torch.eye(16, dtype=F64)
EXACT, PRIOR = MaskedGaussian(MEAN, COV), GaussianDenoiser(MEAN, COV)
OPERATOR = PixelMask(0.3, delta=0.2, seed=4)
Z = start_noise(range(6), SHAPE)


class OneMask:
    "The same mask for everyone."

    def further_mask(self, ids, shape, draw=0, mask_draw=0):
        return OPERATOR.further_mask(torch.tensor([2]), shape, draw, mask_draw).expand(len(ids), 1, 4, 4)


def end(steps):
    *_, last = steps
    return last.x


def test_fixed_mask_shows_one_mask_at_all_steps():
    seen = []

    def spy(x, sigma, labels, mask):
        seen.append((x, mask))
        return EXACT(x, sigma, labels, mask)

    seeds = [11, 3, 8, 5, 0, 2]
    for _ in fixed_mask(spy, Z, edm_sigmas(6), operator=OPERATOR, seeds=seeds):
        pass
    expected = OPERATOR.further_mask(torch.tensor(seeds), SHAPE)
    assert len(seen) == 11 and all(torch.equal(m, expected) for _, m in seen)
    assert all((x[mask.expand_as(x) == 0] == 0).all() for x, mask in seen) and 0 < expected.mean() < 1


def test_euler_form_of_the_fixed_mask():
    "notation C.1: x' = (s'/s) x + (1 - s'/s) h(A~, A~ x)."
    sigmas, mask = edm_sigmas(5), OPERATOR.further_mask(torch.arange(6), SHAPE)
    x = Z.double() * sigmas[0]
    for s, after in zip(sigmas[:-1], sigmas[1:]):
        x = after / s * x + (1 - after / s) * EXACT((mask * x).float(), s.float().expand(6), mask=mask).double()
    torch.testing.assert_close(
        end(fixed_mask(EXACT, Z, sigmas, operator=OPERATOR, sampler=euler)), x, rtol=1e-6, atol=1e-6
    )


def test_fixed_mask_samples_by_seed():
    sampler = partial(fixed_mask, operator=OPERATOR)
    whole = sample(EXACT, range(8), SHAPE, sampler=sampler, steps=5, block=4)
    assert torch.equal(sample(EXACT, [6, 1], SHAPE, sampler=sampler, steps=5, block=4), whole[[6, 1]])


def test_variance_that_a_fixed_mask_loses():
    "notation C.4: shown pixels have their law; hidden ones only what the shown explain."
    x = (
        sample(EXACT, range(4000), SHAPE, sampler=partial(fixed_mask, operator=OneMask()), steps=40, block=4000)
        .flatten(1)
        .double()
    )
    o = OneMask().further_mask([0], SHAPE).flatten().bool()
    hidden = COV[~o][:, o] @ torch.linalg.solve(COV[o][:, o], COV[o][:, ~o])
    got = x.T.cov()
    assert (got[o][:, o] - COV[o][:, o]).norm() < 0.06 * COV[o][:, o].norm()
    assert (got[~o][:, ~o] - hidden).norm() < 0.06 * hidden.norm()
    assert hidden.trace() < 0.8 * COV[~o][:, ~o].trace()  # so the loss is there to be seen


def test_no_guidance_is_the_fixed_mask_sampler():
    for steps in (5, 6):
        plain = end(fixed_mask(EXACT, Z, edm_sigmas(steps), operator=OPERATOR, seeds=range(6)))
        for num_masks, w in ((1, 0.0), (1, 3.0), (4, 0.0)):
            assert torch.equal(
                end(
                    reconstruction_guidance(
                        EXACT,
                        Z,
                        edm_sigmas(steps),
                        operator=OPERATOR,
                        num_masks=num_masks,
                        guidance_scale=w,
                        seeds=range(6),
                    )
                ),
                plain,
            )
        tiny = end(
            reconstruction_guidance(
                EXACT, Z, edm_sigmas(steps), operator=OPERATOR, num_masks=3, guidance_scale=1e-30, seeds=range(6)
            )
        )
        assert torch.equal(tiny, plain)  # Heun's step is written once more for pushes: the same bits


def test_guidance_makes_masks_agree():
    def disagreement(x):
        level = torch.full((len(x),), 0.02)
        return (
            torch.stack([Masked(EXACT, masks_of(OPERATOR, None, x, 900 + k))(x, level) for k in range(10)])
            .var(0)
            .mean()
            .item()
        )

    plain, guided = (
        end(
            reconstruction_guidance(
                EXACT, start_noise(range(100), SHAPE), edm_sigmas(18), operator=OPERATOR, num_masks=3, guidance_scale=w
            )
        )
        for w in (0.0, 0.03)
    )
    assert disagreement(guided) < 0.8 * disagreement(plain)


def test_guidance_follows_its_gradient():
    "One step, the gradient by differences."
    sigmas, w = torch.tensor([1.0, 0.5], dtype=F64), 0.1
    plain, guided = (
        end(reconstruction_guidance(EXACT, Z.double(), sigmas, operator=OPERATOR, num_masks=2, guidance_scale=g))
        for g in (0.0, w)
    )
    masks = [masks_of(OPERATOR, None, Z, draw) for draw in (0, 1)]

    def apart(x):
        return (
            (EXACT(masks[1] * x, torch.ones(6), mask=masks[1]) - EXACT(masks[0] * x, torch.ones(6), mask=masks[0]))
            .square()
            .sum()
        )

    assert not torch.equal(*masks)
    x, direction = Z.double(), torch.randn(Z.shape, generator=rng(0, 'd'), dtype=F64)
    numeric = (apart(x + 1e-4 * direction) - apart(x - 1e-4 * direction)) / 2e-4
    torch.testing.assert_close(((plain - guided) * direction).sum() / w, numeric, rtol=1e-4, atol=1e-4)


GOLDEN = json.loads((Path(__file__).parent / 'golden' / 'ambient.json').read_text())['samplers']


class Given:
    "The masks that the released code drew."

    def __init__(self, masks):
        self.masks = [torch.tensor(m, dtype=F64).reshape(2, 3, 2, 2) for m in masks]

    def further_mask(self, ids, shape, draw=0, mask_draw=0):
        return self.masks[draw]


def formula(x, sigma, labels=None, mask=None):
    "The denoiser that the released sampler was given: any formula does."
    x, mask, i = x.double(), mask.double(), torch.arange(12, dtype=F64)
    s = torch.as_tensor(sigma).double().reshape(-1)[0]
    seen = (x / (s**2 + 0.25).sqrt()).flatten(1) @ (0.3 * torch.sin(1 + 12 * i[:, None] + i))
    return 0.9 * seen.tanh().reshape(x.shape) + 0.2 * mask + 2 * s / (1 + s) * (-1) ** i.reshape(3, 2, 2)


@pytest.mark.parametrize('theirs', GOLDEN, ids=lambda g: g['name'])
def test_samplers_are_those_of_the_released_code(theirs):
    "Same start, same masks, same denoiser, five steps: clipping, and guidance by two and three further masks."
    start = 1.5 * torch.sin(2 * torch.arange(24, dtype=F64) + 0.5).reshape(2, 3, 2, 2)
    asked = []

    def spy(x, sigma, labels=None, mask=None):
        asked.append(mask)
        return formula(x, sigma, labels, mask)

    how = {name: theirs[name] for name in ('clip', 'num_masks', 'guidance_scale')}
    ends = [
        end(reconstruction_guidance(spy, start, edm_sigmas(5), operator=Given(theirs['masks']), released=True, **some))
        for some in (how, how | dict(clip=None))
    ]
    torch.testing.assert_close(ends[0].flatten(), torch.tensor(theirs['end'], dtype=F64), rtol=1e-5, atol=1e-5)
    assert len(asked) == 2 * theirs['evaluations'] and torch.equal(*ends) == (how['clip'] is None)


def test_clipping():
    x = torch.tensor([0.3, -0.9, 5.0, -2.0], dtype=F64).reshape(1, 1, 2, 2)
    assert clipped(x, None) is x and clipped(x, 'hard').flatten().tolist() == [0.3, -0.9, 1, -1]
    assert torch.equal(clipped(x, 'soft'), clipped(x, 'hard'))  # some lie inside
    outside = clipped(x.sign() * (1 + x.abs()), 'soft').flatten()
    smallest = 1.3 + 3 * 0.0099 * 0.6  # the .99 % quantile of 1.3, 1.9, 3, 6
    torch.testing.assert_close(outside, torch.tensor([1.3 / smallest, -1, 1, -1], dtype=F64))


def test_truncated_at_zero_is_the_sampler_itself():
    assert torch.equal(end(truncated(PRIOR, Z, edm_sigmas(7), sigma_n=0.0)), end(heun(PRIOR, Z, edm_sigmas(7))))


def test_truncated_returns_the_last_prediction_and_asks_nothing_below():
    asked = []

    def spy(x, sigma, labels=None):
        asked.append(sigma.min().item())
        return PRIOR(x, sigma)

    *_, last = truncated(spy, Z, edm_sigmas(18), sigma_n=0.3)
    grid = edm_sigmas(18)
    lowest = grid[grid >= 0.3].min()
    assert min(asked) == pytest.approx(lowest.item()) and last.sigma == 0
    torch.testing.assert_close(last.x, last.x0, rtol=1e-12, atol=1e-12)
    before = [s for s in heun(PRIOR, Z, edm_sigmas(18)) if s.sigma >= 0.3][-1]
    torch.testing.assert_close(last.x0, PRIOR(before.x.float(), lowest).double(), rtol=1e-5, atol=1e-5)
    churned = partial(truncated, sigma_n=0.3, sampler=partial(heun, churn=Churn(5)))
    whole = sample(PRIOR, range(4), SHAPE, sampler=churned, block=4)
    assert torch.equal(sample(PRIOR, [2], SHAPE, sampler=churned, block=4), whole[2:3])


MEASUREMENTS = GaussianMeasurements(6, SHAPE, seed=1)
MRI = MRILines(2, acs=1, seed=1)


@pytest.mark.parametrize(
    'operator, shape, scale',
    [(PixelMask(0.5, seed=2), SHAPE, 0.2), (MEASUREMENTS, SHAPE, 0.1), (MRI, (2, 2, 4), 0.2)],
    ids=['mask', 'gaussian', 'mri'],
)
def test_posterior_mean_of_a_gaussian(operator, shape, scale):
    "The samples' mean is off by less than a quarter of what the prior's is, their spread by less than 30 %."
    prior, start = GaussianDenoiser(MEAN.reshape(shape), COV), MEAN.flatten()
    truth = start + torch.linalg.cholesky(COV) @ torch.randn(16, generator=rng(0, 'truth'), dtype=F64)
    y = operator.corrupt(truth.reshape(1, *shape), [3])
    rows = torch.stack([operator.corrupt(e.reshape(1, *shape), [3]).flatten() for e in torch.eye(16, dtype=F64)], 1)
    gain = COV @ rows.T @ torch.linalg.pinv(rows @ COV @ rows.T, rtol=1e-9)
    mean, left = start + gain @ (y.flatten() - rows @ start), COV - gain @ rows @ COV
    x = (
        sample(
            prior,
            range(150),
            shape,
            sigmas=edm_sigmas(200, 0.004, 80.0),
            sampler=partial(posterior, y=y, operator=operator, ids=[3], scale=scale),
            block=150,
        )
        .flatten(1)
        .double()
    )
    assert (x.mean(0) - mean).norm() < 0.25 * (start - mean).norm()
    assert (x @ rows.T - y.flatten()).norm(dim=1).mean() < 0.2 * (
        rows @ COV @ rows.T
    ).trace().sqrt()  # of draws from the prior
    assert 0.7 < x.var(0).sum() / left.trace() < 1.3


def test_posterior_push():
    "One step of A-DPS by hand: the gradient of the squared misfit over its root."
    operator, sigmas = PixelMask(0.5, seed=2), torch.tensor([1.0, 0.5], dtype=F64)
    y = operator.corrupt(torch.randn(6, *SHAPE, generator=rng(0, 'y'), dtype=F64), range(6))
    x = Z.double().requires_grad_()
    sse = (operator.corrupt(PRIOR(x.float(), 1.0).double(), range(6)) - y).square().flatten(1).sum(1)
    push = torch.autograd.grad(sse.sum(), x)[0] / sse.detach().sqrt().reshape(-1, 1, 1, 1)
    got = end(heun(PRIOR, Z, sigmas)) - end(
        posterior(PRIOR, Z, sigmas, y=y, operator=operator, ids=range(6), scale=0.3)
    )
    torch.testing.assert_close(got, 0.3 * push, rtol=1e-5, atol=1e-6)


def test_posterior_by_euler():
    "Each step of A-DPS as released: Euler's, with one evaluation, then the push."
    operator, sigmas, asked = PixelMask(0.5, seed=2), torch.tensor([4.0, 1.0, 0.5], dtype=F64), []

    def spy(x, sigma, labels=None):
        asked.append(sigma)
        return PRIOR(x, sigma, labels)

    y = operator.corrupt(torch.randn(6, *SHAPE, generator=rng(0, 'y'), dtype=F64), range(6))
    x = Z.double() * sigmas[0]
    for s, after in zip(sigmas[:-1], sigmas[1:]):
        x = x.detach().requires_grad_()
        x0 = PRIOR(x.float(), s.float()).double()
        sse = (operator.corrupt(x0, range(6)) - y).square().flatten(1).sum(1)
        push = torch.autograd.grad(sse.sum(), x)[0] / sse.detach().sqrt().reshape(-1, 1, 1, 1)
        x = x + (after - s) * (x - x0) / s - 0.3 * push
    got = end(posterior(spy, Z, sigmas, y=y, operator=operator, ids=range(6), scale=0.3, solver='euler'))
    torch.testing.assert_close(got, x.detach(), rtol=1e-5, atol=1e-5)
    assert len(asked) == 2


def test_posterior_takes_networks_and_masked_denoisers():
    net = EDMPrecond(make_net('tiny', seed=0)).eval()
    before = [p.grad for p in net.parameters()]
    y = torch.zeros(1, 1, 8, 8)
    x = sample(
        net, range(2), (1, 8, 8), steps=3, sampler=partial(posterior, y=y, operator=PixelMask(0.5), ids=[0]), block=2
    )
    assert x.isfinite().all() and [p.grad for p in net.parameters()] == before
    ambient = Masked(EXACT, masks_of(OPERATOR, None, Z))
    assert (
        end(posterior(ambient, Z, edm_sigmas(4), y=y[..., :4, :4], operator=PixelMask(0.5), ids=[0])).isfinite().all()
    )


# Scans, end to end: 48 x 48 pixels, four times fewer lines, pictures of ellipses.

SIDE = 48


def ellipses(count: int, name: str) -> torch.Tensor:
    "Complex pictures (count,2,48,48): a head of random ellipses, its phase a random slope."
    v, u = torch.meshgrid(*[torch.linspace(-1, 1, SIDE, dtype=F64)] * 2, indexing='ij')

    def one(g):
        def uniform(lo, hi):
            return lo + (hi - lo) * torch.rand((), generator=g, dtype=F64)

        def inside(cy, cx, a, b, turn):
            y, x = (v - cy) * turn.cos() + (u - cx) * turn.sin(), (u - cx) * turn.cos() - (v - cy) * turn.sin()
            return ((y / a) ** 2 + (x / b) ** 2 < 1).double()

        size = 0.4 * inside(
            uniform(-0.05, 0.05), uniform(-0.05, 0.05), uniform(0.75, 0.9), uniform(0.6, 0.75), uniform(0, 0.1)
        )
        for _ in range(4):
            part = inside(uniform(-0.4, 0.4), uniform(-0.4, 0.4), *(uniform(0.08, 0.35) for _ in 'ab'), uniform(0, 3))
            size = (size + uniform(-0.3, 0.5) * part * (size > 0)).clamp(0, 1)
        phase = uniform(-0.5, 0.5) + uniform(-0.5, 0.5) * u + uniform(-0.5, 0.5) * v
        return torch.stack([size * phase.cos(), size * phase.sin()])

    return torch.stack([one(rng(0, name, i)) for i in range(count)])


class FewAxes:
    "A Gaussian oracle of large pictures: what is known of them lies along few axes, one variance for all others."

    def __init__(self, images, rest=1e-3):
        flat = images.flatten(1)
        self.mean, self.rest = flat.mean(0), rest
        _, size, self.axes = torch.linalg.svd(flat - self.mean, full_matrices=False)
        self.values = size.square() / len(flat)

    def __call__(self, x, sigma, labels=None, mask=None):
        "Denoise; with a mask, what one coil sees of the axes (the rest left out)."
        s2, apart = sigma.double()[:, None] ** 2, x.flatten(1).double() - self.mean
        if mask is None:
            along = apart @ self.axes.T
            rest = self.rest / (self.rest + s2)
            kept = along * (self.values / (self.values + s2) - rest)
            return (self.mean + rest * apart + kept @ self.axes).reshape(x.shape).to(x.dtype)
        one = MRILines(1, acs=1)
        seen = zero_filled(
            one, (self.axes * self.values[:, None].sqrt()).reshape(-1, *x.shape[1:]), mask[:1, :, :1]
        ).flatten(1)
        centre = zero_filled(one, self.mean.reshape(1, *x.shape[1:]), mask[:1, :, :1]).flatten(1)
        gram = seen @ seen.T + s2[0] * torch.eye(len(seen), dtype=F64)
        parts = torch.linalg.solve(gram, seen @ (x.flatten(1).double() - centre).T).T
        return (self.mean + (parts * self.values.sqrt()) @ self.axes).reshape(x.shape).to(x.dtype)


@pytest.fixture(scope='module')
def oracle():
    return FewAxes(ellipses(300, 'training'))


def off(images, truth):
    "Root mean square error over the truth's, each."
    return (images - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)


def test_posterior_sampling_of_a_scan_beats_zeros(oracle):
    "Four coils; with one, a Gaussian knows little about lines that were not read."
    truth, ids = ellipses(4, 'held out'), torch.arange(100, 104)
    scan = MRILines(4, acs=6, coils=4, seed=1)
    y = scan.corrupt(truth, ids)
    sampler = partial(posterior, y=y, operator=scan, ids=ids, scale=1.0)
    found = sample(oracle, range(4), (2, SIDE, SIDE), sigmas=edm_sigmas(40, 0.01, 80.0), sampler=sampler, block=4)
    better = off(found.double(), truth) / off(scan.adjoint(y, ids), truth)
    assert (better < 0.98).all() and better.mean() < 0.9, better


def test_fixed_lines_end_where_the_rest_follows_from_what_is_shown(oracle):
    "Lines that the network is shown are drawn; all others are their posterior mean, as for pixels."

    class OneScan(MRILines):
        def further_mask(self, ids, shape, draw=0, mask_draw=0):
            return super().further_mask([5], shape, draw, mask_draw).expand(len(ids), 1, 1, SIDE)

    scan, shape = OneScan(4, acs=6, seed=2), (2, SIDE, SIDE)
    sampler = partial(fixed_mask, operator=scan)
    drawn = sample(oracle, range(3), shape, sigmas=edm_sigmas(24, 0.01, 80.0), sampler=sampler, block=3).double()
    mask = scan.further_mask([0], shape)
    follows = Masked(oracle, mask, scan)(drawn, torch.tensor([0.01] * 3))
    assert (off(follows, drawn) < 0.02).all() and off(zero_filled(scan, drawn, mask), drawn).min() > 0.1
    assert off(drawn[:1], drawn[1:]).min() > 0.2, 'three samples, three heads'


G = edm_sigmas(4)
SCAN = MRILines(2, acs=2, coils=2)
BODY = torch.randn(2, 2, 8, 8, generator=rng(0, 'body'))
COILS = GaussianDenoiser(torch.zeros(2, 8, 8), torch.eye(128)), BODY, SCAN.corrupt(BODY, [0, 1]), SCAN
BAD = [
    ('num_masks', lambda: reconstruction_guidance(EXACT, Z, G, operator=OPERATOR, num_masks=0)),
    ('guidance_scale', lambda: reconstruction_guidance(EXACT, Z, G, operator=OPERATOR, guidance_scale=-0.1)),
    ('operator', lambda: fixed_mask(EXACT, Z, G, operator=MEASUREMENTS)),
    ('x', lambda: fixed_mask(EXACT, Z, G, operator=MRI)),  # a scan is of complex images
    ('y', lambda: posterior(COILS[0], COILS[1], G, y=COILS[2].mT, operator=COILS[3], ids=range(2))),
    ('y', lambda: posterior(COILS[0], COILS[1], G, y=COILS[2], operator=COILS[3], ids=[7, 8])),
    ('mask', lambda: iter([Masked(EXACT, torch.ones(4, 4))])),
    ('sigma_n', lambda: truncated(PRIOR, Z, G, sigma_n=80.1)),
    ('sigma_n', lambda: truncated(PRIOR, Z, G, sigma_n=-1)),
    ('sigmas', lambda: truncated(PRIOR, Z, G.flip(0), sigma_n=0)),
    ('y', lambda: posterior(PRIOR, Z, G, y=Z / 0, operator=OPERATOR, ids=range(6))),
    ('y', lambda: posterior(PRIOR, Z, G, y=Z[:2], operator=OPERATOR, ids=range(2))),
    ('ids', lambda: posterior(PRIOR, Z, G, y=Z, operator=OPERATOR, ids=[0])),
    ('operator', lambda: posterior(PRIOR, Z, G, y=Z, operator=None, ids=[0])),
    ('scale', lambda: posterior(PRIOR, Z, G, y=Z, operator=OPERATOR, ids=range(6), scale=0)),
    ('solver', lambda: posterior(PRIOR, Z, G, y=Z, operator=OPERATOR, ids=range(6), solver='rk4')),
    ('clip', lambda: fixed_mask(EXACT, Z, G, operator=OPERATOR, clip='static')),
    ('clip', lambda: reconstruction_guidance(EXACT, Z, G, operator=OPERATOR, num_masks=2, guidance_scale=1, clip='x')),
]


@pytest.mark.parametrize('name, bad', BAD)
def test_bad_input(name, bad):
    with pytest.raises(BadInput, match=f'^{name}='):
        next(bad())
