"Two arms by turns: they end in time, in step, and whoever stops them finds a pair that a later command goes on from."

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ambient_nb.core import BadInput
from ambient_nb.mask_turns import MaskTurns
from ambient_nb.networks import PRESETS
from ambient_nb.rows import METHODS, load_rows
from ambient_nb.training import TrainConfig
from ambient_nb.turn_rows import TurnSession, last_look, points_in, spend
from ambient_nb.turns import Clock, MethodTurns, TimeUp, TurnArm, after_all, take_turns

SMALL = TrainConfig(net=replace(PRESETS['tiny'], model_channels=8), batch=8, precision='bf16')
TINY = dict(dataset='digits', n=6, train=SMALL, turn_kimg=0.016, every=2, most=3, samples=24, last_samples=32, steps=2)
MASKED = MaskTurns(**TINY | dict(every=1, most=2), axes=8, restored=8)
TINY = MethodTurns(**TINY, axes=8)


class Hand:
    "A clock's hand that is moved by what is done."

    def __init__(self):
        self.seconds, self.log = 0.0, []

    def pass_by(self, seconds, *what):
        self.seconds += seconds
        self.log += [what] if what else []


class FakeArm:
    "An arm that takes time and does nothing."

    def __init__(self, name, hand, turn, look):
        self.name, self.hand, self.turn, self.seconds = name, hand, turn, look
        self.trainer, self.points, self.is_over = SimpleNamespace(it=0), [], False

    def advance(self, until, clock, **later):
        for _ in range(10):  # as a trainer's ticks
            self.hand.pass_by(self.turn / 10)
            clock.need(**later)
        self.trainer.it = until
        self.hand.log.append((self.name, until))

    def measure(self):
        self.hand.pass_by(self.seconds, self.name, 'look')
        self.points.append(dict(it=self.trainer.it))


def play(turn, look, minutes=9.3, start=60.0, t=MethodTurns()):
    "A command with a fake clock; the seconds left when the turns were over, and what happened."
    hand = Hand()
    clock = Clock(60 * minutes, 0.0, lambda: hand.seconds)
    hand.pass_by(start)
    arms = [FakeArm(name, hand, turn, look) for name in t.arms]
    with pytest.raises(TimeUp):
        take_turns(t, arms, clock, lambda: hand.pass_by(1.0, 'kept', [len(a.points) for a in arms]))
    return t, clock, arms, hand


@pytest.mark.parametrize('turn, look', [(1.6, 4.0), (2.5, 6.5), (5.0, 12.0), (11.0, 15.0)])
@pytest.mark.parametrize('t', [MethodTurns(), MaskTurns()])
def test_the_turns_leave_room_for_the_last_look_and_little_more(t, turn, look):
    t, clock, arms, hand = play(turn, look, t=t)
    end = after_all(t) * look
    assert clock.left >= 1.1 * (end + clock.took['end']), 'the last look would not end in time'
    many = len(t.arms)
    a_round = 1.1 * (many * t.every * turn + many * look + end + 1 + clock.took['end'])
    assert clock.left < a_round and len(arms[0].points) >= 1
    assert {a.trainer.it for a in arms} == {arms[0].points[-1]['it']}, 'a turn was begun that led to no look'
    kept = [kept for what, *kept in hand.log if what == 'kept']
    assert kept == [[many * [k]] for k in range(1, len(arms[0].points) + 1)]


def test_the_end_takes_two_looks_of_each_arm():
    "At the best and at the last one, with 5,000 samples for 2,000; masked arms have none."
    assert (after_all(MethodTurns()), after_all(MaskTurns())) == (2 * 2 * 2.5, 0)


@pytest.mark.parametrize('slower', [1.0, 1.2])
def test_nine_minutes_hold_two_checkpoints_of_masked_arms_at_the_measured_rate(slower):
    "2,100 images/s and 9 s a look of 2,000 samples on an H200, two methods; a look restores images, too."
    _, _, arms, _ = play(slower * 20_000 / 2100, slower * 13.6, minutes=9.0, t=MaskTurns())
    assert {len(arm.points) for arm in arms} == {2}


def test_arms_take_turns_and_are_looked_at_together():
    t, _, _, hand = play(2.5, 6.5)
    names = [entry for entry in hand.log if entry and entry[0] in METHODS][:10]
    ends = [(name, end) for end in t.ends[: t.every] for name in METHODS]
    assert names == [*ends, *((name, 'look') for name in METHODS)]


def test_a_turn_that_takes_for_ever_is_ended():
    t, clock, arms, hand = play(30_000.0, 1.0)
    assert not arms[0].points and -3000 < clock.left < 0, 'the first turn was never measured: its ticks end it'
    t, clock, arms, hand = play(100.0, 1.0)
    assert clock.left > 1.1 * (after_all(t) * 1.0), 'not even one round fits: nothing is begun that does not end'


def test_an_arm_that_copies_twice_in_a_row_is_over():
    def is_over(*shares, it=1):
        run = SimpleNamespace(config=SimpleNamespace(iters=100))
        points = [dict(memorized=share) for share in shares]
        return TurnArm.is_over.fget(SimpleNamespace(t=TINY, points=points, trainer=SimpleNamespace(it=it), run=run))

    assert not is_over() and not is_over(0.5) and not is_over(0.5, 0.1, 0.5) and not is_over(0.1, 0.5)
    assert is_over(0.1, 0.4, 0.6) and is_over(it=100)


class Until(Clock):
    "A clock that is over after so many checkpoints, last look included."

    def __init__(self, looks):
        super().__init__(600)
        self.looks = looks

    def fits(self, **work):
        return self.looks > 0

    def timing(self, kind):
        self.looks -= kind == 'keep'
        return super().timing(kind)


def command(out, file, seed=1, looks=99, t=TINY, device='cpu'):
    "What a command leaves: (method, seed) -> points."
    lines = []
    with torch.random.fork_rng():
        about = dict(say=lines.append, profile='smoke')
        spend(TurnSession(replace(t, seed=seed), out, [file], device, Until(looks), 1e12, **about))
    return points_in(load_rows(file)), lines


def bare(points):
    "Points without what the clock says."
    return [{k: v for k, v in point.items() if k != 'sec'} for point in points]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The rows of a seed without any stop."
    folder = tmp_path_factory.mktemp('straight')
    command(folder, folder / 'rows.json')
    return folder / 'rows.json'


@pytest.fixture(scope='module')
def straight(whole):
    "Their points."
    return points_in(load_rows(whole))


@pytest.fixture
def file(whole, tmp_path):
    "The same rows on another machine, where no training is."
    return Path(shutil.copy(whole, tmp_path / 'rows.json'))


@pytest.mark.parametrize('looks', [1, 2])
def test_a_stop_leaves_a_pair_and_the_next_command_goes_on(looks, straight, tmp_path):
    file = tmp_path / 'rows' / 'rows.json'
    left, lines = command(tmp_path, file, looks=looks)
    assert {name: len(points) for name, points in left.items()} == {(arm, 1): looks for arm in METHODS}
    assert 's are left' in lines[-1] and (file.parent / 'gpu_table1.png').read_bytes()[:4] == b'\x89PNG'
    rows = load_rows(file)
    assert len({r.id for r in rows}) == len(rows) and {r.verdict for r in rows} <= {'smoke: no verdict', 'no claim'}
    assert any(r.claim for r in rows) == (looks > 1), 'endpoints need two checkpoints'
    again, _ = command(tmp_path, file)
    assert {name: bare(points) for name, points in again.items()} == {
        name: bare(points) for name, points in straight.items()
    }
    assert [p['sec'] for p in again['baseline', 1]][:looks] == [p['sec'] for p in left['baseline', 1]]


def test_a_second_seed_is_added_and_the_first_stays(straight, file, tmp_path):
    both, _ = command(tmp_path, file, seed=2, looks=2)
    assert {name: points for name, points in both.items() if name[1] == 1} == straight
    rows = load_rows(file)
    by = {(r.labels['method'], r.labels['metric'], r.labels['it']): r for r in rows}
    assert by['baseline', 'kid', 4].seeds == (1, 2) and len(by['baseline', 'kid', 4].detail['values']) == 2
    assert ('baseline', 'kid', 12) not in by, 'only as far as both seeds have come'
    assert len(both['baseline', 1]) == 3 and len(both['baseline', 2]) == 2, 'and nothing is lost'
    assert [r.seeds for r in rows if r.claim] == [(1, 2)] * 3 and '--seed 1, then 2' in rows[0].made_by['command']
    assert 'lr 0.001 (paper: 0.0001)' in rows[0].selection and 'does not list' in rows[0].selection


def test_a_seed_whose_folder_is_gone_is_made_again(straight, file, tmp_path):
    again, _ = command(tmp_path, file, looks=1)
    assert {name: len(points) for name, points in again.items()} == {(arm, 1): 1 for arm in METHODS}
    assert bare(again['two-regime', 1]) == bare(straight['two-regime', 1])[:1]


def test_the_last_look_is_at_the_best_and_the_last(straight):
    for arm in METHODS:
        curve, (best,), (last,) = (straight[name, 1] for name in (arm, f'{arm}, best', f'{arm}, last'))
        calm = [point for point in curve if point['copying'] <= 0.02]
        assert best['it'] == min(calm, key=lambda point: point['kid']['value'])['it'] and last['it'] == curve[-1]['it']
        assert last['samples'] == TINY.last_samples > curve[-1]['samples']


def test_masked_arms_stop_in_step_and_go_on(tmp_path):
    file = tmp_path / 'rows' / 'rows.json'
    left, _ = command(tmp_path, file, looks=1, t=MASKED)
    assert {name: len(points) for name, points in left.items()} == {(arm, 1): 1 for arm in MaskTurns.arms}
    tasks = {f'restored, {share}% hidden' for share in (28, 64, 82)}
    assert all({*points[0]['restored']} == tasks for points in left.values())
    assert (file.parent / 'gpu_ambient.png').exists() and not any(r.kind == 'pair' for r in load_rows(file))
    both, _ = command(tmp_path, file, t=MASKED)
    assert {name: bare(both[name][:1]) for name in left} == {name: bare(points) for name, points in left.items()}
    rows = load_rows(file)
    assert {len(both[arm, 1]) for arm in MaskTurns.arms} == {2} and not any(r.claim for r in rows)
    (one,) = (r for r in rows if r.id.endswith('p = 0.8 − p = 0/4/restored, 82% hidden'))
    a, b = (both[arm, 1][1]['restored']['restored, 82% hidden']['value'] for arm in ('p = 0.8', 'p = 0'))
    assert one.ours.value == pytest.approx(a - b) and one.metric_id.endswith('@ one step')
    assert '--of ambient --seed 1' in one.made_by['command']


def test_no_time_for_a_last_look_leaves_the_curves():
    looked = []
    arm = SimpleNamespace(points=[dict(it=4, copying=0.0, kid=dict(value=1.0))], look=looked.append)
    s = SimpleNamespace(t=TINY, arms=dict(baseline=arm), clock=Until(0), points={}, keep=lambda: looked.append(1))
    last_look(s)
    assert not looked and not s.points


def test_other_settings_are_refused_before_anything_is_trained(file, tmp_path):
    before = file.read_bytes()
    with pytest.raises(BadInput, match='same settings') as e:
        command(tmp_path, file, seed=2, t=replace(TINY, sigma_n=0.5))
    assert e.value.name == 'rows' and file.read_bytes() == before and not (tmp_path / 'train').exists()


@pytest.mark.gpu
def test_a_command_on_a_gpu(tmp_path, straight):
    points, _ = command(tmp_path, tmp_path / 'rows.json', device='cuda')
    assert {name: len(curve) for name, curve in points.items()} == {
        name: len(curve) for name, curve in straight.items()
    }
    assert 'CPU' not in points['baseline', 1][0]['machine']['hardware']
