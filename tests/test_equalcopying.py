"Equal copying: what the pages say in words is what their rows give."

import numpy as np
import pytest
from tree import cells

from ambient_nb.endpoints import at_copying, stopped_early
from ambient_nb.equalcopying import arm_curves, known_rows, paired_quality
from ambient_nb.rows import committed
from ambient_nb.tables import pick_rows

LEVELS = (0.25, 0.35, 0.45)
SAID = {  # first, second: what the page of the noise says of them at equal copying
    ('fixed noise', 'baseline'): '−2.6 [−2.7, −2.4]',
    ('fresh noise', 'baseline'): '+0.1 [−5.2, 5.4]',
    ('fixed noise', 'fresh noise'): '−2.7 [−8.1, 2.7]',
    ('fixed noise, a² compensated', 'fixed noise'): '+0.5 [−2.8, 3.9]',
    ('baseline, augmented', 'baseline'): '−2.6 [−7.9, 2.6]',
    ('baseline, augmented', 'fixed noise'): '−0.1 [−5.4, 5.3]',
    ('noise after augmentation', 'baseline, augmented'): '−1.1 [−5.1, 2.8]',
}


def words(e) -> str:
    "An estimate as prose has it."
    return f'{e.value:+.1f} [{e.lo:.1f}, {e.hi:.1f}]'.replace('-', '−')


@pytest.fixture(scope='module')
def noise():
    "Rows of the page, and those that are other readings of the same trainings."
    return committed('repro_ablation_noise', 'quick'), [
        *committed('repro_ablation_noise', 'custom'),
        *committed('repro_table1', 'quick'),
    ]


def told(rows, arm, metric):
    "What rows say of an arm: iteration -> a value a seed."
    return {r.labels['it']: r.detail['values'] for r in pick_rows(rows, method=arm, metric=metric)}


def text_of(page: str) -> str:
    return '\n'.join(c['source'] for c in cells(f'{page}.ipynb') if c['cell_type'] == 'markdown')


def test_the_noise_page_says_what_its_rows_give(noise):
    curves, text = arm_curves(*noise), text_of('repro_ablation_noise')
    for found, said in zip(paired_quality(curves, SAID, lambda c: at_copying(c, LEVELS)), SAID.values()):
        assert found['levels'].all() and words(found['ours']) == said and said in text, found['pair']
    other = arm_curves(*noise, copying='sim>null99')
    (fixed,) = paired_quality(other, [('fixed noise', 'baseline')], lambda c: at_copying(c, (0.4, 0.5, 0.6)))
    assert words(fixed['ours']) == '−2.2 [−3.9, −0.5]' and words(fixed['ours']) in text


def test_stopping_early_is_open_to_every_arm_of_the_noise_page(noise):
    curves, text = arm_curves(*noise), text_of('repro_ablation_noise')
    early = {arm: [stopped_early(c, 0.05) for c in seeds] for arm, seeds in curves.items()}
    for k in range(3):
        assert early['baseline, augmented'][k] < min(early['baseline'][k], early['fixed noise'][k]), 'in every seed'
    for arm, value in (('baseline, augmented', '29.6'), ('baseline', '37.1'), ('fixed noise', '32.9')):
        assert f'{np.mean(early[arm]):.1f}' == value and value in text
    (found,) = paired_quality(
        curves, [('noise after augmentation', 'baseline, augmented')], lambda c: stopped_early(c, 0.05)
    )
    assert words(found['ours']) == '−2.0 [−5.0, 1.0]' in text and found['verdict'] == 'not worse'


def test_plain_augmentation_leads_at_equal_iterations(noise):
    "Fewer copies and a smaller distance than any arm without augmentation, at the last budget."
    arms = {r.labels['method'] for r in noise[0] if r.kind == 'arm'}
    mean = {arm: [np.mean(told(noise[0], arm, m)[550]) for m in ('memorized', 'frechet')] for arm in arms}
    plain = [arm for arm in mean if 'augment' not in arm]
    assert len(plain) == 4 and all(np.less(mean['baseline, augmented'], mean[arm]).all() for arm in plain)
    best = min(mean[arm] for arm in plain)
    assert [f'{100 * mean["baseline, augmented"][0]:.1f}', f'{mean["baseline, augmented"][1]:.1f}'] == ['1.8', '30.1']
    assert [f'{100 * best[0]:.0f}', f'{best[1]:.1f}'] == ['52', '37.7']


def test_size_and_dimension_are_read_along_one_training_each():
    "In epochs the sizes from 50 on lie on each other; every dimension is still rising."
    known = known_rows(committed('repro_diffmem_fig1', 'quick'), committed('repro_diffmem_fig1', 'custom'))
    at = {f'n = {n}': told(known, f'n = {n}', 'memorized') for n in (25, 50, 100, 200)}
    assert {arm: [*shares] for arm, shares in at.items()} == {
        'n = 25': [183, 275, 1467, 2200],
        'n = 50': [367, 550, 1467, 2200],
        'n = 100': [733, 1100, 1467, 2200],
        'n = 200': [1467, 2200],
    }
    same = [np.mean(at[f'n = {n}'][11 * n]) for n in (25, 50, 100, 200)]
    assert max(same[1:]) - min(same[1:]) < 0.015 < same[1] - same[0]
    known = known_rows(committed('repro_diffmem_fig2', 'quick'), committed('repro_diffmem_fig2', 'custom'))
    small, large = (told(known, f'{side}×{side} pixels', 'memorized') for side in (4, 8))
    gaps = [small[it][0] - large[it][0] for it in (550, 1650)]
    assert [f'{100 * gap:.0f}' for gap in gaps] == ['-73', '-13']
    assert '−13 points between the ends instead of −73' in text_of('repro_diffmem_fig2')
