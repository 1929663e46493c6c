"""Pack what tools/gpu_table1.py needs on a machine that has a GPU and nothing of ours: run by `make gpu-bundle`.

code and encoder, 3,000 training images (300 for each of ten seeds, or 1,000 for each of three), all held-out images:
build/gpu, at most 45 MiB, which git ignores.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from ambient_nb.checkpoints import save_json
from ambient_nb.core import BadInput, check_float
from ambient_nb.data import write_zip
from ambient_nb.datasets import find_zip, load
from ambient_nb.origin import commit

ROOT = Path(__file__).resolve().parents[1]
ZIPS = ('cifar10-32x32-train.zip', 'cifar10-32x32-test.zip')  # in data/
POOL = 3000  # training images, the first of the pool


def size(folder: Path) -> int:  # bytes
    return sum(f.stat().st_size for f in folder.rglob('*') if f.is_file())


def pack(part: Path, data: str | None, limit: float) -> str:  # what was done, in words
    "Fill a folder; BadInput where it would be too large."
    test = find_zip('cifar10', data).with_name(ZIPS[1])
    if not test.is_file():
        allowed = f'a folder that holds {ZIPS[1]} beside the training images: make both with `ambient-nb data make`'
        raise BadInput('data', str(test.parent), allowed)
    split = load('cifar10', data)
    images = split.pool.take(range(min(POOL, len(split.pool))))
    write_zip(part / 'data' / ZIPS[0], images, dict(meta=dict(recipe=split.record.recipe)))
    shutil.copyfile(test, part / 'data' / ZIPS[1])
    shutil.copytree(ROOT / 'ambient_nb', part / 'ambient_nb', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(ROOT / 'tools' / 'gpu_table1.py', part)
    save_json(part / 'manifest.json', dict(commit=commit(), training_images=len(images), sha256=images.sha))
    mib = size(part) / 2**20
    if mib > limit:
        raise BadInput('limit', limit, f'at least {mib:.1f} MiB, which code and images take')
    return f'{mib:.1f} MiB; {len(images):,} training images, {len(split.heldout):,} held out'


def main() -> None:
    "Pack beside the target, then put it in its place."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', help='folder with the CIFAR-10 zips; without it the one in $AMBIENT_NB_DATA')
    parser.add_argument('--out', default=str(ROOT / 'build' / 'gpu'))
    parser.add_argument('--limit', default=45.0, help='MiB')
    a = parser.parse_args()
    out = Path(a.out)
    if out.exists() and not ((out / 'manifest.json').is_file() and (out / 'gpu_table1.py').is_file()):
        parser.error(str(BadInput('out', a.out, 'a new folder, or an earlier bundle, which is replaced')))
    part = out.with_name(f'.{out.name}.{os.getpid()}.part')
    try:
        said = pack(part, a.data, check_float('limit', a.limit, 0, open_lo=True))
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
