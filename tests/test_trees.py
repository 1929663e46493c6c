"One source, read by `data make` and by `audit`: the same pictures, whatever they are stored as and packed in."

import io
import os
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import torch
from ambient_nb.core import BadInput, refused
from ambient_nb.data import Images
from ambient_nb.datamake import make_zip
from ambient_nb.pictures import done_to, picture_of
from ambient_nb.sources import read_pictures
from ambient_nb.trees import open_tree
from PIL import Image


def colours(i, side=16, channels=3):
    "A smooth picture whose sides differ."
    low = np.random.default_rng(i).integers(0, 200, (4, 4, channels)).astype(np.uint8)
    low[0, 0] = 255
    return np.asarray(Image.fromarray(low).resize((side, side), Image.Resampling.BICUBIC))


def file_of(image, kind='PNG', **options):
    image.save(b := io.BytesIO(), kind, **options)
    return b.getvalue()


def on_its_side(i, kind='PNG'):
    tags = Image.Exif()
    tags[0x0112] = 6
    return file_of(Image.fromarray(colours(i)).transpose(Image.Transpose.ROTATE_90), kind, exif=tags)


FILES = {
    'plain.png': file_of(Image.fromarray(colours(0))),
    'held.PNG': on_its_side(1),
    'held.tif': on_its_side(2, 'TIFF'),
    'clear.webp': file_of(Image.fromarray(colours(3, channels=4)), 'WEBP', lossless=True),
    'moving.gif': file_of(
        Image.fromarray(colours(4)), 'GIF', save_all=True, append_images=[Image.new('RGB', (16, 16))]
    ),
    'raw.ppm': file_of(Image.fromarray(colours(5)), 'PPM'),
    'photo.jfif': file_of(Image.fromarray(colours(6)), 'JPEG'),
    'targa.tga': file_of(Image.fromarray(colours(7)), 'TGA'),
}
BESIDE = {'.DS_Store': b'', '__MACOSX/._plain.png': b'', '__MACOSX/plain.png': b'', 'read.me': b'text'}


def packings(place):
    "The same files as a folder, behind a link, in a zip made on Windows, and in tars."
    for name, data in (FILES | BESIDE).items():
        (path := place / 'store' / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (place / 'linked').mkdir()
    (place / 'linked' / 'all').symlink_to(place / 'store')
    with zipfile.ZipFile(place / 'p.zip', 'w') as z:
        for name, data in (FILES | BESIDE).items():
            z.writestr('pets\\' + name.replace('/', '\\'), data)
    for end in ('tar', 'tar.gz', 'tar.xz'):
        with tarfile.open(place / f'p.{end}', f'w:{end[4:]}') as tar:
            tar.add(place / 'store', './pets')
    return [place / n for n in ('store', 'linked', 'p.zip', 'p.tar', 'p.tar.gz', 'p.tar.xz')]


def test_both_commands_see_the_same_pictures(tmp_path):
    sets = []
    for source in packings(tmp_path):
        made = make_zip(source, tmp_path / 'out.zip', seed=None, overwrite=True)
        seen = read_pictures(source, folder=tmp_path / 'cache')
        assert made['n'] == len(seen) == len(FILES), source
        with zipfile.ZipFile(tmp_path / 'out.zip') as z:
            pngs = sorted(n for n in z.namelist() if n.endswith('.png'))
            stored = np.stack([np.asarray(Image.open(io.BytesIO(z.read(n))).convert('RGB')) for n in pngs])
        assert np.array_equal(stored, seen.pixels.movedim(1, -1)), source
        assert (
            seen.converted.items()
            >= {
                'turned upright, as its EXIF tag says': 2,
                'transparency laid on white': 1,
                'further frames or pages left out': 1,
            }.items()
        )
        assert any('read.me' in note for note in seen.notes) and any('.DS_Store' in note for note in seen.notes)
        sets.append(seen.sha)
    assert len(set(sets)) == 1
    by_name = dict(zip(seen.names, seen.pixels))
    assert np.array_equal(by_name['pets/held.PNG'].movedim(0, -1), colours(1))
    assert np.array_equal(by_name['pets/held.tif'].movedim(0, -1), colours(2))


@pytest.mark.parametrize('kind', ['JPEG', 'WEBP', 'AVIF', 'TIFF', 'PNG', 'MPO'])
def test_every_format_that_has_the_tag_comes_back_upright(kind):
    try:
        data = on_its_side(1, kind)
    except (KeyError, OSError):
        pytest.skip(f'this Pillow writes no {kind}')
    image = picture_of(data)
    away = np.abs(np.asarray(image).astype(int) - colours(1)).mean()
    turned = np.abs(np.rot90(np.asarray(image)).astype(int) - colours(1)).mean()
    assert done_to(image)[0].startswith('turned upright') and away < 12 < turned


def test_sixteen_bits_have_one_rule():
    "Grey and colour, PNG and TIFF, big and little end first."
    a = (np.arange(256, dtype=np.uint16).reshape(16, 16) << 8) + 200
    rows = np.repeat(a[..., None], 3, 2).astype('>u2')

    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    pixels = zlib.compress(b''.join(b'\0' + row.tobytes() for row in rows))
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', 16, 16, 16, 2, 0, 0, 0))
    stored = {
        'png': file_of(Image.fromarray(a)),
        'tif': file_of(Image.fromarray(a), 'TIFF'),
        'packed tif': file_of(Image.fromarray(a), 'TIFF', compression='tiff_lzw'),
        'pgm': b'P5 16 16 65535 ' + a.astype('>u2').tobytes(),
        'colour png': b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', pixels) + chunk(b'IEND', b''),
    }
    for name, data in stored.items():
        image = picture_of(data)
        assert np.array_equal(np.asarray(image.convert('L')), a >> 8), name
        assert done_to(image) == ['16 bits cut to the high byte'], name
    assert 'rounded' in refused(picture_of, b'P6 16 16 65535 ' + rows.tobytes())


def test_a_tag_that_does_not_open_is_counted():
    data = file_of(Image.fromarray(colours(0)), 'JPEG', exif=b'Exif\0\0II*\0\xff\xff\xff\xff')
    assert picture_of(data).size == (16, 16)


def test_names_that_are_no_utf8_work_to_the_end(tmp_path):
    for source in ('disk', 'tar'):
        place = tmp_path / os.fsdecode(b'caf\xe9-' + source.encode())
        for k, kind in enumerate((b'ch\xe8vre', b'vache')):
            for i in range(2):
                (path := place / os.fsdecode(kind) / f'{i}.png').parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(file_of(Image.fromarray(colours(2 * k + i))))
        if source == 'tar':
            with tarfile.open(place.with_suffix('.tar'), 'w') as tar:
                tar.add(place, '.')
            place = place.with_suffix('.tar')
        made = make_zip(place, tmp_path / 'out.zip', overwrite=True)
        seen = read_pictures(place, folder=tmp_path / 'cache')
        assert made['n'] == 4 and seen.names[0] == 'chèvre/0.png' and seen.source.startswith('café')
        with zipfile.ZipFile(tmp_path / 'out.zip') as z:
            assert 'chèvre' in z.read('dataset.json').decode('unicode_escape').encode('latin-1', 'replace').decode(
                'latin-1'
            )


def test_a_name_twice_is_refused_by_both(tmp_path):
    with zipfile.ZipFile(tmp_path / 'twice.zip', 'w') as z:
        z.writestr('a/0.png', FILES['plain.png'])
        z.writestr('a\\0.png', FILES['raw.ppm'])
    for call in (
        lambda: make_zip(tmp_path / 'twice.zip', tmp_path / 'x.zip'),
        lambda: read_pictures(tmp_path / 'twice.zip'),
    ):
        assert 'a/0.png is in it twice' in refused(call, error=BadInput)


def test_archives_that_do_not_add_up(tmp_path):
    "A missing entry, a password, a cut of every kind: none is read as a smaller archive."
    with zipfile.ZipFile(b := io.BytesIO(), 'w') as z:
        for i in range(5):
            z.writestr(f'{i}.png', FILES['plain.png'])
    whole = b.getvalue()
    at = whole.find(b'PK\1\2')
    size = whole.find(b'PK\1\2', at + 4) - at
    end = bytearray(whole[whole.rfind(b'PK\5\6') :])
    end[12:16] = (int.from_bytes(end[12:16], 'little') - size).to_bytes(4, 'little')  # the first entry is skipped
    shifted = bytearray(end)
    shifted[16:20] = (at + size).to_bytes(4, 'little')
    locked = bytearray(whole)
    locked[at + 8] |= 1
    cases = dict(locked=bytes(locked), cut=whole[: len(whole) // 2], empty=b'')
    cases |= dict(shorter=whole[: -len(end)] + end, shifted=whole[: -len(end)] + shifted)
    for name, data in cases.items():
        (tmp_path / f'{name}.zip').write_bytes(data)
        assert 'src must be' in refused(open_tree, tmp_path / f'{name}.zip', error=BadInput), name
    with tarfile.open(tmp_path / 'whole.tar', 'w') as tar:
        for i in range(5):
            (member := tarfile.TarInfo(f'{i}.png')).size = 700
            tar.addfile(member, io.BytesIO(bytes(700)))
    taped = (tmp_path / 'whole.tar').read_bytes()
    assert len(open_tree(tmp_path / 'whole.tar').names) == 5
    for cut in range(512, 5 * 1536 + 1, 512):
        (tmp_path / 'cut.tar').write_bytes(taped[:cut])
        refused(open_tree, tmp_path / 'cut.tar', error=BadInput)


def test_links_that_have_no_end(tmp_path):
    (tmp_path / 'a' / 'b').mkdir(parents=True)
    (tmp_path / 'a' / 'b' / '0.png').write_bytes(FILES['plain.png'])
    for name, target in dict(self='.', up='..', top='../..').items():
        (tmp_path / 'a' / 'b' / name).symlink_to(target)
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'back').symlink_to(tmp_path / 'a')
    (tmp_path / 'a' / 'other').symlink_to(tmp_path / 'other')
    tree = open_tree(tmp_path / 'a')
    assert tree.names == ['b/0.png'] and sum(map(len, tree.aside.values())) == 5


def test_links_in_a_zip_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / 'p.zip', 'w') as z:
        z.writestr('0.png', FILES['plain.png'])
        (link := zipfile.ZipInfo('1.png')).external_attr = 0o120777 << 16
        z.writestr(link, '0.png')
    tree = open_tree(tmp_path / 'p.zip')
    assert tree.names == ['0.png'] and '1.png' in tree.notes(tree.names)[0]


def test_a_pointer_inside_a_source_is_named(tmp_path):
    pointer = b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n'
    for name in ('0.png', 'a.npz', 'b.parquet'):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes(pointer)
        said = refused(make_zip, tmp_path / name, tmp_path / 'x.zip', error=BadInput)
        assert 'git lfs pull' in said and '\n' not in said, said
    assert 'git lfs pull' in refused(read_pictures, tmp_path / '0.png', folder=tmp_path / 'cache')


def test_images_are_no_files(tmp_path):
    images = Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), None, torch.arange(2), 'two')
    assert read_pictures(images, folder=tmp_path).notes == ()
