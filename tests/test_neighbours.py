"The fast neighbours are the exact ones, whatever float32 does."

import sys
import time

import numpy as np
import pytest
import torch

from ambient_nb import memorization, neighbours
from ambient_nb.core import BadInput, rng
from ambient_nb.data import read_zip

faiss = pytest.importorskip('faiss')


def byte_images(*shape, name='x'):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng(0, 'knn', name))


def brute(queries, base, k, rows=100):
    "Whole-number distances (float64 holds them exactly), distance first, then position."
    q, b, found = queries.flatten(1).double(), base.flatten(1).double(), []
    for part in q.split(rows):
        squared = part.square().sum(1, keepdim=True) - 2 * part @ b.T + b.square().sum(1)
        best = (squared.long() * len(b) + torch.arange(len(b))).topk(k, largest=False).values
        found.append((best.div(len(b), rounding_mode='floor').double().sqrt(), best % len(b)))
    return torch.cat([d for d, _ in found]), torch.cat([i for _, i in found])


@pytest.mark.parametrize('shape', [(3, 32, 32), (1, 8, 8), (1, 1, 1), (3, 60, 60)])
@pytest.mark.parametrize('k', [1, 2, 30])
def test_bytes_equal_brute_force_with_ties_and_copies(shape, k):
    base = byte_images(300, *shape)
    base[200:250] = base[:50]
    queries = torch.cat([base[[7, 207, 150]], base[:20] // 2, byte_images(25, *shape, name='q')])
    d, i = neighbours.nearest(queries, base, k)
    truth = brute(queries, base, k)
    assert torch.equal(i, truth[1]) and torch.equal(d, truth[0]) and (d[:3, 0] == 0).all()


def test_black_and_white_do_not_overflow_the_whole_numbers():
    base = torch.stack([torch.zeros(3, 64, 64), torch.full((3, 64, 64), 255), torch.full((3, 64, 64), 254)]).to(
        torch.uint8
    )
    d, i = neighbours.nearest(base[:1], base, 3)
    assert i.tolist() == [[0, 2, 1]] and d[0].square().tolist() == pytest.approx(
        [0, 12288 * 254**2, 12288 * 255**2], rel=1e-15
    )


def test_more_ties_than_proposals():
    "100 equal images: the first ones must win, though sixteen proposals see any of them."
    base = torch.cat([byte_images(50, 3, 8, 8), byte_images(1, 3, 8, 8, name='tie').expand(100, -1, -1, -1)])
    d, i = neighbours.nearest(base[-1:], base, 3)
    assert i.tolist() == [[50, 51, 52]] and (d == 0).all()
    features = base.flatten(1).double() / 7
    assert neighbours.nearest(features[-1:], features, 3)[1].tolist() == [[50, 51, 52]]


def test_exact_ties_that_float32_tells_apart():
    "Shuffled pixels of one image are equally far from any plain grey: the order is that of position."
    x = byte_images(1, 12288)[0]
    base = torch.stack(
        [x[torch.randperm(12288, generator=rng(0, 'shuffle', i))] for i in range(12)]
        + list(byte_images(30, 12288, name='far') // 128 * 255)
    )
    grey = torch.arange(80, 140, 2, dtype=torch.uint8)[:, None].expand(-1, 12288).contiguous()
    assert neighbours.nearest(grey, base, 12)[1].tolist() == [list(range(12))] * 30


def test_one_look_is_enough_for_bright_images(monkeypatch):
    "Without the centre the bound would be too wide to prove anything."
    calls, knn = [], faiss.knn
    monkeypatch.setattr(faiss, 'knn', lambda x, y, m: calls.append(m) or knn(x, y, m))
    base, queries = (byte_images(n, 3, 32, 32, name=name) // 32 + 248 for n, name in ((300, 'bright'), (30, 'q')))
    base[:30, :, :16] = queries[:, :, :16]
    base[30:60, :, :12] = queries[:, :, :12]
    assert neighbours.nearest(queries, base, 2)[1].tolist() == [[i, 30 + i] for i in range(30)] and calls == [16]


def test_a_neighbour_that_float32_hides_is_found():
    "100 images so far out that float32 cannot tell their distances apart: the search must notice and look further."
    base = 1e4 + 1e-5 * torch.randn(100, 16, generator=rng(0, 'hidden'), dtype=torch.float64)
    base = torch.cat([base, -base])
    queries = base[50:80] + 1e-7
    truth = (queries[:, None] - base[None]).square().sum(2).sort(dim=1, stable=True)
    assert torch.equal(neighbours.nearest(queries, base, 2)[1], truth.indices[:, :2])
    assert neighbours.nearest(queries, base, 2)[1][:, 0].tolist() == list(range(50, 80))


@pytest.mark.parametrize('scale', [1e-12, 1.0, 1e25])
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_features_equal_the_slow_search(scale, dtype):
    if dtype == torch.float16 and scale != 1:
        pytest.skip('not a float16 number')
    base = (scale * torch.randn(700, 48, generator=rng(0, 'f'), dtype=torch.float64)).to(dtype)
    base[500:550] = base[:50]
    queries = torch.cat(
        [base[:60], (scale * torch.randn(40, 48, generator=rng(0, 'g'), dtype=torch.float64)).to(dtype)]
    )
    for k in (1, 5):
        (d, i), (e, j) = neighbours.nearest(queries, base, k), memorization.nearest(queries, base, k)
        assert torch.equal(i, j) and torch.allclose(d, e, rtol=1e-12, atol=0) and d.dtype == torch.float64
    assert (d[:60, 0] == 0).all()


def test_parts_are_merged(monkeypatch):
    "A training set that does not fit into one part, the last one shorter than k."
    base, queries = byte_images(103, 3, 4, 4), byte_images(10, 3, 4, 4, name='q')
    base[60:70] = base[:10]
    sizes = []
    proved = neighbours.proved
    monkeypatch.setattr(neighbours, 'PART', 48 * 20)
    monkeypatch.setattr(neighbours, 'proved', lambda f, q, b, k: sizes.append(len(b)) or proved(f, q, b, k))
    for k in (1, 4, 30):
        sizes.clear()
        assert all(torch.equal(a, b) for a, b in zip(neighbours.nearest(queries, base, k), brute(queries, base, k)))
        assert sum(sizes) == 103 and min(sizes) >= k and len(sizes) > 1


def test_the_error_bound_holds():
    "Measured float32 errors stay below the formula, and the formula is not far above the worst."
    base, queries = byte_images(400, 3, 32, 32), byte_images(50, 3, 32, 32, name='q')
    fq, fb, _ = neighbours.centred(queries.flatten(1), base.flatten(1))
    rough = (fq.square().sum(1, keepdim=True) - 2 * fq @ fb.T + fb.square().sum(1)).double()
    exact = neighbours.squared_distances(queries.flatten(1), base.flatten(1), torch.arange(400).expand(50, -1))
    bound = neighbours.worst_case(fq.double().norm(dim=1)[:, None], exact, 3072) - exact
    assert ((rough - exact).abs() <= bound).all() and (rough - exact).abs().max() > 0


def test_without_faiss_the_answers_are_the_same(monkeypatch):
    base, queries = byte_images(200, 3, 8, 8), byte_images(20, 3, 8, 8, name='q')
    fast = neighbours.nearest(queries, base, 3)
    monkeypatch.setitem(sys.modules, 'faiss', None)
    called = []
    slow = memorization.nearest
    monkeypatch.setattr(memorization, 'nearest', lambda *a, **k: called.append(1) or slow(*a, **k))
    assert all(torch.equal(a, b) for a, b in zip(fast, neighbours.nearest(queries, base, 3))) and called == [1]


@pytest.mark.gpu
def test_on_a_gpu():
    base, queries = byte_images(500, 3, 8, 8), byte_images(20, 3, 8, 8, name='q')
    assert all(
        torch.equal(a, b.cpu())
        for a, b in zip(neighbours.nearest(queries, base), neighbours.nearest(queries.cuda(), base.cuda()))
    )


def test_refuses_as_the_slow_search_does():
    x = byte_images(20, 3, 4, 4)
    for q, b, k in (
        (x, x, 0),
        (x, x, 21),
        (x.float(), x, 2),
        (x[:, :, :2], x, 2),
        (torch.full((2, 3), torch.nan), torch.ones(4, 3), 1),
        (x, x[:0], 1),
    ):
        with pytest.raises(BadInput):
            neighbours.nearest(q, b, k)
    assert neighbours.nearest(x[:0], x, 2)[0].shape == (0, 2) and neighbours.nearest(x[:1], x[:1], 1)[1].tolist() == [
        [0]
    ]


@pytest.mark.real_data
def test_real_images_equal_brute_force(data_dir):
    train, test = (read_zip(data_dir / f'cifar10-32x32-{s}.zip').pixels for s in ('train', 'test'))
    queries = torch.cat([test[:100], train[[3, 4999]]])
    assert all(
        torch.equal(a, b)
        for a, b in zip(neighbours.nearest(queries, train[:5000], 16), brute(queries, train[:5000], 16))
    )


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.timeout(900)
def test_all_of_cifar10_equals_brute_force_at_the_speed_of_faiss(data_dir):
    train, test = (read_zip(data_dir / f'cifar10-32x32-{s}.zip').pixels for s in ('train', 'test'))
    assert all(torch.equal(a, b) for a, b in zip(neighbours.nearest(test, train), brute(test, train, 2, rows=500)))
    x, y, seconds = test[:2000].flatten(1).float().numpy(), train.flatten(1).float().numpy(), []

    def alone():
        index = faiss.IndexFlatL2(3072)
        index.add(y)
        index.search(x, 2)

    threads = torch.get_num_threads()
    torch.set_num_threads(faiss.omp_get_max_threads())
    try:
        for _ in range(5):
            for search in (alone, lambda: neighbours.nearest(test[:2000], train)):
                start = time.perf_counter()
                search()
                seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    assert np.median(seconds[1::2]) <= 1.15 * np.median(seconds[::2])
