#!/usr/bin/env bash
# Expected: a folder of captioned pictures gives an example for each picture; one that `metadata.jsonl` does not name
#   has no caption (None), as one whose line has no text does, or is refused.
# Happens: it is not there. Of 5 pictures, 3 named by a line, `load_dataset('imagefolder')` gives these 3 and says
#   nothing. A picture with two lines is two examples.
# Matters to: whoever captions part of a folder and trains on it: the rest is missing, and a picture with two captions
#   weighs twice.
# ambient_nb: `read_captions` reads every picture, counts those without a caption, and joins the captions of a picture.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile datasets==5.2.0 pillow==13.0.0
cd "$work"
HF_HOME="$work/home" HF_HUB_OFFLINE=1 "$work/venv/bin/python" -W ignore - <<'PY'
import json
from importlib.metadata import version
from pathlib import Path

import datasets
from PIL import Image

datasets.disable_progress_bars()
Path('set').mkdir()
for k in range(5):
    Image.new('L', (8, 8), 40 * k).save(f'set/{k}.png')
lines = [('0.png', 'black'), ('1.png', None), ('2.png', 'grey'), ('2.png', 'between black and white')]
text = '\n'.join(json.dumps(dict(file_name=name, text=said)) for name, said in lines)
Path('set/metadata.jsonl').write_text(text)
found = datasets.load_dataset('imagefolder', data_dir='set', split='train')
seen = [(row['image'].getpixel((0, 0)) // 40, row['text']) for row in found]
print('datasets', version('datasets'), '/ pillow', version('pillow'))
print(f'5 pictures, {len(lines)} lines: {len(found)} examples, of the pictures {sorted({k for k, _ in seen})}: {seen}')
assert sorted(k for k, _ in seen) == [0, 1, 2, 2]
PY
