"Attacks before and after fine-tuning: what is begun with, what is attacked, what is counted, and what the page says."

from dataclasses import replace

import numpy as np
import pytest
import torch
from page_rows import judged, rows_of
from tree import cells

from ambient_nb.attackarms import Attack, TunedTrainer, attack_rows, attack_runs, attacked, measured_attack
from ambient_nb.attackarms import shown_sets, trained
from ambient_nb.checkpoints import load_checkpoint
from ambient_nb.data import to_float
from ambient_nb.runfolders import snapshot_path
from ambient_nb.objectives import EDM, Tweedie
from ambient_nb.oracles import EmpiricalDenoiser
from ambient_nb.theory import plan_theory

ROWS = rows_of('tweedie_attacks')
BASES, TUNED = attack_runs((1, 2), 12, 2, 4, 1, (0.4,))
BASE, NOISY = BASES[0], TUNED['noisy 0.4'][0]


class Knows(EmpiricalDenoiser):
    "The best denoiser of some images, whatever it is told."

    def embed(self, prompts):
        return None


def test_a_fine_tuning_begins_with_the_weights_of_its_base(tmp_path):
    begun = load_checkpoint(snapshot_path(trained(BASE, tmp_path), BASE.iters))[0]
    trainer = TunedTrainer(NOISY.config, NOISY.images, begun=begun)
    for D in (trainer.net, trainer.ema):
        state = D.state_dict()
        assert state.keys() == begun.keys() and all(torch.equal(state[k], v) for k, v in begun.items())
    for _ in range(2):  # the first one has a rate of 0
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


@pytest.mark.parametrize(
    'attack', (Attack('noise', 0.2), Attack('mask', 2, zeta=1000.0, steps=30)), ids=lambda a: a.name
)
def test_a_copier_gives_back_what_it_knows_and_nothing_else(attack):
    sets = shown_sets(BASE, 20)
    D = Knows(to_float(BASE.images.pixels))
    own, others = (attack.scores(D, sets[k], '') for k in ('seldom', 'heldout'))
    assert own.median() > -0.01 and others.max() < -0.05 and own.dtype == torch.float64


def test_the_hidden_square_is_in_the_middle_and_alone_is_judged(monkeypatch):
    "Shown pixels count for nothing, however wrong an answer there is."
    seen, images = {}, BASE.images.pixels[:2]

    def completions(D, x, masks, n, **how):
        seen['masks'] = masks
        return torch.where(masks.bool(), -x, x)[:, None].expand(-1, n, -1, -1, -1)

    monkeypatch.setattr('ambient_nb.attackarms.completions', completions)
    assert Attack('mask', 4, zeta=1.0).scores(Knows(to_float(images)), images, '').tolist() == [0.0, 0.0]
    hidden = torch.zeros(8, 8)
    hidden[2:6, 2:6] = 1
    assert torch.equal(1 - seen['masks'][0, 0], hidden)


def test_numbers_of_an_attack():
    own = dict(often=[-0.1, -0.2], seldom=[-0.3, -0.6])
    found = measured_attack(own | dict(heldout=[-0.5] * 4))
    assert found == pytest.approx(dict(advantage=0.25, similarity=-0.3, often=0.3))
    found = measured_attack(own | dict(heldout=[*np.linspace(-0.9, -0.7, 197), *[-0.15] * 3]))
    assert found['caught'] == pytest.approx(0.25)  # two of two hundred may be as close


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


def test_drawing_stops_where_it_is_told():
    asked = []

    class Spy(Knows):
        def __call__(self, x, sigma, labels=None):
            asked.append(float(torch.as_tensor(sigma).min()))
            return super().__call__(x, sigma, labels)

    for stop, lowest in ((0.4, 0.4), (0.0, 0.002)):
        asked.clear()
        Attack('noise', 1.0, stop=stop).scores(Spy(to_float(BASE.images.pixels)), BASE.images.pixels[:2], '')
        assert min(asked) >= lowest and (min(asked) < 0.4) == (not stop)


def test_every_claim_is_judged_by_todays_rule():
    verdicts = [r.verdict.split(' (')[0] for r in judged('tweedie_attacks').values()]
    assert (verdicts.count('same direction'), verdicts.count('underpowered'), len(verdicts)) == (7, 6, 13)


def test_a_difference_is_that_of_the_rows_beside_it():
    found = {r.id.removeprefix('tweedie_attacks/'): r for r in ROWS}
    values = {key: np.array(r.detail['values']) for key, r in found.items()}
    ways, names = ('noise 1', 'mask 4'), ('clean', 'noisy 0.4', 'noisy 1.6', 'other images')
    for metric in ('advantage', 'similarity', 'often', 'caught'):
        for way in ways:
            for name in names:
                mine, key = values[f'{name}/{way}/{metric}'], f'{name}/{way}'
                assert values[f'{key}/before/{metric}'] == pytest.approx(mine - values[f'{way}/{metric}'], abs=1e-9)
                for other in {'clean', 'other images'} - {name}:
                    if (other_key := f'{key}/{other}/{metric}') in values:
                        theirs = values[f'{other}/{way}/{metric}']
                        assert values[other_key] == pytest.approx(mine - theirs, abs=1e-9)
    for key, r in found.items():
        if 'scores' in r.detail:
            again = [measured_attack(scores)['advantage'] for scores in r.detail['scores']]
            assert r.detail['values'] == pytest.approx(again, abs=1e-9), key


def short(v: float) -> str:  # .41
    return f'{abs(v):.2f}'.lstrip('0')


def test_numbers_of_the_page():
    page = '\n'.join(c['source'] for c in cells('repro_tweedie_attacks.ipynb') if c['cell_type'] == 'markdown')
    found = {r.id.removeprefix('tweedie_attacks/'): r.ours for r in ROWS}
    sides = lambda e: f'[{", ".join(("−" if v < 0 else "") + short(v) for v in (e.lo, e.hi))}]'
    whole = lambda e: f'{short(e.value)} {sides(e)}'
    minus = lambda e: f'{short(e.value)} {sides(-1 * e)}'
    percent = lambda e: f'{100 * e.value:.0f} % [{100 * e.lo:.0f}, {100 * e.hi:.0f}]'
    noise, mask = ({m: found[f'{way}/{m}'] for m in ('advantage', 'caught', 'often')} for way in ('noise 1', 'mask 4'))
    said = [f'advantage of {whole(noise["advantage"])}', f'{percent(noise["caught"])} are found']
    said += [
        f'it is {whole(mask["advantage"])}, and {percent(mask["caught"])}',
        f'by {whole(noise["often"])} from noise',
    ]
    said += [f'by {whole(mask["often"])} behind', f'closer in {100 * (noise["advantage"].value + 0.5):.0f}']
    said += ['{} at .5, {} at 2, {} at 4'.format(*(short(found[f'noise {s}/advantage'].value) for s in (0.5, 2, 4)))]
    weak, hard = (short(found[f'zeta {z}/advantage'].value) for z in (1, 100))
    said += [f'falls by {minus(found["zeta 1/minus 10/advantage"])}, to {weak}', f'with 100, it is {hard} as well']
    said += [f'({percent(found["zeta 1/caught"])})']
    fall = lambda name, way, metric: found[f'{name}/{way}/before/{metric}']
    closer = [short(fall(f'noisy {s}', way, 'similarity').value) for way in ('noise 1', 'mask 4') for s in (0.4, 1.6)]
    said += ['from noise by {} at $\\sigma_n=.4$ and {} at 1.6, behind a mask by {} and by {}'.format(*closer)]
    said += [sides(fall('noisy 1.6', 'mask 4', 'similarity'))]
    said += [f'falls by {short(fall("noisy 0.4", way, "advantage").value)} in both' for way in ('noise 1', 'mask 4')]
    said += [f'1.6 by {minus(fall("noisy 1.6", "noise 1", "advantage"))} from noise']
    said += [f'by {minus(fall("noisy 1.6", "mask 4", "advantage"))} behind']
    other = [minus(fall('other images', way, 'advantage')) for way in ('noise 1', 'mask 4')]
    said += ['lower the advantage by {} and {}'.format(*other)]
    said += [
        'do, by {} and {}'.format(
            *(whole(found[f'noisy 0.4/{w}/other images/advantage']) for w in ('noise 1', 'mask 4'))
        )
    ]
    assert [words for words in said if words not in page] == []
    assert all(found[f'noisy 1.6/{w}/other images/advantage'].lo < 0 for w in ('noise 1', 'mask 4'))
