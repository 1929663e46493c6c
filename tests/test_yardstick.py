"Quality: what an item measures is KID by hand, against the images that it names, and nothing is made up."

from dataclasses import replace

import numpy as np
import pytest

from ambient_nb import collect as collecting, execute
from ambient_nb.collect import collect, measured, pair_rows
from ambient_nb.execute import measure, measure_all, measurement_path, train, trainings
from ambient_nb.frontier_figures import frontier_committed, frontier_figure, headline
from ambient_nb.plans import plan
from ambient_nb.rows import committed
from ambient_nb.tables import COLUMNS, methods_table, pick_rows
from ambient_nb.yardstick import yardstick_for


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "Table 1 in seconds, trained and measured."
    p = plan('table1', n=20, profile='smoke', seeds='0', device='cpu', out=tmp_path_factory.mktemp('yard'))
    for run in trainings(p.runs):
        train(run, p.out, 'cpu')
    for run in p.runs:
        measure_all(run, p.out, 'cpu')
    return p


def kid_by_hand(samples, axes_from, real):
    "The definition, pair by pair, with the axes by a singular value decomposition."
    mean = axes_from.mean(0)
    _, spread, rows = np.linalg.svd(axes_from - mean, full_matrices=False)
    unit = np.sqrt((spread[:64] ** 2).sum() / len(axes_from) / 64)
    x, y = ((f - mean) @ rows[:64].T / unit for f in (samples, real))
    k = [[(a @ b.T / 64 + 1) ** 3 for b in (x, y)] for a in (x, y)]
    own = [(m.sum() - np.trace(m)) / (len(m) * (len(m) - 1)) for m in (k[0][0], k[1][1])]
    return sum(own) - 2 * k[0][1].mean()


def test_an_item_measures_kid_as_it_is_defined_against_all_other_held_out_images(small):
    run, rows = small.runs[0], collect(small)
    held = execute.yardstick_of(run, small.out).heldout.double().numpy()
    images = measure(run, 12, small.out)[2]
    samples = measured(small, small.arms[0]).encoder(images).double().numpy()
    (row,) = pick_rows(rows, method='baseline', it=12, metric='kid')
    assert row.ours.value == pytest.approx(kid_by_hand(samples, held[:199], held[199:]), rel=1e-6)
    assert row.ours.lo < row.ours.value < row.ours.hi and row.ours.over == 'images' and row.ours.n == len(images)
    assert row.ours.value != pytest.approx(kid_by_hand(samples, held[:199], held), rel=1e-3)
    axes, all_of_them = run.heldout.take(range(199)).sha[:12], run.heldout.sha[:12]
    assert row.metric_id.endswith(f'64 axes of {axes}, against {all_of_them}') and row.metric_id.startswith('kid @ ')
    (difference,) = pick_rows(rows, method='difference', it=12, metric='kid')
    (other,) = pick_rows(rows, method='two-regime', it=12, metric='kid')
    assert difference.ours.value == other.ours.value - row.ours.value
    lines = {name: pick_rows(rows, method=name, metric='kid')[0].ours for name in ('held-out', 'training images')}
    assert lines['held-out'].n == lines['training images'].n == run.samples
    assert lines['held-out'].lo < 0 < lines['held-out'].hi and lines['training images'].hi < row.ours.lo


def test_what_was_measured_before_gets_its_kid_from_the_samples_it_kept(small, monkeypatch):
    run = small.runs[0]
    path = measurement_path(run, 8, small.out)
    (file,) = path.parent.glob(f'{path.name}-quality-*.json')
    before, written = measure(run, 8, small.out)[1]['kid'], file.read_bytes()
    file.unlink()
    monkeypatch.setattr(execute, 'sample', lambda *args, **kwargs: pytest.fail('sampled again'))
    assert measure(run, 8, small.out)[1]['kid'] == before and file.read_bytes() == written
    monkeypatch.setattr(execute, 'quality_of', lambda *args: pytest.fail('measured again'))
    assert measure(run, 8, small.out)[1]['kid'] == before


def test_where_there_is_no_yardstick_there_is_no_kid_and_no_column(small, monkeypatch):
    run, usual = small.runs[0], collect(small)
    assert yardstick_for(run.heldout.take(range(39)), measured(small, small.arms[0]).encoder, small.out) is None
    for room in (execute, collecting):
        monkeypatch.setattr(room, 'yardstick_of', lambda *args: None)
    without = collect(small)
    assert [r.id for r in without] == [r.id for r in usual if r.labels['metric'] != 'kid'] and len(usual) > len(without)
    assert (headline(usual), headline(without)) == ('kid', 'frechet')
    has_column = [COLUMNS['kid'] in methods_table(rows).columns for rows in (usual, without)]
    assert has_column == [True, False]


def test_pairs_that_were_measured_differently_have_no_difference(small):
    a, b = (measured(small, arm) for arm in small.arms[:2])
    other = replace(b.yardstick, id='another')
    found = [
        {r.labels['metric'] for r in pair_rows(small, small.pairs[0], a, replace(b, yardstick=y))}
        for y in (b.yardstick, other, None)
    ]
    assert found[0] - found[1] == found[0] - found[2] == {'kid'}


def test_committed_rows_are_shown_as_before_and_the_axis_says_what_is_drawn():
    table1, frontier = committed('repro_table1', 'quick'), frontier_committed()
    assert (headline(table1), headline(frontier), headline([])) == ('frechet', 'kid', 'frechet')
    assert COLUMNS['kid'] not in methods_table(table1).columns
    fifty = [r for r in table1 if r.labels['n'] == 50]
    kid = [replace(r, labels=r.labels | dict(metric='kid')) for r in fifty if r.labels['metric'] == 'frechet']
    assert headline(fifty + kid) == 'kid' and headline(fifty + kid[:-3]) == 'kid'
    some = [r for r in kid if r.kind != 'arm' or r.labels['method'] != 'baseline']
    assert headline(fifty + some) == 'frechet'
    for rows, by, words in ((fifty, 'frechet', 'Fréchet distance'), (fifty + kid, 'kid', 'KID (lower is better)')):
        (ax,) = frontier_figure(rows, metric=by).axes
        assert ax.get_ylabel() == words and ('held-out' in ax.get_legend_handles_labels()[1]) == (by == 'kid')
