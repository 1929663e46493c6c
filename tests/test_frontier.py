"The command behind the frontier: in order, once each, and on from where it was stopped."

import importlib.util
from dataclasses import replace

import pytest
import torch
from tree import ROOT

from ambient_nb import checkpoint_curves, frontier
from ambient_nb.core import BadInput
from ambient_nb.drive import locked
from ambient_nb.frontier_figures import frontier_committed, verdict_sentences
from ambient_nb.models import load_model
from ambient_nb.networks import PRESETS
from ambient_nb.protocols import protocol
from ambient_nb.rows import command_of, load_rows
from ambient_nb.runs import load_split


@pytest.fixture
def tool(monkeypatch):
    "The command, with a network that takes a second."
    spec = importlib.util.spec_from_file_location('frontier_tool', ROOT / 'tools' / 'frontier.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    small = replace(frontier.FRONTIER_TRAIN['digits'], net=replace(PRESETS['tiny'], model_channels=16), batch=16)
    monkeypatch.setitem(frontier.FRONTIER_TRAIN, 'digits', small)
    return module


def tiny_protocol():
    "The frontier's rules on a few digits."
    p = protocol(dataset='digits')
    first = replace(p.experiments[0], n=6, seeds=(1, 2, 3), kimg=(0.032, 0.064), samples=24, steps=2)
    more = replace(first, seeds=(1,), arms=('baseline, flipped',), verdict=False)
    chosen = dict(p.selection, n=6, sigmas=(0.2, 0.4), kimg=0.032)
    return replace(p, experiments=(first, more), selection=chosen, axes=8)


def test_the_queue_trains_measures_and_judges(tool, tmp_path, capsys):
    p = tiny_protocol()
    tool.work(p, tmp_path)
    lines = [line[20:] for line in capsys.readouterr().out.splitlines()]
    names = [line for line in lines if not line.startswith('  ')]
    assert [line.split()[0] for line in names[:3]] == ['selection', 'selection', 'chosen:']
    order = [' '.join(line.split()[1:-1]) for line in names[3:]]
    pairs = [f'{arm} {seed}' for seed in (1, 2, 3) for arm in ('baseline', 'two-regime')]
    assert order == [*pairs, 'baseline, flipped 1'] and sum('KID' in line for line in lines) == 2 + 2 * 7
    tool.report(p, tmp_path, tmp_path / 'rows.json')
    told, rows = capsys.readouterr().out, load_rows(tmp_path / 'rows.json')
    assert told.count('2 of 2') == 2 and told.count('4 of 4') == 7
    verdicts = [r.verdict for r in rows if r.claim]
    assert all(line.endswith(verdict) for line, verdict in zip(told.splitlines()[-3:], verdicts, strict=True))
    assert {(r.labels['method'], len(r.detail['values'])) for r in rows if r.kind == 'arm'} == {
        ('baseline', 3),
        ('two-regime', 3),
        ('baseline, flipped', 1),
    }
    losses = [r for r in rows if r.labels['metric'] == 'heldout_loss']
    assert len(losses) == 2 * 3 and all(len(r.detail['error_share']) == len(r.detail['values']) for r in losses)
    assert (tmp_path / 'rows.png').exists() and all(command_of(r) == 'python tools/frontier.py digits' for r in rows)


def test_the_pair_is_written_as_models_and_a_picture(tool, tmp_path):
    p = replace(
        tiny_protocol(), experiments=(replace(tiny_protocol().experiments[0], seeds=(1,), kimg=(0.032, 0.064)),)
    )
    for run in frontier.selection_runs(p).values():
        tool.train(run, tmp_path, 'cpu')
    chosen = frontier.frontier_runs(p, checkpoint_curves.select_sigma(p, tmp_path))
    for run in chosen.values():
        tool.train(run, tmp_path, 'cpu')
    tool.pair(p, tmp_path, tmp_path / 'pair')
    D, about = load_model(tmp_path / 'pair' / 'digits-two-regime.safetensors', shape=(1, 8, 8))
    run, x = chosen[6, 'two-regime', 1], torch.randn(2, 1, 8, 8)
    assert about['run'] == run.key and (tmp_path / 'pair' / 'digits-ages.png').stat().st_size > 1000
    assert torch.allclose(D(x, 1.0), run.denoiser(run.config.iters, tmp_path)(x, 1.0), atol=0.05)


def test_what_is_there_is_not_done_again(tool, tmp_path, monkeypatch):
    p = tiny_protocol()
    run = frontier.frontier_run(p.experiments[0], 'two-regime', 1, 0.2)
    tool.train(run, tmp_path, 'cpu')
    first = checkpoint_curves.measured_points(run, p, tmp_path)
    monkeypatch.setattr(checkpoint_curves, 'sample', lambda *args, **kwargs: pytest.fail('sampled again'))
    tool.train(run, tmp_path, 'cpu')
    assert checkpoint_curves.measured_points(run, p, tmp_path) == first


def test_a_second_process_comes_from_the_other_end_and_stops_where_they_meet(tool, tmp_path, capsys):
    p = tiny_protocol()
    for run in frontier.selection_runs(p).values():
        tool.train(run, tmp_path, 'cpu')
    sigma = checkpoint_curves.select_sigma(p, tmp_path)
    met = frontier.frontier_runs(p, sigma)[6, 'two-regime', 3]
    (met.folder(tmp_path)).mkdir(parents=True)
    with locked(met.folder(tmp_path)), pytest.raises(BadInput, match='another process holds its lock'):
        tool.work(p, tmp_path, backwards=True)
    lines = [line.split()[2:-1] for line in capsys.readouterr().out.splitlines() if 'KID' not in line]
    assert lines[-2:] == [['6', 'baseline,', 'flipped', '1'], ['6', 'two-regime', '3']]


def test_a_run_that_copies_twice_in_a_row_is_read_no_further(monkeypatch):
    shares, p = iter((0.5, 0.1, 0.5, 0.6, 0.7)), tiny_protocol()
    run = frontier.frontier_run(replace(p.experiments[0], kimg=(1, 2, 3, 4, 5)), 'baseline', 1, 0.2)
    monkeypatch.setattr(checkpoint_curves, 'measure_checkpoint', lambda *args: dict(memorized=next(shares)))
    read = checkpoint_curves.measured_points(run, p, None)
    assert [point['memorized'] for point in read] == [0.5, 0.1, 0.5, 0.6]


def test_arms_of_a_seed_share_images_and_start_noise():
    digits = replace(protocol(dataset='digits').experiments[0], n=20)
    a, b = (frontier.frontier_run(digits, arm, 2, 0.3) for arm in ('baseline', 'two-regime'))
    other = frontier.frontier_run(digits, 'two-regime', 3, 0.3)
    assert a.images.sha == b.images.sha != other.images.sha and not {*a.images.ids.tolist()} & {
        *other.images.ids.tolist()
    }
    pool = load_split('digits', None, None).pool.ids.tolist()
    own = {seed: frontier.frontier_run(digits, 'baseline', seed, 0.3).images.ids.tolist() for seed in (0, 1, 2)}
    assert own == {0: pool[-20:], 1: pool[:20], 2: pool[20:40]}
    assert (a.config.seed, b.config.loss.noise_seed, other.config.loss.noise_seed) == (2, 2, 3)


def test_a_size_where_nothing_can_be_compared_says_so():
    row = next(r for r in frontier_committed() if r.labels['metric'] == 'equal-copying/kid')
    said = verdict_sentences([replace(row, detail=row.detail | dict(values=[]))])
    assert 'no pair of trainings reaches' in said and 'KID difference' not in said
    assert 'KID difference' in verdict_sentences([row])
