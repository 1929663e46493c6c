"One step from holes to an answer: closed forms by hand, who sees what, and what the committed rows of two pages say."

import pytest
import torch
from page_rows import judged, rows_of
from tree import cells

from ambient_nb.core import BadInput, rng
from ambient_nb.corruptions import PixelMask
from ambient_nb.papers import claim, papers
from ambient_nb.restoration import RESTORED, empirical_answer, gaussian_answer, gaussian_errors, hole_masks
from ambient_nb.restoration import restoration_errors, told, untold
from ambient_nb.restorers import delta_losses, restoration_losses, restorers

PAGES = ('ambient_restoration', 'ambient_fig3')


def test_the_posterior_variance_by_hand():
    "Two pixels of variance 1 and correlation r, the first of them seen."
    r, mask = 0.8, torch.tensor([[[[1.0, 0.0]]]])
    found = gaussian_errors(torch.tensor([[1.0, r], [r, 1.0]], dtype=torch.float64), mask)
    for s, seen, hidden, both in zip(RESTORED, found['seen'], found['hidden'], found['all']):
        assert seen == pytest.approx(s**2 / (1 + s**2), abs=1e-12)
        assert hidden == pytest.approx(1 - r**2 / (1 + s**2), abs=1e-12)
        assert both == pytest.approx((seen + hidden) / 2, abs=1e-12)
    blind = gaussian_errors(torch.eye(2), torch.zeros(1, 1, 1, 2))
    assert blind['hidden'] == pytest.approx([1.0] * len(RESTORED)) and blind['seen'] == [None] * len(RESTORED)


def test_the_linear_answer_has_the_error_of_its_formula():
    "Planted: correlated images in colour whose mean and covariance the answer has to find out from others."
    g, shape = rng(0, 'test restoration'), (2, 3, 4)
    root = torch.randn(24, 24, generator=g) / 5 + torch.eye(24) / 2
    x = 0.3 + (torch.randn(6000, 24, generator=g) @ root.T).reshape(-1, *shape)
    asked, mask = x[:1500], hole_masks(1500, shape, 0.5)
    measured, formula = restoration_errors(gaussian_answer(x[1500:]), asked, mask), gaussian_errors(root @ root.T, mask)
    for part in ('all', 'seen', 'hidden'):
        for got, expected in zip(measured[part], formula[part]):
            assert got == pytest.approx(expected, rel=0.05), part


def test_the_mask_oracle_where_it_is_known():
    "One image is answered whatever is seen; nothing seen is answered by the mean; what is seen chooses the image."
    images = torch.randn(5, 1, 3, 3, generator=rng(1, 'test restoration'))
    y, nothing, half = torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3, 3), hole_masks(2, (1, 3, 3), 0.5)
    s = torch.tensor(0.05)
    torch.testing.assert_close(empirical_answer(images[:1])(y, s, half), images[:1].expand(2, -1, -1, -1))
    torch.testing.assert_close(empirical_answer(images)(y, s, nothing), images.mean(0).expand(2, -1, -1, -1))
    torch.testing.assert_close(empirical_answer(images)(half * images[:2], s, half), images[:2])


def test_holes_are_not_those_of_training_and_grow_with_their_share():
    few, many = (hole_masks(200, (1, 8, 8), share) for share in (0.2, 0.7))
    assert (many <= few).all() and not torch.equal(few, PixelMask(0.2).mask(range(200), (1, 8, 8)))
    assert torch.equal(hole_masks(50, (1, 8, 8), 0.2), few[:50])


def test_who_is_told_what():
    "With a mask channel the mask; without one noise of the level in the holes, and shown pixels as they are."
    seen, half = {}, hole_masks(400, (1, 4, 4), 0.5)
    told(lambda x, sigma, labels=None, mask=None: seen.update(x=x, mask=mask) or x)(half, torch.tensor(1.0), half)
    assert seen['mask'] is half and seen['x'] is half
    y, fill = half * 3.0, torch.full((1, 4, 4), -0.5)
    filled = untold(lambda x, sigma: x, fill)(y, torch.tensor(2.0), half)
    assert torch.equal(filled[half.bool()], y[half.bool()])
    holes = filled[~half.bool()]
    assert abs(holes.mean() + 0.5) < 0.1 and abs(holes.std() - 2) < 0.1


@pytest.mark.parametrize(
    'make, name',
    [
        (lambda: restoration_losses((0.2, 1.0), (), ()), 'p'),
        (lambda: restoration_losses((-0.1,), (), ()), 'p'),
        (lambda: restoration_losses((), (1.5,), ()), 'p'),
        (lambda: restoration_losses((), (), (-0.2,)), 'sigma_n'),
        (lambda: delta_losses(0.5, (0.0,)), 'delta'),
        (lambda: delta_losses(0.5, (-0.1,)), 'delta'),
        (lambda: delta_losses(0.5, (1.0,)), 'delta'),
        (lambda: delta_losses(0.0, (0.1,)), 'p'),
        (lambda: hole_masks(3, (1, 8, 8), 1.0), 'p'),
        (lambda: gaussian_errors(torch.eye(3), torch.ones(1, 1, 2, 2)), 'mask'),
        (lambda: gaussian_errors(torch.eye(4), torch.ones(1, 1, 2, 2), (0.0,)), 'sigma'),
    ],
)
def test_bad_input_is_named(make, name):
    with pytest.raises(BadInput, match=f'{name} must be'):
        make()


@pytest.mark.parametrize('item', PAGES)
def test_every_claim_is_judged_by_todays_rule(item):
    for id, r in judged(item).items():
        assert len(r.detail['values']) == 3 and r.ours.over == 'seeds', id
        assert claim(id).law != 'identity' or r.verdict == 'holds', id
        assert claim(id).kind != 'direction' or r.seeds == (1, 2, 3), id


@pytest.mark.parametrize('item', PAGES)
def test_a_ratio_is_that_of_the_errors_beside_it(item):
    "Each logarithm follows from the errors that the same file keeps."
    found = {r.id.removeprefix(f'{item}/'): r for r in rows_of(item)}

    def logs(name):  # per seed
        errors = torch.tensor(found[name].detail['errors'], dtype=torch.float64)
        return errors.log().mean(1)

    if item == 'ambient_fig3':
        pairs = {'without/hidden': ('delta = 0/hidden_error', 'delta = 0.1/hidden_error')}
        pairs |= {'without/mean': ('delta = 0/hidden_error', 'mean image/hidden_error')}
    else:
        pairs = {
            f'learnt/{p}': (f'masked, p = {p}/{p} hidden/hidden_error', f'mean image/{p} hidden/hidden_error')
            for p in (0.5,)
        }
        pairs |= {'holes/0.5': ('masked, p = 0.5/0.5 hidden/all_error', 'whole images/0.5 hidden/all_error')}
    for topic, (a, b) in pairs.items():
        expected = (logs(a) - logs(b)).tolist()
        assert found[f'{topic}/log_ratio'].detail['values'] == pytest.approx(expected, abs=1e-9), topic


def test_both_pages_share_the_trainings_that_they_both_name():
    shared = {key for r in rows_of(PAGES[0]) for key in r.runs} & {key for r in rows_of(PAGES[1]) for key in r.runs}
    losses = delta_losses(0.5, (0.1,))
    budget = dict(n=1000, iters=800, batch=64)
    assert shared == {
        run.key for (name, _), run in restorers('quick', losses, (1, 2, 3), **budget).items() if name != 'delta = 0'
    }


@pytest.mark.parametrize('item', PAGES)
def test_a_pages_own_sizes_are_those_of_its_claims(item):
    "A claim names p or sigma_n; a row speaks to it only while the page's own numbers have that one."
    (text,) = [c['source'] for c in cells(f'repro_{item}.ipynb') if 'plan_theory(' in c['source']]
    scope = dict(
        theory=type('T', (), dict(plan_theory=lambda item, sizes, minutes, **_: sizes)),
        repro=type('R', (), dict(given=lambda g: {})),
    )
    exec(text, scope)
    quick = {name: values[1] for name, values in scope['plan'].items()}
    topics = [
        c.id.split('/') for c in papers()['ambient'].claims if c.notebook == f'repro_{item}' and c.kind == 'direction'
    ]
    if item == 'ambient_fig3':
        assert (quick['p'], quick['delta']) == (0.5, 0.1) and {t[1] for t in topics} == {'without'}
        return
    asked = {topic: {float(t[2]) for t in topics if t[1] == topic} for topic in {t[1] for t in topics}}
    assert asked['learnt'] == asked['holes'] == set(quick['ps']) and asked['noise'] == set(quick['sigma_ns'])
    assert quick['twins'] == 'none' and set(asked) == {'learnt', 'holes', 'noise'}
