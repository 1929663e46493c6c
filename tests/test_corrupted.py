"Networks of corrupted images along training: who is trained on what, how they are asked, and what the rows say."

import numpy as np
import pytest
from page_rows import judged, rows_of

from ambient_nb.core import BadInput
from ambient_nb.corrupted import AMBIENT_TRAIN, HOLES_STOP, corrupted_runs, runs_cost, run_sampler
from ambient_nb.corruption_figures import arms_in, final_look
from ambient_nb.endpoints import at_copying, stopped_early
from ambient_nb.frontier_figures import seed_curves
from ambient_nb.plans import forward_flops
from ambient_nb.protocols import protocol
from ambient_nb.restorers import restoration_losses
from ambient_nb.sampling import heun

PAGES = ('ambient_fig5', 'ambient_table2')
SMALL = dict(dataset='digits', n=50, iters=8, batch=8, looks=4, samples=10, steps=3)
LOSSES = restoration_losses((0.4, 0.8), (), (0.2,))


def test_a_seed_has_images_of_its_own_and_arms_share_them():
    runs = corrupted_runs('smoke', LOSSES, (1, 2, 3), **SMALL)
    ids = {seed: {*runs['whole images', seed].images.ids.tolist()} for seed in (1, 2, 3)}
    assert len(set.union(*ids.values())) == 150
    assert all({*run.images.ids.tolist()} == ids[seed] for (_, seed), run in runs.items())
    assert len({run.key for run in runs.values()}) == len(runs)
    assert all(run.snapshots == (2, 4, 6, 8) for run in runs.values())


def test_each_network_is_asked_only_what_it_was_taught():
    runs = corrupted_runs('smoke', LOSSES, (1,), **SMALL)
    whole, masked, noisy = (runs[name, 1] for name in ('whole images', 'masked, p = 0.8', 'noisy, sigma_n = 0.2'))
    assert run_sampler(whole) is run_sampler(whole, 'to the end') is run_sampler(noisy, 'to the end') is heun
    assert run_sampler(noisy).keywords['sigma_n'] == 0.2
    used, paper = (run_sampler(masked, way).keywords for way in ('used', 'to the end'))
    assert used['sampler'].keywords == dict(sigma_n=HOLES_STOP) and paper['sampler'] is heun
    assert used['operator'].p == 0.8 and used['operator'] == paper['operator']
    assert used['operator'].seed != masked.config.loss.made().seed  # no mask of the training set


def test_the_papers_profile_is_counted_before_anything_is_done():
    budget = dict(dataset='celeba', n=3000, iters=AMBIENT_TRAIN.iters, batch=256, looks=8, samples=10_000, steps=18)
    runs = [*corrupted_runs('paper', LOSSES, (1, 2), **budget).values()]
    flops, told = forward_flops(AMBIENT_TRAIN.net, (3, 64, 64)), runs_cost(runs)
    training, sampling = 8 * 3 * 200e6 * flops, 8 * 8 * 10_000 * 35 * flops
    assert told['operations'] == f'{training / 1e15:,.3g} PFLOP of training, {sampling / 1e15:,.3g} of sampling'
    assert told['on an H200'].startswith('about ') and runs[0].config.lr == 2e-4


@pytest.mark.parametrize(
    'name, change',
    [('network', dict(network='huge')), ('dataset', dict(dataset='faces')), ('looks', dict(looks=0))]
    + [
        ('seeds', dict(seeds=(0,))),
        ('looks', dict(looks=9)),
        ('p', dict(ps=(1.0,))),
        ('sigma_n', dict(sigmas=(-1.0,))),
    ],
)
def test_bad_input_is_named(name, change):
    network, seeds = change.pop('network', 'smoke'), change.pop('seeds', (1,))
    with pytest.raises(BadInput, match=f'{name} must be'):
        losses = restoration_losses(change.pop('ps', ()), (), change.pop('sigmas', ()))
        corrupted_runs(network, losses, seeds, **SMALL | change)


@pytest.mark.parametrize('item', PAGES)
def test_every_claim_is_judged_by_todays_rule(item):
    assert all(r.kind == 'pair' and 'margin' in r.detail for r in judged(item).values())


@pytest.mark.parametrize('item', PAGES)
def test_a_difference_is_that_of_the_rows_beside_it(item):
    rows = rows_of(item)
    asked = [r for r in rows if r.kind == 'pair' and not r.labels['method'].startswith(('equal', 'stopped'))]
    assert asked
    for r in asked:
        a, b = (final_look(rows, arm, r.labels['metric']).detail['values'] for arm in r.labels['pair'].split(' − '))
        assert r.detail['values'] == pytest.approx(np.subtract(a, b), abs=1e-12), r.id


def test_the_rival_that_stops_earlier_follows_from_the_curves():
    rows, rules = rows_of('ambient_fig5'), protocol('frontier', 'digits')
    curves = {arm: seed_curves(rows, arm, copying='copying', samples=500) for arm in arms_in(rows)}
    rivals = [r for r in rows if r.labels['method'].startswith(('equal-copying', 'stopped-early'))]
    assert rivals
    for r in rivals:
        arm, base = r.labels['pair'].rpartition(', ')[0].split(' − ')
        values = []
        for a, b in zip(curves[arm], curves[base]):
            if r.labels['method'].startswith('stopped'):
                values.append(stopped_early(a, rules.early) - stopped_early(b, rules.early))
                continue
            apart = at_copying(a, rules.levels) - at_copying(b, rules.levels)
            values.append(np.nanmean(apart) if np.isfinite(apart).sum() >= 2 else np.nan)
        assert r.detail['values'] == pytest.approx([v for v in values if np.isfinite(v)], abs=1e-9), r.id


@pytest.mark.parametrize('item', PAGES)
def test_rows_keep_what_a_figure_needs(item):
    rows = rows_of(item)
    for arm in [*arms_in(rows), 'held-out images']:
        shares = final_look(rows, arm, 'similarity').detail['histogram']
        assert len(shares) == 100 and sum(shares) == pytest.approx(1, abs=1e-4), arm
