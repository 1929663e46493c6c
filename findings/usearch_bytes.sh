#!/usr/bin/env bash
# Expected: an index of unsigned bytes (dtype 'u8', squared Euclidean) that is given a uint8 array keeps the bytes,
#   and one of signed bytes that is given floats keeps them as well as eight bits can.
# Happens: a uint8 array is always read as packed bits: a flat picture of grey 7 is kept as 0 0 0 0 0 1 1 1, in every
#   dtype, without a word; exact search over two uint8 arrays answers NaN everywhere. Floats in an 'i8' or 'u8' index
#   are first scaled to length one, so pictures that differ by brightness alone become equal. int8 arrays (bytes -
#   128) are kept, and their squared distances are the exact integers.
# Matters to: whoever searches copies among pixels, whose natural array is uint8.
# ambient_nb: centres bytes to int8 before an integer search; its bench gives usearch float32 and int8, never uint8.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile usearch==2.26.6 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import usearch
from usearch.index import Index, MetricKind, search

print('usearch', usearch.__version__)
flat = np.repeat(np.array([[7], [1], [255], [0]], np.uint8), 8, axis=1)
for dtype in ('u8', 'i8', 'f32'):
    index = Index(ndim=8, metric='l2sq', dtype=dtype)
    index.add(np.arange(4), flat)
    kept = index.get(0).astype(int).tolist()
    print(f'a row of eight 7s, given as uint8, kept in {dtype}: {kept}')
    assert kept == [0, 0, 0, 0, 0, 1, 1, 1]
answer = search(flat, flat, 1, MetricKind.L2sq, exact=True).distances
print('exact search over uint8 arrays, nearest distances:', answer.ravel())
assert np.isnan(answer).all()

index = Index(ndim=8, metric='l2sq', dtype='i8')
index.add(np.arange(4), flat.astype(np.float32))
answer = index.search(flat[0].astype(np.float32), 3, exact=True).distances
print('greys 7, 1 and 255 as floats in i8, distances to grey 7:', answer)
assert (answer == 0).all()

rng = np.random.default_rng(0)
pixels = rng.integers(0, 256, (500, 3072))
centred = (pixels - 128).astype(np.int8)
answer = search(centred, centred[:20], 2, MetricKind.L2sq, exact=True)
true = np.sort(((pixels[:20, None] - pixels[None]) ** 2).sum(2), axis=1)[:, :2]
assert (answer.distances == true.astype(np.float32)).all()
print('500 pictures of 3,072 bytes as int8: distances equal the integers, rounded to float32')
PY
