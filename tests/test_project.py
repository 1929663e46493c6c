"settings.ini is authoritative: every other file agrees with it, and the tree is the one it describes."

import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import yaml
from tree import NBS, ROOT, cells, notebooks, rooms, settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

S = settings()
PYPROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))
PROJECT = PYPROJECT['project']
CITATION = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
DOCS = S['doc_host'] + S['doc_baseurl']

# What each key of settings.ini is called in [project]; every other key stands in [tool.nbdev] or is listed as identity.
EXTRAS = {key.removesuffix('_requirements') for key in S if key.endswith('_requirements')}
IN_PROJECT = {
    'lib_name': lambda: PROJECT['name'],
    'version': lambda: PROJECT['version'],
    'min_python': lambda: PROJECT['requires-python'].removeprefix('>='),
    'license': lambda: {'Apache-2.0': 'apache2'}[PROJECT['license']],
    'description': lambda: PROJECT['description'],
    'keywords': lambda: ' '.join(PROJECT['keywords']),
    'author': lambda: PROJECT['authors'][0]['name'],
    'author_email': lambda: PROJECT['authors'][0]['email'],
    'git_url': lambda: PROJECT['urls']['Repository'],
    'requirements': lambda: ' '.join(PROJECT['dependencies']),
    'console_scripts': lambda: ' '.join(f'{k}={v}' for k, v in PROJECT['scripts'].items()),
    'status': lambda: (
        next(c for c in PROJECT['classifiers'] if c.startswith('Development Status')).split(' :: ')[1].split(' - ')[0]
    ),
    'audience': lambda: (
        next(c for c in PROJECT['classifiers'] if c.startswith('Intended Audience'))
        .split(' :: ', 1)[1]
        .replace(' :: ', '/')
    ),
    'language': lambda: next(c for c in PROJECT['classifiers'] if c.startswith('Natural Language')).split(' :: ')[1],
    **{
        f'{extra}_requirements': lambda extra=extra: ' '.join(PROJECT['optional-dependencies'][extra])
        for extra in EXTRAS
    },
}
IDENTITY = {'user', 'repo', 'doc_host', 'doc_baseurl', 'copyright'}  # spelled out in the links, which test_links reads


def as_ini(value) -> str:
    "A TOML value as settings.ini would spell it."
    return ' '.join(value) if isinstance(value, list) else str(value)


@pytest.mark.parametrize('key', sorted(S))
def test_parity(key):
    "Each key of settings.ini has an equal one in pyproject.toml."
    if key in IDENTITY:
        return
    if key in IN_PROJECT:
        assert IN_PROJECT[key]() == S[key]
    else:
        assert as_ini(PYPROJECT['tool']['nbdev'][key]) == S[key]


def test_parity_backwards():
    "pyproject.toml says nothing to nbdev or pip that settings.ini does not."
    assert set(PYPROJECT['tool']['nbdev']) <= set(S)
    assert set(PROJECT['optional-dependencies']) == EXTRAS


def test_version():
    "One version."
    init = re.search(r'__version__ = "(.+)"', (ROOT / S['lib_path'] / '__init__.py').read_text())[1]
    changelog = re.search(r'^## (\S+)', (ROOT / 'CHANGELOG.md').read_text(), re.M)[1]
    assert S['version'] == init == CITATION['version'] == changelog


def test_pythons():
    "The classifiers start at min_python, and CI runs the oldest and the newest of them."
    named = [c.rsplit(' ', 1)[1] for c in PROJECT['classifiers'] if re.search(r'Python :: 3\.\d+$', c)]
    matrix = yaml.safe_load((ROOT / '.github/workflows/test.yml').read_text())['jobs']['test']['strategy']['matrix'][
        'python'
    ]
    assert named[0] == S['min_python'] and matrix == [named[0], named[-1]]


def test_parameters_tag_survives_nbdev_clean():
    "Without this key nbdev_clean removes papermill's tag, and `-p` is silently ignored."
    assert 'tags' in S['allowed_cell_metadata_keys'].split()


def test_one_quarto_yml():
    "nbs/_quarto.yml is a relative link to the one source."
    assert (
        os.readlink(NBS / '_quarto.yml') == os.path.join('..', '_quarto.yml')
        and not (ROOT / '_quarto.yml').is_symlink()
    )


def test_sidebar_lists_every_notebook_once():
    listed = [
        nb
        for s in yaml.safe_load((ROOT / '_quarto.yml').read_text())['website']['sidebar']['contents']
        for nb in s['contents']
    ]
    assert sorted(listed) == sorted(nb.as_posix() for nb in notebooks()), 'run `make readme`'


def test_readme_names_every_room():
    "And every page of the workshop; `make readme` writes the table."
    readme = (ROOT / 'README.md').read_text()
    wanted = [nb for nb in notebooks() if re.match(r'\d|(bench|train|gpu)_', nb.name)]
    assert [nb.stem for nb in wanted if readme.count(f'\n| [{nb.stem}](nbs/{nb.name}) |') != 1] == []


def test_chapters(monkeypatch):
    "By number, a letter after the last one of a chapter included; what has no number goes by its name."
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import derive

    homes = dict(
        x03z='Numbers and data',
        x04c='Corruptions',
        x05='Networks, losses, sampling',
        x11b='Runs',
        x14='Measuring',
        x14b='Measuring',
        x14c='Auditing',
        x18h='Reproducing',
        x19='Auditing',
        x20='Shell',
    )
    assert {k: derive.chapter(Path(f'{k[1:]}_room.ipynb')) for k in homes} == homes
    named = 'index repro_x reproduce bench_x train_x gpu_x notation tutorials/x'.split()
    assert [derive.chapter(Path(f'{name}.ipynb')) for name in named] == [
        *('Learn', 'Reproductions', 'Reproductions', 'Workshop', 'Workshop', 'Workshop', 'Understand', 'Learn'),
    ]
    with pytest.raises(SystemExit, match='21_new.ipynb: no chapter'):
        derive.chapter(Path('21_new.ipynb'))


def test_links_derive_from_settings():
    "Every link to a repository or page of ours is the one in settings.ini; no other project is linked by mistake."
    assert PROJECT['urls']['Documentation'] == CITATION['url'] == DOCS
    assert PROJECT['urls']['Repository'] == CITATION['repository-code'] == S['git_url']
    ours = re.compile(rf'https://(?:github\.com/[\w.-]+/{S["repo"]}|[\w-]+\.github\.io/{S["repo"]})\b')
    for path in [
        *ROOT.glob('*.md'),
        *ROOT.glob('*.toml'),
        *ROOT.glob('*.cff'),
        *ROOT.glob('.github/workflows/*.yml'),
        ROOT / '_quarto.yml',
    ]:
        for link in ours.findall(path.read_text(encoding='utf-8')):
            assert link in (S['git_url'], DOCS), path.name


def test_relative_links_of_the_readme_lead_somewhere():
    text = (ROOT / 'README.md').read_text()
    assert [to for to in re.findall(r'\]\((?![a-z]+:|#)([^)#]+)', text) if not (ROOT / to).exists()] == []


@pytest.mark.parametrize('script', sorted((ROOT / 'findings').glob('*.sh')), ids=lambda p: p.stem)
def test_findings_stand_alone(script):
    "Bash that can be run, in a folder it removes, with pinned packages and without ours; told in its head and listed."
    text, readme = script.read_text(encoding='utf-8'), (ROOT / 'findings' / 'README.md').read_text(encoding='utf-8')
    subprocess.run(['bash', '-n', script], check=True)
    assert os.access(script, os.X_OK) and readme.count(f'[{script.stem}]({script.name})') == 1
    head, body = text.split('set -euo pipefail\nwork=$(mktemp -d)\ntrap \'rm -rf "$work"\' EXIT\n')
    assert re.findall(r'^# ([A-Z][a-z ]+|ambient_nb):', head, re.M) == [
        'Expected',
        'Happens',
        'Matters to',
        'ambient_nb',
    ]
    wanted = re.findall(r'pip" install --quiet --no-compile (.+)', body)
    packages = [word for word in ' '.join(wanted).split() if word != '--no-deps']
    assert packages and all(re.search(r'==|@[0-9a-f]{40}"$', package) for package in packages) and 'assert ' in body
    assert 'ambient_nb' not in body and max(map(len, text.splitlines())) <= 120


def test_findings_are_told_once():
    told = re.findall(r'\]\((\w+\.sh)\)', (ROOT / 'findings' / 'README.md').read_text(encoding='utf-8'))
    assert sorted(told) == sorted(p.name for p in (ROOT / 'findings').glob('*.sh'))


def test_licence():
    text = (ROOT / 'LICENSE').read_text()
    assert 'Apache License' in text and 'Version 2.0, January 2004' in text and 'END OF TERMS AND CONDITIONS' in text
    assert CITATION['license'] == PROJECT['license'] == 'Apache-2.0'


def test_citation():
    "The fields Citation File Format 1.2.0 requires, only fields it knows, and a paper per key."
    persons = {
        'given-names',
        'family-names',
        'name-particle',
        'name-suffix',
        'alias',
        'affiliation',
        'orcid',
        'email',
        'website',
    }
    assert CITATION['cff-version'] == '1.2.0' and CITATION['type'] == 'software'
    assert set(CITATION) <= {
        'cff-version',
        'message',
        'type',
        'title',
        'abstract',
        'version',
        'license',
        'repository-code',
        'url',
        'keywords',
        'authors',
        'references',
        'date-released',
        'doi',
        'identifiers',
        'contact',
        'preferred-citation',
    }
    assert CITATION['message'] and CITATION['title'] == S['title'] and CITATION['authors'] == [dict(name=S['author'])]
    for paper in CITATION['references']:
        assert {'type', 'title', 'authors', 'year'} <= set(paper) and paper['type'] in ('article', 'conference-paper')
        assert all(set(a) <= persons for a in paper['authors']) and 2020 <= paper['year'] <= date.today().year
        assert all(
            set(i) == {'type', 'value'} and i['type'] in ('doi', 'url', 'swh', 'other')
            for i in paper.get('identifiers', [])
        )
        assert 'journal' in paper or paper['conference']['name']
    assert len({p['title'] for p in CITATION['references']}) == len(CITATION['references']) >= 5


def test_package_is_typed_and_generated():
    "The package holds exported modules, data and py.typed, and nothing written by hand."
    package = ROOT / S['lib_path']
    assert (package / 'py.typed').exists()
    by_hand = {p.stem for p in package.glob('*.py')} - set(rooms()) - {'__init__', '_modidx'}
    assert by_hand == set(), 'not exported from any notebook'


def test_every_exporting_notebook_has_a_number():
    assert [m for m, place in rooms().items() if place is None] == []


def test_nothing_exported_outside_rooms():
    "Repro notebooks export nothing."
    assert [
        nb.name
        for nb in notebooks()
        if not nb.name[0].isdigit() and any(re.search(r'^#\|\s*export', c['source'], re.M) for c in cells(nb))
    ] == []


def test_ruff():
    "Lint, notebooks included."
    done = subprocess.run(
        [sys.executable, '-m', 'ruff', 'check', '--no-cache', '--output-format=concise', '.'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
