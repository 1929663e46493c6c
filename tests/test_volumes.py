"MRI volumes on disk: measurements without a picture are refused, whatever says so."

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
