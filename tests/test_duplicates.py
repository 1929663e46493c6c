"Duplicates: what a training set holds twice hides no copy, and sets of one to three images clear nobody."

import io

import numpy as np
import pytest
import torch
from ambient_nb.audit import audit
from ambient_nb.core import refused, rng
from ambient_nb.data import digits
from PIL import Image

POOL, HELDOUT = digits()


def noisy(u, name, most=4):
    return (u + torch.randint(-most, most + 1, u.shape, generator=rng(0, 'twice', name))).clamp(0, 255).to(torch.uint8)


def jpeg(u, quality):
    "Grey images as JPEG gives them back."

    def back(a):
        Image.fromarray(a).save(out := io.BytesIO(), format='JPEG', quality=quality)
        return np.asarray(Image.open(out))

    return torch.from_numpy(np.stack([back(a) for a in u[:, 0].numpy()]))[:, None]


TWICE = {
    'byte for byte': lambda u: u,
    'JPEG 85': lambda u: jpeg(u, 85),
    'JPEG 95': lambda u: jpeg(u, 95),
    'slight noise': lambda u: noisy(u, 'train'),
    'many times': lambda u: noisy(u.repeat(6, 1, 1, 1), 'many'),
}


@pytest.mark.parametrize('double', TWICE)
@pytest.mark.parametrize('copy', ['JPEG', 'noise'])
def test_fifty_copies_of_what_stands_there_twice(double, copy, tmp_path):
    "Of 1,000 training images 50 stand there again; of 200 samples 50 are near-copies of these: all found, no other."
    again = TWICE[double](POOL.pixels[:50])
    train = torch.cat([POOL.pixels[: 1000 - len(again)], again])
    copies = jpeg(POOL.pixels[:50], 90) if copy == 'JPEG' else noisy(POOL.pixels[:50], 'samples')
    found = audit(torch.cat([copies, HELDOUT.pixels[400:550]]), train, HELDOUT.pixels[:400], cache=tmp_path)
    lines, numbers = found.lines[found.lines.set == 'generated'], found.sections[0].numbers['train']
    assert len(train) == 1000 and len(lines) == 200 and numbers['clusters'] == 50
    assert lines.memorized[:50].all() and not lines.memorized[50:].any() and not found.tally.exact
    assert found.words[1] == 'more' and found.verdict.startswith('50 of 200 look copied (25 %), more than the null')
    assert numbers['repeat_to_the_byte'] == 50 * (double == 'byte for byte')


@pytest.mark.parametrize('n', [1, 2, 3])
@pytest.mark.parametrize('which', ['generated', 'train', 'holdout'])
def test_sets_of_one_to_three_images(which, n, tmp_path):
    "No training set, no samples and no holdout of that size clear anybody; one training image is refused."
    sets = dict(generated=HELDOUT.pixels[:60], train=POOL.pixels, holdout=HELDOUT.pixels[100:300])
    sets[which] = sets[which][:n]
    if (which, n) == ('train', 1):
        assert refused(audit, **sets, cache=tmp_path).startswith('train=')
        return
    found = audit(**sets, out=tmp_path / 'report', cache=tmp_path / 'cache')
    assert found.words[1] == 'open' or which == 'train'
    assert ('excluded' in found.verdict) == (found.words[1] == 'none') and (tmp_path / 'report').exists()
    assert '1 clusters' not in (page := (tmp_path / 'report' / 'report.html').read_text()) and '1 samples' not in page


@pytest.mark.parametrize('bad', [0, -0.1, 1.01, float('nan'), float('inf'), 'high', None, True])
def test_a_threshold_out_of_range_is_refused_before_anything_is_read(bad, tmp_path):
    said = refused(audit, tmp_path / 'nowhere', POOL, threshold=bad, out=tmp_path / 'report', cache=tmp_path / 'cache')
    assert said.startswith('threshold=') and 'a finite number > 0 and <= 1' in said and not list(tmp_path.iterdir())


@pytest.mark.parametrize('same', ['itself', 'a copy', 'another order', 'as colour'])
def test_samples_that_are_the_training_set_are_refused(same, tmp_path):
    u = POOL.pixels[:30]
    other = {'itself': u, 'a copy': u.clone(), 'another order': u.flip(0), 'as colour': u.expand(-1, 3, -1, -1)}[same]
    said = refused(audit, other, u, out=tmp_path / 'report', cache=tmp_path / 'cache')
    assert said.startswith('generated=') and 'these are the same ones' in said and not (tmp_path / 'report').exists()


def test_samples_that_are_the_training_set_and_one_more(tmp_path):
    "No longer the same sets: each copy is counted, and without held-out images nothing more is said."
    found = audit(torch.cat([POOL.pixels[:30], HELDOUT.pixels[:1]]), POOL.pixels[:30], cache=tmp_path)
    assert found.counts == (30, 31) and found.tally.exact == 30 and found.words[1] == 'open'
