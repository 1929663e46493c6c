"""Write what follows from settings.ini and the notebooks: identity and version, chapters, the sidebar, README.md.

Run by `make readme`; tests/test_sync.py holds that a second run leaves no diff.
"""

import configparser
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / 'nbs'
SETTINGS = configparser.ConfigParser()
SETTINGS.read(ROOT / 'settings.ini', encoding='utf-8')
S = SETTINGS['DEFAULT']
GIT, DOCS = S['git_url'], S['doc_host'] + S['doc_baseurl']
CHAPTERS = {  # title -> the numbers of its rooms, first to last; 16_ ends before 16a
    'Numbers and data': '00-03 16-16_',
    'Corruptions': '04',
    'Networks, losses, sampling': '05-09',
    'Runs': '10-11',
    'Measuring': '12-14b',
    'Auditing': '14c-14z 19-19a',
    'Text to image': '15 16a-16z 19b',
    'Reproducing': '17-18',
    'Shell': '19c 20',
}
# The first word of a name -> where it stands without a number.
BY_NAME = dict.fromkeys(('bench', 'gpu', 'survival', 'train'), 'Workshop')
BY_NAME |= dict.fromkeys(('repro', 'reproduce'), 'Reproductions')


def write_fields(
    name: str,  # file under the root, with one `key<sep>value` a line
    fields: dict[str, str],  # line start -> value after it
) -> None:
    "Set top-level fields of a text file, each of which must be there exactly once."
    path = ROOT / name
    text = path.read_text(encoding='utf-8')
    for key, value in fields.items():
        text, found = re.subn(rf'^{re.escape(key)}.*$', lambda _: f'{key}{value}', text, flags=re.M)
        if found != 1:
            raise SystemExit(f'{name}: expected one line that starts with {key!r}, found {found}')
    path.write_text(text, encoding='utf-8')


def place(nb: Path) -> str | None:  # '04b'
    "A room's number, with its letter."
    found = re.match(r'\d\d[a-z]*(?=_)', nb.name)
    return found and found[0]


def chapter(nb: Path) -> str:
    "The part of the book that a notebook belongs to: a room by its number, any other by the first word of its name."
    if number := place(nb):
        for title, spans in CHAPTERS.items():
            for first, _, last in (span.partition('-') for span in spans.split()):
                last = last or first
                if first <= number and number[: len(last)] <= last:
                    return title
        raise SystemExit(f'{nb.name}: no chapter of tools/derive.py has room {number}')
    if nb.name == S['readme_nb'] or nb.parent.name == 'tutorials':
        return 'Learn'
    return BY_NAME.get(nb.name.split('_')[0].removesuffix('.ipynb'), 'Understand')


def chapters() -> dict[str, list[Path]]:  # title -> notebooks, relative to nbs/
    "Every notebook, once, in reading order."
    found = sorted(nb.relative_to(NBS) for nb in NBS.rglob('*.ipynb'))
    found = [nb for nb in found if not any(part[0] in '._' or part == 'runs' for part in nb.parts)]
    found.sort(key=lambda nb: nb.name != S['readme_nb'])
    members = {title: [] for title in ('Learn', 'Reproductions', 'Understand', *CHAPTERS, 'Workshop')}
    for nb in found:
        members[chapter(nb)].append(nb)
    return {title: nbs for title, nbs in members.items() if nbs}


def claim(nb: Path) -> str:
    "The sentence under its title."
    first = nbformat.read(NBS / nb, 4).cells[0].source
    return first.split('> ', 1)[1].strip()


def write_rooms() -> None:
    "The table below the last sentence of the index's cell on rooms: chapters, rooms, what each claims."
    lines = ['| room | |', '|---|---|']
    for title, members in chapters().items():
        if title in CHAPTERS or title == 'Workshop':
            lines += [f'| **{title}** | |', *(f'| [{nb.stem}]({nb.as_posix()}) | {claim(nb)} |' for nb in members)]
    path = NBS / S['readme_nb']
    nb = nbformat.read(path, 4)
    (cell,) = [c for c in nb.cells if c.source.startswith('## The rooms')]
    cell.source = '\n'.join([cell.source.split('\n|')[0].rstrip('\n'), '', *lines])
    nbformat.write(nb, path)


def sidebar() -> str:  # YAML, indented to stand under `contents:`
    "Every notebook, by chapter."
    lines = []
    for title, members in chapters().items():
        lines += [
            f'      - section: {title}',
            '        contents:',
            *(f'          - {nb.as_posix()}' for nb in members),
        ]
    return '\n'.join(lines) + '\n'


def write_sidebar() -> None:
    "Fill the marked part of _quarto.yml."
    path = ROOT / '_quarto.yml'
    start, end = '      # sidebar: written by tools/derive.py\n', '      # end of sidebar\n'
    head, rest = path.read_text(encoding='utf-8').split(start)
    path.write_text(head + start + sidebar() + end + rest.split(end)[1], encoding='utf-8')


def badges() -> str:  # one line of markdown
    "Tests, docs and licence, from the identity in settings.ini."
    return (
        f'[![test]({GIT}/actions/workflows/test.yml/badge.svg)]({GIT}/actions/workflows/test.yml) '
        f'[![docs]({GIT}/actions/workflows/docs.yml/badge.svg)]({DOCS}) '
        f'[![licence: Apache-2.0](https://img.shields.io/badge/licence-Apache--2.0-blue.svg)]({GIT}/blob/{S["branch"]}/LICENSE)'
    )


def relink(text: str) -> str:  # the same markdown, seen from the root
    "Point relative links outside code blocks to nbs/."
    prose_and_code = re.split(r'(^```.*?^```)', text, flags=re.M | re.S)
    prose_and_code[::2] = [re.sub(r'\]\((?![a-z]+:|#|/)([^)]+)\)', r'](nbs/\1)', part) for part in prose_and_code[::2]]
    return ''.join(prose_and_code)


def write_readme() -> None:
    "The index notebook as markdown: its hidden cells and directives dropped, its figures under nbs/images/."
    nb = nbformat.read(NBS / S['readme_nb'], 4)
    nb.metadata['language_info'] = dict(name='python')
    nb.cells = [c for c in nb.cells if not re.search(r'^#\|\s*(hide|default_exp)\b', c.source, re.M)]
    for c in nb.cells:
        if re.search(r'^#\|\s*echo:\s*false', c.source, re.M):
            c.metadata['transient'] = dict(remove_source=True)
        c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M)
    nb.cells[0].source = re.sub(r'^(# .*\n)', lambda m: f'{m[1]}\n{badges()}\n', nb.cells[0].source, count=1)
    text, resources = MarkdownExporter().from_notebook_node(nb, dict(output_files_dir='images', unique_key='index'))
    for stale in (NBS / 'images').glob('index_*'):
        stale.unlink()
    for name, content in resources['outputs'].items():
        (NBS / name).parent.mkdir(exist_ok=True)
        (NBS / name).write_bytes(content)
    text = relink(re.sub(r'<style.*?</style>\n?', '', text, flags=re.S))
    text = re.sub(r'[ \t]+$', '', text, flags=re.M)
    (ROOT / 'README.md').write_text(re.sub(r'\n{3,}', '\n\n', text).strip() + '\n', encoding='utf-8')


if __name__ == '__main__':
    write_fields(
        'pyproject.toml',
        {
            'version = ': f'"{S["version"]}"',
            'Repository = ': f'"{GIT}"',
            'Documentation = ': f'"{DOCS}"',
            'Changelog = ': f'"{GIT}/blob/{S["branch"]}/CHANGELOG.md"',
        },
    )
    write_fields('CITATION.cff', {'version: ': S['version'], 'repository-code: ': f'"{GIT}"', 'url: ': f'"{DOCS}"'})
    write_sidebar()
    write_rooms()
    write_readme()
