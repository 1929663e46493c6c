"The notation page and the ledger: every label that is cited has an entry, with the numbers its claims are judged by."

import re

import pytest
from tree import NBS, ROOT, cells, notebooks

from ambient_nb.papers import shipped

# As it is cited: A.1, A.4 T6, A.4, T2, A.5.3, 'A.5, point 10', 'A.5.3–5'. Not: Appendix F.2 of another paper.
CITED = re.compile(r'(?<!Appendix )(?<![\w.])([A-F]\.\d+)(?:,? (T\d)\b|(?:\.|,? point )(\d+)(?:–(\d+))?)?(?![\w])')
ENTRY = re.compile(r'^(?:#+ |\| )([A-F]\.\d+(?:\.\d+| T\d)?)\b(.*?)(?=^#|^\| [A-F]\.\d|\Z)', re.M | re.S)
NUMBER = re.compile(r'(?<![\w.])-?(?:\d[\d,]*)?\.?\d+(?:e-?\d+)?')
PAGE = 'notation.ipynb'
POINTS = dict(A=18, B=7, C=7, D=8)  # of the ledger, sections A.5 to D.5
NOT_SHOWN = {'A.5.11', 'A.5.12', 'B.5.1', 'D.5.6', 'D.5.8'}
CLAIMS = [c for p in shipped().values() for c in p.claims]


def labels(text):
    "Normal forms of the labels that a text cites."
    for section, theorem, point, last in CITED.findall(text):
        if theorem:
            yield f'{section} {theorem}'
        elif point:
            yield from (f'{section}.{i}' for i in range(int(point), int(last or point) + 1))
        else:
            yield section


FOUND = ENTRY.findall('\n\n'.join(c['source'] for c in cells(PAGE) if c['cell_type'] == 'markdown'))
ENTRIES = dict(FOUND)  # label -> what stands there


def numbers(text):
    return {float(v.replace(',', '')) for v in NUMBER.findall(text)}


def missing(text):
    return sorted(set(labels(text)) - set(ENTRIES))


def test_labels_are_read_as_they_are_cited():
    assert list(labels('A.1; A.4 T6, measured; A.4, T2; A.5 point 7; A.5, point 10; A.5.3–5; (B.2) C.5, D.1.')) == [
        'A.1',
        'A.4 T6',
        'A.4 T2',
        'A.5.7',
        'A.5.10',
        'A.5.3',
        'A.5.4',
        'A.5.5',
        'B.2',
        'C.5',
        'D.1',
    ]
    assert list(labels('Karras et al. 2022, Appendix F.2; Sec. 4.2; F.conv2d; 1.5')) == []


def test_no_label_twice():
    assert len(FOUND) == len(ENTRIES)


def test_claims_cite_entries():
    assert {c.id: m for c in CLAIMS if (m := missing(c.source))} == {}


@pytest.mark.parametrize('nb', [nb for nb in notebooks() if nb.name != PAGE], ids=str)
def test_pages_cite_entries(nb):
    "Labels with a letter anywhere on the page; a bare T1 in its prose is A.4's."
    page = cells(nb)
    bare = {f'A.4 {t}' for c in page if c['cell_type'] == 'markdown' for t in re.findall(r'\bT\d\b', c['source'])}
    assert missing('\n'.join(c['source'] for c in page)) == [] and bare <= set(ENTRIES)


def test_tests_cite_entries():
    assert {
        p.name: m
        for p in (ROOT / 'tests').glob('test_*.py')
        if p.name != 'test_notation.py' and (m := missing(p.read_text(encoding='utf-8')))
    } == {}


def test_an_entry_holds_the_numbers_of_its_claims():
    "Each expected or printed number, 0 and 1 apart, stands in an entry that its claim cites; shares as percent."
    for c in CLAIMS:
        value = c.printed if c.kind == 'value' else c.expected if c.law in ('identity', 'range') else None
        cited = list(labels(c.source))
        if not cited or value in (None, 0, 1):
            continue
        wanted = round(100 * value, 6) if c.kind == 'value' else value
        assert any(wanted in numbers(ENTRIES[label]) for label in cited), f'{c.id}: {wanted} stands in none of {cited}'


def test_entries_lead_to_a_page():
    "Each heading's entry links a notebook of ours that exists; rows of the points stand under such a heading."
    for c in cells(PAGE):
        if c['cell_type'] == 'markdown' and re.match(r'### [A-F]\.', c['source']):
            to = re.findall(r'\]\(([\w.]+\.ipynb)\)', c['source'])
            assert to and all((NBS / name).exists() for name in to), c['source'].split('\n')[0]


def test_nothing_cites_what_a_reader_cannot_open():
    "No page, claim or test names a file of notes that is not in the repository."
    private = 'papers' + '.md'
    files = [
        *NBS.rglob('*.ipynb'),
        *(ROOT / 'ambient_nb').rglob('*.json'),
        *(ROOT / 'ambient_nb').glob('*.py'),
        *(ROOT / 'tests').glob('*.py'),
        *(ROOT / 'tools').glob('*.py'),
        *ROOT.glob('*.md'),
    ]
    assert [p.name for p in files if private in p.read_text(encoding='utf-8')] == []


def test_the_ledger_has_every_point():
    "A heading for each point; below it a cell that asserts it, or the reason why there is none."
    found, content = {}, cells('ledger.ipynb')
    for i, c in enumerate(content):
        heading = re.match(r'### ([A-D]\.5\.\d+) (.*)', c['source']) if c['cell_type'] == 'markdown' else None
        if heading:
            found[heading[1]] = (heading[2], content[i + 1] if i + 1 < len(content) else None)
    assert list(found) == [f'{paper}.5.{i}' for paper, count in POINTS.items() for i in range(1, count + 1)]
    for point, (title, following) in found.items():
        shown = following is not None and following['cell_type'] == 'code'
        assert shown == (point not in NOT_SHOWN) == (not title.endswith(': not shown')), point
        assert not shown or 'assert' in following['source'], f'{point} asserts nothing'
