"Closed-form denoisers: what a sampler makes of them, and large sets however they are cut; the rest is beside the code."

import statistics
import time

import pytest
import torch
from ambient_nb.core import rng
from ambient_nb.data import digits, read_zip, to_float
from ambient_nb.oracles import EXACT, EmpiricalDenoiser, GaussianDenoiser
from ambient_nb.sampling import heun
from ambient_nb.schedules import edm_sigmas

F64 = torch.float64
X = to_float(digits()[0].pixels)


def normal(*shape, name='z'):
    return torch.randn(*shape, generator=rng(0, 'test', name), dtype=F64)


def brute(x, images, sigma):  # differences one by one, in float64
    apart = torch.stack([(images.flatten(1).double() - row).square().sum(1) for row in x.flatten(1).double()])
    return (torch.softmax(-apart / (2 * sigma**2), 1) @ images.flatten(1).double()).reshape(x.shape)


def covariance(d, name='cov'):
    a = normal(d, d, name=name)
    return a @ a.T / d + 0.05 * torch.eye(d, dtype=F64)


def test_heun_reproduces_a_gaussian():
    "Mean and covariance; what is left falls with the square of the steps, as Heun's error does."
    C, mean, errors = covariance(5), normal(5, name='mean'), []
    start = normal(1000, 5)
    start = (start - start.mean(0)) @ torch.linalg.inv(
        torch.linalg.cholesky(start.T.cov())
    ).T  # exactly white: only the solver errs
    for steps in (40, 80):
        *_, last = heun(GaussianDenoiser(mean, C), start, edm_sigmas(steps))
        errors.append(((last.x.T.cov() - C).norm() / C.norm()).item())
    assert errors[1] < 5e-3 and errors[0] > 3.5 * errors[1]
    assert (last.x.mean(0) - mean).norm() < 0.03 * mean.norm()  # the start at sigma 80 is not centred on the mean


LARGE = torch.nn.functional.interpolate(
    torch.randn(2500, 3, 4, 4, generator=rng(0, 'blobs')), size=24, mode='bilinear'
).clamp(-1, 1)


@pytest.mark.parametrize('sigma', [0.002, 0.3, 2.0, 6.0, 20.0, 80.0])
def test_large_sets_are_right_at_any_level(sigma):
    assert LARGE.numel() > EXACT
    x = (0.8 * LARGE[:6] + 0.2 * LARGE[6:12] + sigma * torch.randn(6, 3, 24, 24, generator=rng(0, 'n'))).double()
    right, got = brute(x, LARGE, sigma), EmpiricalDenoiser(LARGE, chunk=700)(x, sigma)
    error = ((got - right).flatten(1).norm(dim=1) / right.flatten(1).norm(dim=1)).max()
    assert error < (1e-12 if sigma < 1 else 1e-6)


def test_large_sets_with_levels_of_all_sizes_in_one_batch():
    sigma = torch.tensor([0.002, 0.5, 3.0, 10.0, 80.0], dtype=F64)
    x = LARGE[:5] + sigma.reshape(-1, 1, 1, 1) * normal(5, 3, 24, 24)
    D = EmpiricalDenoiser(LARGE)
    together, one_by_one = D(x, sigma), torch.cat([D(x[i : i + 1], sigma[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-6)
    torch.testing.assert_close(together[0], LARGE[0].double(), rtol=0, atol=0)
    w = D.weights(x, sigma)
    assert w.shape == (5, 2500) and torch.allclose(w.sum(1), torch.ones(5, dtype=F64), atol=1e-6) and (w >= 0).all()


def test_a_batch_is_cut_into_blocks(monkeypatch):
    x, D = LARGE[:7] + 0.1 * torch.randn(7, 3, 24, 24, generator=rng(0, 'n')), EmpiricalDenoiser(LARGE)
    whole = D(x, 5.0)
    monkeypatch.setattr('ambient_nb.oracles.PAIRS', 5000)
    rows = [len(block[0]) for block in D.blocks(x, 5.0, None)]
    assert rows == [2, 2, 2, 1]
    torch.testing.assert_close(D(x, 5.0), whole, rtol=1e-5, atol=1e-5)
    assert D(x[:0], x.new_empty(0)).shape == (0, 3, 24, 24)


@pytest.mark.parametrize('images', [X[:300], LARGE], ids=['small', 'large'])
def test_labels_restrict_the_softmax(images):
    n = len(images)
    classes, x = torch.arange(n) % 4, images[:8] + 3 * torch.randn(8, *images.shape[1:], generator=rng(0, 'n'))
    D, free = EmpiricalDenoiser(images, classes), EmpiricalDenoiser(images)
    for c in range(4):
        torch.testing.assert_close(
            D(x, 3.0, torch.eye(4)[[c] * 8]), EmpiricalDenoiser(images[classes == c])(x, 3.0), rtol=0, atol=1e-5
        )
    mixed = torch.eye(4)[[0, 1, 2, 3, 0, 1, 2, 3]]
    mixed[5:] = 0  # some with, some without a class
    torch.testing.assert_close(D(x, 3.0, mixed)[5:], free(x, 3.0)[5:], rtol=0, atol=1e-5)
    torch.testing.assert_close(D(x, 3.0, mixed)[:1], D(x[:1], 3.0, mixed[:1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize('images', [X[:300], LARGE], ids=['small', 'large'])
def test_unique_labels_make_it_constant(images):
    D = EmpiricalDenoiser(images, torch.arange(len(images)))
    far = 50 * torch.randn(3, *images.shape[1:], generator=rng(0, 'far'))
    assert torch.equal(D(far, 20.0, torch.eye(len(images))[[7, 100, 299]]), images[[7, 100, 299]])


def test_gradients_pass_through():
    for images, sigma in ((X[:50], 1.0), (LARGE, 10.0)):
        x = (images[:2] + sigma * torch.randn(2, *images.shape[1:], generator=rng(0, 'n'))).double().requires_grad_()
        direction = torch.randn(x.shape, generator=rng(1, 'n'), dtype=F64)
        D = EmpiricalDenoiser(images)
        slope = torch.autograd.grad(D(x, sigma).square().sum(), x)[0]
        with torch.no_grad():
            numeric = (
                D(x + 0.01 * direction, sigma).square().sum() - D(x - 0.01 * direction, sigma).square().sum()
            ) / 0.02
        assert abs((slope * direction).sum() - numeric) < 0.01 * abs(numeric) + 1e-4


@pytest.mark.slow
@pytest.mark.real_data
def test_all_of_cifar10(data_dir):
    "50,000 x 3,072: at most 1 GB above the data, at least 1.5 times as fast as cdist and softmax, right at both ends."
    status = lambda key: (
        int(next(line for line in open('/proc/self/status') if line.startswith(key)).split()[1]) / 1e6
    )  # GB
    images = to_float(read_zip(data_dir / 'cifar10-32x32-train.zip').pixels)
    flat = images.flatten(1)
    try:
        open('/proc/self/clear_refs', 'w').write('5')  # the peak starts here
    except OSError:
        pytest.skip('peak memory is read from Linux /proc')
    before = status('VmRSS')
    D, seconds = EmpiricalDenoiser(images), {}
    for sigma in (0.002, 1.0, 5.0, 80.0):
        D(images[:64] + sigma * torch.randn(64, 3, 32, 32, generator=rng(0, 'n')), sigma)
    assert status('VmHWM') - before < 1

    def straightforward(x, sigma):
        return torch.softmax(-(torch.cdist(x.flatten(1), flat) ** 2) / (2 * sigma**2), 1) @ flat

    for sigma in (0.002, 0.5, 2.0, 80.0):
        x = images[:64] + sigma * torch.randn(64, 3, 32, 32, generator=rng(0, 'n'))
        for f in (D, straightforward):
            seconds[f] = []
        for _ in range(5):
            for f in seconds:
                start = time.perf_counter()
                f(x, sigma)
                seconds[f].append(time.perf_counter() - start)
        ratio = [b / a for a, b in zip(*seconds.values())]
        print(
            f'sigma {sigma:g}: {statistics.median(seconds[D]):.2f} s, ratio {statistics.median(ratio):.2f}, quartiles',
            *(f'{q:.2f}' for q in statistics.quantiles(ratio, n=4)),
        )
        assert statistics.median(ratio) >= 1.5
        right, got = brute(x[:3].double(), images, sigma), D(x[:3].double(), sigma)
        assert ((got - right).flatten(1).norm(dim=1) / right.flatten(1).norm(dim=1)).max() < 1e-6
