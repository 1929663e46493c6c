"The project as its tests see it: lists derived from what is there."

import configparser
import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / 'nbs'
BIN = Path(sys.executable).parent
ASIDE = shutil.ignore_patterns(
    '.*venv*',
    '.git',
    'runs',
    '_proc',
    '_docs',
    '__pycache__',
    '*.egg-info',
    '.*_cache',
    '.ipynb_checkpoints',
    '.hypothesis',
    'build',
    'dist',
)


def settings() -> configparser.SectionProxy:
    "settings.ini, interpolated."
    parser = configparser.ConfigParser()
    parser.read(ROOT / 'settings.ini', encoding='utf-8')
    return parser['DEFAULT']


def copy(to: Path) -> Path:
    "The working tree without what can be made again; links stay links."
    return Path(shutil.copytree(ROOT, to, symlinks=True, ignore=ASIDE))


def notebooks() -> list[Path]:
    "Every notebook of the tree, relative to nbs/."
    found = (p.relative_to(NBS) for p in NBS.rglob('*.ipynb'))
    return sorted(p for p in found if not any(part[0] in '._' or part == 'runs' for part in p.parts))


def is_parameterized(nb: Path) -> bool:
    "Is it one that papermill runs, and nbdev_test must not?"
    return re.match(r'(repro|bench|train)_', nb.name) is not None


def cells(nb: Path) -> list[dict]:
    "Its cells, `source` as one string."
    content = json.loads((NBS / nb).read_text(encoding='utf-8'))
    return [c | dict(source=''.join(c['source'])) for c in content['cells']]


def rooms() -> dict[str, str]:
    "Module name -> its place in the order, from the notebooks that export."
    found = {}
    for nb in notebooks():
        place = re.match(r'\d\d[a-z]*(?=_)', nb.name)
        module = next(
            (m[1] for c in cells(nb) if (m := re.search(r'^#\|\s*default_exp\s+(\w+)', c['source'], re.M))), None
        )
        if module:
            found[module] = place[0] if place else None
    return found
