"""BART's and NIfTI's files as pictures: what those tools write is read as they show it, and bad files leave nothing.

`python tests/test_scans.py`, where bart 0.8.00 (the program) and nibabel 5.4.2 are, writes tests/golden/scans.json.
"""

import base64
import gzip
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from ambient_nb.core import refused
from ambient_nb.data import read_zip
from ambient_nb.datamake import make_zip
from ambient_nb.scans import nifti_slices

FILE = Path(__file__).parent / 'golden' / 'scans.json'
KINDS = dict(int16='<i2', float32='<f4', uint8='u1', complex64='<c8')


def volume(dtype):
    "Values (3,4,2) that no flip or transposition leaves as they are."
    return (np.arange(24).reshape(3, 4, 2, order='F') * 5).astype(dtype)


def ask_bart():
    "A phantom in three coils as images and as frequencies, and the picture that BART makes of either."
    stored = {}
    with tempfile.TemporaryDirectory() as tmp:

        def bart(command):
            subprocess.run(['bart', *command.split()], cwd=tmp, check=True, capture_output=True)

        bart('phantom -x 10 -s 3 whole')
        bart('resize 1 8 whole images')  # axis 1 from 10 to 8: not square
        bart('fft -u 3 images kspace')
        bart('rss 8 images rss')
        bart('toimg rss rss.png')
        for name in ('images', 'kspace'):
            for end in ('hdr', 'cfl'):
                stored[f'{name}.{end}'] = base64.b64encode(Path(tmp, f'{name}.{end}').read_bytes()).decode()
        from PIL import Image

        stored['shown'] = np.asarray(Image.open(Path(tmp, 'rss.png')).convert('L')).tolist()
    return stored


def ask_nibabel():
    import nibabel

    stored = dict(version=nibabel.__version__)
    for name, kind in KINDS.items():
        for form in (nibabel.Nifti1Image, nibabel.Nifti2Image):
            image = form(volume(kind), np.eye(4))
            if name == 'int16':
                image.header.set_slope_inter(0.25, 3)
            stored[f'{name}{form.__name__[5]}'] = base64.b64encode(gzip.compress(image.to_bytes(), mtime=0)).decode()
    return stored


GOLDEN = json.loads(FILE.read_text()) if FILE.exists() else {}


def placed(folder, **files):
    "Files of a golden entry in a folder."
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(base64.b64decode(content) if isinstance(content, str) else content)
    return folder


def both(name):
    return {f'{name}.{end}': GOLDEN['bart'][f'{name}.{end}'] for end in ('hdr', 'cfl')}


def pixels(src, tmp_path, **options):
    made = make_zip(src, tmp_path / 'out.zip', crop='center', seed=None, overwrite=True, **options)
    return read_zip(made['out']).pixels.numpy(), made


@pytest.mark.parametrize('name, kind', [('images', 'bart'), ('kspace', 'bart-kspace')])
def test_bart(tmp_path, name, kind):
    "As `bart toimg` shows the root of its sum of squares, to a level of grey; also a .cfl named alone, and in a zip."
    shown = np.array(GOLDEN['bart']['shown'])
    source = placed(tmp_path / 'src', **both(name), **{'notes.txt': b'1'})
    seen, made = pixels(source, tmp_path, kind=kind)
    assert shown.shape == (10, 8) and np.abs(seen[0, 0].astype(int) - shown[1:9]).max() <= 1
    assert made['left'] == {'files ending in .txt': 1} and made['recipe'] == kind
    assert np.array_equal(pixels(source / f'{name}.cfl', tmp_path, kind=kind)[0], seen)
    subprocess.run(['python3', '-m', 'zipfile', '-c', tmp_path / 'packed.zip', source], check=True)
    assert np.array_equal(pixels(tmp_path / 'packed.zip', tmp_path, kind=kind)[0], seen)


def test_images_may_have_their_coils_anywhere(tmp_path):
    "Only of frequencies a wrong order makes something else than another view."
    source = placed(tmp_path / 'src', **{'a.cfl': both('images')['images.cfl'], 'a.hdr': b'# Dimensions\n3 10 8 1\n'})
    assert len(pixels(source, tmp_path, kind='bart')[0]) == 8


@pytest.mark.parametrize('name', [f'{kind}{version}' for kind in KINDS for version in '12'])
def test_nifti(tmp_path, name):
    "What nibabel wrote, by what it was given."
    content = base64.b64decode(GOLDEN['nibabel'][name])
    values = volume(KINDS[name[:-1]])
    wanted = np.abs(values * 0.25 + 3 if name[:-1] == 'int16' else values)
    assert np.allclose(np.abs(nifti_slices(content)), wanted.transpose(2, 1, 0)[:, ::-1])
    seen = pixels(placed(tmp_path / 'src', **{'head.nii.gz': content}), tmp_path)[0]
    greys = (wanted / wanted.max() * 255).round().transpose(2, 1, 0)[:, ::-1]  # (slices, second axis upwards, first)
    assert np.array_equal(seen[:, 0], greys[:, :3])  # the centre of 4 by 3
    assert np.array_equal(pixels(placed(tmp_path / 'plain', **{'a.NII': gzip.decompress(content)}), tmp_path)[0], seen)


def spoilt():
    "Sources that are not whole or not allowed: files, options, words of the error."
    image, k = (base64.b64decode(GOLDEN['bart'][f'{name}.cfl']) for name in ('images', 'kspace'))
    head = base64.b64decode(GOLDEN['bart']['images.hdr'])
    nii = gzip.decompress(base64.b64decode(GOLDEN['nibabel']['float321']))
    gaps = np.frombuffer(k, '<c8').reshape(10, 8, 3, order='F') * (np.arange(8) % 3 > 0)[None, :, None]
    low, nan = (nii[:352] + np.array([v, *range(23)], '<f4').tobytes() for v in (-1, np.nan))
    bart, kspace = dict(kind='bart'), dict(kind='bart-kspace')
    return {
        'no word': ({'a.cfl': image, 'a.hdr': head}, {}, "kind=None.*do not say|kind=None.*does not say"),
        'no header': ({'a.cfl': image}, bart, 'a.cfl.*no .hdr'),
        'cut': ({'a.cfl': image[:-8], 'a.hdr': head}, bart, 'a.cfl.*1,912 bytes.*1,920'),
        'longer': ({'a.cfl': image + bytes(8), 'a.hdr': head}, bart, 'a.cfl.*1,928 bytes'),
        'other header': ({'a.cfl': image, 'a.hdr': b'#?RADIANCE\n'}, bart, 'a.cfl.*Dimensions'),
        'huge header': ({'a.cfl': image, 'a.hdr': b'# Dimensions\n' + b'9' * 400 + b'\n'}, bart, 'a.cfl'),
        'not finite': ({'a.cfl': np.full(240, np.nan, '<c8').tobytes(), 'a.hdr': head}, bart, 'a.cfl: slice 0.*finite'),
        'gaps': ({'a.cfl': gaps.ravel(order='F').astype('<c8').tobytes(), 'a.hdr': head}, kspace, 'measurements'),
        'coils first': ({'a.cfl': k, 'a.hdr': b'# Dimensions\n3 10 8 1\n'}, kspace, r'\(3, 10, 8, 1\).*coils first'),
        'coils before rows': ({'a.cfl': k, 'a.hdr': b'# Dimensions\n10 3 1 8\n'}, kspace, 'fewer rows or columns'),
        'another kind': ({'a.nii': nii}, bart, 'a folder of .cfl files'),
        'two kinds': ({'a.nii': nii, 'a.cfl': image, 'a.hdr': head}, bart, 'one kind|folder of .cfl'),
        'no nifti': ({'a.nii': b'no'}, {}, 'a.nii.*does not begin as NIfTI'),
        'cut nifti': ({'a.nii': nii[:-1]}, {}, 'a.nii: slice 0.*447 bytes.*448'),
        'cut gzip': ({'a.nii.gz': gzip.compress(nii)[:-9]}, {}, 'a.nii.gz.*gzip is damaged'),
        'below 0': ({'a.nii': low}, {}, 'a.nii: slice 0.*down to -1'),
        'no number': ({'a.nii': nan}, {}, 'a.nii: slice 0.*finite'),
        'second is bad': ({'a.nii': nii, 'b.nii': nii[:400]}, {}, 'b.nii: slice 0.*400 bytes'),
    }


@pytest.mark.parametrize('case', sorted(spoilt()) if GOLDEN else [])
def test_bad_files_leave_nothing(tmp_path, case):
    import re

    files, options, words = spoilt()[case]
    source = placed(tmp_path / 'src', **files)
    said = refused(make_zip, source, tmp_path / 'out.zip', crop='center', **options)
    assert re.search(words, said, re.S) and '\n' not in said, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ['src']


if __name__ == '__main__':
    entries = (f'  "{tool}": {json.dumps(ask())}' for tool, ask in dict(bart=ask_bart, nibabel=ask_nibabel).items())
    FILE.write_text('{\n' + ',\n'.join(entries) + '\n}\n')
