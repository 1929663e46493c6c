"Membership: a network that has seen images is told from one that has not, and nothing else is."

import json

import pytest
import torch
from ambient_nb import membership as room
from ambient_nb.core import refused, rng
from ambient_nb.data import Images, digits
from ambient_nb.membership import auc, image_errors, membership
from ambient_nb.networks import NetConfig
from ambient_nb.sources import read_pictures
from ambient_nb.suspects import Suspect, open_model
from ambient_nb.training import TrainConfig, fit

POOL, HELDOUT = digits()
NET = NetConfig(model_channels=16, channel_mult=(1, 2), num_blocks=1, attn_resolutions=())


def some(images, n):
    return Images(images.pixels[:n], images.labels[:n], images.ids[:n], images.name)


@pytest.fixture(scope='module')
def suspect(tmp_path_factory):
    "A network that has seen 60 digits about a hundred times."
    config = TrainConfig(net=NET, iters=200, batch=32, lr=4e-3, ema_kimg=1.0)
    return open_model(fit(config, some(POOL, 60), tmp_path_factory.mktemp('member') / 'run', device='cpu'))


def test_a_network_knows_what_it_has_seen_and_nothing_else(suspect, tmp_path):
    seen, never, others = (
        read_pictures(u, folder=tmp_path) for u in (POOL.pixels[:60], HELDOUT.pixels, POOL.pixels[60:])
    )
    found, control = membership(suspect, seen, never), membership(suspect, others, never)
    levels = found.numbers['levels']
    assert max(level['auc']['lo'] for level in levels) > 0.55 and all(level['ratio']['value'] > 1 for level in levels)
    assert found.numbers['images'] == 60 and found.numbers['best']['auc']['n'] == 30
    assert control.numbers['best']['auc']['lo'] < 0.5 < control.numbers['best']['auc']['hi']
    assert control.numbers['images'] == 500 and 'no better' in control.notes[0]
    assert control.numbers['best']['caught']['lo'] < 0.01 < control.numbers['best']['caught']['hi']
    assert json.loads(json.dumps(found.numbers, allow_nan=False)) == json.loads(json.dumps(found.numbers))
    assert all(level['caught'] is None for level in levels) and 'fewer than 200' in found.body


def test_who_ignores_the_data_tells_nothing():
    a, b = (POOL.pixels[torch.randperm(1000, generator=rng(0, 'split'))][i::2] for i in (0, 1))
    for D in (lambda x, sigma, labels=None: x, lambda x, sigma, labels=None: torch.zeros_like(x)):
        errors = [
            image_errors(Suspect(D, (1, 8, 8), 'blind'), u, name, draws=1) for u, name in ((a, 'train'), (b, 'heldout'))
        ]
        for level in zip(*(e.T for e in errors)):
            assert (e := auc(*level)).lo < 0.5 < e.hi


def test_errors_do_not_depend_on_batches_nor_on_what_comes_after(suspect):
    whole = image_errors(suspect, POOL.pixels[:70], 'train', draws=2)
    for block in (1, 33):
        assert abs(image_errors(suspect, POOL.pixels[:40], 'train', draws=2, block=block) - whole[:40]).max() < 1e-6
    assert abs(image_errors(suspect, POOL.pixels[:40], 'heldout', draws=2) - whole[:40]).max() > 1e-3


def test_classes_are_guessed_up_to_a_number():
    told = []

    def D(x, sigma, labels=None):
        told.append(None if labels is None else labels.shape[1])
        return 0 * x if labels is None else x * (labels.argmax(1) == 2)[:, None, None, None]

    image_errors(Suspect(D, (1, 8, 8), 'few', classes=3), POOL.pixels[:5], 'train', (0.01,), draws=2)
    assert told == [3] * 5  # three guesses, and two noises
    told.clear()
    image_errors(Suspect(D, (1, 8, 8), 'many', classes=room.GUESSED + 1), POOL.pixels[:5], 'train', (0.1,), draws=2)
    assert told == [None] * 2


def test_sets_that_differ_without_any_model_are_named(tmp_path):
    blind = Suspect(lambda x, sigma, labels=None: torch.zeros_like(x), (1, 8, 8), 'blind')
    dull = read_pictures(HELDOUT.pixels[:100] // 2, folder=tmp_path)
    section = membership(blind, read_pictures(POOL.pixels[:100], folder=tmp_path), dull)
    assert any('roughness' in note and 'differ' in note for note in section.notes)


def test_few_images_are_refused(suspect, tmp_path):
    train, few = (read_pictures(u, folder=tmp_path) for u in (POOL.pixels[:60], HELDOUT.pixels[:19]))
    assert '19 held-out' in refused(membership, suspect, train, few)
    colour = read_pictures(
        POOL.pixels[:60].expand(-1, 3, -1, -1).clone().index_fill(1, torch.tensor(0), 9), folder=tmp_path
    )
    assert '3 channels' in refused(membership, suspect, colour, colour)
