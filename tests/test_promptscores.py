"Which prompts are known by heart: claims as printed, a perfect copier in closed form, networks shared with DCR's page."

import numpy as np
import pytest
import torch
from page_rows import as_said, judged, prose, rows_of, with_interval

from ambient_nb.captionarms import TextRun, caption_arms
from ambient_nb.core import BadInput
from ambient_nb.data import to_float
from ambient_nb.oracles import MixtureDenoiser
from ambient_nb.papers import papers
from ambient_nb.promptscores import ALARMS, UniqueOptimum, found_at, judged_scores, Scoring
from ambient_nb.text import noise_of, sample_text
from ambient_nb.textdetection import separation

RUN = TextRun(caption_arms((), (), 0.2)['baseline'], 1, 12, 4, 8)
JEON = {
    'difference, 1 of 50 steps': '1 .976 .896 .948 .739 4 .992 .944 .98 .876 16 .99 .928 .983 .881',
    'difference, 5 of 50 steps': '1 .991 .932 .969 .885 4 .997 .978 .984 .917 16 .998 .982 .987 .931',
    'difference, 50 of 50 steps': '1 .983 .948 .982 .904 4 .996 .982 .99 .949 16 .998 .98 .991 .945',
    'sharpness, 1 of 50 steps': '1 .987 .908 .959 .74 4 .998 .982 .991 .895',
}  # their Table 1: generations, then AUC and found of SD 1.4 and of SD 2.0


def test_the_table_of_jeon_et_al_stands_as_printed():
    found = {c.id: c.printed for c in papers()['detect'].claims if c.source.startswith('Jeon') and c.kind == 'value'}
    expected = {}
    for name, line in JEON.items():
        numbers = line.split()
        for at in range(0, len(numbers), 5):
            count, *values = numbers[at : at + 5]
            cells = [(model, metric) for model in ('sd14', 'sd20') for metric in ('auc', 'caught')]
            expected |= {f'detect_roc/{m}/{count}/{name}/{k}': float(v) for (m, k), v in zip(cells, values)}
    assert found == expected and len(found) == 44


def test_the_optimum_says_the_image_told_and_the_weighted_mean_untold():
    weights = RUN.config.duplication.weights(RUN.images.ids)
    oracle, points = UniqueOptimum(RUN.images, weights), to_float(RUN.images.pixels)
    assert weights.max() == 5
    doubled = MixtureDenoiser(points.repeat_interleave(weights.long(), 0), torch.zeros(int(weights.sum())))
    x, sigma = points + 1.5 * torch.randn(points.shape, generator=torch.Generator().manual_seed(0)), 1.5
    torch.testing.assert_close(oracle(x, sigma), doubled(x, sigma), rtol=1e-5, atol=1e-6)
    words = oracle.embed([texts[0] for texts in RUN.images.captions])
    difference = noise_of(oracle, x, sigma) - noise_of(oracle, x, sigma, words)
    torch.testing.assert_close(difference, (points - doubled(x, sigma)) / sigma, rtol=1e-4, atol=1e-5)
    drawn = sample_text(oracle, words.take(slice(3, 5)), [0, 1], steps=4)
    torch.testing.assert_close(drawn, points[3:5], rtol=1e-4, atol=1e-4)


def test_captions_that_images_share_have_no_such_optimum():
    shared = TextRun(caption_arms(('nolevel',), (), 0.2)['nolevel'], 1, 12, 4, 8).images
    with pytest.raises(BadInput, match='a caption of its own'):
        UniqueOptimum(shared)


def test_a_curve_passes_through_what_is_found_at_one_percent():
    g = np.random.default_rng(0)
    memorized, others = g.normal(1.5, 1, 300), g.normal(0, 1, 400)
    curve = dict(zip(ALARMS, found_at(memorized, others)))
    assert curve[0.01] == separation(memorized, others).caught.value
    assert curve[0.0] == (memorized > others.max()).mean() and sorted(curve.values()) == [*curve.values()]
    assert found_at(np.ones(2), np.array([1.0, 0.0]), (0.0, 0.5)) == [0.0, 1.0]  # a tie is no find


def test_generations_and_steps_are_those_asked_for():
    values = dict(difference=torch.tensor([[[3.0, 0], [3, 0]], [[1, 0], [4, 0]], [[2, 9], [2, 9]], [[0, 9], [0, 9]]]))
    how = Scoring(2, 1, (1, 2), (1, 2), ())
    truth = dict(mine=(np.array([True, True, False, False]), np.array([False, False, True, True])))
    found = {(r['score'], r['n']): r['auc']['value'] for r in judged_scores(values, truth, how)}
    assert found == {
        ('difference, 1 of 2 steps', 1): 0.75,
        ('difference, 1 of 2 steps', 2): 1.0,
        ('difference, 2 of 2 steps', 1): 0.0,
        ('difference, 2 of 2 steps', 2): 0.0,
    }


ROWS = {r.id.removeprefix('detect_roc/'): r for r in rows_of('detect_roc')}


def test_each_claim_of_the_page_is_judged_by_todays_rule():
    found = judged('detect_roc')
    assert len(found) == 8 and all(len(r.seeds) == 3 for r in found.values())
    assert {id.split('/')[1] for id, r in found.items() if r.verdict == 'same direction'} == {
        'first step, copies',
        'first step, often',
    }


def test_differences_are_those_of_the_rows_beside_them():
    of = lambda truth, score, n: np.array(ROWS[f'{truth}/{score}/{n}/auc'].detail['values'])
    first, whole = (f'difference, {k} of 10 steps' for k in (1, 10))
    expected = {f'all steps, {t}': of(t, whole, 4) - 0.5 for t in ('copies', 'often')}
    expected |= {f'first step, {t}': of(t, first, 1) - 0.5 for t in ('copies', 'often')}
    expected['generations'] = of('copies', first, 4) - of('copies', first, 1)
    expected['steps'] = of('copies', whole, 1) - of('copies', first, 1)
    expected['sharpness'] = of('copies', 'sharpness at 80', 4) - of('copies', first, 4)
    for topic, values in expected.items():
        assert ROWS[f'{topic}/difference'].detail['values'] == pytest.approx(values.tolist(), abs=1e-12), topic


def test_networks_are_those_of_the_page_on_mitigations_in_training():
    (theirs,) = [r for r in rows_of('dcr_train') if r.id == 'dcr_train/baseline/copies']
    assert all(list(r.runs) == list(theirs.runs) for r in ROWS.values())


def test_the_page_says_what_its_rows_say():
    said, first, whole = prose('repro_detect_roc'), 'difference, 1 of 10 steps', 'difference, 10 of 10 steps'
    for name in (
        f'copies/{first}/1/auc',
        f'often/{first}/1/auc',
        f'copies/{whole}/4/auc',
        f'often/{whole}/4/auc',
        'generations/difference',
        f'copies, training/{first}/4/auc',
        f'copies, training/{whole}/4/auc',
        f'copies, training/{whole}/16/auc',
        'optimum, first/rank',
        'optimum, whole/auc',
    ):
        assert with_interval(ROWS[name].ours) in said, name
    assert with_interval(ROWS['optimum/difference'].ours, 3) in said
    sixteen = [as_said(ROWS[f'{truth}/{first}/16/auc'].ours.value) for truth in ('copies', 'often')]
    assert f'sixteen generations {" and ".join(sixteen)}' in said
    four = [as_said(ROWS[f'copies/{score}/4/auc'].ours.value) for score in ('sharpness at 80', first)]
    assert f'tells less than the difference, {" against ".join(four)}' in said
    counts = {kind: ROWS[f'{kind}/copies'].detail for kind in ('often', 'seldom', 'new')}
    for detail in counts.values():
        a, b, c = detail['copied']
        assert f'{a}, {b} and {c} of {detail["asked"][0]}' in said
    most = max(v for id, r in ROWS.items() if id.endswith('/caught') for v in r.detail['values'])
    assert f'more than {100 * most:.0f} %' in said
