"Runs: training sets are built once, and nothing is hashed twice."

from dataclasses import replace

import pytest

from ambient_nb import collect, execute, plans, runs
from ambient_nb.networks import PRESETS
from ambient_nb.training import TrainConfig

TINY = TrainConfig(net=replace(PRESETS['tiny'], model_channels=16), iters=12, batch=16)


@pytest.fixture
def inline(monkeypatch):
    "Jobs run in this process, where they can be counted."

    def side_by_side(pool, work, jobs, done, total, desc):
        for job in jobs:
            work(*job)

    monkeypatch.setattr(execute, 'side_by_side', side_by_side)


def test_a_training_set_is_built_once(inline, tmp_path, monkeypatch):
    "From the plan to the rows, whoever asks: a smoke plan of twelve runs built them 107 times before."
    built, subset = [], runs.subset
    monkeypatch.setattr(runs, 'subset', lambda *args: built.append(args) or subset(*args))
    runs.training_set.cache_clear()
    plan = plans.plan('diffmem_fig2', profile='smoke', device='cpu', out=tmp_path)
    plans.describe(plan)
    execute.execute_all(plan.runs, plan.out, plan.device)
    rows = collect.collect(plan)
    collect.neighbours_figure(plan)
    wanted = {(run.n, run.size, run.recipe) for run in plan.runs}
    assert len(plan.runs) == len(wanted) == len(built) == 12 and len({r.data['train'] for r in rows}) == 10
    runs.training_set.cache_clear()


def test_a_poll_hashes_nothing(tmp_path, monkeypatch):
    run = runs.Run('digits', 20, TINY, (12,), steps=4, samples=8)
    assert execute.iterations_done(run, tmp_path) == 0
    monkeypatch.setattr(runs, 'content_hash', lambda content: pytest.fail('hashed again'))
    assert execute.iterations_done(run, tmp_path) == 0
    with pytest.raises(pytest.fail.Exception):
        execute.iterations_done(replace(run, n=21), tmp_path)


def test_a_key_is_what_old_folders_are_called():
    "Folders of earlier versions stay valid: the key of a published run of Table 1."
    plan = plans.plan('table1', n='50', seeds='1', profile='quick', dry_run=True, device='cpu')
    assert [run.key for run in plan.runs] == ['61a5d02d6e72cf4f', '8a7596b82aba7d6f']


def test_a_run_travels_to_a_worker_without_its_images():
    import pickle

    run = runs.Run('digits', 20, TINY, (12,), steps=4, samples=8)
    sent = pickle.dumps(run)
    assert run.key and len(run.images) == 20 and len(pickle.dumps(run)) < len(sent) + 200
    again = pickle.loads(sent)
    assert again == run and again.images is run.images
