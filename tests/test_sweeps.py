"Pictures of sweeps: every point is inside its panel, and sizes get panels of their own."

from dataclasses import replace

import pytest

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
