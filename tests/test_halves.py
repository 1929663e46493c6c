"Networks on disjoint sets: what a pair is, what its interval knows, and what committed rows must say of each other."

import importlib.util
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from tree import NBS, ROOT

from ambient_nb import halves_figures
from ambient_nb.core import BadInput
from ambient_nb.frontier import frontier_runs
from ambient_nb.halves import TAUS, directions_from, disjoint_pairs, like_own, over_pairs, shares_within
from ambient_nb.halves_rows import before_copying, growing_rows, minus, questions
from ambient_nb.protocols import protocol
from ambient_nb.rows import METHODS, committed, load_rows, save_rows
from ambient_nb.tables import NO_ROWS


def stored(dataset: str = 'digits') -> dict:  # id -> row
    return {r.id: r for r in committed('repro_halves', 'custom') if r.labels['dataset'] == dataset}


def by_key(row) -> dict:  # pair or seed -> number
    keys = [tuple(pair) for pair in row.detail['pairs']] if 'pairs' in row.detail else row.detail['of_seeds']
    return dict(zip(keys, row.detail['values'], strict=True))


@pytest.mark.parametrize('n', [50, 100, 300])
def test_a_pair_has_no_image_in_common(n):
    "No number of an image, and no two images that are equal; a pair that is left out has one."
    runs = {s: run for (size, arm, s), run in frontier_runs(protocol(dataset='digits'), 0.2).items() if size == n}
    seen = {s: {x.numpy().tobytes() for x in run.images.pixels} for s, run in runs.items()}
    pairs = disjoint_pairs(runs)
    assert pairs == [(a, b) for a, b in combinations(runs, 2) if not seen[a] & seen[b]]


def test_the_interval_knows_that_pairs_share_networks():
    "Where only networks decide, all pairs of eight say as much as eight numbers: no more."
    own = {s: (s * 37 % 11) / 7 for s in range(8)}
    e = over_pairs({(a, b): own[a] + own[b] for a, b in combinations(own, 2)})
    half = student.ppf(0.975, 7) * 2 * np.std([*own.values()], ddof=1) / np.sqrt(8)
    assert (e.hi - e.value, e.value) == (pytest.approx(half), pytest.approx(2 * np.mean([*own.values()])))
    assert (e.n, e.over) == (8, 'seeds') and over_pairs({(1, 2): 0.1, (1, 3): 0.2, (1, 4): 0.3}).lo is None


@pytest.mark.parametrize('bad', [{}, {(1, 2): float('nan')}])
def test_pairs_without_numbers_are_refused(bad):
    with pytest.raises(BadInput, match='a finite number for each of one or more pairs'):
        over_pairs(bad)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(BadInput, match='64 numbers each'):
        directions_from(torch.zeros(3, 1, 4, 4), torch.zeros(1, 8, 8))
    with pytest.raises(BadInput, match='at least one sample'):
        shares_within(np.array([]), np.ones(3))


def test_copies_of_ones_own_images_are_own():
    run = frontier_runs(protocol(dataset='digits'), 0.2)[50, 'baseline', 2]
    other = frontier_runs(protocol(dataset='digits'), 0.2)[50, 'baseline', 3]
    view = lambda images: directions_from(images.float(), run.heldout.pixels.float().mean(0))  # noqa: E731
    assert like_own(run.images.pixels, run, view).min() > 1 - 1e-9
    assert like_own(other.images.pixels, run, view).max() < 0.999
    assert (
        view(run.heldout.pixels).mean(0).norm() < 0.1
    )  # around the centre directions cancel; from zero they would not


def test_the_checkpoint_before_copying_asks_for_the_mean_of_all_seeds():
    curves = [[dict(copying=c) for c in shares] for shares in ((0.0, 0.0, 0.0, 0.5), (0.01, 0.04, 0.05, 0.6))]
    assert before_copying(curves, 0.02) == 1 and before_copying(curves, 0.0) is None


def test_what_the_claims_are_differences_of():
    "Later minus earlier, networks minus closed form, two-regime minus baseline; nothing of a checkpoint that is not."
    numbers = iter((0.9, 0.5, 0.8, 0.6))
    seen = {(m, i): dict(alike={(1, 2): next(numbers)}, gap={(1, 2): -0.1 * i}) for m in METHODS for i in (0, 1)}
    asked = questions(
        seen, {'exact denoiser': dict(alike={(1, 2): 0.3, (1, 3): 0.4})}, 1, dict(zip(METHODS, (0, None)))
    )
    told = {(topic, method): values[1, 2] for topic, _, method, _, values in asked}
    assert told == pytest.approx(
        {
            ('copies', 'baseline'): -0.1,
            ('copies', 'two-regime'): -0.1,
            ('torn', 'baseline'): -0.4,
            ('noise', 'baseline'): 0.6,
            ('method', 'two-regime − baseline'): 0.1,
        }
    )


def test_committed_verdicts_follow_from_committed_rows():
    rows = stored()
    judged = [r for r in rows.values() if r.claim and r.labels['topic'] != 'growing']
    assert {r.labels['topic'] for r in judged} == {'copies', 'torn', 'noise', 'method'}
    for r in judged:
        n, method, it = (r.labels[k] for k in ('n', 'method', 'it'))
        at = lambda m, i, n=n: by_key(rows[f'halves/digits/{n}/{m}/{i}/alike'])  # noqa: E731
        calm, *_ = halves_figures.judged_steps([r for r in rows.values() if r.labels['n'] == n], method) or (None,)
        wanted = {
            'copies': lambda: by_key(rows[f'halves/digits/{n}/{method}/{it}/gap']),
            'torn': lambda: minus(at(method, it), at(method, calm)),
            'noise': lambda: minus(at(method, it), at('exact denoiser', 0)),
            'method': lambda: minus(at('two-regime', it), at('baseline', it)),
        }[r.labels['topic']]()
        assert by_key(r) == pytest.approx(wanted, abs=2e-6), r.id
        assert r.ours.value == pytest.approx(over_pairs(wanted).value, abs=2e-6)


def test_committed_sizes_are_compared_after_as_many_epochs():
    rows = stored()
    growing = [r for r in rows.values() if r.labels['topic'] == 'growing']
    assert {(r.labels['method'], r.labels['metric']) for r in growing} == {
        (m, of) for m in METHODS for of in ('alike', 'own')
    }
    for r in growing:
        method, metric = r.labels['method'], r.labels['metric']
        small, large = (by_key(rows[f'halves/digits/{n}/{method}/{it}/{metric}']) for n, it in ((50, 407), (100, 815)))
        assert by_key(r) == pytest.approx(minus(large, small), abs=2e-6)


def test_the_larger_size_loses_the_smaller():
    "Method by method and pair by pair, of networks of both; nothing where there is one size."
    p = protocol(dataset='digits')
    there = {n: {m: {} for m in METHODS} for n in (100, 50)}
    for (n, method, s), run in frontier_runs(p, 0.2).items():
        if n in there and method in METHODS and s in (1, 2):
            there[n][method][s] = run
    told = {(50, METHODS[0]): (0.1, 0.2), (50, METHODS[1]): (0.3, 0.4)}
    told |= {(100, METHODS[0]): (0.6, 0.8), (100, METHODS[1]): (0.7, 0.1)}
    ends = {n: {m: dict(alike={(1, 2): told[n, m][0]}, own={1: told[n, m][1]}) for m in METHODS} for n in (100, 50)}
    made = growing_rows(p, there, ends)
    values = {(r.labels['method'], r.labels['metric']): r.detail['values'][0] for r in made}
    first, second = METHODS
    expected = {(first, 'alike'): 0.5, (first, 'own'): 0.6, (second, 'alike'): 0.4, (second, 'own'): -0.3}
    assert values == pytest.approx(expected)
    for r in made:
        assert r.labels['pair'] == f'{r.labels["method"]}, n = 100 − n = 50' and r.claim.startswith('halves/growing/')
        assert set(r.runs) == {run.key for n in (50, 100) for run in there[n][r.labels['method']].values()}
    assert growing_rows(p, there, {50: ends[50]}) == []


def test_committed_ends_are_where_they_must_be():
    "The exact denoiser copies whatever the size, half of the held-out images are within their own median."
    for r in (r for r in stored().values() if r.labels['metric'] == 'within'):
        shares = np.array(r.detail['shares'])
        assert r.detail['taus'] == list(TAUS) and (np.diff(shares, axis=1) >= 0).all()
        assert r.labels['method'] != 'exact denoiser' or shares[:, TAUS.index(0.1)].min() == 1
        assert r.labels['method'] != 'held-out images' or abs(shares[:, TAUS.index(1.0)] - 0.5).max() < 0.005


def test_pictures_of_what_is_there():
    "Nothing, closed forms alone, and networks beside them."
    rows = [r for r in stored().values() if r.labels['n'] in (50, 300)]
    closed = [r for r in rows if not r.runs]
    assert halves_figures.halves_figure([]) == halves_figures.halves_figure(closed) == NO_ROWS
    assert halves_figures.sizes_figure([]) == halves_figures.networks_table([]) == NO_ROWS
    assert (halves_figures.networks_table(closed)['networks of a method'] == 'none yet').all()
    for method in METHODS:
        assert len(halves_figures.judged_steps(rows, method)) == 2 and not halves_figures.judged_steps(closed, method)
    lines = halves_figures.lines_against_sizes(rows, 'alike')
    assert list(lines['exact denoiser']) == [50, 300] and 'baseline, last' in lines
    assert set(halves_figures.halves_claims(closed).verdict) == {'not run'}


def test_the_command_keeps_the_other_data_sets_rows(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location('frontier_tool', ROOT / 'tools' / 'frontier.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    digits = [*stored().values()][:3]
    other = [r for r in load_rows(NBS / 'results' / 'frontier_cifar10.custom.json')][:2]
    file = save_rows(other + digits[:1], tmp_path / 'rows.json')
    monkeypatch.setattr(tool, 'select_sigma', lambda p, out: 0.2)
    monkeypatch.setattr(tool, 'halves_rows', lambda p, sigma, out: digits)
    tool.halves(protocol(dataset='digits'), tmp_path, file)
    assert [r.id for r in load_rows(file)] == [r.id for r in other + digits]
    tool.halves(protocol(dataset='digits'), tmp_path, tmp_path / 'new.json')
    assert len(load_rows(tmp_path / 'new.json')) == 3
