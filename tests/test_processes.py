"""Two processes and one: what is drawn, measured and audited has the same bits; a training does the same steps.

One script does all of it, once alone and once in two processes that find each other as torch's launcher tells them.
"""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import warm
from safetensors.torch import load_file
from tree import BIN, ROOT

from ambient_nb.checkpoints import load_checkpoint
from ambient_nb.data import digits
from ambient_nb.drive import drive
from ambient_nb.runfolders import read_stats, snapshot_path
from ambient_nb.networks import PRESETS
from ambient_nb.training import TrainConfig, Trainer, fit

SCRIPT = """
import json, sys
from dataclasses import replace
from functools import partial
from pathlib import Path
import torch
from safetensors.torch import save_file
from ambient_nb.audit import audit
from ambient_nb.batches import gradients_of
from ambient_nb.checkpoints import Damaged, load_checkpoint
from ambient_nb.core import BadInput, rng
from ambient_nb.data import digits, to_uint8
from ambient_nb.drive import drive
from ambient_nb.runfolders import snapshot_path
from ambient_nb.features import DigitsEncoder
from ambient_nb.memorization import nearest, similarity
from ambient_nb.neighbours import nearest_exact
from ambient_nb.networks import PRESETS
from ambient_nb.objectives import TwoRegime
from ambient_nb.processes import alone, team
from ambient_nb.sampling import Churn, heun, sample
from ambient_nb.training import TrainConfig, Trainer, fit, make_denoiser

out, mates = Path(sys.argv[1]), team()
pool, held = digits()
net = replace(PRESETS['tiny'], model_channels=8, num_blocks=1, dropout=0.1)
edm = TrainConfig(net=net, iters=4, batch=24, lr=1e-2, ema_kimg=0.05, augment=0.2, seed=3, at_once=12)
configs = dict(edm=edm, bf16=replace(edm, precision='bf16'))
configs['four'] = replace(edm, loss=TwoRegime(sigma_n=0.4), augment=0.0, at_once=4)
found, said, few = {}, dict(size=mates.size), pool.take(range(40))

for name, config in configs.items():
    run = fit(config, few, out / name, device='cpu', tick=2, snapshots=[2])
    found |= {f'weights.{name}.{k}': v for k, v in load_checkpoint(snapshot_path(run, 4))[0].items()}
    trainer = Trainer(config, few)
    trainer.gradients()
    found[f'gradient.{name}'] = torch.cat([p.grad.flatten() for p in trainer.weights])
fit(edm, few, out / 'given', device='cpu')
said['events'] = [(e.kind, e.it, e.line and e.line['loss']) for e in drive(Trainer(edm, few), out / 'seen', 4, tick=2)]
for event in drive(Trainer(edm, few), out / 'left', 4):
    if event.it == 3:
        break

for seed in (3, 4):
    trainer = Trainer(replace(edm, seed=seed, at_once=0), few)
    torch.manual_seed(5)  # as a routine that shows pictures may do in every process
    for trainer.it in range(2):
        found |= {f'draws.{seed}.{trainer.it}.{name}': v for name, v in trainer.inputs().items()}

D = make_denoiser(edm, (1, 8, 8)).eval()
for i, p in enumerate(D.parameters()):
    p.data = torch.randn(p.shape, generator=rng(0, 'weights', i)) * 0.1
churned = partial(heun, churn=Churn(10.0))
images = sample(D, [*range(50), 7, 70], (1, 8, 8), steps=3, block=8, sampler=churned)
encoder = DigitsEncoder()
encoder.block = 16
u = to_uint8(images)
mine, theirs = encoder(torch.cat([u, held.pixels[:30]])), encoder(pool.pixels[:200])
found |= dict(samples=images, features=mine)
wide = [torch.randn(n, 600, generator=rng(0, 'wide', n)) for n in (2500, 300)]
pairs = dict(bytes=(u, pool.pixels), features=(mine, theirs), wide=wide, itself=(theirs, theirs))
pairs['many'] = pool.pixels[torch.arange(2500) % 1000], held.pixels
for space, (a, b) in pairs.items():
    for search in (nearest, nearest_exact):
        d, i = search(a, b, 2, chunk=200)
        found |= {f'near.{search.__name__}.{space}.d': d, f'near.{search.__name__}.{space}.i': i}
found['alike.d'], found['alike.i'] = similarity(mine, theirs, chunk=32)
suspects = torch.cat([held.pixels[:40], pool.pixels[:20]])
how = dict(encoder=encoder, out=out / 'report', cache=out / 'cache', device='cpu', controls=False)
for times in range(2):  # the second one reads the features
    said[f'audit {times}'] = audit(suspects, pool.pixels[:200], held.pixels[100:160], **how).verdict

p, q, r = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))  # one that each part needs, one that none needs
own = [0, 1][mates.rank :: mates.size]
loss = gradients_of([p, q, r], own, lambda part: (part + 1) * (r if part else p).sum(), mates)
said['gradients'] = [loss.item(), *(None if t.grad is None else t.grad.tolist() for t in (p, q, r))]

def no():
    raise BadInput('n', 3, 'another')

def words(work):
    try:
        return work() and ''
    except (BadInput, RuntimeError) as e:
        return str(e)

said['refused'] = words(lambda: mates.ask(no)), words(lambda: mates.check_same(dict(w=torch.ones(2) * mates.rank)))
with alone():
    said['alone'] = team().size

class Walk:  # whose weights are no numbers from a step on
    def __init__(self, bad=0):
        self.it, self.bad, self.x, self.team = 0, bad, torch.zeros(2), mates

    def step(self):
        self.it += 1
        self.x = self.x + (float('nan') if self.it == self.bad else 1)
        return 1.0

    def state(self):
        return dict(x=self.x)

def walked(name, bad=0):
    try:
        return [*drive(Walk(bad), out / name, 6, tick=2, save_every=-1)][-1].kind
    except (FloatingPointError, Damaged) as e:
        return str(e).replace(str(out), '')

mates.ask(lambda: (out / 'curve').mkdir() or (out / 'curve' / 'stats.jsonl').write_text('x\\n'))
said['walked'] = [walked('good'), walked('tick', 4), walked('end', 6), walked('curve')]
save_file({k: v.contiguous() for k, v in found.items()}, out / f'{mates.rank}.safetensors')
(out / f'{mates.rank}.json').write_text(json.dumps(said))
"""

HALVES = """
import os, runpy, sys
child, port = os.fork(), sys.argv.pop()
told = dict(RANK=str(int(not child)), LOCAL_RANK='0', WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
os.environ.update(told)
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name='__main__')
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else 0)
"""

CONFIG = TrainConfig(
    net=replace(PRESETS['tiny'], model_channels=8, num_blocks=1, dropout=0.1),
    **dict(iters=4, batch=24, lr=1e-2, ema_kimg=0.05, augment=0.2, seed=3, at_once=12),
)
FEW = digits()[0].take(range(40))
ENV = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', AMBIENT_NB_PROGRESS='0')


def left_at(folder: Path, it: int) -> Path:
    "A run that this process leaves behind."
    for event in drive(Trainer(CONFIG, FEW), folder, 4):
        if event.it == it:
            return folder


@pytest.fixture(scope='module')
def done(tmp_path_factory) -> dict:
    "What one process found, and what each of two did: tensors and words; and where."
    place = tmp_path_factory.mktemp('processes')
    (place / 'job.py').write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    found = dict(place=place)
    for name, words in dict(one=['job.py'], two=['-c', HALVES, 'job.py']).items():
        left_at(place / name / 'given', 2)
        command = [sys.executable, *words, place / name, *([port] if name == 'two' else [])]
        ended = warm.run(command, cwd=place, env=ENV)
        assert ended.returncode == 0, ended.stderr
        ranks = range(1 + (name == 'two'))
        found[name] = [
            (load_file(place / name / f'{rank}.safetensors'), json.loads((place / name / f'{rank}.json').read_text()))
            for rank in ranks
        ]
    return found


def tensors(done: dict, start: str) -> list:  # of triples: one process, the first of two, the second
    "What has this beginning."
    (one, _), (first, _), (second, _) = *done['one'], *done['two']
    found = [(one[k], first[k], second[k]) for k in one if k.startswith(start)]
    assert found and one.keys() == first.keys() == second.keys()
    return found


@pytest.mark.parametrize('what', ['samples', 'features', 'near', 'alike'])
def test_what_is_measured_has_the_same_bits(what, done):
    for one, first, second in tensors(done, what):
        assert torch.equal(one, first) and torch.equal(one, second) and one.dtype == first.dtype


@pytest.mark.parametrize('name', ['edm', 'bf16', 'four'])
def test_training_is_the_same_step_in_one_process_and_in_two(name, done):
    "Batch in two parts or in six, dropout and augmentation included; and both processes hold the same bits."
    for one, first, second in tensors(done, f'weights.{name}'):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, one, rtol=1e-4, atol=1e-4)  # Adam makes steps of noise where there is no more
    one, first, _ = tensors(done, f'gradient.{name}')[0]
    assert (first - one).norm() < 1e-6 * one.norm()
    place = done['place']
    one, two = (read_stats(place / way / name) for way in ('one', 'two'))
    assert [line['loss'] for line in two] == pytest.approx([line['loss'] for line in one], rel=1e-5)
    files = [sorted(f.name for f in (place / way / name).iterdir()) for way in ('one', 'two')]
    assert files[0] == files[1] and 'snapshot-0000002.safetensors' in files[0]


def test_each_process_has_noise_of_its_own_and_the_seed_has_a_say(done):
    "Unlike the code published with the main paper (papers, A.5.10): something in every process sets the global seed."
    for it in range(2):
        for name in ('z', 'sigma', 'rows'):
            one, first, second = tensors(done, f'draws.3.{it}.{name}')[0]
            other = tensors(done, f'draws.4.{it}.{name}')[0]
            assert torch.equal(torch.cat([first, second]), one)
            assert not torch.equal(first, second)
            assert not any(torch.equal(a, b) for a, b in zip((one, first, second), other))


def test_a_run_goes_on_in_any_number_of_processes(done):
    "Begun by one and ended by two, and the other way."
    place = done['place']
    wanted = load_checkpoint(snapshot_path(place / 'one' / 'edm', 4))[0]
    fit(CONFIG, FEW, place / 'two' / 'left', device='cpu')
    log = (place / 'two' / 'left' / 'log.txt').read_text()
    assert 'from iteration 0 on cpu and 1 others' in log and 'from iteration 3 on cpu\n' in log
    assert 'from iteration 2 on cpu and 1 others' in (place / 'two' / 'given' / 'log.txt').read_text()
    for run in ('left', 'given'):
        for k, tensor in load_checkpoint(snapshot_path(place / 'two' / run, 4))[0].items():
            torch.testing.assert_close(tensor, wanted[k], rtol=1e-4, atol=1e-4)


def test_all_see_the_same_and_are_refused_the_same(done):
    (_, one), (_, first), (_, second) = *done['one'], *done['two']
    assert first == second and first['size'] == 2 and one['alone'] == first['alone'] == 1
    assert [e[:2] for e in first['events']] == [e[:2] for e in one['events']]
    assert first['refused'][0] == one['refused'][0] == 'n=3 is not allowed: n must be another'
    assert first['refused'][1].startswith('weights came apart') and not one['refused'][1]
    assert first['walked'] == one['walked'] and first['walked'][0] == 'stop'
    assert 'at iteration 4' in first['walked'][1] and 'at iteration 6' in first['walked'][2]
    assert 'line 1 is not' in first['walked'][3]
    assert first['gradients'] == one['gradients'] == [6.0, [1.0, 1.0], None, [2.0, 2.0]]


def test_an_audit_says_the_same(done):
    (_, one), (_, first), _ = *done['one'], *done['two']
    said = {words for each in (one, first) for name, words in each.items() if name.startswith('audit')}
    assert len(said) == 1, said
    reports = [done['place'] / way / 'report' for way in ('one', 'two')]
    a, b = (pd.read_parquet(report / 'samples.parquet') for report in reports)
    assert a.equals(b) and a.exact.sum() == 20
    assert len(list((done['place'] / 'two' / 'cache').iterdir())) == len(
        list((done['place'] / 'one' / 'cache').iterdir())
    )


def test_a_command_that_cannot_be_shared_is_refused(tmp_path):
    told = dict(RANK='1', WORLD_SIZE='2', LOCAL_RANK='1', MASTER_ADDR='127.0.0.1', MASTER_PORT='1')
    ended = warm.run([BIN / 'ambient-nb', 'reproduce', 'repro_table1'], cwd=tmp_path, env=ENV | told)
    assert ended.returncode == 2 and 'nproc_per_node=2' in ended.stderr and '--scheduler' in ended.stderr


@pytest.mark.slow
def test_torchrun_starts_the_command(tmp_path):
    "As a user types it: the first process speaks, and there is one report."
    for name, rows in dict(samples=range(30), train=range(20, 120)).items():
        np.save(tmp_path / f'{name}.npy', digits()[0].pixels[list(rows)].movedim(1, 3).expand(-1, -1, -1, 3).numpy())
    words = ['--standalone', '--nproc-per-node', '2', '--no-python', BIN / 'ambient-nb', 'audit', 'samples.npy']
    words += ['train.npy', '--no-controls', '--device', 'cpu', '--cache', 'cache', '--out', 'report']
    launch = [sys.executable, '-m', 'torch.distributed.run', *words]
    ended = subprocess.run(launch, cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count('wrote report/report.html') == 1 and '10' in ended.stdout
