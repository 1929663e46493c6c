"Pictures of sweeps: every point is inside its panel, and sizes get panels of their own."

from dataclasses import replace

import pytest
from tree import cells

from ambient_nb.rows import committed
from ambient_nb.sweeps import arms_figure


@pytest.fixture(scope='module')
def split():
    "Twelve arms, of which ten are places on an axis."
    return committed('repro_ablation_split', 'quick')


@pytest.mark.parametrize('log', [(), ('swap',)])
def test_every_point_of_a_figure_is_inside_it(split, log):
    methods = dict.fromkeys(r.labels['method'] for r in split)
    names = [name for name in methods if name.startswith('two-regime above')]
    ax = arms_figure(split, {'swap': names}, log=log).axes[0]
    ax.figure.canvas.draw()
    points = [
        line.get_transform().transform((x, y))
        for line in ax.lines
        for x, y in zip(line.get_xdata(), line.get_ydata())
        if line.get_marker() in 'os'
    ]
    box = ax.get_window_extent()
    assert len(points) == 2 * len(names) == 10
    assert all(box.x0 + 5 < x < box.x1 - 5 and box.y0 <= y <= box.y1 for x, y in points)
    assert len({round(x) for x, _ in points}) == len(points), 'the two budgets hide each other'


def test_sizes_of_one_arm_get_a_panel_each(split):
    twice = [*split, *(replace(r, labels=dict(r.labels, n=51)) for r in split)]
    titles = [ax.get_title() for ax in arms_figure(twice, {'swap': ['baseline', 'two-regime']}).axes]
    assert titles == ['swap, n = 50', 'swap, n = 51']
    assert [ax.get_title() for ax in arms_figure(split, {'swap': ['baseline']}).axes] == ['swap']


def test_the_split_page_says_which_level_decides_the_image(split):
    "In words what its rows of one seed give, and of the exact optima what it shows."
    share = {r.labels['pair'].split(' − ')[0]: r.ours.value for r in split if r.labels['metric'] == 'same_nearest'}
    page = cells('repro_ablation_split.ipynb')
    text = ' '.join(c['source'] for c in page if c['cell_type'] == 'markdown')

    def said(side, *levels):
        return [f'{100 * share[f"two-regime {side} {s:g}"]:.0f}' for s in levels]

    (a, b, c), (d, e, f) = said('below', 0.1, 0.2, 0.4), said('above', 0.1, 0.2, 0.4)
    assert f'in {a}, {b} and {c} % of the cases' in text and f'in {d}, {e} and {f} %' in text
    assert f'the two sides are at {said("below", 1.6)[0]} and {said("above", 1.6)[0]} %' in text
    shown = ''.join(str(o) for c in page for o in c.get('outputs', []))
    assert 'both whole: 56% [53%, 59%]' in shown and '56 % [53, 59]' in text
