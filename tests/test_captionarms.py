"DCR's arms: one thing differs, the rest is shared; every claim has an arm that answers it."

from dataclasses import fields

import pytest
import torch
from ambient_nb.captionarms import CaptionArm, TextRun, caption_arms, copied_share
from ambient_nb.mitigations import TRAIN_TIME
from ambient_nb.papers import papers

STYLES = ('nolevel', 'classlevel', 'described', 'instancelevel_random')
ARMS = caption_arms(STYLES, (1.0, 10.0), 0.2)


def test_one_thing_differs():
    base = ARMS['baseline']
    for name, arm in ARMS.items():
        changed = [f.name for f in fields(CaptionArm) if getattr(arm, f.name) != getattr(base, f.name)]
        assert len(changed) == (name != 'baseline'), name


@pytest.mark.parametrize('name', ARMS)
def test_a_seed_decides_images_and_pairs(name):
    mine, base, other = (TextRun(ARMS[arm], seed, 40, 4, 8) for arm, seed in ((name, 1), ('baseline', 1), (name, 2)))
    assert torch.equal(mine.images.ids, base.images.ids) and not torch.equal(mine.images.ids, other.images.ids)
    often = mine.config.duplication.copied(mine.images.ids)
    assert torch.equal(often, base.config.duplication.copied(base.images.ids)) and often.sum() == 8
    assert (mine.key == base.key) == (name == 'baseline') and mine.key != other.key
    assert mine.config.seed == mine.config.duplication.seed == 1


def test_every_claim_has_an_arm():
    topics = ['two-regime', *TRAIN_TIME, *(f'specific/{style}' for style in STYLES[:-1]), 'duplicated']
    mine = {c.id for c in papers()['dcr'].claims if c.notebook == 'repro_dcr_train'}
    assert mine == {f'dcr_train/{topic}/difference' for topic in topics}


def test_the_last_look_counts_and_both_kinds_alike():
    looks = [(10, 'often', 0.0), (20, 'often', 0.9), (20, 'seldom', 0.3), (20, 'new', 1.0)]
    curve = [dict(it=it, kind=kind, copies=dict(value=value)) for it, kind, value in looks]
    assert copied_share(curve) == pytest.approx(0.6) and copied_share(curve, ('new',)) == 1
