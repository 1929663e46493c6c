"Time scales: what is committed follows from committed rows, and the item asks what its claims are about."

import numpy as np
import pytest

from ambient_nb.papers import papers
from ambient_nb.plans import plan
from ambient_nb.rows import committed, same_numbers
from ambient_nb.timescales import EXPONENTS, beside_committed, exponent_rows, in_epochs


def test_every_exponent_has_a_claim_and_every_claim_an_exponent():
    assert [c.id for c in papers()['timescales'].claims] == [f'timescales/{topic}/exponent' for topic in EXPONENTS]


def test_committed_exponents_follow_from_committed_rows():
    "Those of the page's own trainings, where they have run, beside those of Table 1."
    rows = committed('repro_timescales', 'quick')
    own, fits = ([r for r in rows if (r.kind == 'fit') == is_fit] for is_fit in (False, True))
    again = exponent_rows(beside_committed(own))
    assert len(fits) >= 4 and same_numbers(fits, again)
    for r in fits:
        assert set(r.detail['sizes']) == {int(name.split('= ')[1]) for name in r.data if name != 'heldout'}


def test_proportional_to_n_means_one_number_of_epochs():
    "The rule that a user takes home, and the exponent, say the same of the same rows."
    rows = beside_committed([])
    (fit,) = (r for r in exponent_rows(rows) if r.id == 'timescales/digits/copying-linear/baseline/exponent')
    epochs = in_epochs(rows, 'baseline', 0.1)
    x, y = np.log(list(epochs)), np.log(np.array(list(epochs.values()))).mean(1)
    assert fit.ours.value == pytest.approx(np.polyfit(x, y, 1)[0])


@pytest.mark.parametrize('profile', ['smoke', 'quick', 'paper'])
def test_every_size_is_looked_at_early_after_as_many_steps(profile):
    p = plan('timescales', profile=profile, dry_run=True, device='cpu')
    early = [round(share * p.setup.train.iters) for share in ((0.05, 0.3) if profile == 'smoke' else (0.02, 0.05))]
    for a in p.arms:
        assert set(early) <= set(a.snapshots) and a.snapshots[-1] == a.train.iters == a.budgets[-1]
        assert len(a.snapshots) == len({*a.budgets, *a.curve}) == len(a.budgets) + len(a.curve)
    if profile == 'quick':
        whole, (far,) = ([a for a in p.arms if (a.n == 1000) == is_far] for is_far in (False, True))
        assert {round(a.train.iters * 128 / a.n) for a in whole} == {1408} and far.train.iters == 990
