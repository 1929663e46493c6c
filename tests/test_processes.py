"""Two processes and one: what is drawn, sampled, encoded and searched has the same bits; a training, the same step.

One script does all of it and runs three times: alone, as the two halves of a team, and under torch's own launcher.
"""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import warm
from safetensors.torch import load_file
from tree import ROOT

from ambient_nb.batches import gradients_of, shares
from ambient_nb.core import refused
from ambient_nb.data import digits
from ambient_nb.drive import read_stats, snapshot_path
from ambient_nb.processes import TOLD_BY, Team, alone, launched, team
from ambient_nb.training import TrainConfig, Trainer, fit

SCRIPT = '''
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from safetensors.torch import save_file
from ambient_nb.checkpoints import load_checkpoint
from ambient_nb.core import BadInput, rng
from ambient_nb.data import digits, to_uint8
from ambient_nb.drive import drive, snapshot_path
from ambient_nb.features import DigitsEncoder
from ambient_nb.memorization import nearest, similarity
from ambient_nb.neighbours import nearest_exact
from ambient_nb.networks import PRESETS
from ambient_nb.objectives import Consistent, TwoRegime
from ambient_nb.processes import alone, team
from ambient_nb.sampling import Churn, heun, sample
from ambient_nb.training import TrainConfig, Trainer, fit, load_denoiser

out, mates = Path(sys.argv[1]), team()
torch.set_num_threads(1)
pool, held = digits()
net = replace(PRESETS['tiny'], model_channels=8, num_blocks=1, dropout=0.1)
base = TrainConfig(net=net, iters=4, batch=24, lr=1e-2, ema_kimg=0.05, augment=0.2, seed=3)
at_once = 12 // mates.size * 2  # in one process, the parts that two processes have
configs = dict(
    edm=replace(base, at_once=12),
    both=replace(base, at_once=4, loss=TwoRegime(sigma_n=0.4), augment=0.0),
    bf16=replace(base, at_once=12, precision='bf16'),
)
found, said = {}, dict(size=mates.size, refused=[])
for name, config in configs.items():
    run = fit(config, pool.take(range(40)), out / name, device='cpu', tick=2, snapshots=[2])
    weights = load_checkpoint(snapshot_path(run, 4))[0]
    found |= {f'{name}.{k}': v for k, v in weights.items()}
trainer = Trainer(base, pool.take(range(40)))
for k in range(2):
    trainer.it = k
    found |= {f'draws.{k}.{name}': v for name, v in trainer.inputs().items()}

D = load_denoiser(out / 'edm')
from functools import partial
churned = partial(heun, churn=Churn(10.0))
images = sample(D, [*range(50), 7, 70], (1, 8, 8), steps=3, block=8, sampler=churned)
found['samples'] = images
u = to_uint8(images)
features = DigitsEncoder()
features.block = 16
found['features'] = mine = features(torch.cat([u, held.pixels[:30]]))
theirs = features(pool.pixels[:200])
wide = [torch.randn(n, 700, generator=rng(0, 'wide', n)) for n in (2500, 300)]
for name, search in (('nearest', nearest), ('exact', nearest_exact)):
    for space, (a, b) in dict(bytes=(u, pool.pixels), features=(mine, theirs), wide=wide, itself=(theirs, theirs)).items():
        d, i = search(a, b, 2, chunk=32)
        found |= {f'{name}.{space}.d': d, f'{name}.{space}.i': i}
many = pool.pixels[torch.arange(2500) % 1000]
found['many.d'], found['many.i'] = nearest_exact(many, held.pixels)
found['cosine'], found['alike'] = similarity(mine, theirs, chunk=32)

def no(): raise BadInput('n', 3, 'another')
for work in (lambda: mates.ask(no), lambda: mates.check_same(dict(w=torch.ones(2) * mates.rank))):
    try:
        work()
        said['refused'].append('')
    except (BadInput, RuntimeError) as e:
        said['refused'].append(str(e))
with alone():
    said['alone'] = team().size
events = drive(Trainer(base, pool.take(range(40))), out / 'left', 4, tick=2)
said['events'] = [(e.kind, e.it, e.kind == 'tick' and e.line['loss']) for e in events if e.it != 3]
save_file({k: v.contiguous() for k, v in found.items()}, out / f'{mates.rank}.safetensors')
(out / f'{mates.rank}.json').write_text(json.dumps(said))
'''
