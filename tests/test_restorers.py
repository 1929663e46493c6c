"Networks that restore: what is missing is trained again, and what a page cannot do is refused before anything is."

import shutil
from dataclasses import replace

import pytest
import torch
from tree import cells

from ambient_nb import corrupted, restorers
from ambient_nb.checkpoints import load_checkpoint
from ambient_nb.core import BadInput
from ambient_nb.drive import claim_folder, drive
from ambient_nb.runfolders import snapshot_path, snapshots_in
from ambient_nb.execute import train
from ambient_nb.restorers import masked, train_missing
from ambient_nb.training import Trainer, fit


def weights(run, out, it):
    return load_checkpoint(snapshot_path(run.folder(out), it))[0]


def pages():
    "One training that two pages share: the one reads its end, the other looks at it on the way too."
    (end,) = restorers.restorers('smoke', dict(masked=masked(0.5)), (1,), n=12, iters=4, batch=4).values()
    return end, replace(end, snapshots=(1, 2, 4))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_pages_that_share_a_training_each_find_their_snapshots(tmp_path, monkeypatch):
    "In processes, as pages do; then in this one. A snapshot that is gone comes back as it was."
    end, looks = pages()
    assert end.key == looks.key and train_missing([end], tmp_path) == 1 and snapshots_in(end.folder(tmp_path)) == [4]
    alone = weights(end, tmp_path, 4)
    monkeypatch.setattr(
        restorers, 'train_side_by_side', lambda pool, todo, out, _: [train(r, out, 'cpu') for r in todo]
    )
    assert train_missing([looks], tmp_path) == 1, 'its end is there, its way is not'
    assert snapshots_in(looks.folder(tmp_path)) == [1, 2, 4] and same(weights(end, tmp_path, 4), alone)
    assert train_missing([end, looks], tmp_path) == 0
    for it in (1, 4):
        before = weights(looks, tmp_path, it)
        for file in looks.folder(tmp_path).glob(f'snapshot-{it:07d}*'):
            file.unlink()
        assert train_missing([end], tmp_path) == (it == 4) and train_missing([looks], tmp_path) == (it == 1)
        assert same(weights(looks, tmp_path, it), before)
    assert train_missing([end, looks], tmp_path) == 0


def test_a_training_that_was_stopped_past_a_snapshot_starts_again(tmp_path):
    "The page that asks for less was killed on its way; the other one needs what lies behind."
    end, looks = pages()
    c, images = looks.config, looks.images
    fit(c, images, whole := tmp_path / 'whole', snapshots=looks.snapshots, device='cpu')
    folder = claim_folder(tmp_path / 'stopped', c, images)
    events = drive(Trainer(c, images, 'cpu'), folder, c.iters, snapshots=end.snapshots)
    assert [next(events).it for _ in range(4)] == [0, 1, 2, 3]
    events.close()  # as a kill would: a state of step 3 stays, and no snapshot
    shutil.copytree(folder, again := tmp_path / 'again')
    fit(c, images, folder, snapshots=end.snapshots, device='cpu')
    assert 'from iteration 3 ' in (folder / 'log.txt').read_text().splitlines()[-3], 'nothing lies behind: it goes on'
    fit(c, images, again, snapshots=looks.snapshots, device='cpu')
    assert snapshots_in(again) == [1, 2, 4] and not [*again.glob('state-*')]
    for it in (1, 2, 4):
        assert same(*(load_checkpoint(snapshot_path(f, it))[0] for f in (whole, again))), it


def page_until_training(name, out, given):
    "A page's cells with a reader's parameters, up to where it would train."

    def begun(*args, **kwargs):
        raise AssertionError('training began')

    scope = dict(display=print)
    for c in cells(f'repro_{name}.ipynb'):
        if c['cell_type'] == 'code':
            exec(c['source'], scope)
            if 'parameters' in c['metadata'].get('tags', []):
                assert set(given) <= set(scope)
                scope.update(given, profile='smoke', out=str(out))
            if 'train_missing' in scope:
                scope['train_missing'] = begun


REFUSED = [
    ('ambient_restoration', dict(ps='0.5,1'), 'p'),
    ('ambient_restoration', dict(ps='-0.2'), 'ps'),
    ('ambient_restoration', dict(twins='1.2'), 'p'),
    ('ambient_restoration', dict(sigma_ns='0'), 'sigma_ns'),
    ('ambient_fig3', dict(p=1), 'p'),
    ('ambient_fig3', dict(delta=0), 'delta'),
    ('ambient_fig3', dict(delta=1.0), 'delta'),
    ('ambient_fig3', dict(deltas='0.3,-0.1'), 'deltas'),
    ('ambient_fig5', dict(ps='1.5'), 'p'),
    ('ambient_table2', dict(ps='0.4,1.0'), 'p'),
    ('ambient_mri', dict(accelerations='4,16'), 'acceleration'),
    ('ambient_mri', dict(accelerations='0,4'), 'accelerations'),
    ('ambient_theorem', dict(delta='0'), 'delta'),
    ('ambient_theorem', dict(delta='1.5'), 'delta'),
    ('tweedie_fid', dict(sigma_n=0), 'sigma_n'),
    ('tweedie_consistency', dict(sigma_n='-0.4'), 'sigma_n'),
    ('laws_tables', dict(sigma_n=-1), 'sigma_n'),
    ('laws_gmm', dict(share='1.0'), 'share'),
]


@pytest.mark.parametrize('page, given, name', REFUSED)
def test_a_page_refuses_before_it_does_anything(page, given, name, tmp_path, monkeypatch):
    monkeypatch.setattr(corrupted, 'train_all', lambda *_: pytest.fail('training began'))
    with pytest.raises(BadInput) as e:
        page_until_training(page, tmp_path / 'out', given)
    assert e.value.name == name and str(e.value).count('\n') == 0 and ' must ' in str(e.value), str(e.value)
    assert not [f for f in tmp_path.rglob('*') if f.is_file()]
