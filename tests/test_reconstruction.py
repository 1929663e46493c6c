"From scans to images: who is shown what, closed forms, libraries that are missing, and what the committed rows say."

import sys

import pytest
import torch
from page_rows import judged, rows_of

from ambient_nb.core import BadInput
from ambient_nb.fourier import MRILines
from ambient_nb.objectives import EDM
from ambient_nb.phantoms import phantoms
from ambient_nb.reconstruction import gaussian_reconstruction, library_grades, one_step, relative_errors, sampled_scan
from ambient_nb.reconstruction import scan_losses, scan_runs, scanner, total_variation
from ambient_nb.restoration import mean_log_ratio

X, IDS = phantoms([3, 8], 16), [0, 1]
SCAN = MRILines(2, acs=2, coils=4, seed=1)


def test_one_step_shows_the_zero_filled_lines_and_their_mask():
    "The mean of what is shown over many noises is the zero-filled image of the part; hidden lines stay empty."
    y, mask, seen = SCAN.corrupt(X, IDS), SCAN.further_mask(IDS, X.shape[1:]), {}

    def spy(x, sigma, labels=None, mask=None):
        seen.update(x=x, sigma=sigma, mask=mask)
        return x

    one_step(spy, SCAN, y, mask, 1e-6)
    torch.testing.assert_close(seen['x'], SCAN.transform_adjoint(mask * y), rtol=1e-4, atol=1e-5)
    assert torch.equal(seen['mask'], mask.expand(2, 1, 16, 16)) and seen['sigma'].tolist() == pytest.approx([1e-6] * 2)
    single = MRILines(2, acs=2, seed=1)
    one_step(spy, single, single.corrupt(X, IDS), mask, 1.0)
    noisy = single.transform(seen['x'])
    assert (noisy * (1 - mask)).abs().max() < 1e-4 and 0.7 < (noisy - single.transform(X))[
        (mask > 0).expand_as(noisy)
    ].std() < 1.3


def test_a_full_scan_leaves_nothing_to_the_prior():
    full, mean = MRILines(1, acs=2, coils=2, seed=1), torch.full((2, 8, 8), 0.1)
    x = phantoms([4], 8)
    found = gaussian_reconstruction(mean, 0.04 * torch.eye(128), full, full.corrupt(x, [7]), [7])
    torch.testing.assert_close(found, x.double(), rtol=1e-4, atol=1e-5)


def test_lines_that_are_not_read_are_the_prior_where_pixels_are_independent():
    "White images: a line that was not read has its mean, those that were have their values."
    scan, mean = MRILines(2, acs=1, seed=1), torch.zeros(2, 8, 8)
    x = phantoms([4], 8)
    found = gaussian_reconstruction(mean, torch.eye(128), scan, y := scan.corrupt(x, [0]), [0])
    torch.testing.assert_close(found, scan.adjoint(y, [0]).double(), rtol=1e-5, atol=1e-6)


def test_networks_of_whole_images_see_no_lines():
    calls = []

    def whole(x, sigma, labels=None):
        calls.append(tuple(x.shape))
        return 0.5 * x

    found = sampled_scan(whole, SCAN, SCAN.corrupt(X, IDS), IDS, steps=3)
    assert found.shape == X.shape and calls == [(2, 2, 16, 16)] * 3


def test_runs_are_known_by_numbers_and_share_a_budget():
    losses = {(name, s): loss for name, loss in scan_losses((2, 4)).items() for s in (1, 2)}
    runs = scan_runs('quick', losses, 32, 800, 8)
    assert len({run.key for run in runs.values()}) == 6
    assert {(run.config.iters, run.config.batch, run.n) for run in runs.values()} == {(800, 8, 6400)}
    assert len({run.config.net for run in runs.values()}) == 1 and runs['whole images', 1].config.loss == EDM()
    smaller = scan_runs('quick', losses, 24, 800, 8)
    assert not {run.key for run in smaller.values()} & {run.key for run in runs.values()}


def test_without_the_libraries(monkeypatch):
    "The page goes on: no grades of theirs, and one sentence that says what is missing."
    for name in ('sigpy', 'sigpy.mri', 'sigpy.mri.app', 'skimage', 'skimage.metrics'):
        monkeypatch.setitem(sys.modules, name, None)
    assert library_grades(X, X) == {}
    with pytest.raises(BadInput, match=r'without sigpy.*ambient_nb\[mri\]'):
        total_variation(SCAN, SCAN.corrupt(X, IDS), 1e-3)


@pytest.mark.parametrize(
    'make, name',
    [
        (lambda: scan_losses((0,)), 'acceleration'),
        (lambda: scan_runs('smoke', {('R = 8', 1): scan_losses((8,))['scans, R = 8']}, 16, 4, 4), 'acceleration'),
        (lambda: scanner(16).corrupt(X, IDS), 'acceleration'),
        (lambda: one_step(None, SCAN, X, None, 0.0), 'sigma'),
        (lambda: sampled_scan(lambda x, s, labels: x, SCAN, SCAN.corrupt(X, IDS), IDS, scale=0.0), 'scale'),
        (lambda: sampled_scan(lambda x, s, labels: x, SCAN, SCAN.corrupt(X, IDS).mT, IDS), 'y'),
    ],
)
def test_bad_input_is_named(make, name):
    with pytest.raises(BadInput, match=f'{name} must be'):
        make()


ROWS = rows_of('ambient_mri')


def test_every_claim_is_judged_by_todays_rule():
    assert all(r.seeds == (1, 2, 3) and len(r.detail['values']) == 3 for r in judged('ambient_mri').values())


def test_a_ratio_is_that_of_the_errors_beside_it():
    found = {r.id.removeprefix('ambient_mri/'): r for r in ROWS}
    errors = lambda name, R: found[f'{name}/R = {R}/nrmse'].detail['errors']
    pairs = {'scans/4': ('scans, R = 4, A-DPS', 'zeros'), 'one step/4': ('scans, R = 4, one step', 'zeros')}
    pairs |= {f'whole/{R}': ('scans, R = 4, A-DPS', 'whole images, A-DPS') for R in (4, 8)}
    for topic, (a, b) in pairs.items():
        first, second = (errors(name, int(topic[-1])) for name in (a, b))
        expected = [mean_log_ratio(u, v) for u, v in zip(first, second * 3 if len(second) == 1 else second)]
        assert found[f'{topic}/log_ratio'].detail['values'] == pytest.approx(expected, abs=1e-9), topic


def test_zeros_are_those_of_the_phantoms_named():
    "What needs no network is computed again."
    found = {r.id.removeprefix('ambient_mri/'): r for r in ROWS}
    for R in (2, 4, 6, 8):
        scan, (errors,) = scanner(R), found[f'zeros/R = {R}/nrmse'].detail['errors']
        x, ids = phantoms(range(len(errors)), 32, 1), range(len(errors))
        assert relative_errors(scan.adjoint(scan.corrupt(x, ids), ids), x).tolist() == pytest.approx(errors, rel=1e-5)
