"Every loss against its closed form: what it asks of a denoiser, where it asks for nothing, and what it refuses."

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ambient_nb.ambient import GRADED, AmbientLoss, MaskedGaussian
from ambient_nb.core import BadInput, bcast, rng
from ambient_nb.corruptions import PixelMask, fixed_normal, observed_share
from ambient_nb.data import digits, to_float
from ambient_nb.denoisers import EDMPrecond
from ambient_nb.fourier import MRILines
from ambient_nb.losses import FLOOR, EDMLoss, TwoRegimeLoss, TwoRegimeOptimum, ambient_share, edm_weight
from ambient_nb.networks import PRESETS, make_net
from ambient_nb.oracles import EmpiricalDenoiser, GaussianDenoiser
from ambient_nb.schedules import LogNormal
from ambient_nb.precisions import at_precision
from ambient_nb.tweedie import (
    ConsistencyLoss,
    MixtureLoss,
    TweedieLoss,
    TweedieVPLoss,
    alpha_of,
    copy_from_ve,
    copy_from_vp,
    posterior_jump,
    scaled_linear_levels,
    ve_level,
    vp_level,
)

POOL = to_float(digits()[0].pixels)
EYE = torch.eye(16, dtype=torch.float64)
SMALL = replace(PRESETS['tiny'], model_channels=16)


def normal(*shape, name, seed=0):
    return torch.randn(*shape, generator=rng(seed, 'test_losses', name)).double()


def at(level: float, count: int) -> torch.Tensor:
    return torch.full((count,), level, dtype=torch.float64)


def moments(count: int, d: int) -> list[torch.Tensor]:
    "`count` sets of draws (N,1,k,k) with exactly the means and second moments of independent standard normals."
    n, k = 2 * count * d + 2, int(d**0.5)
    q = torch.linalg.qr(normal(n, count * d, name='moments') - normal(n, count * d, name='moments').mean(0))[0] * n**0.5
    return [part.reshape(n, 1, k, k) for part in q.split(d, 1)]


def covariance(d: int) -> torch.Tensor:
    "A covariance with no symmetry to hide behind."
    root = normal(d, d, name='covariance') / d**0.5
    return (root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64)) / 4


def shaped(cov: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    "Images of a covariance from white ones."
    return (draws.flatten(1) @ torch.linalg.cholesky(cov).T).reshape(draws.shape)


def linear(W: torch.Tensor):
    "A linear denoiser; one matrix (d,d)."
    return lambda x, sigma, labels=None: (x.flatten(1) @ W.T).reshape(x.shape)


def newton(value, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    "Least-norm minimiser of a quadratic whose rows (last axis) do not meet, and its second derivatives."

    def slope(w):
        w = w.clone().requires_grad_()
        value(w).backward()
        return w.grad

    at_start = slope(start)
    second = torch.stack([slope(start + e) - at_start for e in torch.eye(start.shape[-1], dtype=start.dtype)], -1)
    return start - (torch.linalg.pinv(second, hermitian=True, rtol=1e-9) @ at_start[..., None])[..., 0], second


def off(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found - exact).norm() / exact.norm()).item()


# What each loss teaches a linear denoiser of 16 pixels. Expectations are exact: the draws have the law's moments.

X0, N, Z, J1, J2 = moments(5, 16)
COV = covariance(16)
X0 = shaped(COV, X0)


def wiener(sigma: float) -> torch.Tensor:
    return COV @ torch.linalg.inv(COV + sigma**2 * EYE)


def fitted(loss, *draws, sigma: float):
    levels = at(sigma, len(X0))
    return newton(lambda W: loss(linear(W), *draws, levels, Z).mean(), torch.zeros(16, 16).double())[0]


NOISY = torch.arange(len(X0)) % 2 == 0
FITS = {
    'edm': (EDMLoss(), X0, None),
    'two regimes': (TwoRegimeLoss(0.4), X0, N),
    'compensated': (TwoRegimeLoss(0.4, compensate=True), X0, N),
    'exclusive': (TwoRegimeLoss(0.4, inclusive=False), X0, N),
    'all clean': (MixtureLoss(0.4), X0, torch.ones(len(X0), dtype=torch.bool)),
    'tweedie': (TweedieLoss(0.4), X0 + 0.4 * N),
}


@pytest.mark.parametrize('name', FITS)
def test_minimiser_above_sigma_n(name):
    loss, *draws = FITS[name]
    assert off(fitted(loss, *draws, sigma=0.9), wiener(0.9)) < 1e-9


@pytest.mark.parametrize('name', ['edm', 'two regimes', 'compensated', 'exclusive', 'all clean'])
def test_minimiser_below_sigma_n(name):
    loss, *draws = FITS[name]
    assert off(fitted(loss, *draws, sigma=0.2), wiener(0.2)) < 1e-9


def test_minimiser_of_a_mixture():
    "Half of the images noisy, each half with the law's moments: above sigma_n all teach, below only the clean ones."
    twice = [torch.cat([t, t]) for t in (X0, N, Z)]
    clean = torch.arange(len(twice[0])) < len(X0)
    y = torch.where(bcast(clean, twice[0]) > 0, twice[0], twice[0] + 0.4 * twice[1])
    for sigma in (0.9, 0.2):
        levels = at(sigma, len(y))
        found = newton(
            lambda W: MixtureLoss(0.4)(linear(W), y, clean, levels, twice[2]).mean(), torch.zeros(16, 16).double()
        )[0]
        assert off(found, wiener(sigma)) < 1e-9


@pytest.mark.parametrize('target', ['copy', 'increment'])
def test_minimiser_in_vp(target):
    n, t = vp_level(sigma_ve=0.4), vp_level(sigma_ve=0.9)
    copies = alpha_of(sigma_vp=n) * (X0 + 0.4 * N)
    assert off(fitted(TweedieVPLoss(n.item(), target), copies, sigma=t.item()), wiener(0.9)) < 1e-9


def test_minimiser_of_consistency_is_the_denoiser_below():
    "Known at sigma, consistency finds it below; one step is exact because the denoiser is linear."
    sigma, lower = (at(s, len(X0)) for s in (0.9, 0.3))

    def value(W):
        return ConsistencyLoss()(
            lambda x, s, labels: linear(wiener(0.9) if (s == 0.9).all() else W)(x, s),
            X0,
            lower,
            torch.stack([J1, J2])[:, None],
            sigma,
            Z,
        ).mean()

    assert off(newton(value, torch.zeros(16, 16).double())[0], wiener(0.3)) < 1e-9


# Masks: 4 pixels, every pair of masks with its probability, so that these expectations are exact too.

P, SIGMA = 0.4, 0.5
COV4 = covariance(4)
X4, Z4 = moments(2, 4)
X4 = shaped(COV4, X4)
NUMBER = torch.tensor([8, 4, 2, 1])
MASKS = torch.tensor(list(itertools.product([0, 1], repeat=4))).double()


def masked_fit(delta: float, loss: AmbientLoss):
    "One matrix per mask A~, fitted to masked images; and the second derivatives."
    one = {(1, 1): (1 - P) * (1 - delta), (1, 0): (1 - P) * delta, (0, 0): P}  # (A, A~) of a pixel
    pairs = list(itertools.product(one, repeat=4))
    chance = (
        torch.tensor([one[a] * one[b] * one[c] * one[e] for a, b, c, e in pairs]).double().repeat_interleave(len(X4))
    )
    mask, further = (
        torch.tensor([[pixel[i] for pixel in pair] for pair in pairs])
        .double()
        .repeat_interleave(len(X4), 0)
        .reshape(-1, 1, 2, 2)
        for i in (0, 1)
    )
    x0, z = X4.repeat(len(pairs), 1, 1, 1), Z4.repeat(len(pairs), 1, 1, 1)
    levels, which = at(SIGMA, len(x0)), (further.flatten(1).long() * NUMBER).sum(1)

    def value(W):
        def D(x, sigma, labels, mask):
            assert torch.equal(mask, further)
            return torch.einsum('bij,bj->bi', W[which], x.flatten(1)).reshape(x.shape)

        return (chance * loss(D, mask * x0, mask, further, levels, z)).sum() / len(X4)

    return newton(value, torch.zeros(16, 4, 4).double())


def masked_exact() -> torch.Tensor:
    "Sigma_{:,o} (Sigma_oo + sigma^2 I)^-1, zero columns where nothing is seen; one matrix per mask."
    found = torch.zeros(16, 4, 4).double()
    for W, mask in zip(found, MASKS):
        o = mask.bool()
        W[:, o] = COV4[:, o] @ torch.linalg.inv(COV4[o][:, o] + SIGMA**2 * EYE[: o.sum(), : o.sum()])
    return found


@pytest.mark.parametrize('delta', [0.01, 0.1, 0.5])
def test_masked_images_teach_every_pixel(delta):
    found, second = masked_fit(delta, AmbientLoss(P, delta))
    assert off(found, masked_exact()) < 1e-8
    seen = MASKS[:, :, None] * MASKS[:, None, :]  # columns of unseen pixels are never fed
    assert (torch.linalg.eigvalsh(second + torch.diag_embed(1 - MASKS)[:, None])[..., 0] > 0).all() and seen.any()


def test_without_further_masks_hidden_pixels_are_never_taught():
    found, second = masked_fit(0.0, AmbientLoss(P, 0.0, allow_delta_zero=True))
    hidden = MASKS == 0
    assert (second[hidden] == 0).all() and (found[hidden] == 0).all()
    exact = masked_exact()
    assert off(found[~hidden], exact[~hidden]) < 1e-8 and off(found[hidden], exact[hidden]) == 1


def test_masked_gaussian_is_the_regression_on_seen_pixels():
    D, W, mean = MaskedGaussian(torch.arange(4.0).reshape(1, 2, 2), COV4), masked_exact(), torch.arange(4.0).double()
    x, mask = normal(16, 1, 2, 2, name='x'), MASKS.reshape(16, 1, 2, 2)
    expected = mean + torch.einsum('bij,bj->bi', W, mask.flatten(1) * (x.flatten(1) - mean))
    torch.testing.assert_close(D(x, SIGMA, mask=mask).flatten(1), expected)
    torch.testing.assert_close(
        D(x, torch.full((16,), SIGMA), mask=torch.ones(1, 1, 2, 2)),
        GaussianDenoiser(mean.reshape(1, 2, 2), COV4)(x, SIGMA),
    )
    torch.testing.assert_close(D(x, SIGMA, mask=torch.ones(16, 1, 2, 2)), D(x, SIGMA))


@pytest.mark.parametrize('channels', [1, 3])
def test_ambient_never_looks_where_the_data_hide(channels):
    op = PixelMask(P, delta=0.3, shared_channels=channels == 1)
    y, ids, z, sigma = (
        normal(6, 3, 8, 8, name='y').float(),
        torch.arange(6),
        normal(6, 3, 8, 8, name='z').float(),
        torch.full((6,), 0.5),
    )
    mask, further = op.mask(ids, (3, 8, 8)), op.further_mask(ids, (3, 8, 8))
    assert mask.shape[1] == channels
    D = EDMPrecond(make_net(SMALL, channels=3, extra_in=channels, seed=0))
    loss, other = AmbientLoss(P, 0.3), y + (1 - mask) * 5
    assert torch.equal(loss(D, y, mask, further, sigma, z), loss(D, other, mask, further, sigma, z))
    again = op.further_mask(ids, (3, 8, 8), draw=1)  # redrawn at another step
    assert not torch.equal(again, further) and not torch.equal(
        loss(D, y, mask, further, sigma, z), loss(D, y, mask, again, sigma, z)
    )


def test_ambient_without_masks_is_edm():
    y, z, sigma, ones = POOL[:4], normal(4, 1, 8, 8, name='z').float(), torch.full((4,), 0.5), torch.ones(4, 1, 8, 8)
    D = EDMPrecond(make_net(SMALL, seed=0))
    assert torch.equal(
        AmbientLoss(0.0, 0.0)(lambda x, s, labels, mask: D(x, s, labels), y, ones, ones, sigma, z),
        EDMLoss()(D, y, None, sigma, z),
    )


class Nothing:
    "A transform that does nothing: pixels, said the long way."

    def transform(self, x):
        return x

    transform_adjoint = transform


@pytest.mark.parametrize('graded', GRADED)
def test_pixels_are_the_special_case(graded):
    "Behind no transform, or behind one that does nothing, the loss is the formula for pixels, bit for bit."
    op, ids, sigma = PixelMask(P, delta=0.3), torch.arange(6), torch.linspace(0.1, 3, 6)
    y, z = normal(6, 3, 8, 8, name='y').float(), normal(6, 3, 8, 8, name='z').float()
    mask, further, s = op.mask(ids, (3, 8, 8)), op.further_mask(ids, (3, 8, 8)), sigma[:, None, None, None]
    D = EDMPrecond(make_net(SMALL, channels=3, extra_in=1, seed=0))
    error = mask * (D(further * (y + s * z), sigma, mask=further) - y)
    formula = (edm_weight(s) * error.square()).flatten(1).sum(1)
    for operator in (None, op, Nothing()):
        loss = AmbientLoss(P, 0.3, operator=operator, graded=graded)
        assert torch.equal(loss(D, y, mask, further, sigma, z), formula)


def test_the_released_loss_for_scans():
    "Graded in image space: what the official code gives on the same draws, with raw maps and frequency 0 first."
    golden = json.loads((Path(__file__).parent / 'golden/ambient_mri.json').read_text(encoding='utf-8'))

    def draw(seed, *shape):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

    def centred(x):  # theirs has frequency 0 and pixel 0 in the corner
        return torch.fft.fftshift(x, dim=(-2, -1))

    y, z, answer = draw(1, 2, 2, 4, 384)[..., 32:352], draw(2, 2, 2, 4, 320), draw(3, 2, 2, 4, 320)
    maps = torch.view_as_complex(draw(4, 2, 3, 4, 320, 2))[0]
    mask = (draw(5, 2, 1, 1, 320) > 0).float()
    further, shown = mask * (draw(6, 2, 1, 1, 320) > -1).float(), []

    def D(x, sigma, labels, mask):
        shown.append(torch.fft.ifftshift(x, dim=(-2, -1)))
        assert mask.shape == (2, 1, 4, 320) and torch.equal(mask, centred(further).expand(2, 1, 4, 320))
        return centred(answer)

    operator = MRILines(1, acs=1, coils=3, maps=centred(maps))
    loss = AmbientLoss(0.0, 0.0, operator=operator, graded='image')
    given = [centred(t) for t in (y, mask, further)], torch.tensor(golden['sigma']), centred(z)
    mine = loss(D, *given[0], *given[1:])
    torch.testing.assert_close(mine.double(), torch.tensor(golden['loss']).double(), rtol=1e-5, atol=0)
    norms, first = golden['shown']
    torch.testing.assert_close(shown[0].flatten(1).norm(dim=1), torch.tensor(norms), rtol=1e-5, atol=0)
    torch.testing.assert_close(shown[0][0, 0, 0, :4], torch.tensor(first), rtol=1e-4, atol=1e-4)
    in_kspace = AmbientLoss(0.0, 0.0, operator=operator)(D, *given[0], *given[1:])
    assert not torch.allclose(in_kspace, mine, rtol=0.1), 'raw maps: a better weight in k-space, another number'


def test_ambient_needs_further_masks():
    for p, delta in ((0.4, 0.0), (0.9, 0)):
        with pytest.raises(BadInput, match='delta.*ever graded.*allow_delta_zero'):
            AmbientLoss(p, delta)
        AmbientLoss(p, delta, allow_delta_zero=True)
    for p, delta, name in (
        (1.0, 0.1, 'p'),
        (-0.1, 0.1, 'p'),
        (0.4, 1.0, 'delta'),
        (0.4, -0.1, 'delta'),
        (0.4, float('nan'), 'delta'),
    ):
        with pytest.raises(BadInput, match=f'^{name}='):
            AmbientLoss(p, delta, allow_delta_zero=True)
    assert observed_share(0.4, 0.0) == 0


# Where nothing is asked for, and where two losses are the same.


def draws(batch=16, it=0):
    "Digits, their fixed noise, levels and fresh noise of one step."
    ids = (torch.arange(batch) + it * batch) % len(POOL)
    return (
        POOL[ids],
        fixed_normal(ids, (1, 8, 8), 0),
        LogNormal().sigma(normal(batch, name='u', seed=it).float()),
        normal(batch, 1, 8, 8, name='z', seed=it).float(),
    )


def pull(loss, *args) -> torch.Tensor:
    "The gradient that reaches a denoiser's answer."
    guess = torch.full_like(args[0], 0.1, requires_grad=True)
    loss(lambda x, s, labels: guess, *args).sum().backward()
    return guess.grad


@pytest.mark.parametrize('sigma_n', [0.05, 0.4, 1 / 3, 7.0])
def test_no_gradient_at_sigma_n(sigma_n):
    y, noise, _, z = draws()
    here = torch.full((16,), sigma_n)
    copies, clean = y + sigma_n * noise, torch.zeros(16, dtype=torch.bool)
    for loss in (TwoRegimeLoss(sigma_n), TwoRegimeLoss(sigma_n, compensate=True)):
        assert (pull(loss, y, noise, here, z) == 0).all()
    for levels in (here, here / 3):
        assert (pull(TweedieLoss(sigma_n), copies, levels, z) == 0).all() and (
            pull(MixtureLoss(sigma_n), copies, clean, levels, z) == 0
        ).all()
    assert (
        pull(TwoRegimeLoss(sigma_n, inclusive=False), y, noise, here, z) == pull(EDMLoss(), y, noise, here, z)
    ).all()
    assert (pull(TwoRegimeLoss(sigma_n), y, noise, here * 1.5, z) != 0).any()


@pytest.mark.parametrize('nature', [0.05, 0.325, 0.851, 0.993])
def test_no_gradient_at_nature(nature):
    y, noise, _, z = draws()
    for target in ('copy', 'increment'):
        loss = TweedieVPLoss(nature, target)
        for level in (nature, nature / 2):
            assert (pull(loss, y, torch.full((16,), level), z) == 0).all()
        assert (pull(loss, y, torch.full((16,), (1 + nature) / 2), z) != 0).any()
    for level in (nature, nature / 2):  # and no constant either
        assert (TweedieVPLoss(nature, 'increment')(lambda x, s, labels: x, y, torch.full((16,), level), z) == 0).all()
    assert (TweedieVPLoss(nature)(lambda x, s, labels: x, y, torch.full((16,), nature), z) == 0).all()


def test_the_increment_near_nature():
    "Its loss tends to the square of the noise, its gradient to 0 like c; the least is that of a Gaussian's formula."
    n, (x0, own, z) = 0.4, moments(3, 16)
    y, D = alpha_of(sigma_vp=n) * x0 / 2 + n * own, GaussianDenoiser(torch.zeros(1, 4, 4), EYE / 4)
    v, loss, pulls = (1 - n**2) / 4 + n**2, TweedieVPLoss(n, 'increment'), []
    for level in (n + 1e-6, n + 4e-6, 0.6, 0.9):
        s2 = (1 - level**2) / (1 - n**2)
        c2 = level**2 - s2 * n**2
        value = loss(D, y, at(level, len(y)), z).mean().item()
        assert value == pytest.approx(16 * s2 * v / (s2 * v + c2), rel=1e-6)
        guess = torch.zeros_like(y, requires_grad=True)
        loss(lambda x, s, labels, guess=guess: guess, y, at(level, len(y)), z).sum().backward()
        pulls.append(guess.grad.norm().item())
    assert pulls[1] / pulls[0] == pytest.approx(2, rel=0.01)  # c grows as the root of the distance
    assert loss(D, y, at(n, len(y)), z).abs().max() == 0 and loss(D, y, at(n + 1e-6, len(y)), z).mean() > 15.9


def test_the_released_consistency():
    "The official code's total on the same draws: Tweedie's loss above sigma_n, consistency below, never both."
    golden = json.loads((Path(__file__).parent / 'golden/consistency_laws.json').read_text(encoding='utf-8'))

    def image(name):
        return torch.tensor(golden[name], dtype=torch.float64).reshape(3, 1, 2, 2)

    jumps = torch.tensor(golden['jumps'], dtype=torch.float64).movedim(2, 0).reshape(3, 3, 3, 1, 2, 2)
    raw, visited = torch.tensor(golden['sigma'], dtype=torch.float64), []

    gain = torch.ones((), dtype=torch.float64, requires_grad=True)

    def D(x, sigma, labels):
        visited.append(sigma)
        return gain * x / (1 + bcast(sigma, x) ** 2)

    loss = ConsistencyLoss(golden['sigma_n'], 3, 'laws', 3)
    down = loss(D, image('copies'), raw, jumps, raw, image('z'))
    beside = TweedieLoss(golden['sigma_n'])(D, image('copies'), raw, image('z'))
    assert ((down == 0) == (raw > golden['sigma_n'])).all() and (down * beside).abs().max() < 1e-12
    mine = down + beside
    torch.testing.assert_close(mine, torch.tensor(golden['loss'], dtype=torch.float64), rtol=1e-4, atol=1e-4)
    mine.sum().backward()
    assert gain.grad.item() == pytest.approx(golden['slope, with_grad=True'], rel=1e-4)
    levels = torch.tensor(golden['levels'], dtype=torch.float64)
    torch.testing.assert_close(torch.stack(visited[:4]), levels, rtol=1e-5, atol=1e-6)


def test_the_released_consistency_of_a_gaussian():
    "Its mean in closed form: the bias of Euler's steps and the branches' variance over their number, weighted."
    sigma, lower, m, v = 1.0, 0.5, 3, 0.25
    y, z, *draw = moments(2 + m, 4)
    D, count = GaussianDenoiser(torch.zeros(1, 2, 2), torch.eye(4) / 4), len(y)
    value = (
        ConsistencyLoss(form='laws', branches=m)(
            D, y / 2, at(lower, count), torch.stack(draw)[:, None], at(sigma, count), z
        )
        .mean()
        .item()
    )
    here, there = v / (v + sigma**2), v / (v + lower**2)
    kept = 1 + 2 * (sigma - lower) / sigma * (here - 1)  # of x after a step of Euler-Maruyama
    mean, spread = (there * kept - here) ** 2 * (v + sigma**2), there**2 * 2 * sigma * (sigma - lower)
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    assert value == pytest.approx(4 * weight * (mean + spread / m), rel=1e-9)


def test_levels_below_are_raised():
    "What a denoiser is asked about a noisy image is never below the image's own noise."
    y, noise, sigma, z = draws()
    clean, vp, seen = NOISY[:16], vp_level(sigma_ve=sigma), []

    def D(x, s, labels):
        seen.append(s)
        return x

    assert (sigma < 0.4).any() and (sigma > 0.4).any()
    MixtureLoss(0.4)(D, y, clean, sigma, z), TweedieLoss(0.4)(D, y, sigma, z), TweedieVPLoss(0.5)(D, y, vp, z)
    assert torch.equal(seen[0][clean], sigma[clean]) and torch.equal(seen[0][~clean], sigma[~clean].clamp(min=0.4))
    assert torch.equal(seen[1], sigma.clamp(min=0.4)) and torch.equal(seen[2], ve_level(sigma_vp=vp.clamp(min=0.5)))
    for nature in torch.linspace(0.01, 0.99, 99).tolist():
        assert (TweedieVPLoss(nature)(D, y[:2], torch.full((2,), nature), z[:2]) == 0).all()


def test_zero_sigma_n_is_edm():
    y, noise, sigma, z = draws()
    D, edm = EDMPrecond(make_net(SMALL, seed=0)), EDMLoss()
    for loss in (TwoRegimeLoss(0.0), TwoRegimeLoss(0.0, compensate=True), TwoRegimeLoss(0.0, inclusive=False)):
        assert torch.equal(loss(D, y, noise, sigma, z), edm(D, y, noise, sigma, z))
    assert torch.equal(TweedieLoss(0.0)(D, y, sigma, z), edm(D, y, None, sigma, z))
    assert torch.equal(MixtureLoss(0.0)(D, y, NOISY[:16], sigma, z), edm(D, y, None, sigma, z))


def test_mixture_is_edm_where_clean_and_the_upper_regime_where_noisy():
    y, noise, sigma, z = draws()
    D, clean = EDMPrecond(make_net(SMALL, seed=0)), torch.arange(16) % 3 == 0
    given = torch.where(clean[:, None, None, None], y, y + 0.4 * noise)
    mixed, above = MixtureLoss(0.4)(D, given, clean, sigma, z), sigma > 0.4
    assert above[~clean].any() and not above[~clean].all()
    assert torch.equal(mixed[clean], EDMLoss()(D, y, None, sigma, z)[clean])
    torch.testing.assert_close(mixed[~clean & above], TwoRegimeLoss(0.4)(D, y, noise, sigma, z)[~clean & above])
    assert (mixed[~clean & ~above] == 0).all()
    shift = normal(16, 1, 8, 8, name='shift').float()  # the clean image behind a copy is nowhere looked at
    torch.testing.assert_close(
        TwoRegimeLoss(0.4)(D, y + 0.4 * shift, noise - shift, torch.full((16,), 0.9), z),
        TweedieLoss(0.4)(D, y + 0.4 * noise, torch.full((16,), 0.9), z),
    )


def test_compensation_makes_errors_count_as_in_edm():
    y, noise, _, z = draws()
    for ratio in (1.06, 1.5, 4.0):
        sigma = torch.full((16,), 0.4 * ratio)
        a = ambient_share(sigma, 0.4)[0]
        torch.testing.assert_close(
            pull(TwoRegimeLoss(0.4, compensate=True), y, noise, sigma, z) * a**2,
            pull(TwoRegimeLoss(0.4), y, noise, sigma, z),
        )
    near = torch.full((16,), 0.4 * 1.001)
    torch.testing.assert_close(
        pull(TwoRegimeLoss(0.4, compensate=True), y, noise, near, z) * FLOOR,
        pull(TwoRegimeLoss(0.4), y, noise, near, z),
    )
    low = torch.full((16,), 0.2)
    assert torch.equal(pull(TwoRegimeLoss(0.4, compensate=True), y, noise, low, z), pull(EDMLoss(), y, noise, low, z))


def test_fresh_noise_is_the_empirical_denoiser():
    "T4: more and more copies of each image, the limit of fresh noise, against one copy for ever."
    images = normal(8, 1, 1, 2, name='images')
    x = images + 0.8 * normal(8, 1, 1, 2, name='x')
    exact = EmpiricalDenoiser(images)(x, 0.8)

    def apart(K):
        return off(
            TwoRegimeOptimum(images.repeat(K, 1, 1, 1), normal(8 * K, 1, 1, 2, name='copies'), 0.4)(x, 0.8), exact
        )

    assert apart(1) > 0.4 and apart(20_000) < 0.05


# The two languages of noise.


def test_levels_of_sdxl():
    "notation D.2."
    vp = scaled_linear_levels()[[100, 500, 800, 900]]
    torch.testing.assert_close(vp, torch.tensor([0.325, 0.851, 0.981, 0.993]).double(), rtol=0, atol=5.1e-4)
    torch.testing.assert_close(
        ve_level(sigma_vp=vp), torch.tensor([0.344, 1.618, 5.11, 8.35]).double(), rtol=2e-3, atol=0
    )
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2
    torch.testing.assert_close(scaled_linear_levels() ** 2, 1 - (1 - betas).cumprod(0), rtol=1e-6, atol=1e-9)


def test_vp_and_ve_say_the_same():
    ve = torch.logspace(-3, 2, 50).double()
    torch.testing.assert_close(ve_level(sigma_vp=vp_level(sigma_ve=ve)), ve)
    torch.testing.assert_close(alpha_of(sigma_vp=vp_level(sigma_ve=ve)), (1 + ve**2) ** -0.5)
    assert (
        ve_level(sigma_vp=0.6).item() == pytest.approx(0.75, rel=1e-12)
        and ve_level(sigma_vp=torch.tensor(0.6)).dtype == torch.float32
    )
    x0, x, current = normal(50, 1, 2, 2, name='x0'), normal(50, 1, 2, 2, name='x'), ve.clamp(min=0.4)
    t, n = vp_level(sigma_ve=current), vp_level(sigma_ve=0.4).item()
    alpha = alpha_of(sigma_vp=bcast(t, x))
    torch.testing.assert_close(
        copy_from_vp(x0, alpha * x, nature=n, current=t),
        alpha_of(sigma_vp=n) * copy_from_ve(x0, x, nature=0.4, current=current),
        rtol=1e-11,
        atol=1e-11,
    )


def test_vp_loss_is_the_ve_loss_without_weight():
    y, noise, z = (t.double() for t in draws()[:2] + draws()[3:])
    sigma, D = torch.linspace(0.2, 5, 16).double(), GaussianDenoiser(torch.zeros(1, 8, 8), torch.eye(64) / 4)
    n, t, copies = vp_level(sigma_ve=0.4), vp_level(sigma_ve=sigma), y + 0.4 * noise
    ve = TweedieLoss(0.4)(D, copies, sigma, z) / edm_weight(sigma)
    torch.testing.assert_close(
        TweedieVPLoss(n.item())(D, alpha_of(sigma_vp=n) * copies, t, z),
        alpha_of(sigma_vp=n) ** 2 * ve,
        rtol=1e-9,
        atol=1e-12,
    )


def test_vp_increment_is_the_noise_that_was_added():
    "notation D.1: (x - s copy) / c against z."
    y, _, _, z = (t.double() for t in draws())
    n, t, D = 0.6, at(0.8, 16), GaussianDenoiser(torch.zeros(1, 8, 8), torch.eye(64) / 4)
    s = ((1 - 0.8**2) / (1 - n**2)) ** 0.5
    c = (0.8**2 - s**2 * n**2) ** 0.5
    x = s * y + c * z
    x0 = D(x / 0.6, 0.8 / 0.6)
    copy = ((c / 0.8) ** 2 * (0.6 * x0 - x) + x) / s
    torch.testing.assert_close(TweedieVPLoss(n)(D, y, t, z), (copy - y).square().flatten(1).sum(1))
    torch.testing.assert_close(
        TweedieVPLoss(n, 'increment')(D, y, t, z), ((x - s * copy) / c - z).square().flatten(1).sum(1)
    )


def test_double_tweedie_on_a_gaussian():
    "Both forms turn E[x0|x] into E[x_n|x], in closed form."
    v, n, x = 0.25, 0.7, normal(100, 1, 1, 1, name='x')
    current = torch.linspace(0.7, 20, 100, dtype=torch.float64)
    t = bcast(current, x)
    torch.testing.assert_close(
        copy_from_ve(v / (v + t**2) * x, x, nature=n, current=current),
        (v + n**2) / (v + t**2) * x,
        rtol=1e-12,
        atol=1e-12,
    )


# Consistency.


@pytest.mark.parametrize('steps', [1, 3])
def test_consistency_of_a_linear_denoiser(steps):
    "Zero for the truth, and for a wrong one the squared difference of conditional means, draw by draw."
    d, gain = 4, lambda v, s: v / (v + s**2)
    x0, z, *jumps = moments(2 + 2 * steps, d)
    x0, v, t, s = 0.5 * x0, 0.25, 0.9, 0.3
    sigma, lower = at(t, len(x0)), at(s, len(x0))
    jumps = torch.stack(jumps).reshape(2, steps, *x0.shape)
    path = [t * (s / t) ** (k / steps) for k in range(steps + 1)]
    for wrong in (lambda x: 1.0, lambda x: 0.7, lambda x: 1 + x):

        def g(level):
            return gain(v, level) * wrong(level)

        mean = 1.0
        for now, after in zip(path, path[1:]):
            mean *= g(now) + (after / now) ** 2 * (1 - g(now))
        expected = (g(s) * mean - g(t)) ** 2 * d * (v + t**2)
        value = (
            ConsistencyLoss(steps=steps)(lambda x, level, labels: bcast(g(level), x) * x, x0, lower, jumps, sigma, z)
            .mean()
            .item()
        )
        assert value == pytest.approx(expected, abs=1e-9)
        assert (expected < 1e-20) == (wrong(0) == wrong(1) == 1)


def test_consistency_is_a_product_of_independent_differences():
    n = 4000
    x0, z = 0.5 * normal(n, 1, 1, 1, name='x0'), normal(n, 1, 1, 1, name='z')
    D, jumps = GaussianDenoiser(torch.zeros(1, 1, 1), torch.full((1, 1), 0.25)), normal(2, 1, n, 1, 1, 1, name='jumps')
    sigma, lower = at(0.9, n), at(0.3, n)
    value = ConsistencyLoss()(D, x0, lower, jumps, sigma, z)
    assert (value < 0).double().mean() > 0.4 and abs(value.mean()) < 4 * value.std() / n**0.5
    same = ConsistencyLoss()(
        D, x0, lower, jumps[:1].expand(2, -1, -1, -1, -1, -1), sigma, z
    )  # one draw squared: the variance comes in
    assert (same >= 0).all() and same.mean() > 10 * same.std() / n**0.5


def test_consistency_starts_from_the_copies():
    "With sigma_n the images bring noise already; at sigma_n they are the start."
    y, jumps = normal(5, 1, 2, 2, name='y'), normal(2, 1, 5, 1, 2, 2, name='jumps')
    seen = []

    def D(x, s, labels):
        seen.append((x, s))
        return 0.5 * x

    ConsistencyLoss(0.5)(D, y, at(0.125, 5), jumps, at(0.25, 5), normal(5, 1, 2, 2, name='z'))
    assert torch.equal(seen[0][0], y) and (seen[0][1] == 0.5).all() and (seen[1][1] == 0.125).all() and len(seen) == 3


def test_jump_is_the_posterior():
    "Mean and variance against the product of the two Gaussians that define it; and the official VP form."
    t, s, n = 2.0, 0.5, 50_000
    x0, x = normal(n, 1, 1, 1, name='x0')[:1].expand(n, 1, 1, 1), torch.full((n, 1, 1, 1), 1.3).double()
    out = posterior_jump(x0, x, normal(n, 1, 1, 1, name='n'), current=t, lower=s)
    precision = 1 / s**2 + 1 / (t**2 - s**2)
    assert out.var().item() == pytest.approx(1 / precision, rel=0.03)
    assert out.mean().item() == pytest.approx(
        ((x0[0] / s**2 + 1.3 / (t**2 - s**2)) / precision).item(), abs=4 * precision**-0.5 / n**0.5
    )
    z, vt, vs = normal(n, 1, 1, 1, name='z'), vp_level(sigma_ve=t), vp_level(sigma_ve=s)
    at, as_ = alpha_of(sigma_vp=vt), alpha_of(sigma_vp=vs)
    b = (vs**2 / vt**2).sqrt() * (1 - (1 - vt**2) / (1 - vs**2)).sqrt()
    official = as_ * x0 + (vs**2 - b**2).sqrt() * (at * x - at * x0) / vt + b * z
    torch.testing.assert_close(official, as_ * posterior_jump(x0, x, z, current=t, lower=s), rtol=1e-10, atol=1e-10)


# The contract: any denoiser, one number per image, no hidden randomness, clear refusals.


def every_loss(batch=16, it=0, sigma_n=0.4, device='cpu', **more) -> dict:
    "Name -> the loss of a denoiser on one batch of digits."
    y, noise, sigma, z = draws(batch, it)
    copies, clean, ids, op = (
        y + sigma_n * noise,
        torch.arange(batch) % 4 == 0,
        torch.arange(batch),
        PixelMask(0.4, delta=0.3),
    )
    mask, further, n = op.mask(ids, y.shape[1:]), op.further_mask(ids, y.shape[1:]), vp_level(sigma_ve=sigma_n).item()
    given, vp = torch.where(clean[:, None, None, None], y, copies), vp_level(sigma_ve=sigma)
    jumps, lower = normal(2, 1, batch, 1, 8, 8, name='jumps', seed=it).float(), sigma.clamp(min=sigma_n) / 3
    y, noise, sigma, z, copies, clean, mask, further, given, vp, jumps, lower = (
        t.to(device) for t in (y, noise, sigma, z, copies, clean, mask, further, given, vp, jumps, lower)
    )
    return {
        'edm': lambda D: EDMLoss()(D, y, noise, sigma, z, **more),
        'two regimes': lambda D: TwoRegimeLoss(sigma_n)(D, y, noise, sigma, z, **more),
        'compensated': lambda D: TwoRegimeLoss(sigma_n, compensate=True, inclusive=False)(
            D, y, noise, sigma, z, **more
        ),
        'ambient': lambda D: AmbientLoss(0.4, 0.3)(D, y, mask, further, sigma, z, **more),
        'tweedie': lambda D: TweedieLoss(sigma_n)(D, copies, sigma, z, **more),
        'tweedie vp': lambda D: TweedieVPLoss(n)(D, alpha_of(sigma_vp=n) * copies, vp, z, **more),
        'tweedie vp increment': lambda D: TweedieVPLoss(n, 'increment')(
            D, alpha_of(sigma_vp=n) * copies, vp, z, **more
        ),
        'mixture': lambda D: MixtureLoss(sigma_n)(D, given, clean, sigma, z, **more),
        'consistency': lambda D: (
            TweedieLoss(sigma_n)(D, copies, sigma, z, **more)
            + 0.1 * ConsistencyLoss(sigma_n)(D, copies, lower, jumps, sigma, z, **more)
        ),
    }


LOSSES = list(every_loss(4))


@pytest.mark.parametrize('name', LOSSES)
def test_any_denoiser(name):
    loss, before = every_loss()[name], torch.get_rng_state()
    takes_mask = name == 'ambient'
    closed = MaskedGaussian(torch.zeros(1, 8, 8), torch.eye(64) / 4)
    network = EDMPrecond(make_net(SMALL, extra_in=int(takes_mask), seed=0))
    formula = (lambda x, s, labels=None, mask=None: x * 0) if takes_mask else EmpiricalDenoiser(POOL[:20])
    for D in (closed, network, formula):
        values = loss(D)
        assert (
            values.shape == (16,)
            and values.isfinite().all()
            and values.dtype == torch.float32
            and torch.equal(values, loss(D))
        )
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize('name', LOSSES)
def test_stays_on_its_device(name):
    "On torch's device without memory: nothing is made elsewhere, and no value is read."
    network = EDMPrecond(make_net(SMALL, extra_in=int(name == 'ambient'), seed=0)).to('meta')
    for D in (network, MaskedGaussian(torch.zeros(1, 8, 8), torch.eye(64) / 4)):
        values = every_loss(4, device='meta')[name](D)
        assert values.shape == (4,) and values.device.type == 'meta' and values.dtype == torch.float32


@pytest.mark.parametrize('name', LOSSES)
def test_labels_and_more_reach_the_denoiser(name):
    calls, labels = [], torch.eye(4)

    class Spy:
        def __call__(self, x, sigma, labels=None, **kwargs):
            calls.append((labels, kwargs))
            return x

    every_loss(4, labels=labels, augment_labels='marker')[name](Spy())
    assert calls and all(
        got is labels and kwargs.pop('augment_labels') == 'marker' and set(kwargs) <= {'mask'} for got, kwargs in calls
    )


def train(name: str, precision: str, iters: int = 200, batch: int = 8) -> None:
    "Two hundred steps, each on draws of its own; finite all the way, and better at the end on draws it has not seen."
    D = at_precision(EDMPrecond(make_net(SMALL, extra_in=int(name == 'ambient'), seed=0)), precision)
    optimizer, unseen, seen = torch.optim.Adam(D.parameters(), lr=2e-3, fused=True), every_loss(200, 9)[name], []
    with torch.no_grad():
        before = unseen(D).mean()
    for it in range(100, 100 + iters):
        optimizer.zero_grad()
        loss = every_loss(batch, it)[name](D).mean()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    with torch.no_grad():
        after = unseen(D).mean()
    assert torch.tensor(seen).isfinite().all() and all(p.isfinite().all() for p in D.parameters())
    assert after < 0.95 * before, (before, after)


LONGER = ('compensated', 'tweedie vp increment')  # variants of losses that are tried anyway


@pytest.mark.parametrize('name', [pytest.param(n, marks=pytest.mark.slow) if n in LONGER else n for n in LOSSES])
def test_trains(name):
    train(name, 'fp32')


@pytest.mark.parametrize('name', [n if n == 'two regimes' else pytest.param(n, marks=pytest.mark.slow) for n in LOSSES])
def test_trains_in_bf16(name):
    train(name, 'bf16')


def test_mask_is_a_further_channel():
    net = make_net(SMALL, extra_in=1, seed=0)
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=rng(0, name)))
    D, x, mask = EDMPrecond(net), POOL[:4], PixelMask(0.4).mask(torch.arange(4), (1, 8, 8))
    c = D.coefficients(torch.tensor(0.5))
    by_hand = c.skip * x + c.out * net(torch.cat([x / c.norm, mask], 1), c.noise.expand(4))
    torch.testing.assert_close(D(x, 0.5, mask=mask), by_hand)
    assert not torch.allclose(D(x, 0.5, mask=mask), D(x, 0.5, mask=1 - mask))
    assert torch.equal(D(x, 0.5, mask=mask[:1]), D(x, 0.5, mask=mask[:1].expand(4, -1, -1, -1))) and torch.equal(
        D(x, 0.5, mask=mask.bool()), D(x, 0.5, mask=mask)
    )
    for bad in (mask[0], mask[:2], mask[..., :4], mask.expand(4, 2, 8, 8), None):
        with pytest.raises(BadInput, match='^(mask|x)='):
            D(x, 0.5, mask=bad)


def nan(y):
    return y.index_fill(0, torch.tensor([3]), float('nan'))


REFUSED = {
    'y=.*3.*NaN': lambda y, n, s, z: EDMLoss()(D0, nan(y), n, s, z),
    'y=.*3.*infinity': lambda y, n, s, z: TwoRegimeLoss(0.4)(D0, nan(y), n, s, z),
    'y=.*NaN': lambda y, n, s, z: TweedieLoss(0.4)(D0, nan(y), s, z),
    'y=.*or infinity': lambda y, n, s, z: TweedieVPLoss(0.4)(D0, y / 0, s, z),
    'y=.* is not': lambda y, n, s, z: AmbientLoss(0.4, 0.1)(D0, nan(y), MASK, MASK, s, z),
    'y=.*not allowed': lambda y, n, s, z: ConsistencyLoss()(D0, nan(y), s, z.expand(2, 1, *z.shape), s, z),
    'y=.* is not allowed': lambda y, n, s, z: MixtureLoss(0.4)(D0, nan(y), NOISY[:16], s, z),
    'z=.*one draw per pixel': lambda y, n, s, z: EDMLoss()(D0, y, n, s, z[:1]),
    'sigma=': lambda y, n, s, z: TwoRegimeLoss(0.4)(D0, y, n, -s, z),
    'sigma=.*nan': lambda y, n, s, z: EDMLoss()(D0, y, n, s / 0 * 0, z),
    'sigma_n=80': lambda y, n, s, z: TwoRegimeLoss(80.0)(EDMPrecond(D0.model, sigma_max=80.0), y, n, s, z),
    'sigma_n=90': lambda y, n, s, z: TweedieLoss(90.0)(EDMPrecond(D0.model, sigma_max=80.0), y, s, z),
    'sigma_n=1.3': lambda y, n, s, z: TweedieVPLoss(0.8)(EDMPrecond(D0.model, sigma_max=1.2), y, s, z),
    'sigma_n=2.0': lambda y, n, s, z: ConsistencyLoss(2.0)(
        EDMPrecond(D0.model, sigma_max=1.2), y, s, z.expand(2, 1, *z.shape), s, z
    ),
    'sigma_n=nan': lambda y, n, s, z: TweedieLoss(float('nan')),
    'sigma_n=-1': lambda y, n, s, z: MixtureLoss(-1),
    'compensate=2': lambda y, n, s, z: TwoRegimeLoss(0.4, compensate=2),
    'clean=.*float32': lambda y, n, s, z: MixtureLoss(0.4)(D0, y, torch.ones(16), s, z),
    'clean=.*15': lambda y, n, s, z: MixtureLoss(0.4)(D0, y, NOISY[:15], s, z),
    'mask=.*16,1': lambda y, n, s, z: AmbientLoss(0.4, 0.1)(D0, y, MASK[:, :, :4], MASK, s, z),
    'further=.*16,1': lambda y, n, s, z: AmbientLoss(0.4, 0.1)(D0, y, MASK, MASK[0], s, z),
    'mask=.*zeros and ones': lambda y, n, s, z: AmbientLoss(0.4, 0.1)(D0, y, MASK / 2, MASK, s, z),
    'mask=.*1,1 or 8,8': lambda y, n, s, z: AmbientLoss(0.0, 0.0, operator=MRILines(2, acs=2))(
        D0, y, MASK[:, :, :4], MASK, s, z
    ),
    'graded=': lambda y, n, s, z: AmbientLoss(0.4, 0.1, graded='pixels'),
    'further=.*shows': lambda y, n, s, z: AmbientLoss(0.4, 0.1)(D0, y, MASK, MASK * 0 + 1, s, z),
    'nature=1.0': lambda y, n, s, z: TweedieVPLoss(1.0),
    'target=': lambda y, n, s, z: TweedieVPLoss(0.4, 'noise'),
    'sigma_vp=': lambda y, n, s, z: TweedieVPLoss(0.4)(D0, y, s * 0 + 1.5, z),
    'beta_end=': lambda y, n, s, z: scaled_linear_levels(beta_end=1.0),
    'beta_start=': lambda y, n, s, z: scaled_linear_levels(beta_start=0.5),
    'lower=': lambda y, n, s, z: ConsistencyLoss()(D0, y, s * 1.1, z.expand(2, 1, *z.shape), s, z),
    'lower=.*above 0': lambda y, n, s, z: ConsistencyLoss()(D0, y, s * 0, z.expand(2, 1, *z.shape), s, z),
    'jumps=': lambda y, n, s, z: ConsistencyLoss(steps=2)(D0, y, s / 2, z.expand(2, 1, *z.shape), s, z),
    'steps=': lambda y, n, s, z: ConsistencyLoss(steps=0),
}
D0, MASK = EDMPrecond(make_net(SMALL, seed=0)), PixelMask(0.4).mask(torch.arange(16), (1, 8, 8))


@pytest.mark.parametrize('message', REFUSED)
def test_refused(message):
    with pytest.raises(BadInput, match='^' + message):
        REFUSED[message](*draws())
