"Three searches, one answer: which of them is asked, how often the float one looks, on a GPU, on real images."

import sys
import time

import numpy as np
import pytest
import torch

from ambient_nb import memorization, neighbours
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
        assert not neighbours.multiplies_bytes.__wrapped__()
    monkeypatch.setattr(torch, '_int_mm', right)
    assert neighbours.multiplies_bytes.__wrapped__()


@needs_bytes
@pytest.mark.parametrize('d', [1, neighbours.WIDEST + 1])
def test_rows_that_bytes_cannot_take_go_another_way(d, monkeypatch):
    base = byte_images(40, d)
    monkeypatch.setattr(neighbours, 'in_bytes', None)
    assert torch.equal(neighbours.nearest_exact(base[:5], base, 1)[1], brute(base[:5], base, 1)[1])


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
