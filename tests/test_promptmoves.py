"Moved prompts and filtered training: what is dropped, what a skipped batch leaves, and which run it is."

import numpy as np
import pytest
import torch

from ambient_nb.captionarms import TextRun, caption_arms
from ambient_nb.core import bcast
from ambient_nb.papers import papers
from ambient_nb.promptmoves import FilteredRun, FilteredTrainer, asked_captions, moved_words, reworded, usual_difference
from ambient_nb.mitigations import INFERENCE_TIME
from ambient_nb.text import PromptOracle, Words, noise_of
from ambient_nb.textmodel import TextTrainer

BASE = caption_arms((), (), 0.2)['baseline']
RUN = TextRun(BASE, 1, 20, 4, 12, looks=1)


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
