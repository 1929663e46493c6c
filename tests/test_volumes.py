"MRI volumes on disk: measurements without a picture are refused, whatever says so."

import re

import numpy as np
import pytest
from ambient_nb.core import BadInput, refused
from ambient_nb.datamake import make_zip
from ambient_nb.trees import open_tree
from ambient_nb.volumes import Volume, read_fastmri

h5py = pytest.importorskip('h5py', reason='MRI volumes need h5py')


def head():
    "Two slices of a phantom seen by two coils, and their frequencies."
    y, x = np.mgrid[-1:1:48j, -1:1:40j]
    thing = (x**2 + y**2 < 0.6) + 0.8 * (np.abs(x - 0.2) + np.abs(y) < 0.3)
    images = thing[None, None] * np.stack([np.exp(-((x - a) ** 2) - y**2) for a in (-1, 1)]) * np.ones((2, 1, 1, 1))
    shifted = np.fft.ifftshift(images, axes=(-2, -1))
    k = np.fft.fftshift(np.fft.fft2(shifted, norm='ortho'), axes=(-2, -1)).astype(np.complex64)
    return k, np.sqrt((images**2).sum(1)).astype(np.float32)


def written(path, **content):
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, 'w') as f:
        for key, value in content.items():
            f[key] = value
    return path


def test_what_was_not_measured_is_no_picture(tmp_path):
    k, rss = head()
    columns = np.zeros(40, bool)
    columns[1::4] = columns[16:24] = True
    plane = np.random.default_rng(0).random((48, 40)) < 0.4
    refusals = {
        'mask': dict(kspace=k * columns, mask=columns),
        'no_mask': dict(kspace=k * columns),
        'one_line': dict(kspace=k * (np.arange(40) != 20)),
        'plane': dict(kspace=k * plane),
        'mask_alone': dict(kspace=k, mask=columns.astype(np.float32)),
        'one_coil': dict(kspace=k[:, 0] * columns, mask=columns),
    }
    for name, content in refusals.items():
        source = written(tmp_path / name / 'file1.h5', **content).parent
        said = refused(make_zip, source, tmp_path / 'x.zip', kind='fastmri', error=BadInput)
        assert 'file1.h5' in said and 'measurements, not pictures' in said, name
        refused(make_zip, source, tmp_path / 'x.zip', error=BadInput)
    taken = {
        'finished': dict(kspace=k * columns, mask=columns, reconstruction_rss=rss),
        'everything': dict(kspace=k, mask=np.ones(40, bool)),
        'no_word': dict(kspace=k),
        'padded': dict(kspace=np.pad(k, ((0, 0), (0, 0), (0, 0), (4, 4)))),
    }
    for name, content in taken.items():
        source = written(tmp_path / name / 'file1.H5', **content).parent
        assert len(read_fastmri(open_tree(source), 'train')[0]) == 2, name
    seen = np.asarray(Volume(tmp_path / 'everything' / 'file1.H5').picture(0, 40)).astype(float)
    assert np.abs(seen - 255 * rss[0, 4:44] / rss.max()).max() <= 1


def test_slices_are_called_by_the_whole_name(tmp_path):
    _, rss = head()
    for part in 'ab':
        written(tmp_path / part / 'file1.h5', reconstruction_rss=rss)
    entries, _ = read_fastmri(open_tree(tmp_path), 'train')
    assert [e.name for e in entries][1:3] == ['a/file1.h5: slice 1', 'b/file1.h5: slice 0']


def test_bad_volumes_are_one_error_and_leave_nothing(tmp_path):
    "Axes in another order, other things under the names, numbers that are none, a file that is cut."
    k, rss = head()
    whole = written(tmp_path / 'whole' / 'a.h5', kspace=k).read_bytes()
    bad = {
        'coils_last': (dict(kspace=np.zeros((2, 48, 40, 4), 'c8')), 'slices, coils, H, W'),
        'flat': (dict(kspace=k[0, 0]), 'slices, H, W'),
        'real': (dict(kspace=k.real), 'complex numbers'),
        'words': (dict(kspace='none'), 'complex numbers'),
        'empty': (dict(kspace=k[:0]), 'complex numbers'),
        'flat_rss': (dict(reconstruction_rss=rss[0]), 'slices, H, W'),
        'complex_rss': (dict(reconstruction_rss=k[:, 0]), 'numbers'),
        'other': (dict(images=rss), 'it has images'),
        'not_finite': (dict(reconstruction_rss=rss * np.nan), 'a.h5: slice .*not finite'),
        'below_0': (dict(reconstruction_rss=-rss), 'a.h5: slice .*below 0'),
        'cut': (whole[: len(whole) // 2], 'HDF5 volume that opens'),
        'text': (b'version 1', 'HDF5 volume that opens'),
    }
    for name, (content, words) in bad.items():
        path = tmp_path / name / 'a.h5'
        if isinstance(content, bytes):
            path.parent.mkdir()
            path.write_bytes(content)
        else:
            written(path, **content)
        said = refused(make_zip, path.parent, tmp_path / 'x.zip', kind='fastmri', error=BadInput)
        assert re.search(words, said) and 'a.h5' in said and '\n' not in said, (name, said)
        assert not list(tmp_path.glob('*.zip*')), name
    pairs = written(tmp_path / 'pairs' / 'a.h5', kspace=np.stack([k.real, k.imag], -1))
    assert Volume(pairs).slices == 2
