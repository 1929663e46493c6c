"Reading pictures: conversions are exact and counted, bad files are named, sizes are one."

import struct
import zlib

import numpy as np
import pytest
import torch
from drawn import noise, png
from ambient_nb.core import refused
from ambient_nb.sources import read_pictures
from PIL import Image


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
