"Membership: a network that has seen images is told from one that has not, and nothing else is."

import io
import json
import sys
from contextlib import redirect_stderr
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from ambient_nb import audit as audit_room
from ambient_nb import membership as room
from ambient_nb.audit import audit
from ambient_nb.cli import app, main
from ambient_nb.core import refused, rng
from ambient_nb.data import Images, digits
from ambient_nb.membership import auc, image_errors, membership
from ambient_nb.networks import NetConfig
from ambient_nb.suspects import Suspect, open_model
from ambient_nb.training import TrainConfig, fit
from typer.testing import CliRunner

POOL, HELDOUT = digits()
NET = NetConfig(model_channels=16, channel_mult=(1, 2), num_blocks=1, attn_resolutions=())


def some(images, n):
    return Images(images.pixels[:n], images.labels[:n], images.ids[:n], images.name)


@pytest.fixture(scope='module')
def suspect(tmp_path_factory):
    "A network that has seen 60 digits about a hundred times."
    config = TrainConfig(net=NET, iters=200, batch=32, lr=4e-3, ema_kimg=1.0)
    place = fit(config, some(POOL, 60), tmp_path_factory.mktemp('member') / 'run', device='cpu')
    return SimpleNamespace(place=place, **vars(open_model(place)))


def findings(train, holdout, cache):
    return audit(HELDOUT.pixels[:20], train, holdout, cache=cache)


def test_a_network_knows_what_it_has_seen_and_nothing_else(suspect, tmp_path):
    found, control = (
        membership(suspect, findings(train, HELDOUT.pixels[20:], tmp_path))
        for train in (POOL.pixels[:60], POOL.pixels[60:])
    )
    levels = found.numbers['levels']
    assert max(level['auc']['lo'] for level in levels) > 0.55 and all(level['ratio']['value'] > 1 for level in levels)
    assert found.numbers['images'] == 60 and found.numbers['best']['auc']['n'] == 30
    assert control.numbers['best']['auc']['lo'] < 0.5 < control.numbers['best']['auc']['hi']
    assert control.numbers['images'] == 500 and 'no better' in control.notes[0]
    assert control.numbers['best']['caught']['lo'] < 0.01 < control.numbers['best']['caught']['hi']
    assert all(level['caught'] is None for level in levels) and 'fewer than 200' in found.body


def test_a_report_holds_what_the_model_told(suspect, tmp_path):
    found = audit(
        HELDOUT.pixels[:20],
        POOL.pixels[:60],
        HELDOUT.pixels[20:],
        out=tmp_path / 'r',
        model=suspect.place,
        cache=tmp_path,
    )
    about, page = json.loads((tmp_path / 'r/summary.json').read_text()), (tmp_path / 'r/report.html').read_text()
    assert about['membership']['model'] == 'run' and len(about['membership']['levels']) == len(room.SIGMAS)
    assert any(note.startswith('Model in hand: it denoises') for note in about['notes'])
    assert '<summary>Model in hand: AUC' in page and str(suspect.place) not in page + json.dumps(about)
    assert [section.name for section in found.sections][-2:] == ['quality', 'membership']


def test_a_model_is_refused_before_the_search(suspect, tmp_path, monkeypatch):
    monkeypatch.setattr(audit_room, 'compare_sets', None)
    refused_audit = partial(refused, audit, HELDOUT.pixels[:20], cache=tmp_path, model=suspect.place)
    assert 'given with `holdout`' in refused_audit(POOL.pixels[:60])
    assert 'here there are 19' in refused_audit(POOL.pixels[:60], HELDOUT.pixels[20:39])
    wide = torch.zeros(40, 1, 16, 16, dtype=torch.uint8)
    said = refused(audit, wide, wide[:30], wide[:35], cache=tmp_path, model=suspect.place)
    assert '16x16' in said and '8x8' in said


def test_a_shell_reads_nothing_but_json(suspect, tmp_path):
    for name, u in dict(samples=HELDOUT.pixels[:20], train=POOL.pixels[:60], null=HELDOUT.pixels[20:]).items():
        np.save(tmp_path / name, u)
    words = [tmp_path / 'samples.npy', tmp_path / 'train.npy', '--out', tmp_path / 'r', '--cache', tmp_path / 'c']
    words = ['audit', *map(str, words), '--model', str(suspect.place)]
    done = CliRunner().invoke(app, [*words, '--json', '--holdout', str(tmp_path / 'null.npy')])
    assert json.loads(done.stdout) == json.loads((tmp_path / 'r/summary.json').read_text()) and done.exit_code == 0
    with (
        patch.object(sys, 'argv', ['ambient-nb', *words]),
        redirect_stderr(said := io.StringIO()),
        pytest.raises(SystemExit),
    ):
        main()
    assert said.getvalue().startswith('Error: --model=') and 'given with --holdout' in said.getvalue()


def test_who_ignores_the_data_tells_nothing():
    a, b = (POOL.pixels[torch.randperm(1000, generator=rng(0, 'split'))][i::2] for i in (0, 1))
    for D in (lambda x, sigma, labels=None: x, lambda x, sigma, labels=None: torch.zeros_like(x)):
        errors = [
            image_errors(Suspect(D, (1, 8, 8), 'blind'), u, name, draws=1) for u, name in ((a, 'train'), (b, 'heldout'))
        ]
        for level in zip(*(e.T for e in errors)):
            assert (e := auc(*level)).lo < 0.5 < e.hi


def test_errors_do_not_depend_on_batches_nor_on_what_comes_after(suspect):
    whole = image_errors(suspect, POOL.pixels[:70], 'train', draws=2)
    for block in (1, 33):
        assert abs(image_errors(suspect, POOL.pixels[:40], 'train', draws=2, block=block) - whole[:40]).max() < 1e-6
    assert abs(image_errors(suspect, POOL.pixels[:40], 'heldout', draws=2) - whole[:40]).max() > 1e-3


def test_classes_are_guessed_up_to_a_number():
    told = []

    def D(x, sigma, labels=None):
        told.append(None if labels is None else labels.shape[1])
        return 0 * x if labels is None else x * (labels.argmax(1) == 2)[:, None, None, None]

    image_errors(Suspect(D, (1, 8, 8), 'few', classes=3), POOL.pixels[:5], 'train', (0.01,), draws=2)
    assert told == [3] * 5  # three guesses, and two noises
    told.clear()
    image_errors(Suspect(D, (1, 8, 8), 'many', classes=room.GUESSED + 1), POOL.pixels[:5], 'train', (0.1,), draws=2)
    assert told == [None] * 2


def test_sets_that_differ_without_any_model_are_named(tmp_path):
    blind = Suspect(lambda x, sigma, labels=None: torch.zeros_like(x), (1, 8, 8), 'blind')
    section = membership(blind, findings(POOL.pixels[:100], HELDOUT.pixels[20:120] // 2, tmp_path))
    assert any('roughness' in note and 'differ' in note for note in section.notes)


def test_leaked_images_and_doubles_are_left_out(tmp_path):
    found = findings(torch.cat([POOL.pixels[:50]] * 2), torch.cat([POOL.pixels[:40], HELDOUT.pixels[20:45]]), tmp_path)
    seen = {name: room.some_images(found, name, 99).tolist() for name in ('train', 'holdout')}
    assert sorted(seen['train']) == list(range(50)) and sorted(seen['holdout']) == list(range(40, 65))
    assert seen['train'] != list(range(50)) and room.some_images(found, 'train', 7).tolist() == seen['train'][:7]
    few = findings(POOL.pixels[:50], torch.cat([POOL.pixels[:40], HELDOUT.pixels[20:30]]), tmp_path)
    section = membership(Suspect(None, (1, 8, 8), 'x'), few)
    assert 'nothing can be said' in section.title and section.numbers['images'] == 10 and len(section.notes) == 1
