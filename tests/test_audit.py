"""The audit: sources read as they are, features never of other data, exact searches, verdicts that hold, reports that fetch nothing."""

import io
import json
import re
import sys
import tarfile
import time
import zipfile
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from ambient_nb import audit as room
from ambient_nb import copies, report
from ambient_nb.audit import FILES, audit, report_dir
from ambient_nb.cli import main
from ambient_nb.copies import Space, excess, fisher, search, verdict
from ambient_nb.core import BadInput, rng
from ambient_nb.data import digits, write_zip
from ambient_nb.explore import ORDERS, Explorer
from ambient_nb.features import DigitsEncoder
from ambient_nb.memorization import per_sample
from ambient_nb.sources import features, read_pictures
from PIL import Image

POOL, HELDOUT = digits()


def noise(*shape, seed=0):
    return torch.randint(256, shape, dtype=torch.uint8, generator=rng(seed, 'noise'))


def png(a, path=None, **options):
    Image.fromarray(np.asarray(a), **options).save(out := io.BytesIO(), format='PNG')
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(out.getvalue())
    return out.getvalue()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / 'cache'


@pytest.fixture
def folder(tmp_path):
    "Six colour pictures in two sub-folders and beside them."
    for i, a in enumerate(noise(6, 8, 8, 3).numpy()):
        png(a, tmp_path / 'pictures' / ('ab'[i % 2] if i < 4 else '') / f'{i}.png')
    return tmp_path / 'pictures'


def refused(call, *parts):
    with pytest.raises(BadInput) as e:
        call()
    assert all(p in str(e.value) for p in parts), e.value


# --- reading ----------------------------------------------------------------------------------------------------------


def test_the_same_pictures_from_every_kind_of_source(folder, tmp_path, cache):
    base = read_pictures(folder, folder=cache)
    assert base.names == ('4.png', '5.png', 'a/0.png', 'a/2.png', 'b/1.png', 'b/3.png') and torch.equal(
        base.pixels, noise(6, 8, 8, 3)[[4, 5, 0, 2, 1, 3]].movedim(-1, 1)
    )
    with zipfile.ZipFile(tmp_path / 'p.zip', 'w') as z:
        for p in folder.rglob('*.png'):
            z.write(p, p.relative_to(folder))
    with tarfile.open(tmp_path / 'p.tar.gz', 'w:gz') as tar:
        tar.add(folder, '.')
    np.save(tmp_path / 'p.npy', base.pixels.numpy())
    np.savez(tmp_path / 'p.npz', x=base.pixels.movedim(1, -1).numpy(), labels=np.arange(6))
    for source in (
        tmp_path / 'p.zip',
        str(tmp_path / 'p.tar.gz'),
        tmp_path / 'p.npy',
        tmp_path / 'p.npz',
        base.pixels,
        base.pixels.numpy(),
        base.pixels.movedim(1, -1).numpy(),
    ):
        assert (p := read_pictures(source, folder=cache)).sha == base.sha and torch.equal(p.pixels, base.pixels)
    edm = read_pictures(write_zip(tmp_path / 'edm.zip', HELDOUT), folder=cache)
    assert torch.equal(edm.pixels, HELDOUT.pixels) and edm.sha == read_pictures(HELDOUT, folder=cache).sha != base.sha
    assert list(cache.iterdir()) == []  # nothing is left on disk


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
    import struct
    import zlib

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
    for i in (3, 6, 7):
        assert np.array_equal(p.pixels[i], rgb.transpose(2, 0, 1))
    assert p.converted == {
        '16 bits cut to the high byte': 3,
        'alpha dropped': 2,
        'P to RGB': 1,
        'grey expanded to RGB': 4,
    }
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / 'x' / '8.tif')
    refused(lambda: read_pictures(tmp_path / 'x', folder=cache), '8.tif', 'mode F')


def test_grey_and_its_colour_copy_are_the_same_picture(cache):
    a, b = (
        read_pictures(HELDOUT.pixels[:9], folder=cache),
        read_pictures(HELDOUT.pixels[:9].expand(-1, 3, -1, -1), folder=cache),
    )
    assert a.pixels.shape[1] == 1 and b.pixels.shape[1] == 3 and a.digests == b.digests and a.as_rgb().sha == b.sha
    assert audit(a.pixels, b.pixels, cache=cache).rows().exact.all()


def test_bad_files_are_named_counted_and_skipped_only_on_demand(folder, cache):
    png(noise(8, 8, 3), folder / 'cut.png')
    (folder / 'cut.png').write_bytes((folder / 'cut.png').read_bytes()[:120])
    (folder / 'text.png').write_bytes(b'no picture')
    refused(
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
    refused(lambda: read_pictures(folder, folder=cache, skip_bad=True), 'at least one picture that opens')
    assert list(cache.iterdir()) == []


def test_one_size_unless_a_size_is_given(folder, cache):
    png(noise(12, 16, 3), folder / 'wide.png')
    refused(lambda: read_pictures(folder, 'train', folder=cache), 'train=', 'wide.png', '16x12', '8x8', 'size')
    p = read_pictures(folder, folder=cache, size=8)
    assert p.pixels.shape == (7, 3, 8, 8) and p.converted == {'resized to 8x8': 1}
    assert torch.equal(
        read_pictures(folder, folder=cache, size=4).pixels[0].float(),
        torch.nn.functional.avg_pool2d(noise(6, 8, 8, 3)[4].movedim(-1, 0).float(), 2).add(0.5).floor(),
    )
    refused(lambda: read_pictures(folder, folder=cache, size=9), 'size=9', 'at most 8')
    refused(lambda: audit(POOL.pixels, folder, size=None, skip_bad=False, cache=cache), 'train=', 'one side')
    refused(lambda: audit(noise(3, 3, 8, 8), noise(3, 3, 16, 16), cache=cache), 'train=', '16x16', '8x8')


@pytest.mark.parametrize(
    'make, words',
    [
        (lambda p: p / 'nothing', ['existing']),
        (lambda p: (p / 'empty').mkdir() or p / 'empty', ['holds neither']),
        (lambda p: png(noise(8, 8), p / 'one' / 'x.txt') and p / 'one', ['holds neither']),
        (lambda p: noise(0, 3, 8, 8), ['at least one picture']),
        (lambda p: noise(4, 2, 8, 8), ['(N,C,H,W)']),
        (lambda p: torch.zeros(4, 3, 8, 8), ['uint8']),
        (lambda p: [np.save(p / f'{i}.npy', noise(4, 8, 8)) for i in 'ab'] and p, ['2 arrays']),
        (lambda p: np.save(p / 'f.npy', np.zeros((4, 8, 8))) or p / 'f.npy', ['bytes (uint8)']),
    ],
)
def test_sources_that_are_none(make, words, tmp_path):
    source = make(tmp_path)
    refused(lambda: audit(source, POOL, cache=tmp_path / 'c'), 'generated', *words)


# --- features ---------------------------------------------------------------------------------------------------------


class Counting(DigitsEncoder):
    "The digits encoder; `asked` counts blocks and `stop` breaks off at one."

    asked, stop = 0, None

    def __call__(self, images):
        if self.stop is not None and self.asked >= self.stop:
            raise KeyboardInterrupt
        self.asked += 1
        return super().__call__(images)


def test_features_are_computed_once_and_resume(cache):
    p, encoder = read_pictures(HELDOUT, folder=cache), Counting()
    encoder.asked, encoder.stop = 0, 2
    with pytest.raises(KeyboardInterrupt):
        features(p, encoder, cache=cache, shard=256)
    assert len(list(cache.iterdir())) == 2  # whole shards, nothing half-written
    encoder.asked, encoder.stop = 0, None
    f = features(p, encoder, cache=cache, shard=256)
    assert (
        encoder.asked == 2
        and torch.equal(f, DigitsEncoder()(HELDOUT.pixels))
        and torch.equal(features(p, encoder, cache=cache, shard=256), f)
        and encoder.asked == 2
    )


def test_features_of_other_data_are_never_used(cache):
    encoder, other = Counting(), HELDOUT.pixels.clone()
    other[300, 0, 4, 4] ^= 1
    encoder.asked = 0
    a, b = (features(read_pictures(u, folder=cache), encoder, cache=cache, shard=256) for u in (HELDOUT.pixels, other))
    assert (
        encoder.asked == 5 and torch.equal(b, DigitsEncoder()(other)) and not torch.equal(a, b)
    )  # the one shard that differs
    swapped = features(read_pictures(HELDOUT.pixels.flip(0), folder=cache), encoder, cache=cache, shard=256)
    assert torch.equal(swapped, DigitsEncoder()(HELDOUT.pixels.flip(0)))
    first, second = sorted(cache.iterdir())[:2]
    for spoil in (
        second.read_bytes(),
        b'',
        first.read_bytes()[:-1] + b'\1',
    ):  # another's content, a truncated file, a flipped bit
        first.write_bytes(spoil)
        encoder.asked = 0
        for u in (HELDOUT.pixels, other, HELDOUT.pixels.flip(0)):
            assert torch.equal(
                features(read_pictures(u, folder=cache), encoder, cache=cache, shard=256), DigitsEncoder()(u)
            )
        assert encoder.asked >= 1
    encoder.definition = encoder.definition | dict(layer='another')
    encoder.asked = 0
    features(read_pictures(HELDOUT, folder=cache), encoder, cache=cache, shard=256)
    assert encoder.asked == 4  # another encoder of the same name


# --- search and verdict -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('part', [64 * 37, 64 * 333, 2**25])
def test_search_in_parts_is_exact(part, monkeypatch):
    monkeypatch.setattr(copies, 'PART', part)
    base = torch.cat([POOL.pixels, POOL.pixels[:40]])  # ties
    d, i = search(*(Space(u, lambda u: u.flatten(1), 64) for u in (HELDOUT.pixels[:200], base)), k=3)
    brute = (
        (HELDOUT.pixels[:200].flatten(1).long()[:, None] - base.flatten(1).long())
        .square()
        .sum(2)
        .sort(dim=1, stable=True)
    )
    assert torch.equal(i, brute.indices[:, :3]) and torch.equal(d, brute.values[:, :3].double().sqrt())


@pytest.mark.parametrize('encoder', ['pixels', 'digits-cnn'])
def test_the_table_is_that_of_per_sample(encoder, cache):
    samples = torch.cat([POOL.pixels[:20], HELDOUT.pixels[:100]])
    found = audit(samples, POOL, encoder=encoder, cache=cache)
    ours, theirs = found.table, per_sample(samples, POOL.pixels, found.encoder)
    assert (
        np.allclose(ours.similarity, theirs.similarity, atol=1e-6)
        and (ours.most_similar == theirs.most_similar).mean() > 0.98
    )
    if encoder == 'pixels':
        for column in ('sample', 'd1', 'd2', 'ratio', 'nearest', 'nearest2', 'memorized'):
            assert ours[column].equals(theirs[column]), column
    assert ours.exact.tolist() == [True] * 20 + [False] * 100


def test_planted_copies_are_found(cache):
    changed = (
        (POOL.pixels[30:60].int() + torch.randint(-12, 13, (30, 1, 8, 8), generator=rng(0, 'small')))
        .clamp(0, 255)
        .to(torch.uint8)
    )
    samples = torch.cat([POOL.pixels[:30], changed, POOL.pixels[60:90].flip(-1), HELDOUT.pixels[:300]])
    for flips in (False, True):
        found = audit(samples, POOL, HELDOUT.pixels[300:], flips=flips, cache=cache)
        hits = found.table[found.table.set == 'generated'].set_index('sample').memorized
        assert hits[:60].all() and hits[60:90].mean() == flips and hits[90:].sum() <= 3 and found.words[1] == 'more'
        assert (found.table.mirrored & (found.table.set == 'generated'))[60:90].mean() == flips
    assert found.rows().exact.sum() == 60 and (found.table.nearest[:90] == np.arange(90)).all()


@pytest.mark.parametrize('n', [1, 10, 100])
def test_exact_copies_are_found_among_any_number(n, cache):
    samples = torch.cat([HELDOUT.pixels[:400], POOL.pixels[500 : 500 + n]])
    rows = audit(samples, POOL, cache=cache).rows()
    assert set(rows[rows.exact]['sample']) == set(range(400, 400 + n)) == set(rows.head(n)['sample'])


def test_verdicts():
    assert verdict(11, 10_000) == (
        '11 of 10,000 look copied (0.11 %, 95 % interval 0.061 % to 0.20 %): without held-out images nothing says whether that is many.',
        'open',
    )
    assert 'no more than the null' in verdict(6, 5000, 5, 5000)[0] and verdict(6, 5000, 5, 5000)[1] == 'none'
    assert 'more than the null (p = 2e-27)' in verdict(60, 2000, 5, 5000)[0] and verdict(60, 2000, 5, 5000)[1] == 'more'
    assert fisher(6, 5000, 5, 5000) == pytest.approx(
        __import__('scipy.stats').stats.fisher_exact([[6, 4994], [5, 4995]], 'greater').pvalue
    )


@pytest.mark.parametrize('p, q, n, m', [(0.001, 0.001, 2000, 5000), (0.05, 0.01, 1000, 500), (0.5, 0.02, 300, 300)])
def test_the_interval_of_the_excess_covers(p, q, n, m):
    k, h = (
        np.asarray(torch.rand(2000, size, generator=rng(1, name)).lt(rate).sum(1))
        for name, rate, size in (('k', p, n), ('h', q, m))
    )
    assert (
        0.925 <= np.mean([e.lo <= p - q <= e.hi for e in (excess(int(a), n, int(b), m) for a, b in zip(k, h))]) <= 0.99
    )


def test_the_test_rarely_cries_wolf():
    k, h = (torch.rand(2000, 500, generator=rng(2, name)).lt(0.03).sum(1).tolist() for name in 'kh')
    assert np.mean([verdict(a, 500, b, 500)[1] == 'more' for a, b in zip(k, h)]) <= 0.05


def test_the_same_images_are_said_to_be_so(cache):
    for other in (POOL.pixels, POOL.pixels.flip(0)):
        assert 'the same 1,000 images' in audit(POOL, other, cache=cache).verdict
    assert 'same' not in audit(POOL.pixels[:999], POOL, cache=cache).verdict


def test_notes_say_what_weakens_the_verdict(cache):
    train, samples = (
        torch.cat([POOL.pixels, POOL.pixels[:7]]),
        torch.cat([HELDOUT.pixels[:50], HELDOUT.pixels[:3], POOL.pixels[:2]]),
    )
    notes = ' '.join(audit(samples, train, torch.cat([HELDOUT.pixels[60:], POOL.pixels[:4]]), cache=cache).notes)
    for words in (
        '2 samples are training images',
        '3 samples repeat',
        '7 training images repeat',
        '4 held-out images are training images',
    ):
        assert words in notes


def test_an_encoder_says_what_it_has_seen(cache):
    encoder = DigitsEncoder()
    encoder.card = dict(trained_on='the pool', limits=['blind to colour'])
    notes = ' '.join(audit(HELDOUT.pixels[:5], POOL, encoder=encoder, cache=cache).notes)
    assert 'was trained on the pool.' in notes and 'blind to colour' in notes and 'Pixels see' not in notes


def test_weights_are_looked_for_before_any_work(tmp_path):
    refused(
        lambda: audit('nothing', POOL, encoder='sscd-large-dcr', weights=tmp_path / 'none', cache=tmp_path / 'c'),
        'weights=',
        'none',
    )
    refused(lambda: audit(HELDOUT, POOL, weights=tmp_path / 'none', cache=tmp_path / 'c'), 'weights=', 'pixels')


def test_one_image(cache):
    found = audit(HELDOUT.pixels[:1], POOL, HELDOUT.pixels[1:2], cache=cache)
    assert found.counts == (0, 1, 0, 1) and 'no more than the null' in found.verdict
    refused(lambda: audit(HELDOUT, POOL.pixels[:1], cache=cache), 'train=', 'at least two')


def test_another_threshold_needs_no_search(cache, monkeypatch):
    found = audit(HELDOUT.pixels[:100], POOL, HELDOUT.pixels[100:], cache=cache)
    fresh = audit(HELDOUT.pixels[:100], POOL, HELDOUT.pixels[100:], threshold=0.9, cache=cache)
    monkeypatch.setattr(copies, 'nearest', None)
    assert (
        found.at(0.9).verdict == fresh.verdict != found.verdict
        and found.at(0.9).metrics['copied'] == fresh.metrics['copied']
    )
    for bad in (0, -1, 1.5, 'high'):
        refused(lambda: found.at(bad), 'threshold')


# --- the report -------------------------------------------------------------------------------------------------------


class References(HTMLParser):
    "Everything a browser might load."

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        assert tag not in ('script', 'link', 'iframe', 'object', 'embed', 'base', 'form')
        self.found += [
            v
            for k, v in attrs
            if k in ('src', 'href', 'srcset', 'data', 'action', 'background', 'poster', 'xlink:href')
            or k.startswith('on')
        ]


@pytest.fixture(scope='module')
def reported(tmp_path_factory):
    base = tmp_path_factory.mktemp('reported')
    samples = torch.cat([POOL.pixels[:30], HELDOUT.pixels[:200]])
    for i, a in enumerate(samples[:, 0].numpy()):
        png(a, base / 'samples' / f'{i:03d}{"<script>alert(1)</script>".replace("/", "") if i == 7 else ""}.png')
    return base, audit(base / 'samples', POOL, HELDOUT.pixels[200:], out=base / 'report', cache=base / 'cache')


def test_the_page_loads_nothing(reported):
    page = (reported[0] / 'report' / 'report.html').read_text()
    parser = References()
    parser.feed(page)
    assert len(parser.found) > 30 and all(v.startswith('data:image/png;base64,') for v in parser.found)
    assert (
        not re.search(r'https?:|//[a-z]|url\(|@import', re.sub(r'base64,[A-Za-z0-9+/=]+', '', page))
        and "default-src 'none'" in page
    )
    assert '<script' not in page and '&lt;script&gt;alert(1)' in page


def test_text_from_outside_is_text():
    text, u = '<img src=x onerror=y>"', HELDOUT.pixels[0]
    parts = (
        report.picture(u, text)
        + report.card([], text)
        + report.table([text], [[text]])
        + report.histogram(np.arange(9.0), xlabel=text)
        + report.page(text, '')
    )
    assert '<img src=x' not in parts and parts.count('&lt;img src=x onerror=y&gt;&quot;') == 8


def test_the_page_says_each_verdict_in_two_whole_sentences(cache):
    for against, first, rest in (
        (
            HELDOUT.pixels[:9],
            '0 of 9 look copied (0 %, 95 % interval 0 % to 30 %).',
            'Without held-out images nothing says whether that is many.',
        ),
        (
            POOL.pixels.flip(0),
            'The generated and the training images are the same 1,000 images.',
            'Nothing is said about a generator.',
        ),
    ):
        assert (
            room.verdict_html(audit(against, POOL, cache=cache))
            == f'<div class="verdict open"><p>{first}</p><p class="soft">{rest}</p></div>'
        )


def test_the_page_says_what_the_audit_says(reported):
    base, found = reported
    page, about = (
        (base / 'report' / 'report.html').read_text(),
        json.loads((base / 'report' / 'summary.json').read_text()),
    )
    for words in found.verdict.split(': '):
        assert words in page.replace('&#x27;', "'")
    assert (
        about['verdict'] == found.verdict
        and about['sets']['train']['n'] == 1000
        and about['encoder']['id'] == found.encoder.id
        and about['version']
    )
    assert (
        about['metrics']['copied']['generated']['value'] == found.counts[0] / found.counts[1]
        and 'd1/d2 < 0.333' in about['metrics']['copied']['id']
    )
    assert about['sets']['generated']['sha'] == found.generated.sha and str(base) not in page + json.dumps(about)
    table = pd.read_parquet(base / 'report' / 'samples.parquet')
    pd.testing.assert_frame_equal(table, found.table)
    assert (
        table.name[7].endswith('.png')
        and (table.set == 'generated').sum() == 230
        and table.nearest_name[3] == str(POOL.ids[3].item())
    )
    assert '<figure>' in found._repr_html_() and '<script' not in found._repr_html_()


def test_nothing_half_written(tmp_path, cache, monkeypatch):
    out = tmp_path / 'report'
    audit(HELDOUT.pixels[:20], POOL, out=out, cache=cache)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    assert sorted(before) == list(FILES)

    def broken(*_):
        raise OSError('disk full')

    monkeypatch.setattr(room, 'write_atomic', broken)
    with pytest.raises(OSError):
        audit(HELDOUT.pixels[:30], POOL, out=out, cache=cache)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before and sorted(p.name for p in tmp_path.iterdir()) == [
        'cache',
        'report',
    ]
    monkeypatch.undo()
    audit(HELDOUT.pixels[:30], POOL, out=out, cache=cache)
    assert (out / 'summary.json').read_bytes() != before['summary.json'] and sorted(
        p.name for p in tmp_path.iterdir()
    ) == ['cache', 'report']


def test_no_folder_of_the_users_is_replaced(tmp_path, cache):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('x')
    (tmp_path / 'file').write_text('x')
    (tmp_path / 'empty').mkdir()
    for out in ('mine', 'file', 'file/below'):
        refused(lambda: audit(HELDOUT, POOL, out=tmp_path / out, cache=cache), 'out=')
    assert (
        not cache.exists()
        and report_dir(tmp_path / 'empty')
        and report_dir(tmp_path / 'new' / 'deep')
        and not (tmp_path / 'new').exists()
    )


# --- the panel --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('encoder', ['pixels', 'digits-cnn'])
def test_the_panel_follows_its_controls(encoder, cache):
    found = audit(
        torch.cat([HELDOUT.pixels[:80], POOL.pixels[:20].flip(-1)]),
        POOL,
        HELDOUT.pixels[80:200],
        encoder=encoder,
        flips=True,
        cache=cache,
    )
    panel = Explorer(found, shown=7)

    def numbers():
        return [int(tile.children[1].description.split(':')[0]) for tile in panel.grid.children]

    assert (
        numbers() == found.rows()['sample'].head(7).tolist()
        and found.verdict.split(': ')[0] in panel.verdict.value
        and panel.page.max == 15
    )
    panel.threshold.value = 0.95
    assert found.at(0.95).verdict.split(': ')[0] in panel.verdict.value and found.threshold == 1 / 3
    for name, by in ORDERS.items():
        panel.order.value = name
        if by is not None:
            assert (
                numbers()
                == found.table[found.table.set == 'generated']
                .sort_values(by[0], ascending=by[1], kind='stable')['sample']
                .head(7)
                .tolist()
            )
    panel.page.value = 15
    assert numbers() == [98, 99]
    panel.grid.children[1].children[1].click()
    near = found.neighbours(99)
    assert (
        panel.chosen == ('generated', 99)
        and near.position[0] == 19
        and near.d[0] < 1e-3
        and (near.d.diff()[1:] >= 0).all()
    )
    assert (
        f'{near.name[7]}, d {near.d[7]:.3g}' in panel.detail.value
        and panel.detail.value in panel._repr_html_().replace('<h2>Chosen</h2>', '<h2>Chosen</h2><div class="audit">')
    )
    panel.set.value = 'holdout'
    panel.page.value = 1
    panel.choose(3)
    assert numbers() == list(range(7)) and 'holdout image 3' in panel._repr_html_()
    refused(lambda: panel.choose(10**6), 'sample=')
    refused(lambda: found.neighbours(0, k=0), 'k=')
    refused(lambda: found.neighbours(100), 'sample=', 'to 99')


def test_the_command(tmp_path, folder, monkeypatch, capsys):
    "In this process: a fresh one takes seconds to import torch."
    monkeypatch.chdir(tmp_path)

    def cli(*args):
        monkeypatch.setattr(sys, 'argv', ['ambient-nb', 'audit', *map(str, args)])
        with pytest.raises(SystemExit) as e:
            main()
        return e.value.code, *capsys.readouterr()

    np.save('train.npy', torch.cat([noise(40, 3, 8, 8, seed=1), noise(6, 8, 8, 3)[:2].movedim(-1, 1)]).numpy())
    code, out, _ = cli(folder, 'train.npy', '--out', 'r', '--cache', 'c')
    assert (
        code == 0
        and out.startswith('2 of 6 look copied (33 %, ')
        and sorted(p.name for p in (tmp_path / 'r').iterdir()) == list(FILES)
    )
    (folder / 'bad.png').write_bytes(b'')
    code, _, err = cli(folder, 'train.npy', '--out', 's', '--cache', 'c')
    assert (
        code == 2
        and len(err.strip().splitlines()) == 1
        and 'bad.png' in err
        and 'read with --skip-bad;' in err
        and not (tmp_path / 's').exists()
    )
    code, out, _ = cli(folder, 'train.npy', '--skip-bad', '--holdout', 'train.npy', '--out', 's', '--cache', 'c')
    notes = json.loads((tmp_path / 's' / 'summary.json').read_text())['notes']
    assert (
        code == 0
        and 'no more than the null' in out
        and [line for line in out.splitlines() if line.startswith('Note: ')] == [f'Note: {note}' for note in notes]
    )
    assert any('held-out images are training images' in note for note in notes) and any(
        'bad.png' in note for note in notes
    )
    code, _, err = cli(folder, 'train.npy', '--skip-bad', '--encoder', 'fid', '--out', 't')
    assert (
        code == 2
        and err.startswith('Error: --encoder=')
        and ': --encoder must be' in err
        and 'pixels' in err
        and not (tmp_path / 't').exists()
    )


# --- real data --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.timeout(3000)
def test_cifar10_with_planted_copies(data_dir, tmp_path):
    "34 exact, 33 mirrored and 33 noisy training images among 1,900 of the test set."
    train, test = (
        data_dir / 'cifar10-32x32-train.zip',
        read_pictures(data_dir / 'cifar10-32x32-test.zip', folder=tmp_path).pixels,
    )
    x = read_pictures(train, folder=tmp_path).pixels[torch.randperm(50_000, generator=rng(0, 'plant'))[:100]]
    noisy = (
        (x[67:].float() + 8 * torch.randn(33, 3, 32, 32, generator=rng(0, 'n'))).round().clamp(0, 255).to(torch.uint8)
    )
    planted = torch.cat([x[:34], x[34:67].flip(-1), noisy, test[:1900]])
    found = audit(planted, train, test[5000:6000], flips=True, out=tmp_path / 'report', cache=tmp_path / 'cache')
    hits = found.table[found.table.set == 'generated'].set_index('sample').memorized
    assert (
        hits[:67].all()
        and hits[67:100].mean() > 0.9
        and hits[100:].sum() <= 5
        and found.words[1] == 'more'
        and found.rows().exact[:67].sum() == 67
    )


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.timeout(3000)
def test_cifar10_test_set_is_its_own_null(data_dir, tmp_path):
    "The test set holds real near-duplicates: 11 of 10,000 pass the rule, and one half is no more suspicious than the other. Five minutes on two cores are 600 s of CPU."
    test, began = read_pictures(data_dir / 'cifar10-32x32-test.zip', folder=tmp_path).pixels, time.process_time()
    found = audit(test[:5000], data_dir / 'cifar10-32x32-train.zip', test[5000:], cache=tmp_path)
    assert (
        found.table.memorized.sum() == 11 and not found.table.exact.any() and 'no more than the null' in found.verdict
    )
    assert found.counts[0] + found.counts[2] == 11 and time.process_time() - began < 600
