"The audit: reports that are whole or not there, the command, real images."

import json
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from drawn import noise, png
from ambient_nb import audit as room
from ambient_nb.audit import FILES, audit
from ambient_nb.cli import main
from ambient_nb.core import refused, rng
from ambient_nb.data import digits
from ambient_nb.sources import read_pictures

POOL, HELDOUT = digits()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / 'cache'


@pytest.fixture
def folder(tmp_path):
    "Six colour pictures in two sub-folders and beside them."
    for i, a in enumerate(noise(6, 8, 8, 3).numpy()):
        png(a, tmp_path / 'pictures' / ('ab'[i % 2] if i < 4 else '') / f'{i}.png')
    return tmp_path / 'pictures'


def test_grey_samples_are_copies_of_their_colour_copies(cache):
    grey = HELDOUT.pixels[:9]
    assert audit(grey[:5], grey.expand(-1, 3, -1, -1), cache=cache).rows().exact.all()


def test_names_from_a_folder_are_text_in_the_report(tmp_path, cache):
    samples = torch.cat([POOL.pixels[:3], HELDOUT.pixels[:6]])
    for i, a in enumerate(samples[:, 0].numpy()):
        png(a, tmp_path / 'samples' / f'{i}{"<script>alert(1)<script>" if i == 2 else ""}.png')
    found = audit(tmp_path / 'samples', POOL, out=tmp_path / 'report', cache=cache)
    page = (tmp_path / 'report' / 'report.html').read_text()
    assert '<script' not in page and '&lt;script&gt;alert(1)' in page
    assert '<figure>' in found._repr_html_() and '<script' not in found._repr_html_()
    assert str(tmp_path) not in page + (tmp_path / 'report' / 'summary.json').read_text()


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


@pytest.mark.parametrize('out', ['mine', 'file', 'file/below'])
def test_no_folder_of_the_users_is_replaced(out, tmp_path, cache):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('x')
    (tmp_path / 'file').write_text('x')
    assert 'out=' in refused(audit, HELDOUT, POOL, out=tmp_path / out, cache=cache)
    assert not cache.exists() and (tmp_path / 'mine' / 'thesis.txt').read_text() == 'x'


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
        and out.splitlines()[-2].startswith('2 of 6 look copied (33 %, ')
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
    np.save('null.npy', np.concatenate([np.load('train.npy'), noise(1, 3, 8, 8, seed=2).numpy()]))
    code, out, _ = cli(folder, 'train.npy', '--skip-bad', '--holdout', 'null.npy', '--out', 's', '--cache', 'c')
    notes = json.loads((tmp_path / 's' / 'summary.json').read_text())['notes']
    assert (
        code == 0
        and out.splitlines()[-2].startswith('2 of 6 look copied (33 %, 2 to the byte), and no verdict follows: ')
        and [line for line in out.splitlines() if line.startswith('Note: ')]
        == [f'Note: {note}' for note in notes[::-1]]
    )
    assert any('Held-out images that are training images: 42 (' in note for note in notes) and any(
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
        and found.table.exact.sum() == 34  # a mirror image has other bytes
    )


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.timeout(3000)
def test_cifar10_test_set_is_its_own_null(data_dir, tmp_path):
    """The test set holds real near-duplicates: 11 of 10,000 pass the rule, and one half is no more suspicious than
    the other. Five minutes on two cores are 600 s of CPU."""
    test, began = read_pictures(data_dir / 'cifar10-32x32-test.zip', folder=tmp_path).pixels, time.process_time()
    found = audit(test[:5000], data_dir / 'cifar10-32x32-train.zip', test[5000:], cache=tmp_path)
    assert (
        found.table.memorized.sum() == 11 and not found.table.exact.any() and 'no more than the null' in found.verdict
    )
    assert found.counts[0] + found.counts[2] == 11 and time.process_time() - began < 600


APART = dict(generated='new', train='train', holdout='null')


@pytest.mark.parametrize(
    'where',
    [
        dict(generated='train/new'),
        dict(train='new/train'),
        dict(generated='linked'),
        dict(holdout='train/null'),
        dict(holdout='new'),
        dict(holdout='copied'),
    ],
    ids=str,
)
def test_sets_that_are_not_apart_are_said_before_the_verdict(where, tmp_path, monkeypatch, capsys):
    "By the command: the caution, then that there is no verdict, however the sets came to overlap."
    places = APART | where
    for k, (name, usual) in enumerate(APART.items()):
        for i, a in enumerate(noise(6, 8, 8, 3, seed=k).numpy()):
            png(a, tmp_path / (where.get(name, usual) if '/' in where.get(name, '') else usual) / f'{i}.png')
    for name in ('linked', 'copied'):
        (tmp_path / name).mkdir()
    for i, file in enumerate((tmp_path / places['train']).glob('*.png')):
        (tmp_path / 'copied' / f'a{i}.png').write_bytes(file.read_bytes())
        if i < 5:  # fewer than all, so that not the sets but their files are the same
            (tmp_path / 'linked' / f'a{i}.png').symlink_to(file)
    generated, train, holdout = (str(tmp_path / place) for place in places.values())
    options = ['--holdout', holdout, '--out', str(tmp_path / 'report'), '--cache', str(tmp_path / 'cache')]
    monkeypatch.setattr(sys, 'argv', ['ambient-nb', 'audit', generated, train, *options])
    with pytest.raises(SystemExit) as end:
        main()
    *_, first, second, _ = capsys.readouterr().out.splitlines()
    assert first.startswith('Caution: ') and second.startswith('No verdict: ') and not end.value.code
    about = json.loads((tmp_path / 'report' / 'summary.json').read_text())
    assert [f'Caution: {c}' for c in about['cautions']] == [first] and str(tmp_path) not in first


@pytest.mark.parametrize('where', ['train', 'copied'])
def test_samples_that_are_the_training_images_are_refused(where, tmp_path, cache):
    "The same folder before it is read, a copy of it after."
    for name in ('train', 'copied'):
        for i, a in enumerate(noise(6, 8, 8, 3).numpy()):
            png(a, tmp_path / name / f'{i}{name}.png')
    said = refused(audit, tmp_path / where, tmp_path / 'train', out=tmp_path / 'report', cache=cache)
    assert said.startswith('generated=') and 'these are the same ones' in said and not (tmp_path / 'report').exists()
    assert cache.exists() == (where == 'copied')


NEAR = {  # samples, training images, held-out images: copies found, the verdict, clusters of training images, leaks
    ('samples', 'once', 'heldout'): (60, 'more', 0, 0),
    ('samples', 'twice', 'heldout'): (60, 'more', 60, 0),
    ('samples', 'exact', 'heldout'): (60, 'more', 60, 0),
    ('few', 'once', 'leaked'): (8, 'more', 0, 10),
    ('clean', 'twice', 'heldout'): (0, 'none', 60, 0),
    ('clean', 'once', 'leaked'): (0, 'none', 0, 10),
    ('few', 'once', 'nearly leaked'): (8, 'more', 0, 10),
    ('exact copies', 'once', 'handful'): (10, 'open', 0, 0),
    ('exact copies', 'twice', 'train'): (10, 'open', 60, 60),
    ('clean', 'once', 'clean'): (0, 'open', 0, 0),
    ('constant', 'once', 'heldout'): (0, 'open', 0, 0),
    ('three', 'once', 'heldout'): (0, 'open', 0, 0),
    ('one exact copy', 'once', 'heldout'): (1, 'doubt', 0, 0),
}


@pytest.fixture(scope='module')
def near():
    "Sets of digits that repeat each other."
    train, new = POOL.pixels[:60], HELDOUT.pixels

    def shaken(u, name):
        return (u + torch.randint(-4, 5, u.shape, generator=rng(0, 'near', name))).clamp(0, 255).to(torch.uint8)

    rest = POOL.pixels[60:]
    return dict(
        samples=shaken(train, 'samples'),
        few=torch.cat([shaken(train[:8], 'few'), new[400:550]]),
        clean=new[400:550],
        constant=new[400:401].expand(150, -1, -1, -1),
        three=new[400:403],
        heldout=new[:200],
        leaked=torch.cat([new[:200], train[:10]]),
        handful=new[:3],
        train=train,
        once=torch.cat([train, rest]),
        twice=torch.cat([train, shaken(train, 'twice'), rest]),
        exact=torch.cat([train, train, rest]),
    ) | {
        'nearly leaked': torch.cat([new[:200], shaken(train[:10], 'leaked')]),
        'exact copies': torch.cat([train[:10], new[300:790]]),
        'one exact copy': torch.cat([train[:1], new[300:790]]),
    }


@pytest.mark.parametrize('names', NEAR, ids=' '.join)
def test_near_duplicates_blind_no_verdict(names, near, tmp_path):
    copies, tone, clusters, leaked = NEAR[names]
    found = audit(*(near[name] for name in names), out=tmp_path / 'report', cache=tmp_path / 'cache')
    about = json.loads((tmp_path / 'report' / 'summary.json').read_text())
    assert (found.counts[0], found.words[1]) == (copies, tone) == (about['tally']['k'], about['conclusion'])
    assert about['duplicates']['train']['clusters'] == clusters and about['duplicates']['holdout']['leaked'] == leaked
    assert ('excluded' in found.verdict) == (tone == 'none') and pd.read_parquet(
        tmp_path / 'report' / 'samples.parquet'
    ).leaked.sum() == leaked
    if 'exact copies' in names:
        assert '10 to the byte' in found.verdict or found.rows().exact.sum() == 10


def test_pictures_of_clusters_repeats_and_leaks_are_in_the_report(near, tmp_path):
    samples = torch.cat([near['few'], near['few'][-1:].expand(20, -1, -1, -1)])
    audit(samples, near['twice'], near['leaked'], out=tmp_path / 'report', cache=tmp_path / 'cache')
    page = (tmp_path / 'report' / 'report.html').read_text()
    for words in ('60 clusters of training images', '1 cluster of samples', '10 held-out images that leaked'):
        assert words in page
    assert 'Samples that repeat another one, to the byte or nearly: 20.' in page
