"Quality: each number moves with what it is named for, and only the images that it may see count."

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ambient_nb.audit import audit
from ambient_nb.core import refused, rng
from ambient_nb.data import digits
from ambient_nb.features import DigitsEncoder
from ambient_nb.fidelity import squared_between
from ambient_nb.quality import DEFINITIONS, fitted_widths, fls, log_parts, qualities, to_fit, vendi

POOL, HELDOUT = digits()
NOISE = 12 * torch.randn(HELDOUT.pixels[:200].shape, generator=rng(0, 'noise'))
GENERATORS = dict(
    fresh=HELDOUT.pixels[:200],
    copies=POOL.pixels[:200],
    few=HELDOUT.pixels[:5].repeat(40, 1, 1, 1),
    noisy=(HELDOUT.pixels[:200] + 4 * NOISE).round().clamp(0, 255).to(torch.uint8),
)


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    "The audits of some generators."
    cache = tmp_path_factory.mktemp('quality')
    return {name: audit(u, POOL, HELDOUT.pixels[200:], cache=cache) for name, u in GENERATORS.items()}


def test_each_number_moves_with_what_it_is_named_for(found):
    of = {name: {k: e['generated'] for k, e in qualities(a).items()} for name, a in found.items()}
    fresh = of['fresh']
    assert set(fresh) == set(DEFINITIONS) and all(e.lo <= e.value <= e.hi for e in fresh.values())
    assert of['copies']['auth_pct'].value == 0 and fresh['auth_pct'].lo > 0.4
    assert of['copies']['c_t'].hi < -3 < fresh['c_t'].lo and fresh['c_t'].hi > 0
    assert min(of[name]['fls'].lo for name in ('copies', 'few', 'noisy')) > fresh['fls'].hi and fresh['fls'].lo < 0
    assert of['few']['vendi'].hi < 6 < fresh['vendi'].lo and of['few']['vendi'].value <= 5 + 1e-9
    assert of['few']['recall'].hi < 0.1 and of['few']['coverage'].hi < 0.3 < fresh['coverage'].lo
    assert of['noisy']['precision'].hi < fresh['precision'].lo and of['noisy']['density'].hi < fresh['density'].lo
    assert of['few']['kernel'].lo > 0 and fresh['kernel'].lo < 0 < fresh['kernel'].hi
    for name in ('precision', 'density', 'coverage', 'kernel', 'vendi'):  # who copies is good and varied
        assert of['copies'][name].hi > fresh[name].lo


def test_the_null_is_measured_beside_the_samples(found):
    numbers = qualities(found['copies'])
    assert (
        numbers['auth_pct']['holdout'].lo > 0.4
        and numbers['vendi']['holdout'].n == numbers['vendi']['generated'].n == 200
    )


def test_numbers_stand_in_the_summary_and_on_the_page(found, tmp_path):
    audit(GENERATORS['fresh'], POOL, HELDOUT.pixels[200:], out=tmp_path / 'r', cache=tmp_path)
    about = json.loads((tmp_path / 'r/summary.json').read_text())['quality']
    page = (tmp_path / 'r/report.html').read_text()
    assert set(about) == {'space', *DEFINITIONS} and '<summary>Quality, variety and novelty</summary>' in page
    for name, definition in DEFINITIONS.items():
        e = about[name]['generated']
        assert about[name]['definition'] == definition and e['lo'] <= e['value'] <= e['hi'] and e['n'] > 0
        assert definition.split(' (')[0] in page


def test_what_sets_do_not_allow_is_left_out(tmp_path):
    alone = audit(HELDOUT.pixels[:50], POOL.pixels[:100], cache=tmp_path)
    assert set(qualities(alone)) == {'auth_pct', 'vendi'}
    handful = audit(HELDOUT.pixels[:50], POOL.pixels[:30], HELDOUT.pixels[100:119], cache=tmp_path)
    assert set(qualities(handful)) == {'auth_pct', 'vendi'}
    small = audit(HELDOUT.pixels[:50], POOL.pixels[:30], HELDOUT.pixels[100:150], cache=tmp_path)
    assert set(DEFINITIONS) - set(qualities(small)) == {'fls'}
    same = POOL.pixels[:1].repeat(40, 1, 1, 1)
    assert 'auth_pct' not in qualities(audit(HELDOUT.pixels[:50], same, cache=tmp_path))


def test_leaked_images_and_doubles_do_not_count(tmp_path):
    leaking = torch.cat([HELDOUT.pixels[200:400], POOL.pixels[:100]])
    doubled = torch.cat([POOL.pixels, POOL.pixels[:300]])
    sets = (POOL, HELDOUT.pixels[200:400]), (POOL, leaking), (doubled, HELDOUT.pixels[200:400])
    clean, *others = (qualities(audit(HELDOUT.pixels[:200], *s, encoder='digits-cnn', cache=tmp_path)) for s in sets)
    for name, numbers in clean.items():
        for each in others:
            assert each[name]['generated'].value == pytest.approx(numbers['generated'].value, rel=1e-6, abs=1e-9)


def test_vendi_is_the_same_whichever_way_it_is_computed():
    x = torch.nn.functional.normalize(DigitsEncoder()(HELDOUT.pixels[:300]).double(), dim=1)
    values = torch.linalg.eigvalsh(x.T @ x / 300)  # 128 x 128 has the same non-zero ones as 300 x 300
    values = values[values > 0]
    assert vendi(x).value == pytest.approx(float((-(values * values.log()).sum()).exp()), rel=1e-9)
    assert vendi(3 * x).value == pytest.approx(vendi(x).value) and 'x=' in refused(vendi, x[:1])


def test_widths_are_where_the_likelihood_is_largest():
    x, centres = torch.randn(60, 3, generator=rng(0, 'x')).double(), torch.randn(4, 3, generator=rng(0, 'c')).double()
    squared = squared_between(x, centres)
    best = fitted_widths(squared, 3, 1.0, prior=1e-9, steps=400)

    def likelihood(widths):
        return log_parts(squared, widths, 3).logsumexp(1).sum()

    for i in range(4):
        for factor in (0.9, 1.1):
            moved = best.clone()
            moved[i] *= factor
            assert likelihood(moved) < likelihood(best)


def test_fls_does_not_depend_on_scale_and_refuses_what_is_all_alike():
    x, y, t, z = (torch.randn(n, 6, generator=rng(0, n)).double() for n in (60, 61, 200, 50))
    wanted = fls(x, y, t, z, generator=rng(0)).value
    assert fls(9 * x, 9 * y, 9 * t, 9 * z, generator=rng(0)).value == pytest.approx(wanted, rel=1e-3)
    assert 'train=' in refused(fls, x, torch.ones(60, 6), torch.ones(50, 6), z, generator=rng(0))
    fresh = [fls(torch.randn(60, 6, generator=rng(k)), y, t, z, generator=rng(0)).value for k in range(20)]
    assert abs(np.mean(fresh)) < 8  # samples of the same law; one unit is 0.06 nats here


def test_fls_sees_a_copier_of_a_training_set_much_larger_than_its_samples():
    t = torch.randn(2000, 8, generator=rng(0, 't')).double()
    z = torch.randn(200, 8, generator=rng(0, 'z')).double()
    copier, fresh = (
        fls(g, t[:50], t[50:], z, generator=rng(0))
        for g in (t[700:750], z.new_tensor(np.random.default_rng(1).normal(size=(50, 8))))
    )
    assert copier.lo > fresh.hi


def test_widths_are_fitted_to_nearest_images_but_not_to_the_reference(found):
    a, mine, others = found['copies'], torch.arange(60), torch.arange(40, 100)
    near = to_fit(a, mine, others)
    assert set(range(40)) <= set(near.tolist()) and not set(near.tolist()) & set(others.tolist())
    doubled = replace(a, cluster=torch.where(torch.arange(1000) < 40, torch.arange(1000) + 40, torch.arange(1000)))
    assert not set(to_fit(doubled, mine, others).tolist()) & set(range(100))
