"Data sets: one record each, any zip is one, and a known name has to be earned."

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tree import NBS

from ambient_nb.backbones import BACKBONES, OWN
from ambient_nb.collect import reproduce
from ambient_nb.core import BadInput, rng
from ambient_nb.data import Images, write_zip
from ambient_nb.datamake import make_zip
from ambient_nb.datasets import DATASETS, DataSet, load, zip_name
from ambient_nb.papers import papers
from ambient_nb.plans import describe, plan
from ambient_nb.recipes import RECIPES
from ambient_nb.repro import encoder_of
from ambient_nb.rows import load_rows
from ambient_nb.runs import Run
from ambient_nb.settings import SETTINGS
from ambient_nb.suite import ITEMS
from ambient_nb.training import TrainConfig

NOTES = dict(meta=dict(recipe='cifar10'))
DRY = dict(dry_run=True, device='cpu')


def some(n=7, channels=3, px=32, labels=True, seed=0):
    "Random pictures with labels 0, 1, 2, 0, …"
    u = torch.randint(256, (n, channels, px, px), dtype=torch.uint8, generator=rng(seed, 'pictures'))
    return Images(u, torch.arange(n) % 3 if labels else None, torch.arange(n), 'some')


# --- records ----------------------------------------------------------------------------------------------------------


def test_records_name_what_exists():
    assert {r.recipe for r in DATASETS.values()} - {None} <= set(RECIPES)
    assert {r.encoder for r in DATASETS.values()} <= {*OWN, *BACKBONES}
    assert {key for r in DATASETS.values() for key in r.papers} == set(SETTINGS) <= set(papers())
    for name, record in DATASETS.items():
        assert name == record.name and (record.zip is None or zip_name(record.zip) == name)


def test_papers_have_settings_only_for_known_data():
    for paper, stated in SETTINGS.items():
        assert {name for name in stated if paper not in DATASETS[name].papers} == set()


@pytest.mark.parametrize('name', DATASETS)
@pytest.mark.parametrize('item', ITEMS)
def test_every_data_set_has_a_plan_or_one_clear_reason_why_not(item, name):
    n = '11,20' if ITEMS[item].several else 11
    if DATASETS[name].classes < ITEMS[item].classes:
        with pytest.raises(BadInput, match='dataset must be one with labels of 2 classes'):
            plan(item, dataset=name, n=n, profile='quick', **DRY)
        return
    p = plan(item, dataset=name, n=n, profile='quick', **DRY)
    assert p.record == DATASETS[name] and (p.profile == 'quick') == (name == 'digits')
    assert (
        item != 'table1'
        or 'minutes' in describe(plan(item, dataset=name, profile='smoke', size=8, **DRY)).value['here']
    )
    if name in SETTINGS[ITEMS[item].paper]:
        assert plan(item, dataset=name, profile='paper', **DRY).dataset == name
    else:
        with pytest.raises(BadInput, match=f'profile must be smoke or quick for {name}'):
            plan(item, dataset=name, profile='paper', **DRY)


# --- zips -------------------------------------------------------------------------------------------------------------


def test_load_finds_the_heldout_zip(tmp_path, monkeypatch):
    for name, images in {
        'cifar10-32x32-train': some(6),
        'cifar10-32x32-test': some(4, seed=1),
        'tinyimagenet-64x64-train6k': some(5, px=64, seed=2),
        'tinyimagenet-64x64-val5k': some(3, px=64, seed=3),
    }.items():
        write_zip(tmp_path / f'{name}.zip', images, dict(meta=dict(recipe=name.split('-')[0])))
    split = load('cifar10', tmp_path)
    assert (len(split.pool), len(split.heldout), split.rule) == (6, 4, 'all 4 of cifar10-32x32-test.zip')
    assert split.pool.name == split.name == 'cifar10' and split.record == DATASETS['cifar10']
    small = load('cifar10', tmp_path / 'cifar10-32x32-train.zip', size=4)
    assert small.heldout.resolution == 4 and small.record.encoder == 'pixels' and small.record.papers
    monkeypatch.setenv('AMBIENT_NB_DATA', str(tmp_path))
    assert (
        load('tinyimagenet').heldout.sha == some(3, px=64, seed=3).sha and load('tinyimagenet').pool.rule == 'balanced'
    )


def test_load_holds_out_the_last_tenth(tmp_path):
    write_zip(tmp_path / 'ffhq-64x64.zip', some(21, px=64), dict(meta=dict(recipe='ffhq')))
    split = load('ffhq', tmp_path)
    assert split.pool.ids.tolist() == list(range(18)) and split.heldout.ids.tolist() == [18, 19, 20]
    assert split.rule == 'the last 3 of ffhq-64x64.zip'
    with pytest.raises(BadInput, match='at least two'):
        load(data=write_zip(tmp_path / 'one.zip', some(1)))


def test_load_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.delenv('AMBIENT_NB_DATA', raising=False)
    advice = 'ambient-nb data make cifar-10-python.tar.gz cifar10-32x32-train.zip --kind cifar10'
    for place in (None, tmp_path, tmp_path / 'nowhere.zip'):
        with pytest.raises(BadInput, match=rf'cifar10-32x32-train.zip.*{advice}'):
            load('cifar10', place)
    for name in ('a', 'b'):
        write_zip(tmp_path / f'tinyimagenet-64x64-train{name}.zip', some())
    with pytest.raises(BadInput, match='name one'):
        load('tinyimagenet', tmp_path)
    write_zip(tmp_path / 'cifar10-32x32-train.zip', some(), NOTES)
    write_zip(tmp_path / 'cifar10-32x32-test.zip', some(px=4))
    with pytest.raises(BadInput, match='shape'):
        load('cifar10', tmp_path)
    write_zip(tmp_path / 'cifar10-32x32-val.zip', some())
    with pytest.raises(BadInput, match='beside one zip.*-test.zip, .*-val.zip'):
        load('cifar10', tmp_path)


@pytest.mark.parametrize('word', ['-valid', '_validation', '-Testing', '-dev5k', '-holdout'])
def test_any_word_of_a_split_holds_out(tmp_path, word):
    write_zip(tmp_path / 'photos-8x8-training.zip', some(20, px=8))
    write_zip(tmp_path / f'photos-8x8{word}.zip', some(5, px=8, seed=1))
    write_zip(tmp_path / f'photos-16x16{word}.zip', some(5, px=16))
    split = load(data=tmp_path / 'photos-8x8-training.zip')
    assert split.rule == f'all 5 of photos-8x8{word}.zip' and len(split.pool) == 20 and split.name == 'photos'
    alone = load(data=tmp_path / f'photos-8x8{word}.zip')
    assert alone.rule.startswith('the last 1 of') and alone.name == zip_name(f'photos{word}.zip') == 'photos'


def test_a_recipe_alone_does_not_make_photographs_cifar10(tmp_path):
    "`data make --kind cifar10` of other folders is told by the names of its classes, or by having none."
    from PIL import Image

    for folder in ('named/train/cat', 'named/train/tree', 'bare/train'):
        (tmp_path / folder).mkdir(parents=True)
        for i, u in enumerate(some(4).pixels.permute(0, 2, 3, 1).numpy()):
            Image.fromarray(u).save(tmp_path / folder / f'{i}.png')
    for src, said in (('named', 'classes of other names'), ('bare', 'no labels')):
        make_zip(tmp_path / src, tmp_path / 'cifar10-32x32-train.zip', kind='cifar10', overwrite=True)
        with pytest.raises(BadInput, match=f'data must be a zip of cifar10, and this one has {said}'):
            load('cifar10', tmp_path)


def test_a_whole_set_is_known_by_its_pictures(tmp_path, monkeypatch):
    "Whoever made the zip: without any record, in another order."
    from ambient_nb import datasets

    whole, other = some(40), some(40, seed=1)
    record = DataSet('cifar10', 3, 32, 40, 10, 'cifar10-32x32-train.zip', whole=((40, datasets.unordered_sha(whole)),))
    monkeypatch.setitem(DATASETS, 'cifar10', record)
    write_zip(tmp_path / 'cifar10-32x32-train.zip', whole.take(torch.arange(39, -1, -1)))
    assert len(load('cifar10', tmp_path).pool) == 36
    write_zip(tmp_path / 'cifar10-32x32-train.zip', other, dict(meta=dict(recipe=None), classes=None))
    with pytest.raises(BadInput, match='has other pictures'):
        load('cifar10', tmp_path)


@pytest.mark.real_data
def test_real_zips_are_what_they_are_called(data_dir):
    lone = load('cifar10', data_dir / 'cifar10-32x32-test.zip')
    assert (len(lone.pool), len(lone.heldout), lone.record) == (9000, 1000, DATASETS['cifar10'])
    tiny = load(data=data_dir / 'tinyimagenet-64x64-train6k.zip', size=16)
    assert tiny.name == 'tinyimagenet' and len(tiny.heldout) == 5000 and tiny.pool.resolution == 16
    with pytest.raises(BadInput, match='zip of cifar10'):
        load('cifar10', data_dir / 'tinyimagenet-64x64-val5k.zip')


# --- any zip ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def photos(tmp_path_factory) -> Path:
    return write_zip(tmp_path_factory.mktemp('photos') / 'photos-16x16-train.zip', some(60, px=16))


def test_a_zip_reproduces_under_its_own_name(photos, tmp_path):
    "No claim attaches, no encoder of another data set measures it, and its settings follow from its pictures."
    p = plan('table1', data=str(photos), n=20, profile='smoke', device='cpu', out=tmp_path, seeds=0)
    assert (p.dataset, p.record) == ('photos', DataSet('photos', 3, 16, 60, 3))
    rows = reproduce(p)
    assert {r.labels['dataset'] for r in rows} == {'photos'} and {r.claim for r in rows} == {None}
    assert any(r.labels['method'] == 'difference' for r in rows) and any('pixels-' in r.metric_id for r in rows)
    assert not any('cnn' in r.metric_id for r in rows) and {r.verdict for r in rows} == {'no claim'}
    quick = plan('table1', data=str(photos), n=20, profile='quick', device='cpu', out=tmp_path)
    c = quick.setup.train
    assert (quick.profile, c.batch, c.net.channel_mult) == ('custom', 64, (1, 4)) and c.P_mean != TrainConfig().P_mean
    with pytest.raises(BadInput, match='profile must be smoke or quick for photos: main has settings for cifar10'):
        plan('table1', data=str(photos), profile='paper', device='cpu', out=tmp_path)
    with pytest.raises(BadInput, match='dataset must be one of .*, or photos, as this zip is called'):
        plan('table1', dataset='faces', data=str(photos), profile='smoke', device='cpu', out=tmp_path)
    few = write_zip(tmp_path / 'few.zip', some(30, px=16))
    with pytest.raises(BadInput, match='data must be pictures of which at least 4 are held out, not 3'):
        plan('table1', data=str(few), n=20, profile='smoke', device='cpu', out=tmp_path)


def test_papermill_with_a_zip_of_ones_own(photos, tmp_path):
    given = dict(data=photos, n=20, profile='smoke', seeds=0, out=tmp_path / 'runs')
    options = [a for k, v in given.items() for a in ('-p', k, str(v))]
    command = [Path(sys.executable).parent / 'papermill', NBS / 'repro_table1.ipynb', 'out.ipynb', *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (tmp_path / 'runs' / 'rows').glob('*.json')
    assert {r.labels['dataset'] for r in load_rows(file)} == {'photos'}


# --- encoders ---------------------------------------------------------------------------------------------------------


def test_the_encoder_is_the_records_unless_one_is_named(photos):
    own, digits = load(data=photos), load()
    assert encoder_of(own).name == 'pixels' and encoder_of(digits).name == 'digits-cnn'
    assert encoder_of(digits, 'pixels').name == encoder_of(load(size=4)).name == 'pixels'
    with pytest.raises(BadInput, match='encoder must be one of pixels, digits-cnn, cifar10-cnn, dinov2'):
        encoder_of(own, 'resnet')


def test_missing_weights_are_one_error_that_says_where_they_go(monkeypatch, tmp_path):
    from ambient_nb import backbones

    monkeypatch.setenv('AMBIENT_NB_WEIGHTS', str(tmp_path))
    monkeypatch.setattr(backbones.torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(backbones.torch.hub, 'download_url_to_file', lambda *a, **k: (_ for _ in ()).throw(OSError()))
    with pytest.raises(BadInput, match=r'sscd_disc_large.torchscript.pt, or of a folder .* \$AMBIENT_NB_WEIGHTS'):
        encoder_of(load(), 'sscd-large-dcr')


def test_tinyimagenets_training_sets_are_balanced_without_asking(tmp_path):
    names = dict(meta=dict(recipe='tinyimagenet'))
    images = some(30, px=64)
    labels = torch.tensor([0] * 16 + [1, 2] * 7)  # the first nine are of one class
    path = write_zip(tmp_path / 'tinyimagenet-64x64-train.zip', Images(images.pixels, labels, images.ids, 'x'), names)
    run = Run('tinyimagenet', 9, TrainConfig(), (), 18, 8, data=str(path), size=8)
    assert run.images.labels.bincount().tolist() == [3, 3, 3]
