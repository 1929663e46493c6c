"Copies: mirror images are duplicates, an encoder fits, features are of the pictures that are there now."

import os

import numpy as np
import pytest
import torch
from drawn import png
from ambient_nb.audit import audit
from ambient_nb.core import refused, rng
from ambient_nb.data import digits
from ambient_nb.features import DigitsEncoder, Encoder, PixelEncoder

POOL, HELDOUT = digits()


def shaken(u, name, most=4):
    return (u + torch.randint(-most, most + 1, u.shape, generator=rng(0, 'copies', name))).clamp(0, 255).to(torch.uint8)


def test_stored_mirror_images_are_duplicates(tmp_path):
    "Fifty digits that the training set holds mirrored too; copies of them, either way round, and a repeated sample."
    train = torch.cat([POOL.pixels, shaken(POOL.pixels[:50].flip(-1), 'stored')])
    copies = torch.cat([shaken(POOL.pixels[:25], 'straight'), shaken(POOL.pixels[25:50].flip(-1), 'mirrored')])
    samples = torch.cat([copies, HELDOUT.pixels[400:550], HELDOUT.pixels[549:550].flip(-1)])
    once = audit(samples, train, HELDOUT.pixels[:200], cache=tmp_path)
    both = audit(samples, train, HELDOUT.pixels[:200], flips=True, cache=tmp_path)
    for found, clusters, repeated in ((once, 0, 0), (both, 50, 1)):
        numbers = found.sections[0].numbers
        assert numbers['train']['clusters'] == clusters and found.counts[0] == 50 and found.words[1] == 'more'
        assert numbers['generated']['images'] - numbers['generated']['distinct'] == repeated
        assert found.tally.h == 0 and found.lines.memorized[:50].all()
    lines = both.lines[:50]
    assert torch.equal(both.cluster[lines.nearest.tolist()] % 1000, torch.arange(50)) and not once.lines.mirrored.any()
    assert (lines.ratio < 1 / 3).all() and (both.cluster[lines.nearest2.tolist()].numpy() != lines.cluster).all()


class Misfit(Encoder):
    "Says it makes three numbers, and makes something else."

    name, definition, dim = 'misfit', dict(kind='misfit'), 3

    def __init__(self, made):
        self.made = made

    def embed(self, x):
        return self.made(x)


@pytest.mark.parametrize(
    'encoder',
    [
        PixelEncoder(HELDOUT),  # of 1x8x8, where pictures are 3x8x8
        DigitsEncoder(),
        'cifar10-cnn',
        Misfit(lambda x: x.flatten(1)),
        Misfit(lambda x: x.flatten(1)[:, :3] * torch.nan),
        Misfit(lambda x: x.flatten(1) @ torch.ones(5, 3)),
        len,
        'pixel',
    ],
    ids=lambda e: getattr(e, 'name', str(e)),
)
def test_an_encoder_that_does_not_fit_is_named(encoder, tmp_path):
    colour = HELDOUT.pixels.expand(-1, 3, -1, -1)
    said = refused(audit, colour[:5], colour[10:40].flip(1) // 2, encoder=encoder, out=tmp_path / 'r', cache=tmp_path)
    assert said.startswith('encoder=') and ': encoder must be ' in said and not (tmp_path / 'r').exists()
    called = encoder if isinstance(encoder, str) else getattr(encoder, 'name', 'built-in function len')
    assert called in said and ('3x8x8' in said or not isinstance(encoder, Encoder))


def test_files_that_changed_in_place_have_new_features(tmp_path):
    "Same names, sizes and times: only what is in the files differs."

    def write(rows):
        for i, a in enumerate(HELDOUT.pixels[rows, 0].numpy()):
            png(a, tmp_path / 'samples' / f'{i}.png')
            os.utime(tmp_path / 'samples' / f'{i}.png', (1, 1))

    def lines(cache):
        table = audit(tmp_path / 'samples', POOL, encoder=DigitsEncoder(), cache=tmp_path / cache).table
        return table[['d1', 'd2', 'similarity']].to_numpy()

    write(range(9))
    first = lines('kept')
    assert np.array_equal(first, lines('kept'))
    write(range(20, 29))
    second = lines('kept')
    assert np.array_equal(second, lines('new')) and (first != second).all()
