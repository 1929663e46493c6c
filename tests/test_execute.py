"Executing: shared trainings once, equal runs once, another encoder beside the same weights."

import os
import pickle
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from ambient_nb import execute
from ambient_nb.checkpoints import Damaged
from ambient_nb.core import BadInput
from ambient_nb.drive import drive, locked
from ambient_nb.execute import die_with, execute_all, measure, measurement_path, side_by_side, train, trainings
from ambient_nb.networks import PRESETS
from ambient_nb.plans import plan
from ambient_nb.runfolders import read_stats, snapshots_in
from ambient_nb.runs import Run
from ambient_nb.training import TrainConfig
from test_drive import Walk

TINY = TrainConfig(net=replace(PRESETS['tiny'], model_channels=16), iters=12, batch=16)


def test_shared_trainings_are_done_once(split_plan):
    p = split_plan
    assert len(p.runs) == 12 and len(trainings(p.runs)) == 2 and len(list((p.out / 'train').iterdir())) == 2
    apart = trainings([*p.runs, replace(p.runs[0], snapshots=(4, 12))])
    assert {t.snapshots for t in apart} == {(4, 8, 12), (8, 12)}


def test_swapped_networks_end_where_one_of_them_does_everything(split_plan):
    p = split_plan
    baseline, method = p.arms[:2]

    def images(run):
        return measure(run, 12, p.out)[2]

    both = p.run(p.arms[2], 0)
    assert both.partner.sigma_n > 0 == both.config.sigma_n
    assert torch.equal(images(replace(both, split=0.0)), images(p.run(method, 0)))
    assert torch.equal(images(replace(both, split=1e3)), images(p.run(baseline, 0)))
    assert not torch.equal(images(replace(both, split=0.8)), images(p.run(baseline, 0)))


@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_arms_that_are_the_same_are_measured_once(device, tmp_path, monkeypatch):
    run, jobs = Run('digits', 20, TINY, (5,), 18, 8), []

    def side_by_side(pool, work, given, *args):
        jobs.extend(job[0] for job in given if work is execute.measure_all)

    monkeypatch.setattr(execute, 'side_by_side', side_by_side)
    monkeypatch.setattr(execute, 'train', lambda *args: None)
    if device != 'cpu':
        monkeypatch.setattr(execute, 'measure_all', lambda run, *args: jobs.append(run))
    execute_all([run, replace(run, samples=9), replace(run)], tmp_path, torch.device(device))
    assert jobs == [run, replace(run, samples=9)]


def test_an_encoder_by_name_is_measured_beside_the_same_weights(split_plan):
    "The data set's own encoder under its name finds what `auto` left; another one has a file of its own."
    run, out = split_plan.runs[0], split_plan.out
    own, other = (measurement_path(replace(run, encoder=name), 12, out) for name in ('digits-cnn', 'pixels'))
    assert own == measurement_path(run, 12, out) and other.parent == own.parent and other != own
    mine, _, images = measure(run, 12, out)
    seen, meta, same = measure(replace(run, encoder='pixels'), 12, out)
    assert torch.equal(images, same) and (mine.d1 == seen.d1).all() and not (mine.similarity == seen.similarity).all()
    assert meta['encoder'].startswith('pixels-') and other.with_name(other.name + '.json').exists()


def test_an_encoder_without_weights_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setenv('AMBIENT_NB_WEIGHTS', str(tmp_path))
    for name, said in (('dinov2-vits14-main', 'weights|transformers'), ('cifar10-cnn', 'images'), ('eye', 'encoder')):
        with pytest.raises(BadInput, match=said):
            plan('table1', profile='smoke', encoder=name, device='cpu', out=tmp_path / 'runs')
    assert not list(tmp_path.iterdir())


class Slow(Walk):
    def step(self):
        time.sleep(0.05)
        return super().step()


def slowly(folder):
    list(drive(Slow(), folder, 60, snapshots=(60,), tick=2))


def test_an_interrupt_ends_workers_that_have_their_next_job_already(tmp_path):
    "A worker whose training has ended by a signal would go on with what its queue holds."

    def interrupt(_):
        if read_stats(tmp_path / '0'):
            raise KeyboardInterrupt
        return 0

    jobs = [(tmp_path / str(k),) for k in range(3)]
    with ProcessPoolExecutor(1, mp_context=get_context('fork')) as pool, pytest.raises(KeyboardInterrupt):
        side_by_side(pool, slowly, jobs, interrupt, 3, 'walks')
    assert snapshots_in(tmp_path / '1') == snapshots_in(tmp_path / '2') == []


def test_what_a_worker_refuses_arrives_as_itself(tmp_path):
    "A label that is not there, a folder that another process works in, a cache that is damaged: not a broken pool."
    run = Run('digits', 20, TINY, (5,), 18, 8)
    unlabelled = replace(run, config=replace(TINY, label_dim=3))
    folder = run.folder(tmp_path)
    folder.mkdir(parents=True)
    start = dict(mp_context=get_context('spawn'), initializer=die_with, initargs=(os.getpid(),))
    with ProcessPoolExecutor(1, **start) as pool:

        def refusal(run, error):
            with pytest.raises(error) as said:
                side_by_side(pool, train, [(run, tmp_path, 'cpu')], lambda _: 0, 1, 'training')
            return said.value

        assert refusal(unlabelled, BadInput).name == 'label_dim'
        with locked(folder):
            assert 'another process holds its lock' in str(refusal(run, BadInput))
        (folder / 'config.json').write_text('{}')
        found = refusal(run, Damaged)
    assert Path(found.path) == folder / 'config.json' and str(pickle.loads(pickle.dumps(found))) == str(found)
