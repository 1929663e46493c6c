"""Laws that cross rooms: nothing depends on how the work was cut, or on the global generator."""

import torch
import pytest
from ambient_nb.core import BadInput, bcast, rng, stream
from ambient_nb.corruptions import GaussianNoise, fixed_normal
from ambient_nb.data import digits, order, to_float
from ambient_nb.denoisers import EDMPrecond
from ambient_nb.losses import EDMLoss, TwoRegimeLoss, TwoRegimeOptimum
from ambient_nb.networks import make_net
from ambient_nb.oracles import EmpiricalDenoiser
from ambient_nb.sampling import heun, sample, start_noise
from ambient_nb.schedules import LogNormal, edm_sigmas

X = to_float(digits()[0].pixels)
D = EDMPrecond(make_net('tiny', seed=3)).eval()


@pytest.fixture
def net():
    "A network whose output is not the near-zero of a fresh one."
    net = EDMPrecond(make_net('tiny', seed=3)).eval()
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.add_(torch.randn(p.shape, generator=rng(0, name)) * 0.05)
    return net


def test_samples_do_not_depend_on_batches(net):
    whole = sample(net, range(20), (1, 8, 8), steps=5, block=8)
    assert torch.equal(sample(net, [19, 3, 4], (1, 8, 8), steps=5, block=8), whole[[19, 3, 4]])
    torch.testing.assert_close(sample(net, range(20), (1, 8, 8), steps=5, block=5), whole, rtol=1e-4, atol=1e-4)
    assert not torch.equal(whole[0], whole[1])


def test_sample_labels_follow_their_seeds():
    def by_label(x, sigma, labels):
        return labels[:, :1, None, None].expand_as(x)

    labels = torch.arange(6.0)[:, None]
    out = sample(by_label, [9, 2, 3, 8, 0, 1], (1, 2, 2), steps=2, block=4, labels=labels)
    torch.testing.assert_close(out[:, 0, 0, 0], labels[:, 0])


def test_heun_ends_at_the_data():
    oracle = EmpiricalDenoiser(X[:50])
    last = list(heun(oracle, start_noise(range(30), (1, 8, 8)), edm_sigmas(18)))[-1].x
    assert (torch.cdist(last.flatten(1), X[:50].flatten(1).double()).min(1).values < 0.05).double().mean() > 0.9


def test_heun_calls_the_denoiser_2n_minus_1_times():
    calls = []

    def count(x, sigma, labels):
        calls.append(1)
        return x * 0

    for _ in heun(count, torch.zeros(1, 1, 2, 2), edm_sigmas(18)):
        pass
    assert len(calls) == 35


def test_fixed_noise_is_a_function_of_seed_and_id():
    ids = torch.tensor([5, 900, 5])
    before = torch.get_rng_state()
    a = fixed_normal(ids, (3, 4, 4), 7)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    b = fixed_normal(ids.flip(0), (3, 4, 4), 7).flip(0)
    assert torch.equal(a, b) and torch.equal(a[0], a[2]) and not torch.equal(a[0], a[1])
    assert not torch.equal(a, fixed_normal(ids, (3, 4, 4), 8))
    many = fixed_normal(torch.arange(2000), (1, 8, 8), 0)
    assert abs(many.mean()) < 0.01 and abs(many.std() - 1) < 0.01


def test_noise_algebra():
    x, z = torch.zeros(1, 1, 300, 300), torch.randn(1, 1, 300, 300, generator=rng(0, 'z'))
    y = GaussianNoise(3.0).corrupt(x, [0])
    assert abs(GaussianNoise(3.0).noised_to(y, 5.0, z).std() - 5) < 0.05
    with pytest.raises(BadInput, match='sigma'):
        GaussianNoise(3.0).noised_to(y, 2.0, z)
    for bad in (-1.0, float('nan')):
        with pytest.raises(BadInput, match='sigma_n'):
            GaussianNoise(bad)


def test_streams_and_orders_do_not_depend_on_cuts():
    whole = stream((2, 3), 5, 'z', start=0, count=200)
    assert torch.equal(torch.cat([stream((2, 3), 5, 'z', start=s, count=50) for s in range(0, 200, 50)]), whole)
    assert not torch.equal(whole, stream((2, 3), 6, 'z', start=0, count=200))
    o = order(30, 5, 0, 90)
    assert torch.equal(torch.cat([order(30, 5, s, 9) for s in range(0, 90, 9)]), o)
    assert all(sorted(o[k : k + 30].tolist()) == list(range(30)) for k in (0, 30, 60)) and not torch.equal(
        o[:30], o[30:60]
    )


def draws(n=64):
    y, noise = X[:n], fixed_normal(torch.arange(n), (1, 8, 8), 0)
    return (
        y,
        noise,
        LogNormal().sigma(torch.randn(n, generator=rng(0, 'u'))),
        torch.randn(n, 1, 8, 8, generator=rng(0, 'z')),
    )


def test_two_regime_is_edm_at_zero_and_below_the_threshold(net):
    y, noise, sigma, z = draws()
    assert torch.equal(TwoRegimeLoss(0.0)(net, y, noise, sigma, z), EDMLoss()(net, y, noise, sigma, z))
    low = sigma.clamp(max=0.39)
    assert torch.equal(TwoRegimeLoss(0.4)(net, y, noise, low, z), EDMLoss()(net, y, noise, low, z))
    assert not torch.equal(TwoRegimeLoss(0.4)(net, y, noise, sigma, z), EDMLoss()(net, y, noise, sigma, z))


def test_two_regime_never_shows_clean_images_above_the_threshold():
    "Two clean images with the same noisy copy cannot be told apart above sigma_n."
    y, noise, sigma, z = draws()
    high, shift = sigma.clamp(min=0.4), 0.1 * torch.randn(y.shape, generator=rng(1))
    seen = []

    def spy(x, s, labels):
        seen.append(x)
        return x * 0

    a = TwoRegimeLoss(0.4)(spy, y, noise, high, z)
    b = TwoRegimeLoss(0.4)(spy, y + shift, noise - shift / 0.4, high, z)
    torch.testing.assert_close(seen[0], seen[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_two_regime_is_unbiased_for_the_clean_posterior():
    "On Gaussian data the exact posterior mean minimises the ambient regime over linear denoisers."
    s, sigma_n, sigma, n = 0.5, 0.6, 1.0, 200_000
    y, noise, z = (torch.randn(n, 1, 1, 1, generator=rng(0, name), dtype=torch.float64) for name in 'ynz')
    slopes = torch.linspace(0.05, 0.5, 46, dtype=torch.float64)
    losses = torch.stack(
        [
            TwoRegimeLoss(sigma_n)(
                lambda x, *_: k * x, s * y, noise, torch.full((n,), sigma, dtype=torch.float64), z
            ).mean()
            for k in slopes
        ]
    )
    assert abs(slopes[losses.argmin()] - s**2 / (s**2 + sigma**2)) < 0.015


def test_bcast_refuses_other_shapes():
    with pytest.raises(BadInput, match='sigma'):
        bcast(torch.ones(3), X[:4])


@pytest.mark.parametrize('sigma_n', [0.1, 0.4, 1.0])
def test_the_exact_optimum_memorizes_at_every_threshold(sigma_n):
    "notation A.4 T5."
    x = X[:60]
    best = TwoRegimeOptimum(x, fixed_normal(torch.arange(60), (1, 8, 8), 0), sigma_n)
    samples = sample(best, range(40), (1, 8, 8), steps=40)
    near = torch.cdist(samples.flatten(1), x.flatten(1)).sort(1).values
    assert (near[:, 0] < near[:, 1] / 3).double().mean() > 0.95


def test_the_exact_optimum_knows_clean_images_only_through_copies():
    y, noise, _, z = draws(20)
    shift = 0.1 * torch.randn(y.shape, generator=rng(1))
    x = y + z
    a, b = TwoRegimeOptimum(y, noise, 0.4), TwoRegimeOptimum(y + shift, noise - shift / 0.4, 0.4)
    torch.testing.assert_close(a(x, 1.0), b(x, 1.0), atol=1e-5, rtol=0)
    assert not torch.allclose(a(x, 0.2), b(x, 0.2), atol=1e-2)
