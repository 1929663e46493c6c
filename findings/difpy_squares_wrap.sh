#!/usr/bin/env bash
# Expected: difPy's "duplicates" are pictures with a mean squared difference of 0, "similar" ones within a few squared
#   grey levels (it can move and delete what it finds).
# Happens: the difference is squared in eight bits, which wrap: 16 squared is 256, which is 0. A photograph and the
#   same one 16, 32 or 160 levels brighter are exact duplicates; two unrelated pictures of grey 0 and 16 are, too; and
#   any two unrelated black-and-white pictures are "similar", for 255 squared wraps to 1.
# Matters to: whoever cleans a training set of drawings, digits or masks with it before training: it would keep one.
# ambient_nb: squares in integers wide enough, tested at the extremes 0 and 255 against brute force.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile difPy==4.2.1 numpy==2.4.6 pillow==13.0.0
cd "$work"
cat > try.py <<'PY'
import contextlib
import io
from importlib.metadata import version
from pathlib import Path

import difPy
import numpy as np
from PIL import Image


def found(name, first, second, similarity='duplicates'):
    "Whether difPy pairs the two pictures."
    folder = Path(name)
    folder.mkdir()
    for key, x in (('first', first), ('second', second)):
        Image.fromarray(np.broadcast_to(x, (50, 50, 3)).astype(np.uint8)).save(folder / f'{key}.png')
    with contextlib.redirect_stdout(io.StringIO()):
        build = difPy.build(str(folder), show_progress=False, processes=1)
        return bool(difPy.search(build, similarity=similarity, show_progress=False, processes=1).result)


if __name__ == '__main__':
    rng = np.random.default_rng(0)
    photo = rng.integers(20, 90, (50, 50, 3))
    bits, others = rng.integers(0, 2, (2, 50, 50, 1))
    print('difPy', version('difPy'), '/ numpy', np.__version__)
    brighter = {step: found(f'step{step}', photo, photo + step) for step in (8, 15, 16, 17, 32, 160)}
    print('a picture and itself so many levels brighter are duplicates:', brighter)
    dim = found('dim', 16 * bits, 16 * others)
    print('two unrelated pictures of greys 0 and 16 are duplicates:', dim)
    black = {kind: found(f'black_{kind}', 255 * bits, 255 * others, kind) for kind in ('duplicates', 'similar')}
    print('two unrelated black-and-white pictures:', black)
    assert brighter == {8: False, 15: False, 16: True, 17: False, 32: True, 160: True}
    assert dim and black == {'duplicates': False, 'similar': True}
PY
"$work/venv/bin/python" -W ignore try.py
