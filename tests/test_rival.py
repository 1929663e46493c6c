"The bench beside a clone of NVlabs/edm, end to end."

import json
import subprocess
import sys

from ambient_nb.checkpoints import load_json

RIVAL = {  # a clone's outside, with our own network inside: no foreign code
    'training/networks.py': '''
from dataclasses import replace
from ambient_nb.denoisers import EDMPrecond as Ours
from ambient_nb.networks import NetConfig, make_net
class EDMPrecond(Ours):
    def __init__(self, img_resolution, img_channels, use_fp16, model_type, **options):
        super().__init__(make_net(NetConfig(**options), img_resolution, img_channels, seed=7))
''',
    'training/loss.py': '''
import torch
class EDMLoss:
    def __call__(self, net, images):
        return (net(images + torch.randn_like(images), torch.ones(len(images))) - images).square()
''',
    'generate.py': '''
def edm_sampler(net, latents, num_steps): return net(latents, 80.)
''',
}


def test_beside_a_rival(tmp_path):
    "In a process of its own: the clone's modules have names that others use."
    for name, text in RIVAL.items():
        (tmp_path / 'edm' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'edm' / name).write_text(text)
    code = f'''
import torch; torch.set_num_threads(1)
from ambient_nb import bench
rows = bench.run_bench(bench.plan_bench(device='cpu', edm_repo={str(tmp_path / 'edm')!r}, out={str(tmp_path)!r}))
assert 'images/s' in bench.bench_table(rows)
bench.bench_figure(rows)
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = load_json(tmp_path / 'bench_edm.json')['rows']
    assert {(r['task'], r['who'], r['precision']) for r in rows} == {
        (t, w, p) for t in ('training', 'sampling') for w, p in (('ours', 'fp32'), ('ours', 'bf16'), ('edm', 'fp32'))
    }
    assert all(len(r['seconds']) == 2 and min(r['seconds']) > 0 and r['mib'] > 0 and r['flops'] > 0 for r in rows)
    assert all(r['gap'] == 0 for r in rows if r['who'] == 'edm'), 'both got the same weights'
    assert str(tmp_path) not in json.dumps(rows)
