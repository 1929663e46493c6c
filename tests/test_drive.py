"The driver, with a trainer that takes no time: wherever it is left, it goes on with the same bits and the same lines."

import signal

import pytest
import torch

from ambient_nb.checkpoints import Damaged, load_checkpoint
from ambient_nb.core import BadInput, rng
from ambient_nb.drive import drive, drop_past, watched
from ambient_nb.runfolders import newest_state, read_stats, snapshot_path, snapshots_in, states_in
from ambient_nb.runfolders import state_path
from ambient_nb.signals import held


class Walk:
    "A random walk, each of its steps from a generator of its own."

    def __init__(self):
        self.it, self.x = 0, torch.zeros(2)

    def step(self):
        self.x = 0.9 * self.x + torch.randn(2, generator=rng(0, 'walk', self.it))
        self.it += 1
        return dict(loss=self.x.square().sum(), side=float(self.x[0]))

    def columns(self):
        return dict(half=self.it / 2)

    def kept(self):
        return dict(x=self.x)

    def state(self):
        return dict(x=self.x)

    def load(self, tensors, it):
        self.x, self.it = tensors['x'], it


OPTIONS = dict(snapshots=(5, 12), tick=4, save_every=1e9)


def lines(folder):
    return [{k: v for k, v in line.items() if k != 'sec'} for line in read_stats(folder)]


def walked(folder, leave=None, until=12):
    "Walk until done, leaving once at an event: (kind, it)."
    while True:
        for event in drive(trainer := Walk(), folder, until, **OPTIONS):
            if (event.kind, event.it) == leave:
                leave = None
                break
        if event.kind == 'stop' or trainer.it == until:
            return lines(folder), load_checkpoint(snapshot_path(folder, 12))[0]['x']


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp('straight')
    return walked(folder), folder


def test_events_say_what_happened_in_order(tmp_path):
    said = [(e.kind, e.it) for e in drive(Walk(), tmp_path, 12, **OPTIONS)]
    assert said[0] == ('start', 0) and said[-1] == ('stop', 12) and said.count(('tick', 8)) == 1
    assert [it for kind, it in said if kind == 'step'] == list(range(1, 13))
    assert said[said.index(('step', 5)) + 1] == ('snapshot', 5)
    assert said[-4:-1] == [('step', 12), ('snapshot', 12), ('tick', 12)]


@pytest.mark.parametrize(
    'leave',
    [('start', 0), ('step', 1), ('step', 4), ('tick', 4), ('snapshot', 5), ('step', 7), ('step', 12), ('tick', 12)],
)
def test_left_anywhere(leave, straight, tmp_path):
    (expected, x), _ = straight
    found, again = walked(tmp_path, leave)
    assert found == expected and torch.equal(again, x)
    assert newest_state(tmp_path) is None and snapshots_in(tmp_path) == [5, 12]


def test_lines_hold_means_and_columns(straight):
    (expected, _), _ = straight
    walk, sums = Walk(), []
    for _ in range(8):
        sums.append(walk.step())
    assert [line['it'] for line in expected] == [4, 8, 12] and expected[1]['half'] == 4
    for name in ('loss', 'side'):
        mean = sum(float(s[name]) for s in sums[4:]) / 4
        assert expected[1][name] == pytest.approx(mean, rel=1e-6)


def test_an_exception_in_the_loop_leaves_a_state(tmp_path):
    with pytest.raises(KeyError):
        for event in drive(Walk(), tmp_path, 12, **OPTIONS):
            if event.it == 6:
                raise KeyError
    assert newest_state(tmp_path)[1]['it'] == 6 and newest_state(tmp_path)[1]['count'] == 2


def test_without_a_last_snapshot_the_state_stays_and_the_run_can_be_prolonged(tmp_path, straight):
    for until in (7, 12):
        for _ in drive(walk := Walk(), tmp_path, until, tick=4):
            pass
        assert newest_state(tmp_path)[1]['it'] == until
    assert torch.equal(walk.x, straight[0][1])
    assert [e.kind for e in drive(Walk(), tmp_path, 12)] == ['start', 'stop']
    list(drive(Walk(), tmp_path, 12, snapshots=(12,)))
    assert newest_state(tmp_path)[1]['it'] == 12  # there is no snapshot, so the state stays


def test_a_loss_that_is_no_number_is_not_kept(tmp_path):
    class Diverges(Walk):
        def step(self):
            super().step()
            return float('inf') if self.it > 6 else 1.0

    with pytest.raises(FloatingPointError, match='iteration 8.*smaller lr'):
        for _ in drive(Diverges(), tmp_path, 12, tick=4, save_every=-1):
            pass
    assert newest_state(tmp_path)[1]['it'] == 4 and [line['it'] for line in read_stats(tmp_path)] == [4]


def test_the_lock_is_held_while_it_runs_and_not_after(tmp_path):
    for event in drive(Walk(), tmp_path, 12):
        with pytest.raises(BadInput, match='another process'):
            next(drive(Walk(), tmp_path, 12))
        if event.it == 3:
            break
    assert next(drive(Walk(), tmp_path, 12)).it == 3


def test_states_are_written_at_ticks_when_they_are_due(tmp_path):
    states = [
        newest_state(tmp_path) and newest_state(tmp_path)[1]['it']
        for _ in drive(Walk(), tmp_path, 9, tick=4, save_every=-1)
    ]
    assert [s for i, s in enumerate(states) if s not in states[:i]] == [None, 4, 8, 9]


def test_the_bar_passes_events_on(tmp_path):
    assert [e.it for e in watched(drive(Walk(), tmp_path, 3), 3) if e.kind == 'step'] == [1, 2, 3]


def test_an_interrupt_in_the_bar_keeps_the_state_and_no_lock(tmp_path, monkeypatch):
    "Even where the error is kept, and with it all frames, as a notebook keeps its last one."

    class Bar:
        n = 0

        def update(self, count):
            self.n += count
            if self.n == 3:
                raise KeyboardInterrupt

        def close(self):
            pass

    monkeypatch.setattr('ambient_nb.drive.progress', lambda **_: Bar())
    with pytest.raises(KeyboardInterrupt) as kept:
        list(watched(drive(Walk(), tmp_path, 12), 12))
    assert kept.tb and newest_state(tmp_path)[1]['it'] == 3 and next(drive(Walk(), tmp_path, 12)).it == 3


@pytest.mark.parametrize('name, options', [('tick', dict(tick=0)), ('folder', dict(folder='/dev/null/x'))])
def test_refused(name, options, tmp_path):
    with pytest.raises(BadInput, match=f'^{name}='):
        next(drive(Walk(), options.pop('folder', tmp_path), 3, **options))


class Breaks(Walk):
    "One whose loss, or whose weights, are no numbers from the last step on."

    def __init__(self, what):
        super().__init__()
        self.what = what

    def step(self):
        found = super().step()
        if self.it == 12:
            self.x = self.x * (float('nan') if self.what == 'weights' else 1)
            found['loss'] = found['loss'] * (float('inf') if self.what == 'loss' else 1)
        return found


@pytest.mark.parametrize('what', ['weights', 'loss'])
def test_what_is_no_number_at_the_end_is_never_taken_for_a_result(what, tmp_path):
    "The last snapshot would say that the run is complete."
    for _ in range(2):
        with pytest.raises(FloatingPointError, match='iteration 12.*last good state is of iteration 8; a smaller lr'):
            list(drive(Breaks(what), tmp_path, 12, snapshots=(5, 12), tick=4, save_every=-1))
    assert snapshots_in(tmp_path) == [5] and newest_state(tmp_path)[1]['it'] == 8


def test_leaving_with_weights_that_are_no_numbers_keeps_the_state_before(tmp_path):
    trainer = Breaks('weights')
    for event in drive(trainer, tmp_path, 20, tick=5, save_every=-1):
        if event.it == 12:
            break
    assert trainer.x.isnan().all() and newest_state(tmp_path)[1]['it'] == 10


@pytest.mark.parametrize('end', ['.json', '.safetensors'])
def test_where_the_newest_state_is_damaged_the_one_before_it_comes_to_the_same(end, straight, tmp_path):
    for event in drive(Walk(), tmp_path, 12, snapshots=(5, 12), tick=4, save_every=-1):
        if event.it == 10:
            break
    assert states_in(tmp_path) == [8, 10]
    file = state_path(tmp_path, 10).with_suffix(end)
    file.write_bytes(file.read_bytes()[:-5])
    for event in drive(Walk(), tmp_path, 12, snapshots=(5, 12), tick=4):
        if event.it == 9:
            break
    assert states_in(tmp_path) == [8, 9]  # the damaged one takes no good one's place
    expected, x = straight[0]
    assert torch.equal(walked(tmp_path)[1], x) and lines(tmp_path) == expected
    assert 'the state of iteration 10 is damaged; going on from 8' in (tmp_path / 'log.txt').read_text()


def test_a_changed_digit_of_the_curve_is_noticed(straight, tmp_path):
    file = tmp_path / 'stats.jsonl'
    text = (straight[1] / 'stats.jsonl').read_text()
    file.write_text(text)
    assert lines(tmp_path) == straight[0][0]
    for harm in (text.replace('"it": 8', '"it": 9'), text.replace('}', ')', 1), '[1]\n', 'x\n', '[' * 9999 + '\n'):
        file.write_text(harm)
        with pytest.raises(Damaged, match='stats.jsonl.*line [12] is not'):
            read_stats(tmp_path)
    file.write_text('{"it": 4, "loss": 2.0}\n')  # as version 0.1 wrote them
    assert read_stats(tmp_path) == [dict(it=4, loss=2.0)]


def test_states_past_a_missing_snapshot_go_and_those_before_it_stay(tmp_path):
    for _ in drive(Walk(), tmp_path, 12, tick=4, save_every=-1):
        pass
    assert states_in(tmp_path) == [8, 12]
    drop_past(tmp_path, 9)
    assert states_in(tmp_path) == [8]
    drop_past(tmp_path, 8)
    assert states_in(tmp_path) == [] and not [*tmp_path.glob('state-*')]


@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 143), (signal.SIGINT, None)])
def test_a_signal_within_a_step_ends_the_run_after_it(number, code, straight, tmp_path):
    class Told(Walk):
        def step(self):
            if self.it == 6:
                signal.raise_signal(number)
            return super().step()

    with pytest.raises(KeyboardInterrupt if code is None else SystemExit) as e:
        list(drive(Told(), tmp_path, 12, **OPTIONS))
    assert code == getattr(e.value, 'code', None) and newest_state(tmp_path)[1]['it'] == 7
    expected, x = straight[0]
    assert torch.equal(walked(tmp_path)[1], x) and lines(tmp_path) == expected


def test_handlers_of_others_are_handed_their_signals_and_stay(tmp_path):
    heard, before = [], signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:

        class Told(Walk):
            def step(self):
                if self.it == 2:
                    signal.raise_signal(signal.SIGTERM)
                    assert heard == []
                return super().step()

        assert [*drive(Told(), tmp_path, 3)][-1].kind == 'stop' and heard == [signal.SIGTERM]
        mine = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert mine.__name__ == '<lambda>'
        with held() as came:
            signal.raise_signal(signal.SIGTERM)
        assert came == []
    finally:
        signal.signal(signal.SIGTERM, before)
