"DCR's randomisations: how often they strike, what they leave, and on what a draw hangs."

import pytest
import torch
from ambient_nb.core import rng
from ambient_nb.digitwords import HashedWords
from ambient_nb.mitigations import INFERENCE_TIME, TRAIN_TIME, WORDY, Mitigation, randomised
from ambient_nb.stats import wilson

EMBED = HashedWords(dim=4, length=16).embed
SAID = [('a photo of a seven', 'the digit seven', 'seven')] * 2
WORDS = SAID[0][0].split()


@pytest.mark.parametrize('kind', WORDY)
@pytest.mark.parametrize('q', (0.1, 0.5))
def test_words_change_as_often_as_asked(kind, q):
    way = Mitigation(kind, q)
    made = [way.prompt(SAID[0], rng(0, 'test', i)).split() for i in range(1000)]
    changed = [words for words in made if words != WORDS]
    share = wilson(len(changed), 1000, level=0.9999)
    assert share.lo <= q <= share.hi
    assert {len(words) for words in changed} == {2 if kind == 'replace' else 7}
    assert all(kind == 'replace' or not {*WORDS} - {*words} for words in changed)


def test_a_caption_is_any_of_them():
    said = [TRAIN_TIME['MC'].prompt(SAID[0], rng(0, 'test', i)) for i in range(900)]
    for text in SAID[0]:
        share = wilson(said.count(text), 900, level=0.9999)
        assert share.lo < 1 / 3 < share.hi
    assert Mitigation().prompt(SAID[0], rng(0)) == SAID[0][0] and Mitigation().prompt((), rng(0)) == ''


@pytest.mark.parametrize('name', [*TRAIN_TIME, *INFERENCE_TIME])
def test_a_draw_hangs_on_seed_image_and_place(name):
    way = {**TRAIN_TIME, **INFERENCE_TIME}[name]
    way = way if way.kind in ('captions', 'noise', 'mixup') else Mitigation(way.kind, 1.0, way.words)
    seven = [('one', 'two', 'three'), *SAID] * 4
    alone = randomised(EMBED, seven, way, ids=range(12), seed=0, start=24).tokens
    assert torch.equal(alone, randomised(EMBED, seven, way, ids=range(12), seed=0, start=24).tokens)
    for other in (dict(seed=1, start=24), dict(seed=0, start=36)):
        assert not torch.equal(alone, randomised(EMBED, seven, way, ids=range(12), **other).tokens)
    if way.kind != 'mixup':  # where a batch is cut does not matter
        later = randomised(EMBED, seven[5:], way, ids=range(5, 12), seed=0, start=29).tokens
        assert torch.equal(alone[5:], later)


def test_noise_has_its_size():
    way, plain = Mitigation('noise', 0.3), EMBED(['a seven'] * 200).tokens
    added = randomised(EMBED, [('a seven',)] * 200, way, ids=range(200), seed=0).tokens - plain
    assert abs(added.std() - 0.3) < 0.01 and abs(added.mean()) < 0.01
    assert randomised(EMBED, SAID, Mitigation('noise', 0.0), ids=(1, 2), seed=0).tokens.equal(
        EMBED([SAID[0][0]] * 2).tokens
    )
