"Each recipe on a tiny tree of the layout it is made for."

from functools import partial
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from ambient_nb.core import BadInput, rng
from ambient_nb.data import read_zip, subset, write_zip
from ambient_nb.datamake import make_zip
from ambient_nb.datasets import DATASETS, load
from ambient_nb.recipes import RECIPES
from PIL import Image

make_zip = partial(make_zip, overwrite=True)  # to one place, again and again


def noise(*shape, seed=0):
    return torch.randint(256, shape, dtype=torch.uint8, generator=rng(seed, 'noise')).numpy()


def save(path, a, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(a).save(path, **options)
    return path


def coded(value, size):
    "A flat picture that carries a number, and survives JPEG and resizing."
    return np.full((*size, 3), value, np.uint8)


def values(images):
    return images.pixels.float().mean((1, 2, 3)).round().int().tolist()


def meta(path):
    return json.loads(zipfile.ZipFile(path).read('dataset.json'))


def make(src, tmp_path, **options):
    "The images of a zip, what was reported, and what the zip says."
    made = make_zip(src, tmp_path / 'out.zip', **options)
    images = read_zip(made['out'], name=made['recipe'])
    assert images.sha == made['sha'] and (len(images), images.resolution, images.channels, images.classes) == tuple(
        made[k] for k in ('n', 'size', 'channels', 'classes')
    )
    stored = meta(made['out'])
    assert stored['meta'] == {k: v for k, v in made.items() if k not in ('out', 'beside')} and len(
        stored['source']
    ) == len(images)
    return images, made, stored


# --- layouts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cifar(tmp_path):
    "Five training batches of 4 and a test batch of 3, as Python 2 pickles have them: keys and names are bytes."
    folder = tmp_path / 'cifar-10-batches-py'
    folder.mkdir()
    for i, name in enumerate([f'data_batch_{k}' for k in range(1, 6)] + ['test_batch']):
        n = 3 if name == 'test_batch' else 4
        batch = {
            b'data': noise(n, 3072, seed=i),
            b'labels': [(i + j) % 10 for j in range(n)],
            b'filenames': [f'{i}_{j}.png'.encode() for j in range(n)],
            b'batch_label': b'x',
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / 'batches.meta').write_bytes(
        pickle.dumps({b'label_names': [f'class{k}'.encode() for k in range(10)]}, protocol=2)
    )
    return folder


def test_cifar10(cifar, tmp_path):
    images, made, stored = make(cifar, tmp_path, kind='cifar10', seed=None)
    expected = np.concatenate([noise(4, 3072, seed=i) for i in range(5)]).reshape(20, 3, 32, 32)
    assert np.array_equal(images.pixels.numpy(), expected) and images.labels.tolist() == [
        (i + j) % 10 for i in range(5) for j in range(4)
    ]
    assert stored['classes'][3] == 'class3' and stored['source'][5] == 'data_batch_2/1_1.png' and made['rule'] == 'all'
    shuffled, _, listed = make(cifar, tmp_path, kind='cifar10')
    places = [stored['source'].index(s) for s in listed['source']]
    assert (
        torch.equal(shuffled.pixels, images.pixels[places])
        and places != sorted(places)
        and sorted(places) == list(range(20))
    )
    assert len(make(cifar, tmp_path, kind='cifar10-test')[0]) == 3
    assert make(cifar, tmp_path, kind='cifar10', size=16, n=4)[0].resolution == 16


def test_cifar10_archive_equals_its_folder(cifar, tmp_path):
    with tarfile.open(tmp_path / 'cifar-10-python.tar.gz', 'w:gz') as tar:
        tar.add(cifar, 'cifar-10-batches-py')
    assert (
        make(tmp_path / 'cifar-10-python.tar.gz', tmp_path, kind='cifar10')[1]['sha']
        == make(cifar, tmp_path, kind='cifar10')[1]['sha']
    )


def test_cifar10_pickle_runs_nothing(cifar, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / 'was_here'), 'w'))

    (cifar / 'data_batch_3').write_bytes(pickle.dumps({b'data': Bomb()}))
    with pytest.raises(BadInput, match='data_batch_3.*it asks for .*open'):
        make_zip(cifar, tmp_path / 'out.zip', kind='cifar10')
    assert not (tmp_path / 'was_here').exists() and not (tmp_path / 'out.zip').exists()


@pytest.fixture
def tiny(tmp_path):
    "Three classes of 6 training pictures, 2 validation pictures each; some are grey."
    folder = tmp_path / 'tiny-imagenet-200'
    rows = []
    for k, wnid in enumerate(['n03', 'n01', 'n02']):
        for i in range(6):
            save(
                folder / 'train' / wnid / 'images' / f'{wnid}_{i}.JPEG',
                coded(40 * k + 5 * i, (64, 64))[..., 0] if i == 5 else coded(40 * k + 5 * i, (64, 64)),
            )
        for i in range(2):
            save(folder / 'val' / 'images' / f'val_{len(rows)}.JPEG', coded(200 + len(rows), (64, 64)))
            rows.append(f'val_{len(rows)}.JPEG\t{wnid}\t0\t0\t62\t62')
    (folder / 'val' / 'val_annotations.txt').write_text('\n'.join(rows) + '\n')
    (folder / 'wnids.txt').write_text('n03\nn01\nn02\n')
    save(folder / 'test' / 'images' / 'test_0.JPEG', coded(0, (64, 64)))
    return folder


def test_tinyimagenet(tiny, tmp_path):
    images, made, stored = make(tiny, tmp_path, kind='tinyimagenet')
    assert (
        stored['classes'] == ['n01', 'n02', 'n03']
        and images.labels.bincount().tolist() == [6, 6, 6]
        and made['grey_expanded'] == 3
    )
    start = {0: 40, 1: 80, 2: 0}  # class n01 was written second
    assert all(abs(v - start[k]) <= 27 for v, k in zip(values(images), images.labels.tolist()))
    held, _, listed = make(tiny, tmp_path, kind='tinyimagenet-val')
    assert len(held) == 6 and all(
        {200: 2, 201: 2, 202: 0, 203: 0, 204: 1, 205: 1}[v] == k for v, k in zip(values(held), held.labels.tolist())
    )


def test_tinyimagenet_n_is_balanced(tiny, tmp_path):
    whole = make(tiny, tmp_path, kind='tinyimagenet')[0]
    for n, counts in {3: [1, 1, 1], 4: [2, 1, 1], 15: [5, 5, 5]}.items():
        part, made, stored = make(tiny, tmp_path, kind='tinyimagenet', n=n)
        assert [stored['classes'][k] for k in part.labels.tolist()] == [s.split('/')[1] for s in stored['source']]
        assert part.labels.bincount().tolist() == counts and made['rule'] == 'balanced'
        assert torch.equal(part.pixels, subset(whole, n, rule='balanced')[0].pixels)
    assert make(tiny, tmp_path, kind='tinyimagenet', per_class=5)[1]['sha'] == part.sha
    with pytest.raises(BadInput, match='per_class=7 .*from 1 to 6'):
        make_zip(tiny, tmp_path / 'x.zip', kind='tinyimagenet', per_class=7)


def test_tinyimagenet_archive_equals_its_folder(tiny, tmp_path):
    with zipfile.ZipFile(tmp_path / 'tiny-imagenet-200.zip', 'w') as z:
        for p in tiny.rglob('*'):
            if p.is_file():
                z.write(p, p.relative_to(tmp_path))
    assert (
        make(tmp_path / 'tiny-imagenet-200.zip', tmp_path, kind='tinyimagenet')[1]['sha']
        == make(tiny, tmp_path, kind='tinyimagenet')[1]['sha']
    )
    (tiny / 'val' / 'images' / 'val_3.JPEG').unlink()
    with pytest.raises(BadInput, match='val_3.JPEG is missing'):
        make_zip(tiny, tmp_path / 'x.zip', kind='tinyimagenet-val')


def test_ffhq_folders_are_no_classes(tmp_path):
    for i in range(5):
        save(tmp_path / 'ffhq' / f'{i // 3 * 1000:05d}' / f'{i:05d}.png', noise(128, 128, 3, seed=i))
    images, made, _ = make(tmp_path / 'ffhq', tmp_path, kind='ffhq', seed=None)
    assert images.labels is None and made['size'] == 64
    box = (
        np.stack([noise(128, 128, 3, seed=i) for i in range(5)])
        .astype(float)
        .reshape(5, 64, 2, 64, 2, 3)
        .mean((2, 4))
        .transpose(0, 3, 1, 2)
    )
    assert np.abs(images.pixels.numpy() - box).max() <= 0.5


def test_celeba_takes_the_centre(tmp_path):
    a = np.full((218, 178, 3), 255, np.uint8)
    a[20:198] = 90
    for i in range(3):
        save(tmp_path / 'img_align_celeba' / f'{i:06d}.png', a)
    images, _, _ = make(tmp_path / 'img_align_celeba', tmp_path, kind='celeba')
    assert images.pixels.shape == (3, 3, 64, 64) and (images.pixels == 90).all() and images.labels is None


def test_afhq_and_imagenette_have_splits(tmp_path):
    for k, name in enumerate(['cat', 'dog', 'wild']):
        for i in range(2):
            save(tmp_path / 'afhq' / 'train' / name / f'{i}.png', coded(50 * k + i, (128, 128)))
        save(tmp_path / 'afhq' / 'test' / name / '9.png', coded(50 * k + 9, (128, 128)))
    images, made, stored = make(tmp_path / 'afhq', tmp_path, kind='afhq')
    assert stored['classes'] == ['cat', 'dog', 'wild'] and sorted(zip(images.labels.tolist(), values(images))) == [
        (0, 0),
        (0, 1),
        (1, 50),
        (1, 51),
        (2, 100),
        (2, 101),
    ]
    assert sorted(values(make(tmp_path / 'afhq', tmp_path, kind='afhq-val')[0])) == [9, 59, 109]
    for k, wnid in enumerate(['n02', 'n01']):
        for split in ('train', 'val'):
            save(
                tmp_path / 'imagenette2' / split / wnid / f'{split}.JPEG',
                coded(60 * k + 20 * (split == 'val'), (100, 150 + k)),
            )
    with tarfile.open(tmp_path / 'imagenette2.tgz', 'w:gz') as tar:
        tar.add(tmp_path / 'imagenette2', 'imagenette2')
    for kind, expected in dict(zip(('imagenette', 'imagenette-val'), ([(0, 60), (1, 0)], [(0, 80), (1, 20)]))).items():
        images = make(tmp_path / 'imagenette2.tgz', tmp_path, kind=kind)[0]
        assert sorted(zip(images.labels.tolist(), values(images))) == expected
    for path in (tmp_path / 'afhq' / 'test').rglob('*.png'):
        path.unlink()
    with pytest.raises(BadInput, match=r"split='val'.*train \(6\)"):
        make_zip(tmp_path / 'afhq', tmp_path / 'x.zip', kind='afhq-val')


def test_fastmri(tmp_path):
    h5py = pytest.importorskip('h5py', reason='MRI volumes need h5py')
    (tmp_path / 'multicoil').mkdir()
    for name, top in (('a', 1e-4), ('b', 7.0)):
        rss = np.zeros((2, 320, 320))
        rss[0, 100:200, 100:200] = top
        rss[1, 0, 0] = top / 2
        with h5py.File(tmp_path / 'multicoil' / f'{name}.h5', 'w') as f:
            f['reconstruction_rss'] = rss
    images, made, stored = make(tmp_path / 'multicoil', tmp_path, kind='fastmri', seed=None)
    assert images.pixels.shape == (4, 1, 384, 384) and images.labels is None and stored['source'][3] == 'b.h5: slice 1'
    assert images.pixels.amax((1, 2, 3)).tolist() == [255, 128, 255, 128] and images.pixels[1, 0, 32, 32] == 128
    assert make(tmp_path / 'multicoil' / 'a.h5', tmp_path, kind='fastmri', size=64)[0].pixels.shape == (2, 1, 64, 64)
    (tmp_path / 'multicoil' / 'c.h5').write_bytes(b'no')
    with pytest.raises(BadInput, match='c.h5.*HDF5 volume'):
        make_zip(tmp_path / 'multicoil', tmp_path / 'x.zip', kind='fastmri')


def test_edm_zip_as_source_keeps_its_labels(tmp_path):
    images = make_digits(tmp_path)
    again, _, _ = make(tmp_path / 'digits.zip', tmp_path, seed=None)
    assert torch.equal(again.pixels, images.pixels) and torch.equal(again.labels, images.labels)
    zipfile.ZipFile(tmp_path / 'digits.zip').extractall(tmp_path / 'unpacked')
    assert make(tmp_path / 'unpacked', tmp_path, size=4)[0].classes == images.classes


def make_digits(tmp_path):
    images = load().pool.take(range(30))
    write_zip(tmp_path / 'digits.zip', images)
    return images


# --- what all recipes share -------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for k in 'ab':
        for i in range(4):
            save(tmp_path / 'src' / k / f'{i}.png', coded(10 * i + 100 * (k == 'b'), (16, 16)))
    return tmp_path / 'src'


def test_load_advises_commands_that_exist():
    assert {record.recipe for record in DATASETS.values()} - {None} <= set(RECIPES)


def test_shuffle_is_a_function_of_the_seed(folder, tmp_path):
    before = torch.get_rng_state()
    a, b, c = (make(folder, tmp_path, seed=s)[2]['source'] for s in (0, 0, 1))
    assert a == b != c and sorted(a) == sorted(c) and torch.equal(before, torch.get_rng_state())
    assert make(folder, tmp_path, seed=None)[2]['source'] == sorted(a)
    assert make(folder, tmp_path, n=3)[2]['source'] == a[:3]


def test_same_bytes_twice(folder, tmp_path):
    one, two = make_zip(folder, tmp_path / '1.zip')['out'], make_zip(folder, tmp_path / '2.zip')['out']
    assert open(one, 'rb').read() == open(two, 'rb').read()


def test_broken_picture_stops_before_anything_is_written(folder, tmp_path):
    (folder / 'b' / '2.png').write_bytes((folder / 'b' / '2.png').read_bytes()[:60])
    (tmp_path / 'out').mkdir()
    with pytest.raises(BadInput, match='b/2.png.*opens'):
        make_zip(folder, tmp_path / 'out' / 'x.zip')
    assert list((tmp_path / 'out').iterdir()) == []


def test_unwanted_pictures_are_not_opened(folder, tmp_path):
    kept = make(folder, tmp_path, n=5)[2]['source']
    for p in folder.rglob('*.png'):
        if p.relative_to(folder).as_posix() not in kept:
            p.write_bytes(b'broken')
    assert make(folder, tmp_path, n=5)[2]['source'] == kept


BAD = {
    'n=0': (dict(n=0), 'n=0.*from 1 to 8'),
    'n=3x': (dict(n='3x'), "n='3x'"),
    'per_class=5': (dict(per_class=5), 'per_class=5.*from 1 to 4'),
    'kind': (dict(kind='mnist'), "kind='mnist'.*cifar10"),
    'size': (dict(size=0), 'size=0'),
    'crop': (dict(crop='left'), "crop='left'.*center"),
    'seed': (dict(seed=-1), 'seed=-1'),
    'recipe': (dict(kind='ffhq', per_class=1), 'no classes'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_options(folder, tmp_path, case):
    options, message = BAD[case]
    with pytest.raises(BadInput, match=message):
        make_zip(folder, tmp_path / 'x.zip', **options)
    assert not (tmp_path / 'x.zip').exists()


def test_bad_sources(folder, tmp_path):
    (tmp_path / 'empty').mkdir()
    for src, out, message in (
        (tmp_path / 'nowhere', 'x.zip', 'src=.*existing'),
        (tmp_path / 'empty', 'x.zip', 'holds pictures'),
        (folder, 'x.tar', 'ends in .zip'),
    ):
        with pytest.raises(BadInput, match=message):
            make_zip(src, tmp_path / out)
    write_zip(tmp_path / 'same.zip', load().pool.take(range(3)))
    with pytest.raises(BadInput, match='another file'):
        make_zip(tmp_path / 'same.zip', tmp_path / 'same.zip')
    save(folder / 'loose.png', coded(0, (16, 16)))
    with pytest.raises(BadInput, match='this one has both, such as loose.png'):
        make_zip(folder, tmp_path / 'x.zip')
    (tmp_path / 'file').write_text('')
    with pytest.raises(BadInput, match='out='):
        make_zip(tmp_path / 'same.zip', tmp_path / 'file' / 'x.zip')
    save(tmp_path / 'two' / 'a.png', coded(0, (8, 8)))
    save(tmp_path / 'two' / 'b.png', coded(0, (4, 4)))
    with pytest.raises(BadInput, match='of one size.*data make` --size'):
        make_zip(tmp_path / 'two', tmp_path / 'x.zip')
    save(tmp_path / 'wide' / 'a.png', coded(0, (8, 12)))
    with pytest.raises(BadInput, match='crop=None.*12x8'):
        make_zip(tmp_path / 'wide', tmp_path / 'x.zip')
