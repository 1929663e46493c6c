"""Several trainings by turns on one GPU, CIFAR-10, a seed a command, in at most 9.3 minutes.

`--of main` (as it is): both methods of the main paper, n = 300, quality against copying. `--of ambient`: Ambient
Diffusion's loss on images of which a share p is hidden for ever, p = .2, .6 and .8, beside whole images, n = 1,000:
quality, copying, and the error of restored images.

`make gpu-bundle` puts this file beside the package and the images in build/gpu, which is all that the machine needs
beside torch, scipy, pandas, matplotlib, Pillow, safetensors and tqdm. There:

    python3 build/gpu/gpu_table1.py --seed 1
    python3 build/gpu/gpu_table1.py --of ambient --seed 1

Rows (nbs/results/gpu_table1.custom.json or gpu_ambient.custom.json, see --rows) and the picture beside them are
written after each checkpoint, also to $OUT where that is set, so that a command which is killed leaves what it had.
The next seed is added to the same file; from the third on there are intervals over seeds, and for the two methods a
verdict. `--dry-run` says how far a command would come.
"""

import time

BEGUN = time.monotonic()

import argparse  # noqa: E402
import os
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
NEEDED = 'torch numpy scipy pandas pyarrow matplotlib PIL safetensors tqdm'.split()
if missing := [module for module in NEEDED if find_spec(module) is None]:
    sys.exit(f'this machine lacks {", ".join(missing)}')
os.environ.setdefault('AMBIENT_NB_PROGRESS', '0')
os.environ.setdefault('MPLBACKEND', 'agg')

import torch  # noqa: E402

from ambient_nb.checkpoints import load_json
from ambient_nb.core import BadInput, check_choice, check_float, check_int, pick_device, writable_dir
from ambient_nb.frontier_figures import frontier_table
from ambient_nb.mask_turns import MaskTurns, mask_table
from ambient_nb.networks import PRESETS
from ambient_nb.origin import provenance
from ambient_nb.rows import load_rows
from ambient_nb.runs import load_split
from ambient_nb.turn_rows import TurnSession, bf16_ceiling, spend, turn_plan
from ambient_nb.turns import Clock, MethodTurns, Turns

SMOKE = dict(n=12, turn_kimg=0.016, every=2, most=3, samples=24, last_samples=32, steps=2, axes=4)
# name -> turns, minutes, how rows are shown
TABLES = dict(main=(MethodTurns, 9.3, frontier_table), ambient=(MaskTurns, 9.0, mask_table))


def say(words: str) -> None:
    print(f'{time.monotonic() - BEGUN:5.0f} s', words, flush=True)


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--of', default='main', help='main: two methods; ambient: masked images')
    parser.add_argument('--seed', default=1, help='of images, weights and noise; each command does one')
    parser.add_argument('--sigma-n', help='of the two-regime loss, the same for all seeds of a file; .3 where left out')
    parser.add_argument('--minutes', help='from start to end; it stops before; 9.3, for ambient 9')
    parser.add_argument('--rows', metavar='FILE.json', help='earlier seeds are read there; else in nbs/results')
    parser.add_argument('--out', help='where weights are kept; else in runs/')
    parser.add_argument('--data', help="folder with CIFAR-10's zips; the bundle's own, or $AMBIENT_NB_DATA")
    parser.add_argument('--dry-run', action='store_true', help='say how far it would come, and do nothing')
    parser.add_argument('--eager', action='store_true', help='send each step anew, in place of a CUDA graph')
    parser.add_argument('--smoke', action='store_true', help='a tiny network and few images, on any machine')
    return parser.parse_args()


def turns_of(a: argparse.Namespace) -> Turns:
    "What is asked for, checked."
    own = str(HERE / 'data') if (HERE / 'data').is_dir() else None
    given = dict(seed=check_int('seed', a.seed, 1), data=a.data or own, recorded=not a.eager)
    if a.sigma_n is not None:
        check_choice('of', a.of, ('main',))  # masked images have no sigma_n
        given['sigma_n'] = check_float('sigma-n', a.sigma_n, 0, open_lo=True)
    t = TABLES[a.of][0](**given)
    if not a.smoke:
        return t
    net = replace(PRESETS['tiny'], model_channels=8, channel_mult=(1,))
    fewer = dict(restored=8, last_samples=0) if a.of == 'ambient' else {}
    return replace(t, train=replace(t.train, net=net, batch=8), **SMOKE | fewer)


def work(a: argparse.Namespace, t: Turns, minutes: float) -> None:
    "Train, measure and keep, up to the end of the time."
    device = pick_device('cpu' if a.smoke else None)
    if device.type != 'cuda' and not a.smoke:
        raise BadInput('device', str(device), 'a CUDA GPU; --smoke runs anywhere, --dry-run says how far a GPU comes')
    check_int('seed', t.seed, 1, len(load_split(t.dataset, t.data, None).pool) // t.n)
    out, profile = writable_dir(a.out or f'runs/{t.name}'), 'smoke' if a.smoke else 'custom'
    usual = out / f'{t.name}.smoke.json' if a.smoke else Path('nbs/results') / f'{t.name}.custom.json'
    files = [Path(a.rows) if a.rows else usual]
    if os.environ.get('OUT'):
        files.append(Path(os.environ['OUT']) / files[0].name)
    made, told = HERE / 'manifest.json', provenance(device)
    told |= dict(commit=load_json(made)['commit']) if made.exists() else {}
    torch.backends.cudnn.benchmark = True
    say(f'{told["hardware"]}, seed {t.seed}, {t.options}')
    ceiling = bf16_ceiling(device, *(0.1, 128) if a.smoke else ())
    say(f'bf16 products reach {ceiling / 1e12:.3g} TFLOP/s')
    clock, about = Clock(60 * minutes, BEGUN), dict(say=say, profile=profile, provenance=told)
    spend(TurnSession(t, out, files, device, clock, ceiling, **about))
    if files[0].exists():
        table = TABLES[a.of][2](load_rows(files[0]))
        print(table if isinstance(table, str) else table.to_string())
    say('done')


def main() -> None:
    a = asked()
    usual = TABLES[check_choice('of', a.of, TABLES)][1]
    t, minutes = turns_of(a), check_float('minutes', usual if a.minutes is None else a.minutes, 0, open_lo=True)
    if a.dry_run:
        print(turn_plan(t, minutes).to_string())
    else:
        work(a, t, minutes)


if __name__ == '__main__':
    try:
        main()
    except BadInput as e:
        sys.exit(f'Error: {e}')
