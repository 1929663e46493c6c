"Reading pictures: conversions are exact and counted, bad files are named, sizes are one, splits stay apart."

import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from drawn import noise, png
from ambient_nb.cli import app
from ambient_nb.core import refused
from ambient_nb.sources import read_pictures
from PIL import Image
from typer.testing import CliRunner


@pytest.fixture
def cache(tmp_path):
    return tmp_path / 'cache'


@pytest.fixture
def folder(tmp_path):
    "Six colour pictures in two sub-folders and beside them."
    for i, a in enumerate(noise(6, 8, 8, 3).numpy()):
        png(a, tmp_path / 'pictures' / ('ab'[i % 2] if i < 4 else '') / f'{i}.png')
    return tmp_path / 'pictures'


def says(call, *parts):
    "The call is refused with these words."
    words = refused(call)
    assert all(p in words for p in parts), words


def test_conversions_are_exact_and_counted(tmp_path, cache):
    grey, rgb = noise(8, 8).numpy(), noise(8, 8, 3).numpy()
    deep = grey.astype(np.uint16) << 8
    png(grey, tmp_path / 'x' / '0.png')
    png(deep, tmp_path / 'x' / '1.png')
    png(deep + grey, tmp_path / 'x' / '2.png')
    png(np.dstack([rgb, grey]), tmp_path / 'x' / '3.png')
    png(np.dstack([grey, grey[::-1]]), tmp_path / 'x' / '4.png')
    Image.fromarray(rgb).quantize(16).save(tmp_path / 'x' / '5.png')
    png(rgb, tmp_path / 'x' / '6.png')

    # 16-bit RGB, which Pillow does not write: one row a filter byte and big-endian samples
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    wide = (rgb.astype('>u2') << 8) + 77
    (tmp_path / 'x' / '7.png').write_bytes(
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', 8, 8, 16, 2, 0, 0, 0))
        + chunk(b'IDAT', zlib.compress(b''.join(b'\0' + r.astype('>u2').tobytes() for r in wide)))
        + chunk(b'IEND', b'')
    )
    p = read_pictures(tmp_path / 'x', folder=cache)
    for i in range(3):
        assert np.array_equal(p.pixels[i], np.stack([grey] * 3))
    for i in (6, 7):
        assert np.array_equal(p.pixels[i], rgb.transpose(2, 0, 1))
    for i, (a, alpha) in {3: (rgb.transpose(2, 0, 1), grey), 4: (grey[None], grey[::-1])}.items():
        laid = 255 - (255.0 - a) * alpha / 255
        assert np.abs(p.pixels[i].numpy() - laid).max() <= 1
    assert p.converted == {
        '16 bits cut to the high byte': 3,
        'transparency laid on white': 2,
        'P to RGB': 1,
        'grey expanded to RGB': 4,
    }
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / 'x' / '8.tif')
    says(lambda: read_pictures(tmp_path / 'x', folder=cache), '8.tif', 'mode F')


def test_bad_files_are_named_counted_and_skipped_only_on_demand(folder, cache):
    png(noise(8, 8, 3), folder / 'cut.png')
    (folder / 'cut.png').write_bytes((folder / 'cut.png').read_bytes()[:120])
    (folder / 'text.png').write_bytes(b'no picture')
    says(
        lambda: read_pictures(folder, 'generated', folder=cache),
        'generated=',
        '2 of 8',
        'cut.png',
        'text.png',
        'skip_bad',
    )
    p = read_pictures(folder, folder=cache, skip_bad=True)
    assert len(p) == len(p.names) == len(p.digests) == 6 and set(p.skipped) == {'cut.png', 'text.png'}
    for f in folder.rglob('*.png'):
        f.write_bytes(b'')
    says(lambda: read_pictures(folder, folder=cache, skip_bad=True), 'at least one picture that opens')
    says(lambda: read_pictures(noise(0, 3, 8, 8), folder=cache), 'at least one picture')
    assert list(cache.iterdir()) == []


def test_one_size_unless_a_size_is_given(folder, cache):
    png(noise(12, 16, 3), folder / 'wide.png')
    says(lambda: read_pictures(folder, 'train', folder=cache), 'train=', 'wide.png', '16x12', '8x8', 'size')
    p = read_pictures(folder, folder=cache, size=8)
    assert p.pixels.shape == (7, 3, 8, 8) and p.converted == {'resized to 8x8': 1}
    assert torch.equal(
        read_pictures(folder, folder=cache, size=4).pixels[0].float(),
        torch.nn.functional.avg_pool2d(noise(6, 8, 8, 3)[4].movedim(-1, 0).float(), 2).add(0.5).floor(),
    )
    says(lambda: read_pictures(folder, folder=cache, size=9), 'size=9', 'at most 8')


# --- what people have -------------------------------------------------------------------------------------------------

PARTS = dict(train=range(0, 5), valid=range(5, 8), test=range(8, 10))  # split: which of ten pictures are in it


def tar_of(files):
    with tarfile.open(fileobj=(out := io.BytesIO()), mode='w') as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def table(numbers, files, stream=False):
    rows = pa.table(
        dict(image=[dict(bytes=files[i], path=f'{i}.png') for i in numbers], label=[i % 2 for i in numbers])
    )
    out = io.BytesIO()
    if not stream:
        pq.write_table(rows, out)
        return out.getvalue()
    with pa.ipc.new_stream(out, rows.schema) as writer:
        writer.write_table(rows)
    return out.getvalue()


def layouts(u):
    "The same ten pictures as five publishers lay them out: name -> path -> content."
    files = [png(a) for a in u]
    state = json.dumps(dict(_data_files=[dict(filename='data-00000-of-00001.arrow')])).encode()
    found = dict(folders={}, windows={}, hub={}, saved={}, shards={}, arrays={})
    for part, numbers in PARTS.items():
        for i in numbers:
            found['folders'][f'{part.title()}/{"cat" if i % 2 else "dog"}/{i}.png'] = files[i]
            found['windows'][f'pets\\{part}\\{i}.png'] = files[i]
        found['hub'][f'default/{part}/0000.parquet'] = table(numbers, files)
        found['saved'] |= {
            f'{part}/data-00000-of-00001.arrow': table(numbers, files, stream=True),
            f'{part}/cache-77.arrow': table(range(10), files, stream=True),
            f'{part}/state.json': state,
        }
        pairs = [(f'{i}.{end}', data) for i in numbers for end, data in (('png', files[i]), ('cls', b'%d' % (i % 2)))]
        found['shards'][f'pets-{part}-000000.tar'] = tar_of(pairs)
        x, y = u[list(numbers)].numpy(), np.array(numbers) % 2
        np.savez(out := io.BytesIO(), arr_0=x, arr_1=y)
        found['arrays'][f'{part}.npz'] = out.getvalue()
    return found


@pytest.mark.parametrize('layout', layouts(noise(10, 8, 8, 3)))
def test_each_parameter_is_read_from_its_split(tmp_path, cache, layout):
    u = noise(10, 8, 8, 3)
    src = tmp_path / ('pets.zip' if layout == 'windows' else 'pets')
    files = layouts(u)[layout]
    if layout == 'windows':
        with zipfile.ZipFile(src, 'w') as z:
            for name, data in files.items():
                z.writestr(name, data)
    else:
        for name, data in files.items():
            (src / name).parent.mkdir(parents=True, exist_ok=True)
            (src / name).write_bytes(data)

    def rows(name):
        p = read_pictures(src, name, folder=cache)
        where = {a.numpy().tobytes(): i for i, a in enumerate(u.movedim(-1, 1))}
        return [where[a.numpy().tobytes()] for a in p.pixels], p.notes

    read, said = rows('train')
    assert sorted(read) == list(PARTS['train'])
    assert said[0] == 'only the split train was read (5); there is test (2), val (3)'
    assert sorted(rows('holdout')[0]) == list(PARTS['test'])
    if layout in ('hub', 'saved'):  # one table after the other, of which some may be the same pictures
        says(lambda: rows('generated'), 'generated=', 'one configuration', 'test', 'train')
    else:
        read, said = rows('generated')
        assert sorted(read) == list(range(10))
        assert said[0] == 'all of it was read; its paths name test (2), train (5), val (3)'


def test_words_that_are_no_splits_leave_nothing_out(tmp_path, cache):
    "Samples are called after their prompts, and nobody can tell a train from a train."
    for i, name in enumerate(('a_steam_train.png', 'a_test_tube.png', 'a_cat.png', 'train/test/0.png')):
        png(noise(8, 8, 3, seed=i), tmp_path / 'x' / name)
    for name in ('generated', 'train', 'holdout'):
        p = read_pictures(tmp_path / 'x', name, folder=cache)
        assert len(p) == 4 and p.notes[0].startswith('all of it was read; its paths name test (1), train (2) and 1 oth')


def test_labels_are_not_looked_at(tmp_path, cache):
    "What `data make` refuses because of a class is still pictures to an audit."
    u = noise(6, 8, 8, 3)
    for i, a in enumerate(u):
        png(a, tmp_path / 'x' / ('cat/' if i else '') / f'{i}.png')
    (tmp_path / 'x' / 'metadata.csv').write_text('file_name,label\nnothing.png,0.5\n')
    (tmp_path / 'x' / 'cat' / '1.cls').write_text('0.5')
    np.savez(tmp_path / 'odd.npz', samples=u.numpy(), y=np.linspace(0, 1, 6), z=np.arange(12))
    pq.write_table(pa.table(dict(image=[png(a) for a in u], label=[0.5] * 6)), tmp_path / 'odd.parquet')
    sets = [read_pictures(tmp_path / name, folder=cache) for name in ('x', 'odd.npz', 'odd.parquet')]
    assert len({p.sha for p in sets}) == 1
    assert [p.notes for p in sets[1:]] == [('not read (2): array y, array z',), ('not read (1): column label',)]


def test_pictures_are_meant_where_other_things_lie_beside_them(tmp_path, cache):
    png(noise(8, 8, 3), tmp_path / 'x' / '0.png')
    np.savez(tmp_path / 'x' / 'fid.npz', mu=np.zeros(3), sigma=np.eye(3))
    p = read_pictures(tmp_path / 'x', folder=cache)
    assert len(p) == 1 and p.notes == ('files of another kind left out (1): fid.npz',)


def test_cifar_as_published(tmp_path, cache):
    for part, n in (('data_batch_1', 4), ('test_batch', 3)):
        rows = noise(n, 3072, seed=n).numpy()
        (tmp_path / part).write_bytes(pickle.dumps({b'data': rows, b'labels': [0] * n}, protocol=2))
    assert [len(read_pictures(tmp_path, name, folder=cache)) for name in ('train', 'holdout', 'generated')] == [4, 3, 7]


def test_the_command_reads_samples_as_they_are_published_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv('AMBIENT_NB_RUNS', str(tmp_path / 'runs'))
    u = noise(40, 8, 8, 3).numpy()
    np.savez(tmp_path / 'samples_20x8x8x3.npz', u[:20], np.arange(20))  # arr_0, arr_1
    with zipfile.ZipFile(tmp_path / 'edm2.zip', 'w') as z:
        for i, a in enumerate(u[10:]):
            z.writestr(f'00000/img{i:08d}.png', png(a))
        z.writestr('dataset.json', json.dumps(dict(labels=[[f'00000/img{i:08d}.png', 0] for i in range(30)])))
    run = CliRunner()
    found = run.invoke(
        app, ['audit', *(str(tmp_path / f) for f in ('samples_20x8x8x3.npz', 'edm2.zip')), '--out', f'{tmp_path}/r']
    )
    assert found.exit_code == 0, found.output
    assert '10 of 20 look copied' in found.output and 'generated: not read (1): array arr_1' in found.output
    told = ' '.join(run.invoke(app, ['audit', '--help']).output.replace('│', ' ').split())
    for form in ('arr_0', 'arr_1', 'parquet', 'WebDataset', 'EDM2; not of latents', 'nested class folders', '.npy'):
        assert form in told, form


@pytest.mark.parametrize('name', ['generated', 'train', 'holdout'])
def test_what_cannot_be_read_is_refused_under_the_name_it_came_by(tmp_path, cache, name):
    (tmp_path / 'page.zip').write_text('<!DOCTYPE html>')
    (tmp_path / 'pointer.zip').write_text('version https://git-lfs.github.com/spec/v1')
    whole = tar_of([(f'{i}.png', png(noise(8, 8, 3, seed=i))) for i in range(9)])
    (tmp_path / 'cut.tar').write_bytes(whole[:4000])
    (tmp_path / 'x.mat').write_bytes(b'MATLAB 5.0')
    two = [dict(bytes=png(noise(8, 8, 3)), path=None)]
    pq.write_table(pa.table(dict(scan=two, mask=two)), tmp_path / 'two.parquet')
    np.save(tmp_path / 'chw.npy', noise(3, 8, 8).numpy())
    np.save(tmp_path / 'hair.npy', (noise(4, 8, 8).numpy() / 255 * 1.01).astype(np.float32))
    words = {'page.zip': 'web page', 'pointer.zip': 'git lfs pull', 'cut.tar': 'whole', 'x.mat': 'MATLAB'}
    words |= {
        'two.parquet': 'clear by itself: column must be given, as',
        'chw.npy': 'may be one picture',
        'hair.npy': 'of [0, 255]',
    }
    for file, word in words.items():
        says(lambda: read_pictures(tmp_path / file, name, folder=cache), f'{name}=', file, word)
