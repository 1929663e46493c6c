"Memorization: clusters are one thing, whatever searches for them."

from functools import partial

import pytest
import torch
from ambient_nb.calibration import authentic, one_third
from ambient_nb.copies import Space, search
from ambient_nb.core import rng
from ambient_nb.data import digits
from ambient_nb.features import PixelEncoder
from ambient_nb.memorization import clusters, first_of, links, nearest, nearest_apart, per_sample
from ambient_nb.neighbours import nearest_exact

POOL, HELDOUT = digits()


def shaken(u, name, most=4):
    return (u + torch.randint(-most, most + 1, u.shape, generator=rng(0, 'twin', name))).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope='module')
def doubled():
    "Digits of which ten stand there twice, one 40 times, and one to the byte 50 times with a near-duplicate."
    x = POOL.pixels[:200]
    many = shaken(x[10:11].repeat(40, 1, 1, 1), 'many')
    return torch.cat([x, shaken(x[:10], 'twice'), many, x[11:12].repeat(50, 1, 1, 1), shaken(x[11:12], 'near')])


def space(u):
    return Space(u, lambda u: u.flatten(1), u[0].numel())


def test_clusters_by_definition(doubled):
    "Pair by pair in whole numbers: all neighbours are known, so no search has to be widened."
    u = doubled.flatten(1).long()
    d = (u[:, None] - u).square().sum(2).double().sqrt()
    n = len(d)
    parent = list(range(n))

    def root(i):
        return i if parent[i] == i else root(parent[i])

    for i in range(n):
        order = sorted((j for j in range(n) if j != i), key=lambda j: float(d[i, j]))
        near = [float(d[i, j]) for j in order]
        for j in range(60, 0, -1):
            if near[j - 1] == 0 or near[j - 1] < near[j] / 3:
                for other in order[:j]:
                    a, b = sorted((root(i), root(other)))
                    parent[b] = a
                break
    truth = [root(i) for i in range(n)]
    found = clusters(doubled)
    assert found.tolist() == truth and len(set(truth)) == 200 and found[200:].unique().tolist() == list(range(12))


def test_whatever_searches(doubled):
    keys = [x.numpy().tobytes() for x in doubled]
    base, look = space(doubled), partial(search, desc='test')
    found = [clusters(doubled, s) for s in (nearest, nearest_exact)] + [clusters(base, look, keys=keys)]
    assert all(torch.equal(found[0], f) for f in found)
    queries = shaken(doubled[:200], 'queries')
    apart = [nearest_apart(queries, doubled, found[0], s) for s in (nearest, nearest_exact)]
    apart.append(nearest_apart(space(queries), base, found[0], look))
    assert all(torch.equal(a, b) for other in apart for a, b in zip(apart[0], other))
    whole = (queries.flatten(1).long()[:, None] - doubled.flatten(1).long()).square().sum(2).double().sqrt()
    own = found[0][whole.argmin(1)]
    d2 = whole.masked_fill(found[0] == own[:, None], torch.inf).min(1).values
    assert torch.equal(apart[0][0][:, 1], d2) and torch.equal(apart[0][0][:, 0], whole.min(1).values)


def test_every_rule_knows_the_clusters(doubled):
    "Near-copies of images that stand in the set 1 to 51 times: memorized and not authentic, all of them."
    copies = shaken(doubled[:20], 'copies')
    assert per_sample(copies, doubled, PixelEncoder(POOL)).memorized.all() and one_third(copies, doubled).all()
    df = authentic(copies, doubled)
    assert not df.authentic.any() and not nearest(copies[:10], doubled)[0].diff(dim=1).gt(30).any()


def test_nothing_changes_where_nothing_repeats():
    pool, new = POOL.pixels, HELDOUT.pixels[:100]
    assert torch.equal(clusters(pool), torch.arange(1000))
    for a, b in zip(nearest_apart(new, pool, clusters(pool)), nearest(new, pool)):
        assert torch.equal(a, b)


@pytest.mark.parametrize('n', range(1, 20))
def test_small_sets(n):
    "Too few to have a seventeenth neighbour."
    u = torch.cat([POOL.pixels[:n], POOL.pixels[:1]])
    assert clusters(u).tolist() == [*range(n), 0] and clusters(POOL.pixels[:n]).tolist() == list(range(n))
    d, near = nearest_apart(u[:1], u, clusters(u))
    assert near[0, 0] == 0 and bool(d[0, 1].isnan()) == (n == 1)


def test_features_cluster_too():
    x = torch.randn(300, 40, generator=rng(0, 'features'))
    doubled = torch.cat([x, x[:20] + 0.01 * torch.randn(20, 40, generator=rng(0, 'noise')), x[:3]])
    assert clusters(doubled).tolist() == [*range(300), *range(20), 0, 1, 2] == clusters(doubled, nearest_exact).tolist()


def test_first_of():
    assert first_of('abca').tolist() == [0, 1, 2, 0]


def test_a_large_set_is_looked_at_in_parts():
    "Every other image stands there twice; what a search gives for all at once would not fit for a million."
    n, asked = 100_000, []
    base = torch.arange(n, dtype=torch.float64)[:, None]

    def pairwise(queries, base, k):
        rows = queries[:, 0].long()
        asked.append(len(rows) * k)
        near = (rows[:, None] + torch.arange(k)) % n
        near[:, 1] = rows ^ 1
        return torch.tensor([0.0, 0.01] + [1e5] * (k - 2), dtype=torch.float64).expand(len(rows), k), near

    first, second = (torch.cat(side) for side in zip(*links([base], base, pairwise, torch.arange(n))))
    assert torch.equal(first, torch.arange(n)) and torch.equal(second, first ^ 1)
    assert max(asked) < 1.1 * 2**20 and sum(asked) == 18 * n
