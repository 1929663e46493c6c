"A suite over a cluster of two processes: what is done once, who is refused, and what a dead worker costs."

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from tree import BIN, ROOT

from ambient_nb import clusters
from ambient_nb.checkpoints import load_json
from ambient_nb.clusters import Cell, work_of, check_workers, client_of, standing, submitted, watch
from ambient_nb.core import refused
from ambient_nb.runfolders import snapshots_in
from ambient_nb.execute import train
from ambient_nb.networks import PRESETS
from ambient_nb.runs import Run
from ambient_nb.training import TrainConfig

SMOKE = dict(profile='smoke')


def test_a_training_of_several_notebooks_is_one_cell(tmp_path):
    cells = work_of(dict(repro_fig1=SMOKE, repro_ablation_split=SMOKE, repro_theory_optimum=SMOKE), tmp_path)
    names = [c.name for c in cells]
    assert len({*names}) == len(names) and names[-3:] == ['repro_fig1', 'repro_ablation_split', 'repro_theory_optimum']
    assert all(names.index(before) < k for k, c in enumerate(cells) for before in c.after)
    keys = [c.args[0].key for c in cells if c.kind == 'train']
    assert len({*keys}) == len(keys) == 8 and not cells[-1].after
    alone = work_of(dict(repro_ablation_split=SMOKE), tmp_path)
    assert {c.args[0].key for c in alone if c.kind == 'train'} < {*keys}
    train(cells[0].args[0], tmp_path, 'cpu')
    again = work_of(dict(repro_fig1=SMOKE), tmp_path)
    assert [c.args[0].key for c in again if c.kind == 'train'] == keys[1:]
    assert 'n must be' in refused(work_of, dict(repro_table1=dict(SMOKE, n='1000000')), tmp_path)


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'distributed', None)
    assert 'ambient_nb[cluster]' in refused(client_of('local').__enter__)


@pytest.fixture(scope='module')
def client(tmp_path_factory):
    "Two worker processes, as `local` starts them."
    pytest.importorskip('distributed', reason="dask comes with the extra 'cluster'")
    before = {k: v for k, v in os.environ.items() if k != 'PYTEST_CURRENT_TEST'}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, 'cores', lambda: 2)
        with client_of('local') as client:
            client.wait_for_workers(2, timeout=300)
            yield client
        assert before == {k: v for k, v in os.environ.items() if k != 'PYTEST_CURRENT_TEST'}


def test_workers_are_checked(client, tmp_path, monkeypatch):
    assert check_workers(client, tmp_path) is False and not [*tmp_path.iterdir()]
    assert all(worker.startswith('tcp://127.0.0.1') for worker in client.scheduler_info()['workers'])
    monkeypatch.setattr(clusters, 'in_force', os.getpid)
    assert 'this very version' in refused(check_workers, client, tmp_path)
    assert 'that answers' in refused(client_of('tcp://127.0.0.1:9').__enter__)


def test_a_dead_worker_costs_its_unfinished_cell(client, tmp_path):
    "One of two is killed while it trains: it alone is begun again, by another one."
    net = replace(PRESETS['tiny'], model_channels=8, num_blocks=1)
    config = TrainConfig(net=net, iters=250, batch=16)
    runs = [Run('digits', 16, replace(config, seed=seed), (250,), 3, 16) for seed in (1, 2)]
    cells = [Cell(f'train {k}', 'train', (run, tmp_path)) for k, run in enumerate(runs)]
    cells.append(Cell('measure', 'measure', (runs[0], tmp_path), ('train 0',)))
    cells.append(Cell('wrong', 'notebook', ('repro_table1', dict(SMOKE, n='1000000'), tmp_path)))
    cells.append(Cell('after', 'measure', (runs[1], tmp_path), ('wrong',)))
    futures, said, killed = submitted(client, cells, False), [], []

    def look():
        lines = standing(client, cells, futures)
        done = clusters.iterations_done(runs[0], tmp_path)
        if not killed and 50 <= done < 200 and lines[0]['worker']:
            pids = client.run(os.getpid)
            killed.append(pids['tcp://' + lines[0]['worker']])
            os.kill(killed[0], signal.SIGKILL)
        return lines

    watch(look, said.append, every=0.1)
    assert killed and all(f.status == 'finished' for f in futures.values())
    assert [snapshots_in(run.folder(tmp_path)) for run in runs] == [[250], [250]]
    starts = [(run.folder(tmp_path) / 'log.txt').read_text().count('training from') for run in runs]
    assert starts == [2, 1]
    assert 'n must be' in futures['wrong'].result() == futures['after'].result() and futures['measure'].result() == ''
    assert said[-1].endswith('done')


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_command(tmp_path):
    "As a user types it: trainings, measurements and the page, and the rows are where they always are."
    pytest.importorskip('distributed', reason="dask comes with the extra 'cluster'")
    env = dict(os.environ, AMBIENT_NB_PROGRESS='0')
    words = ['reproduce', 'repro_table1', '--profile', 'smoke', '--scheduler', 'local', '--out', tmp_path / 'runs']
    ended = subprocess.run([BIN / 'ambient-nb', *words], cwd=ROOT, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert 'train 1' in ended.stdout and 'repro_table1: done' in ended.stdout and 'wrote' in ended.stdout
    assert load_json(tmp_path / 'runs' / 'done' / 'repro_table1-smoke.json')['key']
    assert [*(tmp_path / 'runs' / 'rows').glob('table1-smoke-*.json')]
