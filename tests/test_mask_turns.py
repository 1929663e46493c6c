"Networks of masked images by turns: who is trained on what, what is restored, and which arm is taken from which."

from dataclasses import replace

import pytest
import torch

from ambient_nb.data import to_float
from ambient_nb.frontier_rows import SHARES
from ambient_nb.mask_turns import MaskTurns, mask_differences, mask_pairs, mask_table, released_setup, restored_at
from ambient_nb.networks import PRESETS
from ambient_nb.objectives import EDM
from ambient_nb.restoration import hole_masks
from ambient_nb.restorers import masked
from ambient_nb.stats import Estimate
from ambient_nb.training import TrainConfig
from ambient_nb.turn_rows import turn_plan, unlike_paper
from ambient_nb.turns import MethodTurns

NET = replace(PRESETS['tiny'], model_channels=8)
TINY = MaskTurns(dataset='digits', n=6, train=TrainConfig(net=NET, batch=8), turn_kimg=0.016, every=1, most=2, axes=8)


def test_arms_differ_in_what_is_hidden_alone():
    runs = {arm: TINY.run(arm) for arm in TINY.arms}
    losses = {arm: run.config.loss for arm, run in runs.items()}
    assert losses == {'p = 0': EDM()} | {f'p = {p:g}': masked(p) for p in TINY.ps} and TINY.ps == (0.2, 0.6, 0.8)
    assert (
        len({replace(run.config, loss=EDM()) for run in runs.values()})
        == 1
        == len({r.images.sha for r in runs.values()})
    )
    assert TINY.compared == tuple((arm, 'p = 0') for arm in TINY.arms[1:])
    assert replace(TINY, seed=2).run('p = 0').images.sha != runs['p = 0'].images.sha


def test_settings_beside_the_released_ones():
    "200 million images, gated, Adam 2e-4 without decay: what differs here is said."
    released = released_setup().train
    assert released.iters * released.batch == 200_000_000 and released.net.gated and released.net.dropout == 0.1
    assert (released.lr, released.weight_decay) == (2e-4, 0.0)
    said = unlike_paper(MaskTurns())
    assert said['training images'] == ('the data set', '1,000 of it') and said['lr'][0] == 2e-4
    assert 'net gated' in said or MaskTurns().train.net.gated


def test_restoring_is_counted():
    "256 images at six levels and three tasks, once at each look of each arm."
    assert MaskTurns().asked == 256 * 6 * 3 and MethodTurns().asked == 0
    slow = dict(shares=(1.0,), peak=1e9)
    without, whole = (turn_plan(replace(TINY, restored=n), 9.0, **slow) for n in (1, 256))
    assert (whole['s a checkpoint'] > without['s a checkpoint']).all()


def test_held_out_images_are_restored_and_each_task_hides_its_share():
    "An answer that is grey everywhere: its error is the mean square of the images, whichever they are."
    seen = []

    def grey(y, sigma, labels=None, mask=None):
        seen.append((y, 1 - mask.mean().item()))
        return 0 * y

    run, t = TINY.run('p = 0.8'), replace(TINY, restored=40)
    found = t.beside(run, grey, 'cpu')['restored']
    held = to_float(run.heldout.pixels[:40])
    assert [*found] == [f'restored, {share}% hidden' for share in (28, 64, 82)]
    for e in found.values():
        assert e['value'] == pytest.approx(held.double().square().mean().item()) and e['n'] == 40
    shares = [share for _, share in seen]
    assert [round(sum(shares[6 * k :][:6]) / 6, 1) for k in range(3)] == [0.3, 0.6, 0.8] and len(seen) == 18
    kept = hole_masks(40, held.shape[1:], 0.28).expand(held.shape).bool()
    assert torch.allclose(seen[0][0][kept], held[kept], atol=0.6) and (seen[0][0][~kept] == 0).all()


def test_all_pixels_count():
    "An answer that is right where it sees something: its error is that of what is hidden, over all pixels."
    x = torch.ones(4, 1, 8, 8)
    (e,) = restored_at(lambda y, sigma, mask: mask * x, x, (0.8,)).values()
    hidden = 1 - hole_masks(4, (1, 8, 8), 0.82).mean().item()
    assert e['value'] == pytest.approx(hidden) and 0.7 < hidden < 0.9


def point(it, share, restored):
    "What a look found."
    kid = dict(Estimate(share, share, share, 50).to_dict())
    shares = dict.fromkeys((*SHARES, 'copying'), share)
    tasks = {'restored, 82% hidden': Estimate(restored, None, None, 8).to_dict()}
    return shares | dict(it=it, samples=50, of_new=None, id='planted', kid=kid, frechet=share, restored=tasks)


def test_the_masked_arm_loses_the_whole_one_where_both_last_were():
    "Of two seeds, at the last look that all four curves have."
    both, its = ('p = 0.8', 'p = 0'), (2, 4, 6)
    runs = {s: tuple(replace(TINY, seed=s).run(arm) for arm in both) for s in (1, 2)}
    curve = lambda base, its: [point(it, (base + it) / 100, (base + it) / 10) for it in its]  # noqa: E731
    points = {1: (curve(20, its), curve(1, its)), 2: (curve(30, its[:2]), curve(2, its))}
    rows = {r.labels['metric']: r for r in mask_differences(TINY, both, runs, points)}
    assert rows['restored, 82% hidden'].detail == dict(values=pytest.approx([1.9, 2.8]), seeds=[1, 2])
    assert rows['kid'].ours.value == pytest.approx(0.235)
    for r in rows.values():
        assert r.labels['it'] == 4 and r.labels['method'] == 'p = 0.8 − p = 0' and r.kind == 'pair' and len(r.runs) == 4
    table = mask_pairs([*rows.values()])
    assert table.loc['p = 0.8 − p = 0', 'seeds'] == 2 and table.loc['p = 0.8 − p = 0', 'kid'].startswith('0.235')


def test_a_table_is_of_the_last_look():
    both, runs = ('p = 0.8', 'p = 0'), {1: tuple(TINY.run(arm) for arm in ('p = 0.8', 'p = 0'))}
    (early,), (late,) = (
        [
            r
            for r in mask_differences(TINY, both, runs, {1: ([point(it, it / 100, 1.0)],) * 2})
            if r.labels['metric'] == 'kid'
        ]
        for it in (2, 4)
    )
    arm = [
        replace(r, labels=r.labels | dict(method='p = 0.8'))
        for r in (late, replace(early, ours=Estimate(9.0, None, None, 1)))
    ]
    line = mask_table(arm).loc['p = 0.8']
    assert (line['iteration'], line['kid'], line['seeds']) == (4, f'{late.ours:.3f}', 1)
