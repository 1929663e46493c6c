"What the rules of a comparison say at their edges."

from dataclasses import replace

import numpy as np
import pytest

from ambient_nb.endpoints import ENDPOINTS, Curve, at_copying, holm_levels, judge, time_to_copy
from ambient_nb.papers import papers
from ambient_nb.protocols import protocol

P = protocol()
ITS = tuple(range(500, 5000, 500))
RISING = (0.0, 0.005, 0.01, 0.03, 0.06, 0.12, 0.25, 0.3, 0.4)


def curve(quality=1.0, copying=RISING, memorized=RISING):
    return Curve(ITS, copying, tuple(quality + 0.001 * k for k in range(9)), memorized)


def test_the_endpoints_are_the_claims():
    ids = [c.id for c in papers()['main'].claims if c.kind == 'comparison']
    assert ids == list(ENDPOINTS) and all(c.margin == P.margin for c in papers()['main'].claims if c.id in ids)


def test_a_clear_gain_is_better_and_its_mirror_image_worse():
    gains = (0.1, 0.11, 0.09, 0.1)
    pairs = {s: (curve(1 - g), curve()) for s, g in enumerate(gains)}
    primary = judge(pairs, P)[0]
    assert primary.verdict == 'better' and primary.ours.value == pytest.approx(-0.1)
    assert judge({s: pair[::-1] for s, pair in pairs.items()}, P)[0].verdict == 'worse'


def test_a_small_loss_is_not_worse_and_a_wide_one_undecided():
    small = {s: (curve(1 + g), curve()) for s, g in enumerate((0.01, 0.0, 0.005, 0.012))}
    wide = {s: (curve(1 + g), curve()) for s, g in enumerate((0.2, -0.1, 0.1, -0.15))}
    assert [judge(pairs, P)[0].verdict for pairs in (small, wide)] == ['not worse', 'undecided']


def test_two_seeds_have_no_verdict_and_a_seed_without_two_levels_is_named():
    pairs = {s: (curve(0.9 + s / 100), curve()) for s in range(3)}
    never = tuple(0.9 * P.levels[1] * k / 8 for k in range(9))
    pairs[3] = curve(0.8, never), curve()
    primary = judge(pairs, P)[0]
    assert primary.left_out == (3,) and set(primary.values) == {0, 1, 2} and primary.verdict == 'better'
    assert judge({s: pairs[s] for s in (0, 1)}, P)[0].verdict == 'no verdict (2 seeds)'


def test_equal_differences_are_no_certainty():
    "A spread of zero has no t; nothing is said but the interval, which is a point."
    same = judge({s: (curve(), curve()) for s in range(4)}, P)
    assert [j.verdict for j in same] == ['not worse'] * 3 and all(np.isnan(j.p) for j in same)


def test_a_training_that_never_copies_counts_with_its_end_and_two_of_them_say_nothing():
    clean = curve(memorized=(0.0,) * 9)
    assert time_to_copy(clean, 0.1) == np.inf and np.isnan(at_copying(clean, (0.5,))).all()
    reached = time_to_copy(curve(), 0.1)
    later, never = judge({0: (clean, curve())}, P)[2], judge({0: (clean, clean)}, P)[2]
    assert later.values[0] == pytest.approx(np.log(ITS[-1] / reached)) and never.left_out == (0,)
    assert never.verdict == 'no verdict (0 seeds)'


def test_holm_stops_at_the_first_that_is_not_significant():
    assert holm_levels(dict(a=0.02, b=0.02, c=0.001), 0.05) == dict(a=0.025, b=0.05, c=0.05 / 3)
    assert holm_levels(dict(a=0.03, b=0.03, c=0.001), 0.05) == dict(a=0.025, b=0.025, c=0.05 / 3)


def test_a_margin_is_a_share_of_the_baseline():
    pairs = {s: (curve(2 + 0.01 * s), curve(2)) for s in range(4)}
    assert judge(pairs, P)[0].margin == pytest.approx(0.05 * 2, rel=0.01)
    assert judge(pairs, replace(P, margin=0.0))[0].margin == 0
