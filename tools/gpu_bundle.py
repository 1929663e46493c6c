"""Pack what tools/gpu_table1.py needs on a machine that has a GPU and nothing of ours: run by `make gpu-bundle`.

code and wheels, the 300 training images, the test images, the encoders: build/gpu, at most 60 MiB, which git ignores.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gpu_table1 import N, WHEELS, ZIPS

from ambient_nb.checkpoints import save_json
from ambient_nb.core import BadInput, check_float
from ambient_nb.data import subset, write_zip
from ambient_nb.datasets import find_zip, load
from ambient_nb.origin import commit

ROOT = Path(__file__).resolve().parents[1]
PLATFORMS = [f'manylinux_2_{k}_x86_64' for k in (28, 27, 24, 17)] + ['manylinux2014_x86_64', 'manylinux1_x86_64']


def size(folder: Path) -> int:  # bytes
    return sum(f.stat().st_size for f in folder.rglob('*') if f.is_file())


def download(name: str, python: str, to: Path) -> Path:
    "The wheel of a distribution for another machine."
    command = [
        sys.executable,
        '-m',
        'pip',
        'download',
        '-q',
        '--no-deps',
        '--only-binary=:all:',
        '--python-version',
        python,
        '--implementation',
        'cp',
        '-d',
        str(to),
        name,
    ]
    done = subprocess.run(command + [f'--platform={p}' for p in PLATFORMS], capture_output=True, text=True)
    if done.returncode:
        raise BadInput(
            'wheels',
            name,
            f'something that pip finds for Python {python}, or left out with --no-wheels: '
            f'{done.stderr.strip().splitlines()[-1]}',
        )
    return max(to.glob('*.whl'), key=lambda f: f.stat().st_mtime)


def pack(part: Path, data: str | None, python: str, wheels: bool, limit: float) -> str:  # what was done, in words
    "Fill a folder; BadInput where it would be too large."
    pool = find_zip('cifar10', data)
    test = pool.with_name(ZIPS[1])
    if not test.is_file():
        raise BadInput(
            'data',
            str(pool.parent),
            f'a folder that holds {ZIPS[1]} beside the training images: make both with `ambient-nb data make`',
        )
    split = load('cifar10', data)
    images = subset(split.pool, N)[0]
    write_zip(part / 'data' / ZIPS[0], images, dict(meta=dict(recipe=split.record.recipe)))
    shutil.copyfile(test, part / 'data' / ZIPS[1])
    shutil.copytree(ROOT / 'ambient_nb', part / 'ambient_nb', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(ROOT / 'tools' / 'gpu_table1.py', part)
    save_json(part / 'manifest.json', dict(commit=commit(), training_images=N, sha256=images.sha))
    if size(part) > limit * 2**20:
        raise BadInput(
            'limit', limit, f'at least {size(part) / 2**20:.1f} MiB, which code and images take without any wheel'
        )
    packed, left = [], []
    with tempfile.TemporaryDirectory() as tmp:
        for name in WHEELS.values() if wheels else ():
            wheel = download(name, python, Path(tmp))
            fits = size(part) + wheel.stat().st_size <= limit * 2**20
            (packed if fits else left).append(name)
            if fits:
                (part / 'wheels').mkdir(exist_ok=True)
                shutil.move(wheel, part / 'wheels')
    return f'{size(part) / 2**20:.1f} MiB; encoder: {split.record.encoder}; wheels: {", ".join(packed) or "none"}' + (
        f'; no room for {", ".join(left)}' if left else ''
    )


def main() -> None:
    "Pack beside the target, then put it in its place."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', help='folder with the CIFAR-10 zips; without it the one in $AMBIENT_NB_DATA')
    parser.add_argument('--out', default=str(ROOT / 'build' / 'gpu'))
    parser.add_argument('--python', default='3.12', help='version of the machine with the GPU')
    parser.add_argument('--no-wheels', action='store_true', help='for a machine that has all packages')
    parser.add_argument('--limit', default=60.0, help='MiB')
    a = parser.parse_args()
    out = Path(a.out)
    if out.exists() and not ((out / 'manifest.json').is_file() and (out / 'gpu_table1.py').is_file()):
        parser.error(str(BadInput('out', a.out, 'a new folder, or an earlier bundle, which is replaced')))
    part = out.with_name(f'.{out.name}.{os.getpid()}.part')
    try:
        said = pack(part, a.data, a.python, not a.no_wheels, check_float('limit', a.limit, 0, open_lo=True))
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f'{out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out}: {said}')


if __name__ == '__main__':
    try:
        main()
    except BadInput as e:
        sys.exit(str(e))
