"Four searches, one answer: which of them is asked, how often the float one looks, on a GPU, on real images."

import sys
import time

import numpy as np
import pytest
import torch

from ambient_nb import bytesearch, memorization, neighbours, steps
from ambient_nb.core import rng
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


@pytest.fixture
def no_bytes(monkeypatch):
    "A processor that is slow at products of bytes."
    monkeypatch.setattr(neighbours, 'multiplies_bytes', lambda: False)


needs_bytes = pytest.mark.skipif(not neighbours.multiplies_bytes(), reason='no VNNI: bytes are multiplied as floats')


@needs_bytes
def test_bytes_need_no_floats(monkeypatch):
    base, queries = byte_images(700, 3, 8, 8), byte_images(600, 3, 8, 8, name='q')
    base[600:650] = base[:50]
    truth = brute(queries, base, 3)
    monkeypatch.setattr(neighbours, 'in_floats', None)
    monkeypatch.setattr(memorization, 'nearest', None)
    assert all(torch.equal(a, b) for a, b in zip(neighbours.nearest_exact(queries, base, 3), truth))


@needs_bytes
def test_a_torch_that_multiplies_bytes_wrongly_is_not_asked(monkeypatch):
    right = torch._int_mm
    for wrong in (lambda a, b: right(a, b) + 1, lambda a, b: right(a, b).clamp(max=2**15 - 1)):
        monkeypatch.setattr(torch, '_int_mm', wrong)
        assert not bytesearch.multiplies_bytes.__wrapped__()
    monkeypatch.setattr(torch, '_int_mm', right)
    assert bytesearch.multiplies_bytes.__wrapped__()


@needs_bytes
@pytest.mark.parametrize('d', [1, neighbours.WIDEST + 1])
def test_rows_that_bytes_cannot_take_go_another_way(d, monkeypatch):
    base = byte_images(40, d)
    monkeypatch.setattr(neighbours, 'in_bytes', None)
    assert torch.equal(neighbours.nearest_exact(base[:5], base, 1)[1], brute(base[:5], base, 1)[1])


def features(n, d, name='f', tails=0.0):
    "Rows of very unequal sizes; with tails, also numbers in a row."
    size, x = (torch.randn(n, m, generator=rng(0, name, m)).double() for m in (1, d))
    return x * (size + tails * x).exp()


@needs_bytes
@pytest.mark.parametrize('d', [2, 33, 700])
@pytest.mark.parametrize('tails', [0.0, 1.0])
@pytest.mark.parametrize('tile', [16, 512])
def test_proposals_in_bytes_lose_no_neighbour(d, tails, tile, monkeypatch):
    "Of rows of any size: wide and narrow, zero, doubled, far from the centre, equal in bytes; tiles smaller than k."
    monkeypatch.setattr(steps.in_steps, '__defaults__', (0.0, tile))
    base, queries = features(900, d, tails=tails), features(70, d, 'q', tails)
    base[100:150], base[7], base[8], base[9] = base[:50], 0.0, base.mean(0), 1e3
    queries[:30], queries[30], queries[31] = base[120:150] + 1e-9, 0.0, -1e3
    for dtype in (torch.float32, torch.float64):
        q, b = queries.to(dtype), base.to(dtype)
        for k in (1, 2, 20):
            exact = (q.double()[:, None] - b.double()).square().sum(2).sort(dim=1, stable=True)
            squared, positions = neighbours.by_steps(q, b, k)
            assert torch.equal(positions, exact.indices[:, :k])
            assert torch.allclose(squared, exact.values[:, :k], rtol=1e-12, atol=0)


@needs_bytes
@pytest.mark.parametrize('fine', ['queries', 'base', 'neither'])
def test_bounds_hold_where_steps_are_as_coarse_as_distances(fine):
    "Nearly every rounding that can happen does: a bound that is too narrow anywhere loses a neighbour."
    for seed in range(20):
        base, queries = (100 * torch.rand(n, 2, generator=rng(seed, 'coarse', n)) for n in (14, 500))
        for x, name in ((base, 'base'), (queries, 'queries')):
            x[0], x[:, 1] = 127.0, 0.0  # a line of 127 steps, and distances of many
            if name == fine:
                x[:, 0] = 50 + x[:, 0] / 40
        exact = (queries.double()[:, None] - base.double()).square().sum(2).sort(dim=1, stable=True)
        for k in (1, 2, 6):
            assert torch.equal(neighbours.by_steps(queries, base, k)[1], exact.indices[:, :k])


@pytest.mark.parametrize('fast', [pytest.param(True, marks=needs_bytes), False])
def test_order_that_float32_does_not_see(fast):
    "Features around a query, each farther than the last by a billionth."
    x = torch.randn(200, 2000, generator=rng(0, 'order'), dtype=torch.float64)
    order = torch.randperm(200, generator=rng(0, 'radius'))
    x[order] = torch.nn.functional.normalize(x[order], dim=1) * (1 + 1e-9 * torch.arange(200).double())[:, None]
    search = neighbours.by_steps if fast else lambda *a: neighbours.in_floats(faiss, *a)
    for k in (1, 2, 5, 20, 60):
        assert search(torch.zeros(2, 2000, dtype=torch.float64), x, k)[1].tolist() == [order[:k].tolist()] * 2


def test_proposals_that_float32_takes_for_equal_are_all_measured(monkeypatch):
    "Ten features around a query, each farther than the last by a billionth, the others far: one look proves them."
    calls, knn = [], faiss.knn
    monkeypatch.setattr(faiss, 'knn', lambda x, y, m: calls.append(m) or knn(x, y, m))
    x = torch.randn(200, 2000, generator=rng(0, 'billionths'), dtype=torch.float64)
    order = torch.randperm(200, generator=rng(0, 'ten'))[:10]
    x[order] = torch.nn.functional.normalize(x[order], dim=1) * (1 + 1e-9 * torch.arange(10).double())[:, None]
    for k in (1, 2, 5):
        assert neighbours.proved(faiss, torch.zeros(1, 2000, dtype=torch.float64), x, k)[1].tolist() == [
            order[:k].tolist()
        ]
    assert calls == [16] * 3


@needs_bytes
def test_the_rest_of_a_row_is_measured_for_every_row():
    "A bound that held for most rows would lose the neighbours of the others."
    x = features(600, 50, tails=1.0)
    frame = steps.Frame.of(x)
    for part in steps.in_steps(x, frame, frame.peaks(x), least=0.01, tile=64):
        rest = (x[part.positions] * frame.scale - frame.centre) - part.step * part.rows.double()
        assert rest.norm(dim=1).max() <= part.error and part.step >= 0.01


@needs_bytes
def test_long_rows_propose_in_bytes_where_few_neighbours_are_asked_for(monkeypatch):
    asked, right = [], neighbours.by_steps
    monkeypatch.setattr(neighbours, 'by_steps', lambda q, b, k: asked.append((b.shape[1], k)) or right(q, b, k))
    for d, k in ((512, 4), (511, 1), (512, 5), (600, 1)):
        x = torch.randn(40, d, generator=rng(0, 'long', d))
        found, truth = neighbours.nearest_exact(x[:9], x, k), memorization.nearest(x[:9], x, k)
        assert torch.equal(found[1], truth[1])
    assert asked == [(512, 4), (600, 1)]
    monkeypatch.setitem(sys.modules, 'faiss', None)  # then also short rows: the alternative is float64
    neighbours.nearest_exact(x[:9, :20], x[:, :20], 9)
    assert asked[2:] == [(20, 9)]
    monkeypatch.setattr(neighbours, 'multiplies_bytes', lambda: False)
    neighbours.nearest_exact(x[:9], x, 1)
    assert len(asked) == 3


@needs_bytes
@pytest.mark.parametrize('with_faiss', [True, False])
def test_a_crowd_is_left_to_the_next_search(with_faiss, monkeypatch):
    if not with_faiss:
        monkeypatch.setitem(sys.modules, 'faiss', None)
    monkeypatch.setattr(steps, 'OPEN_PAIRS', 200)
    x = 1 + 1e-6 * torch.randn(60, 600, generator=rng(0, 'crowd'))
    x[0] = 9.0
    assert neighbours.by_steps(x, x, 1) is None
    found, truth = neighbours.nearest_exact(x, x, 2), memorization.nearest(x, x, 2)
    assert torch.equal(found[1], truth[1]) and torch.equal(found[0], truth[0])


@pytest.mark.parametrize('fast', [True, False])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
def test_a_set_compared_with_itself(fast, dtype, monkeypatch):
    if not fast:
        monkeypatch.setattr(neighbours, 'multiplies_bytes', lambda: False)
    x = byte_images(1300, 3, 4, 4).to(dtype)
    x[700:720] = x[3]  # more doubles than neighbours asked for
    found, truth = neighbours.nearest_exact(x, x, 5), neighbours.nearest_exact(x, x.clone(), 5)
    assert all(torch.equal(a, b) for a, b in zip(found, truth))
    whole = torch.cdist(x.flatten(1).double(), x.flatten(1).double(), compute_mode='donot_use_mm_for_euclid_dist')
    exact = whole.sort(dim=1, stable=True)
    assert torch.equal(found[1], exact.indices[:, :5]) and torch.allclose(found[0], exact.values[:, :5])
    assert found[1][710].tolist() == [3, 700, 701, 702, 703]


def test_what_is_measured_again_takes_no_memory(no_bytes):
    "Blocks that are freed between small ones that stay can be lost to the allocator: 5 GB for 10,000 queries once."
    resource = pytest.importorskip('resource')
    base = torch.nn.functional.normalize(torch.randn(3000, 3072, generator=rng(0, 'memory')), dim=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    neighbours.nearest_exact(base, base.clone(), 2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 * 2**10  # KiB; 130 MB are the floats


def test_one_look_is_enough_for_bright_images(monkeypatch, no_bytes):
    "Without the centre the bound would be too wide to prove anything."
    calls, knn = [], faiss.knn
    monkeypatch.setattr(faiss, 'knn', lambda x, y, m: calls.append(m) or knn(x, y, m))
    base, queries = (byte_images(n, 3, 32, 32, name=name) // 32 + 248 for n, name in ((300, 'bright'), (30, 'q')))
    base[:30, :, :16] = queries[:, :, :16]
    base[30:60, :, :12] = queries[:, :, :12]
    assert neighbours.nearest_exact(queries, base, 2)[1].tolist() == [[i, 30 + i] for i in range(30)] and calls == [16]


def test_parts_are_merged(monkeypatch, no_bytes):
    "A training set that does not fit into one part, the last one shorter than k."
    base, queries = byte_images(103, 3, 4, 4), byte_images(10, 3, 4, 4, name='q')
    base[60:70] = base[:10]
    sizes = []
    proved = neighbours.proved
    monkeypatch.setattr(neighbours, 'PART', 48 * 20)
    monkeypatch.setattr(neighbours, 'proved', lambda f, q, b, k: sizes.append(len(b)) or proved(f, q, b, k))
    for k in (1, 4, 30):
        sizes.clear()
        assert all(
            torch.equal(a, b) for a, b in zip(neighbours.nearest_exact(queries, base, k), brute(queries, base, k))
        )
        assert sum(sizes) == 103 and min(sizes) >= k and len(sizes) > 1


def test_without_faiss_the_answers_are_the_same(monkeypatch, no_bytes):
    base, queries = byte_images(200, 3, 8, 8), byte_images(20, 3, 8, 8, name='q')
    fast = neighbours.nearest_exact(queries, base, 3)
    monkeypatch.setitem(sys.modules, 'faiss', None)
    called = []
    slow = memorization.nearest
    monkeypatch.setattr(memorization, 'nearest', lambda *a, **k: called.append(1) or slow(*a, **k))
    assert all(torch.equal(a, b) for a, b in zip(fast, neighbours.nearest_exact(queries, base, 3))) and called == [1]


@pytest.mark.gpu
def test_on_a_gpu():
    base, queries = byte_images(500, 3, 8, 8), byte_images(20, 3, 8, 8, name='q')
    assert all(
        torch.equal(a, b.cpu())
        for a, b in zip(neighbours.nearest_exact(queries, base), neighbours.nearest_exact(queries.cuda(), base.cuda()))
    )


@pytest.mark.real_data
def test_real_images_equal_brute_force(data_dir):
    train, test = (read_zip(data_dir / f'cifar10-32x32-{s}.zip').pixels for s in ('train', 'test'))
    queries = torch.cat([test[:100], train[[3, 4999]]])
    assert all(
        torch.equal(a, b)
        for a, b in zip(neighbours.nearest_exact(queries, train[:5000], 16), brute(queries, train[:5000], 16))
    )


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.timeout(900)
def test_all_of_cifar10_equals_brute_force_several_times_as_fast_as_faiss(data_dir):
    "In CPU time, the two in turn, faiss given floats; where the processor is slow at bytes, as fast as faiss."
    train, test = (read_zip(data_dir / f'cifar10-32x32-{s}.zip').pixels for s in ('train', 'test'))
    found = neighbours.nearest_exact(test, train)
    assert all(torch.equal(a, b) for a, b in zip(found, brute(test, train, 2, rows=500)))
    x, y, seconds = test[:2000].flatten(1).float().numpy(), train.flatten(1).float().numpy(), []

    def alone():
        index = faiss.IndexFlatL2(3072)
        index.add(y)
        index.search(x, 2)

    threads = torch.get_num_threads()
    torch.set_num_threads(faiss.omp_get_max_threads())
    try:
        for _ in range(5):
            for search in (alone, lambda: neighbours.nearest_exact(test[:2000], train)):
                start = time.process_time()
                search()
                seconds.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    times = 3.5 if neighbours.multiplies_bytes() else 1 / 1.15
    assert times * np.median(seconds[1::2]) <= np.median(seconds[::2])


def test_a_space_searched_in_itself_as_in_any_other(monkeypatch):
    "In one piece where it is bytes and small enough, else part by part."
    from ambient_nb import copies

    x, pieces = byte_images(90, 3, 4, 4), []
    right = copies.nearest_exact
    monkeypatch.setattr(copies, 'nearest_exact', lambda q, b, k: pieces.append(q is b) or right(q, b, k))
    monkeypatch.setattr(copies, 'QUERY_PART', 48 * 40)
    space, other = (copies.Space(x, lambda u: u.flatten(1), 48) for _ in range(2))
    truth = copies.search(space, other, 7)
    assert pieces == [False] * 9
    for limit, expected in ((2**28, [neighbours.multiplies_bytes()]), (48 * 89, [False] * 9)):
        pieces.clear()
        monkeypatch.setattr(copies, 'ITSELF', limit)
        assert all(torch.equal(a, b) for a, b in zip(copies.search(space, space, 7), truth))
        assert pieces == (expected if expected[0] or len(expected) > 1 else [False] * 9)
