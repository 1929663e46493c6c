"Moved prompts and filtered training: what is dropped, what a skipped batch leaves, and which run it is."

import numpy as np
import pytest
import torch
from page_rows import judged, prose, rows_of, with_interval

from ambient_nb.captionarms import TextRun, caption_arms
from ambient_nb.core import bcast
from ambient_nb.papers import papers
from ambient_nb.promptmoves import FilteredRun, FilteredTrainer, asked_captions, moved_words, reworded, usual_difference
from ambient_nb.mitigations import INFERENCE_TIME
from ambient_nb.text import PromptOracle, Words, noise_of
from ambient_nb.textmodel import PixelText, TextTrainer

BASE = caption_arms((), (), 0.2)['baseline']
RUN = TextRun(BASE, 1, 20, 4, 12, looks=1)
KINDS = ('often', 'seldom', 'new')


def trainer(threshold):
    run = FilteredRun(BASE, 1, 20, 4, 12, looks=1, threshold=threshold)
    return FilteredTrainer(run.config, run.images, threshold=threshold)


def shaken(moving):
    "A fresh network answers nothing; this one does."
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in moving.net.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=g))
    return moving


def test_a_filtered_run_is_trained_with_its_filter(tmp_path):
    "The filter is what its kind of run is trained by, wherever that is asked for."
    runs = (FilteredRun(BASE, 1, 10, 4, 4, looks=1, threshold=t) for t in (1e9, 1e-9))
    every = [PixelText(run.trained(tmp_path)).D.state_dict() for run in (TextRun(BASE, 1, 10, 4, 4, looks=1), *runs)]
    same = [all(torch.equal(every[0][name], other[name]) for name in other) for other in every[1:]]
    assert same == [True, False]


def test_pairs_of_too_much_difference_are_dropped_and_no_others():
    plain = shaken(TextTrainer(RUN.config, RUN.images))
    shown = plain.batch()
    plain.net.eval()
    x, told = shown['y'] + bcast(shown['sigma'], shown['y']) * shown['z'], shown['labels']
    with torch.no_grad():
        apart = (plain.net(x, shown['sigma']) - plain.net(x, shown['sigma'], told)) / bcast(shown['sigma'], x)
    differences = apart.flatten(1).norm(dim=1)
    middle = float(differences.median()) + 1e-6
    strict = trainer(middle)
    strict.net.load_state_dict(plain.net.state_dict())
    left = strict.batch()
    keep = differences < middle
    assert 0 < keep.sum() < len(keep) and strict.net.training
    assert all(torch.equal(left[name], part[keep]) for name, part in shown.items())
    assert strict.filter.dropped == int((~keep).sum())


def test_a_batch_without_a_pair_left_changes_nothing_but_the_count():
    strict = shaken(trainer(1e-9))
    before = [p.clone() for p in strict.net.parameters()]
    averages = [p.clone() for p in strict.ema.parameters()]
    assert float(strict.step()) == 0 and strict.it == 1 and strict.filter.emptied == 1
    assert all(map(torch.equal, before, strict.net.parameters()))
    assert all(map(torch.equal, averages, strict.ema.parameters()))


def test_a_threshold_is_part_of_what_names_a_run():
    runs = [FilteredRun(BASE, 1, 20, 4, 12, looks=1, threshold=t) for t in (1.0, 2.0)]
    assert len({RUN.key, *(r.key for r in runs)}) == 3 and runs[0].settings['threshold'] == 1
    assert runs[0].config == RUN.config and runs[0].images.sha == RUN.images.sha


def test_each_caption_is_asked_once_and_its_digit_named():
    kinds = asked_captions(RUN, 3)
    said = [text for texts, _ in kinds.values() for text in texts]
    assert [len(texts) for texts, _ in kinds.values()] == [3, 3, 3] and len({*said}) == 9
    numerals = 'zero one two three four five six seven eight nine'.split()
    assert all(f'digit {numerals[d]},' in t for texts, digit in kinds.values() for t, d in zip(texts, digit))


def test_a_target_is_met_as_asked_and_each_prompt_moves_alone():
    captions = [texts[0].replace(',', '') for texts in RUN.images.captions]
    D = PromptOracle(torch.linspace(-1, 1, 20).view(20, 1, 1, 1).expand(20, 1, 8, 8), captions, strength=1.0)
    x = 4 * torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    usual = usual_difference(D, captions[:5], x, 4.0)
    each = [
        float((noise_of(D, x, 4.0) - noise_of(D, x, 4.0, D.embed([c]))).flatten(1).norm(dim=1).mean())
        for c in captions[:5]
    ]
    assert usual == pytest.approx(np.mean(each), rel=1e-5)
    words, steps = moved_words(D, captions[:3], x, 4.0, usual, steps=5)
    alone, of = moved_words(D, captions[2:3], x, 4.0, usual, steps=5)
    assert torch.equal(words.tokens[2:], alone.tokens) and steps[2] == of[0] and max(steps) <= 5
    assert all((step == 0) == (value <= usual) for step, value in zip(steps, each))


def test_random_words_are_added_to_every_prompt():
    embedded = []

    class Spy:
        def embed(self, prompts):
            embedded.extend(prompts)
            return Words(torch.zeros(len(prompts), 2, 2))

    texts = ['a digit', 'an image']
    reworded(Spy(), texts, INFERENCE_TIME['add 4'], 1)
    assert [len(new.split()) for new in embedded] == [6, 6]
    assert all({*text.split()} <= {*new.split()} for text, new in zip(texts, embedded))


def test_every_direction_has_its_page():
    found = {c.id for c in papers()['detect'].claims if c.kind == 'direction'}
    first = {f'{part}, {truth}' for part in ('all steps', 'first step') for truth in ('copies', 'often')}
    roc = {f'detect_roc/{t}/difference' for t in first | {'generations', 'steps', 'sharpness', 'optimum'}}
    ways = {f'{way}, {measure}' for way in ('moved', 'filtered') for measure in ('copies', 'shows')}
    assert found == roc | {f'detect_mitigation/{t}/difference' for t in ways | {'moved against words, fresh'}}


ROWS = {r.id.removeprefix('detect_mitigation/'): r for r in rows_of('detect_mitigation')}


def test_each_claim_of_the_page_is_judged_by_todays_rule():
    found = judged('detect_mitigation')
    assert len(found) == 5 and all(len(r.seeds) == 3 for r in found.values())


def test_differences_are_those_of_the_rows_beside_them():
    of = lambda way, measure: np.array(ROWS[f'{way}/{measure}'].detail['values'])
    for topic, way in (('moved', 'moved to 1'), ('filtered', 'filtered')):
        for measure in ('copies', 'shows'):
            values = of(way, measure) - of('as they are', measure)
            assert ROWS[f'{topic}, {measure}/difference'].detail['values'] == pytest.approx(values.tolist(), abs=1e-12)
    often = [
        [seed['often']['fresh'] for seed in ROWS[f'{way}/copies'].detail['ways']] for way in ('moved to 1', 'add 4')
    ]
    values = (np.array(often[0]) - often[1]).tolist()
    assert ROWS['moved against words, fresh/difference'].detail['values'] == pytest.approx(values, abs=1e-12)


def test_a_way_counts_captions_drawn_often_and_seldom_alike():
    for id, r in ROWS.items():
        way, measure = id.split('/')
        if measure in ('copies', 'shows', 'fresh'):
            seeds = ROWS[f'{way}/copies'].detail['ways']
            expected = [(seed['often'][measure] + seed['seldom'][measure]) / 2 for seed in seeds]
            assert r.detail['values'] == pytest.approx(expected, abs=1e-12), id
            assert all(s[k]['fresh'] <= min(s[k]['shows'], 1 - s[k]['copies']) + 1e-12 for s in seeds for k in KINDS)


def test_the_page_says_what_its_rows_say():
    said = prose('repro_detect_mitigation')
    for name in ('moved, copies', 'moved, shows', 'moved against words, fresh', 'filtered, shows'):
        assert with_interval(ROWS[f'{name}/difference'].ours) in said, name
    for name in ('name', 'numeral', 'begin', 'padding'):
        assert with_interval(ROWS[f'{name}/significance'].ours) in said, name

    def percents(way, text):
        copies, shows = (int(f'{ROWS[f"{way}/{m}"].ours.value:.2f}'[2:]) for m in ('copies', 'shows'))  # as the table
        assert text.format(copies=copies, shows=shows) in said, way

    percents('as they are', '{copies} % copies, and {shows} % of the samples show the digit')
    percents('moved to 1', '{copies} % copies are left, and {shows} % show the digit')
    percents('moved to 0.75', 'the digit is shown in {shows} %')
    percents('moved to 0.5', 'at half in {shows} %')
    percents('moved to 1, slowly', 'with {copies} % copies and {shows} %')
    percents('add 4', 'four added leave {copies} % copies and {shows} %')
    percents('repeat 4', 'four repeated {copies} % and {shows} %')
    percents('filtered', 'leaves {copies} % copies and {shows} % that show the digit')
    percents('stopped at 400', 'at step 400 gives {copies} % copies and {shows} %')
    percents('stopped at 200', 'at step 200 {copies} % and {shows} %')
    for way in ('filtered', 'as they are'):
        assert f'{100 * ROWS[f"{way}/dropped"].ours.value:.0f} %' in said, way
