"Attacks before and after fine-tuning: what is begun with, what is attacked, what is counted, and what the page says."

from dataclasses import replace

import numpy as np
import pytest
import torch
from page_rows import judged, rows_of

from ambient_nb.attackarms import Attack, TunedRun, TunedTrainer, attack_rows, attack_runs, attacked, measured_attack
from ambient_nb.attackarms import shown_sets, trained
from ambient_nb.checkpoints import load_checkpoint
from ambient_nb.data import to_float
from ambient_nb.drive import snapshot_path
from ambient_nb.objectives import EDM, Tweedie
from ambient_nb.theory import plan_theory

BASES, TUNED = attack_runs((1, 2), 12, 2, 4, 1, (0.4,))
BASE, NOISY = BASES[0], TUNED['noisy 0.4'][0]


class Knows:
    "Gives back one of its images, the nearest, whatever it is told."

    sigma_min, sigma_max, round_sigma = 0.002, 80.0, staticmethod(torch.as_tensor)

    def __init__(self, images):
        self.x = to_float(images)

    def embed(self, prompts):
        return None

    def __call__(self, x, sigma, labels=None):
        far = (x.detach()[:, None].double() - self.x).square().flatten(2).sum(2)
        return self.x[far.argmin(1)].to(x) + 0 * x


def test_a_fine_tuning_begins_with_the_weights_of_its_base(tmp_path):
    begun = load_checkpoint(snapshot_path(trained(BASE, tmp_path), BASE.iters))[0]
    trainer = TunedTrainer(NOISY.config, NOISY.images, begun=begun)
    for D in (trainer.net, trainer.ema):
        state = D.state_dict()
        assert state.keys() == begun.keys() and all(torch.equal(state[k], v) for k, v in begun.items())
    trainer.step()
    assert any(not torch.equal(trainer.net.state_dict()[k], v) for k, v in begun.items())


def test_what_a_fine_tuning_is_hangs_on_its_base_and_on_what_it_is_shown():
    assert len({run.key for runs in TUNED.values() for run in runs}) == 2 * len(TUNED)
    assert NOISY.key != replace(NOISY, base=replace(BASE, iters=3)).key
    assert [runs[0].config.loss for runs in TUNED.values()] == [EDM(), Tweedie(sigma_n=0.4), EDM()]
    others = TUNED['other images'][0]
    assert len(others.images) == 12 and not {*others.images.ids.tolist()} & {*BASE.images.ids.tolist()}
    for runs in TUNED.values():
        same = replace(runs[0].config, loss=EDM(), lr=BASE.config.lr, iters=BASE.iters)
        assert same == BASE.config and (runs[0].others or runs[0].images.sha == BASE.images.sha)


def test_three_sets_are_attacked():
    sets = shown_sets(BASE, 7)
    often = BASE.config.duplication.copied(BASE.images.ids)
    assert [len(u) for u in sets.values()] == [3, 9, 7] and often.sum() == 3
    assert torch.equal(sets['often'], BASE.images.pixels[often])
    seen = BASE.images.pixels.flatten(1).tolist()
    assert not any(u in seen for u in sets['heldout'].flatten(1).tolist())


@pytest.mark.parametrize('attack', (Attack('noise', 0.2), Attack('mask', 2, zeta=1.0, steps=4)), ids=lambda a: a.name)
def test_a_copier_gives_back_what_it_knows_and_nothing_else(attack):
    sets = shown_sets(BASE, 20)
    D = Knows(BASE.images.pixels)
    own, others = (attack.scores(D, sets[k], '') for k in ('seldom', 'heldout'))
    assert own.min() > -0.01 and others.max() < -0.05 and own.dtype == torch.float64


def test_the_hidden_square_is_in_the_middle_and_alone_is_judged(monkeypatch):
    "Shown pixels count for nothing, however wrong an answer there is."
    seen, images = {}, BASE.images.pixels[:2]

    def completions(D, x, masks, n, **how):
        seen['masks'] = masks
        return torch.where(masks.bool(), -x, x)[:, None].expand(-1, n, -1, -1, -1)

    monkeypatch.setattr('ambient_nb.attackarms.completions', completions)
    assert Attack('mask', 4, zeta=1.0).scores(Knows(images), images, '').tolist() == [0.0, 0.0]
    hidden = torch.zeros(8, 8)
    hidden[2:6, 2:6] = 1
    assert torch.equal(1 - seen['masks'][0, 0], hidden)


def test_numbers_of_an_attack():
    own = dict(often=[-0.1, -0.2], seldom=[-0.3, -0.6])
    found = measured_attack(own | dict(heldout=[-0.5] * 4))
    assert found == pytest.approx(dict(advantage=0.25, similarity=-0.3, often=0.3))
    found = measured_attack(own | dict(heldout=[*np.linspace(-0.9, -0.7, 198), -0.15, -0.15]))
    assert found['caught'] == pytest.approx(0.25)  # one of the four is above all but two of the two hundred


def test_a_difference_is_taken_seed_by_seed():
    plan = plan_theory('tweedie_attacks', dict(seeds=(1, 2, 3)), (None,) * 3, profile='quick', dry_run=True)
    scores = lambda *shifts: [dict(often=[s, s - 0.1], seldom=[s - 0.2, s], heldout=[-0.7, -0.8]) for s in shifts]
    rows = attack_rows(plan, 'x/before', scores(-0.2, -0.3), BASES, scores(-0.1, -0.4), ('similarity',))
    assert [row.id for row in rows] == ['tweedie_attacks/x/before/similarity'] and 'scores' not in rows[0].detail
    assert rows[0].detail['values'] == pytest.approx([-0.1, 0.1])
    alone = attack_rows(plan, 'x', scores(-0.2, -0.3), BASES)
    assert [len(row.detail.get('scores', ())) for row in alone] == [2, 0, 0] and len(alone[0].runs) == 2


def test_an_attack_is_kept_by_network_attack_and_images(tmp_path):
    quick = Attack('noise', 1.0, n=1, steps=2)
    first = attacked((BASE, quick, 3, tmp_path))
    attacked((BASE, quick, 3, tmp_path))
    assert [len(v) for v in first.values()] == [3, 9, 3]
    for job in ((BASE, replace(quick, size=2.0), 3), (BASE, quick, 4), (TUNED['clean'][0], quick, 3)):
        attacked((*job, tmp_path))
    assert len([*(tmp_path / 'attacks').glob('*.json')]) == 4
