"""The rates of mixtures: each claim has a committed row that still says what it said, and rates are not of one seed."""

import numpy as np
from tree import NBS

from ambient_nb import mixtures
from ambient_nb.papers import claim, papers
from ambient_nb.rows import load_rows, verdict

ROWS = load_rows(NBS / 'results' / 'repro_laws_gmm.quick.json')


def test_every_claim_of_the_rates_has_a_row_that_holds():
    speaking = {r.claim: r for r in ROWS if r.claim}
    assert set(speaking) == {c.id for c in papers()['laws'].claims if c.notebook == 'repro_laws_gmm'}
    for id, r in speaking.items():
        again = verdict(claim(id), r.ours, r.detail['values'], profile=r.profile)
        assert again == r.verdict and again in ('holds', 'same direction'), id


def test_exponents_are_those_of_the_errors_beside_them():
    at = {r.id: np.array(r.detail['values']) for r in ROWS}
    for start, grid in (('subspace/8/2', range(3, 8)), ('inside/2', (5, 6, 8, 10, 12))):
        many = [10**k for k in grid]
        errors = np.array([at[f'laws_gmm/{start}/{n}/error'] for n in many]).T
        slopes = [mixtures.log_slope(many, e) for e in errors]
        assert np.allclose(slopes, at[f'laws_gmm/{start}/exponent'])
