"Data: what a zip may hold, which images a subset is, in which order they come."

import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from ambient_nb.core import BadInput, rng
from ambient_nb.data import (
    Images,
    digits,
    order,
    pick,
    read_zip,
    shrink,
    subset,
    write_zip,
)
from PIL import Image


def some(n=7, channels=3, side=8, labels=True, seed=0):
    "Random pictures with labels 0, 1, 2, 0, …"
    u = torch.randint(256, (n, channels, side, side), dtype=torch.uint8, generator=rng(seed, 'pictures'))
    return Images(u, torch.arange(n) % 3 if labels else None, torch.arange(n), 'some')


def png(u, mode=None, held=1):
    "One picture as PNG bytes, channels first; `held` is its EXIF orientation."
    a = u.numpy() if torch.is_tensor(u) else u
    (tags := Image.Exif())[0x0112] = held
    Image.fromarray(a[0] if a.shape[0] == 1 else a.transpose(1, 2, 0)).convert(mode).save(
        f := io.BytesIO(), format='PNG', **(dict(exif=tags) if held > 1 else {})
    )
    return f.getvalue()


def zipped(path, members, labels=None, text=None):
    "A zip as somebody else would write it."
    with zipfile.ZipFile(path, 'w') as z:
        for name, content in members.items():
            z.writestr(name, content)
        if labels is not None or text is not None:
            z.writestr('dataset.json', text or json.dumps(dict(labels=labels)))
    return path


def names(n):
    return [f'00000/img{i:08d}.png' for i in range(n)]


# --- images -----------------------------------------------------------------------------------------------------------


def test_digits_are_pinned():
    before = torch.get_rng_state()
    pool, heldout = digits()
    assert (pool.sha[:12], heldout.sha[:12]) == ('6428385430eb', 'd98ecfe1b529')
    assert sorted(torch.cat([pool.ids, heldout.ids]).tolist()) == list(range(1797))
    assert pool.pixels.max() == 255 and len(pool.pixels.unique()) == 17
    assert torch.equal(before, torch.get_rng_state())


def test_shrink_is_a_box_average():
    a = some()
    expected = a.pixels.double().reshape(7, 3, 4, 2, 4, 2).mean((3, 5)).round().to(torch.uint8)
    assert torch.equal(shrink(a, 4).pixels, expected) and torch.equal(shrink(a, 4).ids, a.ids)
    assert shrink(a, 8) is a and shrink(a, 3).resolution == 3
    flat = Images(torch.full((1, 1, 7, 7), 77, dtype=torch.uint8), None, torch.arange(1), 'flat')
    assert (shrink(flat, 3).pixels == 77).all()
    assert shrink(a, 3).pixels.double().std() < 0.4 * a.pixels.double().std()  # fine detail is averaged, not sampled
    for bad in (0, 9, 'x'):
        with pytest.raises(BadInput, match='size'):
            shrink(a, bad)


# --- zips -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('labels', [True, False])
def test_round_trip(tmp_path, channels, labels):
    a = some(1005, channels, 4, labels)
    b = read_zip(write_zip(tmp_path / 'a.zip', a))
    assert torch.equal(a.pixels, b.pixels) and b.sha == a.sha and b.name == 'a' and (b.labels is None) == (not labels)
    assert zipfile.ZipFile(tmp_path / 'a.zip').namelist()[1000] == '00001/img00001000.png'
    assert (tmp_path / 'a.zip').read_bytes() == write_zip(tmp_path / 'b.zip', a).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.zip', 'b.zip']


def test_reading_a_part(tmp_path):
    a = some()
    b = read_zip(write_zip(tmp_path / 'a.zip', a), indices=[4, 1], size=4)
    assert (
        b.ids.tolist() == [4, 1]
        and b.labels.tolist() == [1, 1]
        and torch.equal(b.pixels, shrink(a.take([4, 1]), 4).pixels)
    )
    for bad in ([], [7], [-1]):
        with pytest.raises(BadInput, match='indices'):
            read_zip(tmp_path / 'a.zip', indices=bad)


def test_failed_writing_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / 'a.zip').write_bytes(b'old')
    monkeypatch.setattr(Image.Image, 'save', lambda *a, **k: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError, match='disk full'):
        write_zip(tmp_path / 'a.zip', some())
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [('a.zip', b'old')]


def test_grey_members_are_expanded_and_counted(tmp_path):
    colour, grey = some(3).pixels, some(2, 1).pixels
    path = zipped(tmp_path / 'mix.zip', dict(zip(names(5), map(png, [*colour, *grey]))))
    with pytest.warns(UserWarning, match='mix.zip: 2 grey images of 5') as caught:
        images = read_zip(path)
    assert (
        len(caught) == 1
        and images.channels == 3
        and torch.equal(images.pixels[3:], grey.expand(2, 3, 8, 8))
        and images.labels is None
    )
    assert read_zip(zipped(tmp_path / 'grey.zip', dict(zip(names(2), map(png, grey))))).channels == 1


def test_what_macos_adds_is_no_picture(tmp_path):
    picture = png(some(1).pixels[0])
    mac = {f'__MACOSX/{names(1)[0]}': picture, '00000/._img00000000.png': b'', names(1)[0]: picture}
    assert len(read_zip(zipped(tmp_path / 'mac.zip', mac))) == 1


BROKEN = {
    'two sizes': (
        lambda p: zipped(p, {names(2)[0]: png(some(1).pixels[0]), names(2)[1]: png(some(1, side=4).pixels[0])}),
        'img00000001.*of one size.*4x4.*8x8',
    ),
    'not square': (lambda p: zipped(p, {names(1)[0]: png(np.zeros((3, 4, 8), np.uint8))}), 'img00000000.*square.*8x4'),
    'broken png': (
        lambda p: zipped(p, {names(2)[0]: png(some(1).pixels[0]), names(2)[1]: png(some(1).pixels[0])[:90]}),
        'img00000001.*opens',
    ),
    'not a png': (lambda p: zipped(p, {names(1)[0]: b'hello'}), 'img00000000.*opens'),
    'transparent': (lambda p: zipped(p, {names(1)[0]: png(some(1).pixels[0], 'RGBA')}), 'img00000000.*alpha'),
    'on its side': (lambda p: zipped(p, {names(1)[0]: png(some(1).pixels[0], held=6)}), 'img00000000.*upright'),
    'no images': (lambda p: zipped(p, {'readme.txt': 'hello'}), 'this one has none'),
    'not a zip': (lambda p: p.write_bytes(b'hello') and p, 'zip file that opens'),
    'missing': (lambda p: p, 'existing zip'),
    'folder': (lambda p: p.mkdir() or p, 'existing zip'),
    'label missing': (
        lambda p: zipped(p, {n: png(some(1).pixels[0]) for n in names(2)}, [[names(1)[0], 0]]),
        'img00000001.png has none',
    ),
    'label too many': (
        lambda p: zipped(p, {n: png(some(1).pixels[0]) for n in names(1)}, [[n, 0] for n in names(2)]),
        'img00000001.png has a label but is no image',
    ),
    'labels no numbers': (
        lambda p: zipped(p, {names(1)[0]: png(some(1).pixels[0])}, [[names(1)[0], 'cat']]),
        "whole numbers from 0, not 'cat'",
    ),
    'labels no pairs': (lambda p: zipped(p, {names(1)[0]: png(some(1).pixels[0])}, [3]), r'\[member, class\]'),
    'no json': (lambda p: zipped(p, {names(1)[0]: png(some(1).pixels[0])}, text='{'), 'dataset.json.*JSON'),
}


@pytest.mark.parametrize('case', BROKEN)
def test_broken_zip(tmp_path, case):
    make, message = BROKEN[case]
    path = make(tmp_path / 'x.zip')
    with pytest.raises(BadInput, match=message) as caught:
        read_zip(path)
    assert 'x.zip' in str(caught.value)


def test_damaged_member_is_named(tmp_path):
    path = write_zip(tmp_path / 'x.zip', some())
    content = bytearray(path.read_bytes())
    at = content.index(b'img00000003.png') + 80
    content[at] ^= 255
    path.write_bytes(content)
    with pytest.raises(BadInput, match='img00000003.png'):
        read_zip(path)


# --- subsets and order ------------------------------------------------------------------------------------------------


def test_subset_is_pinned():
    images, listed = subset(digits()[0], '300')
    assert listed.indices == tuple(range(300)) and torch.equal(images.ids, digits()[0].ids[:300])
    assert listed.sha256 == '8a4d455be0cebf02e770308c255f186e6940ff8fb6c87d9181b03cbbb3e38cd2'
    assert len({subset(digits()[0], n, rule=rule)[1].sha256 for n in (299, 300) for rule in ('first', 'balanced')}) == 4


def test_balanced_subsets_of_200_classes():
    labels = torch.arange(200).repeat(20)[torch.randperm(4000, generator=rng(0, 'labels'))]
    pool = Images(torch.zeros(4000, 1, 1, 1, dtype=torch.uint8), labels, torch.arange(4000), 'many', 'balanced')
    counts = {n: subset(pool, n)[0].labels.bincount().tolist() for n in (300, 1000, 3000)}
    assert counts == {300: [2] * 100 + [1] * 100, 1000: [5] * 200, 3000: [15] * 200}
    lists = [set(subset(pool, n)[1].indices) for n in (300, 1000, 3000)]
    assert lists[0] < lists[1] < lists[2]
    five = [i for k in range(200) for i in (labels == k).nonzero()[:5, 0].tolist()]
    assert lists[1] == set(five)


def test_rules_that_cannot_hold():
    with pytest.raises(BadInput, match='rule'):
        subset(some(), 3, rule='random')
    with pytest.raises(BadInput, match='labels'):
        subset(some(labels=False), 3, rule='balanced')
    with pytest.raises(BadInput, match='class 1 has 1'):
        pick(torch.tensor([0, 0, 0, 1]), 4, 'balanced')


def test_order_does_not_depend_on_batches():
    whole = order(7, 3, 0, 50)
    for size in (1, 4, 7, 13):
        assert torch.equal(whole, torch.cat([order(7, 3, s, min(size, 50 - s)) for s in range(0, 50, size)]))
    assert torch.equal(order(7, 3, 23, 11), whole[23:34]) and len(order(7, 3, 5, 0)) == 0
    epochs = whole[:49].view(7, 7)
    assert (epochs.sort(1).values == torch.arange(7)).all() and len({tuple(e) for e in epochs.tolist()}) > 1
    assert not torch.equal(whole, order(7, 4, 0, 50))


@pytest.mark.real_data
def test_real_cifar(data_dir):
    images = read_zip(data_dir / 'cifar10-32x32-train.zip', indices=range(2000))
    assert images.pixels.shape == (2000, 3, 32, 32) and images.classes == 10
    assert 100 < images.pixels.float().mean() < 140


def test_import_is_light():
    heavy = ('PIL', 'sklearn', 'pandas', 'pyarrow', 'h5py', 'matplotlib', 'scipy')
    code = f'import sys, ambient_nb.datasets, ambient_nb.datamake; print([m for m in {heavy} if m in sys.modules])'
    assert (
        subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
    )
