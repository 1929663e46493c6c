"Controls: what an audit finds of planted copies is its own, whatever the training set holds twice."

import json

import numpy as np
import pandas as pd
import pytest
import torch
from ambient_nb import copies
from ambient_nb.audit import audit
from ambient_nb.controls import null_halves
from ambient_nb.core import rng
from ambient_nb.data import digits
from ambient_nb.disguises import jpeg, noisy
from ambient_nb.features import Encoder
from typer.testing import CliRunner

POOL, HELDOUT = digits()
TRAIN, SAMPLES, NULL = POOL.pixels[:300], HELDOUT.pixels[:200], HELDOUT.pixels[200:]


def controls_of(found) -> dict:
    "The numbers of the controls."
    return next(s for s in found.sections if s.name == 'controls').numbers


class Detail(Encoder):
    "Third differences of the pixels, which a JPEG changes most."

    name, dim, definition = 'detail', 42, dict(kind='detail')

    def embed(self, x):
        return x.diff(dim=3).diff(dim=2).diff(dim=3).flatten(1)


@pytest.mark.parametrize('encoder', ['pixels', 'digits-cnn', Detail()], ids=['pixels', 'digits-cnn', 'detail'])
def test_doubles_hide_nothing(encoder, tmp_path):
    """Half of the training images there twice: to the byte, by JPEG, with noise.

    The last encoder tells a JPEG from its image so well that its own ratio makes no double of it; pixels do.
    """
    usual = controls_of(audit(SAMPLES, TRAIN, NULL, encoder, cache=tmp_path))
    half = TRAIN[:150]
    for double in (half, jpeg(half), noisy(half, rng(0, 'double'))):
        now = controls_of(audit(SAMPLES, torch.cat([TRAIN, double]), NULL, encoder, cache=tmp_path))
        for kind, e in usual['recall'].items():
            assert now['recall'][kind]['value'] > e['value'] - 0.15, kind


def test_stand_in_the_report_and_are_read_anew(tmp_path, monkeypatch):
    "In summary.json, on the page, beside the verdict; another threshold needs no search, the global generator rests."
    state = torch.random.get_rng_state()
    found = audit(SAMPLES, TRAIN, NULL, out=tmp_path / 'report', cache=tmp_path / 'cache')
    assert torch.equal(torch.random.get_rng_state(), state)
    fresh = audit(SAMPLES, TRAIN, NULL, threshold=0.1, cache=tmp_path / 'cache')
    stored = json.loads((tmp_path / 'report' / 'summary.json').read_text())['controls']
    assert stored == controls_of(found) and stored['recall']['exact']['value'] == 1 and stored['alarms'] <= 0.06
    page = (tmp_path / 'report' / 'report.html').read_text()
    assert '<summary>Would it have found copies?</summary>' in page
    assert found.notes[-2].endswith('are blind to shift, flip, crop.') and found.notes[-2] in page
    monkeypatch.setattr(copies, 'nearest_exact', None)
    assert controls_of(found.at(0.1)) == controls_of(fresh) != stored and found.at(0.1).notes == fresh.notes


def test_may_be_left_out(tmp_path, monkeypatch):
    from ambient_nb.cli import app

    monkeypatch.chdir(tmp_path)
    for name, u in dict(samples=SAMPLES[:40], train=TRAIN, null=NULL[:40]).items():
        np.save(tmp_path / f'{name}.npy', u.numpy())
    run = ['audit', 'samples.npy', 'train.npy', '--holdout', 'null.npy', '--cache', 'cache']
    plain, without = (CliRunner().invoke(app, [*run, *more]).output for more in ([], ['--no-controls']))
    assert 'Note: Of 100 training images under each disguise this audit finds: exact 100 %' in plain
    assert 'Note: Calibration: of 100 training images' in plain and 'disguise' not in without
    assert 'controls' not in json.loads((tmp_path / 'report' / 'summary.json').read_text())


def test_a_null_of_one_law_is_seldom_accused():
    "Held-out images of which some look copied: in no more than one of ten divisions a half is accused."
    null = pd.DataFrame(dict(exact=False, similarity=torch.rand(400, generator=rng(0, 'null')).numpy()))
    null['memorized'] = torch.rand(400, generator=rng(1, 'null')).numpy() < 0.1
    p = pd.Series([t.p for t in null_halves(null, n_draws=300, generator=rng(0))])
    assert (p < 0.05).mean() <= 0.1 and (p < 0.5).mean() > 0.2
