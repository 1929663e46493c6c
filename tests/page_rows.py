"The rows that a page carries, and what holds of all that speak to its claims."

from functools import lru_cache

from tree import NBS, cells

from ambient_nb.papers import known
from ambient_nb.rows import load_rows, verdict


@lru_cache(maxsize=None)
def rows_of(item: str, profile: str = 'quick') -> list:
    return load_rows(NBS / 'results' / f'repro_{item}.{profile}.json')


def judged(item: str) -> dict:
    "Claim id -> the row that speaks to it, each judged as today's rule would; a rival may have met no seed."
    found = {r.claim: r for r in rows_of(item) if r.claim}
    asked = {c.id: c for c in known().values() if c.notebook == f'repro_{item}' and c.kind != 'value'}
    assert set(found) <= set(asked) and {asked[id].kind for id in set(asked) - set(found)} <= {'comparison'}
    for id, r in found.items():
        by_rule = dict(profile=r.profile, margin=r.detail.get('margin', 0.0))
        assert r.verdict == verdict(asked[id], r.ours, r.detail['values'], **by_rule), id
        assert r.profile == 'quick' and (r.runs or asked[id].kind == 'law'), id
    return found


def prose(page):
    "What a page says of its rows, with plain minus signs."
    (said,) = [
        ''.join(c['source']) for c in cells(f'{page}.ipynb') if ''.join(c['source']).startswith('## What the rows')
    ]
    return said.replace('−', '-')


def as_said(v, digits=2):
    "A number as prose has it: without its zero."
    return f'{v:.{digits}f}'.replace('0.', '.')


def with_interval(e, digits=2):
    "An estimate as prose has it."
    return f'{as_said(e.value, digits)} [{as_said(e.lo, digits)}, {as_said(e.hi, digits)}]'
