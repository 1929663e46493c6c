"What is printed and claimed, beside rows: a reader's value, every claim of every paper, the cost of a notebook once."

import json
import re
from dataclasses import replace

import pytest

from tree import NBS, cells

from ambient_nb.claims import (
    blog_post,
    blog_table,
    claims_table,
    counts_in_words,
    printed_values,
    tried_afterwards,
    verdict_counts,
)
from ambient_nb.papers import claim, known, papers, set_printed
from ambient_nb.rows import committed, load_rows, verdict
from ambient_nb.tables import cost, methods_table, pick_rows


@pytest.fixture
def given(tmp_path, monkeypatch):
    "A reader's own file of printed values, and none when it is called off."
    monkeypatch.setenv('AMBIENT_NB_CLAIMS', str(tmp_path / 'mine.json'))
    papers.cache_clear()

    def give(values):
        (tmp_path / 'given.json').write_text(json.dumps(values))
        set_printed(tmp_path / 'given.json')

    yield give
    papers.cache_clear()


def test_a_readers_fid_stands_beside_our_distance(given):
    "And never judges it."
    id = 'table1/cifar10/300/baseline/frechet'
    (row,) = pick_rows(committed('repro_table1', 'quick'), n=300, it=3300, method='baseline', metric='frechet')
    row = replace(row, claim=id)
    judged = replace(row, labels=dict(row.labels, method='difference'), claim='table1/direction/frechet')
    assert methods_table([row, judged]).printed.tolist() == ['not available']
    given({id: 12.5})
    assert claim(id).printed == 12.5 and verdict(claim(id), row.ours, profile='paper') == 'not comparable'
    assert methods_table([row, judged]).printed.tolist() == ['Fréchet distance 12.50']
    assert printed_values('repro_table1').loc[('cifar10', 'baseline', 'Fréchet distance'), 300] == '12.50'


@pytest.mark.parametrize('key', papers())
def test_every_claim_is_listed_with_what_it_expects(key):
    table = claims_table(key, [], ('direction', 'comparison', 'law', 'value')).set_index('claim')
    assert set(table.index) == {c.id for c in papers()[key].claims} and set(table.ours) == {'no row yet'}
    for c in papers()[key].claims:
        law = f'{c.inequality} 0' if c.expected is None else f'{c.expected:g}'
        assert table['printed or expected'][c.id] == (c.printed_text if c.kind == 'value' else law)


def test_the_cost_of_a_notebook_stands_with_its_claims_only():
    rows = committed('repro_ablation_split', 'quick')
    spent = claims_table('main', rows).set_index('claim')['cost of the notebook']
    own = {'ablation_split/above/memorized', 'ablation_split/below/memorized'}
    assert set(spent[sorted(own)]) == {cost(rows).split(';')[0]} and set(spent.drop(sorted(own))) == {''}


def test_networks_are_counted_apart_from_mathematics():
    "What a claim is about shows in its rows: only networks have runs. Nothing that was tried afterwards counts."
    found = [r for file in sorted((NBS / 'results').glob('repro_*.json')) for r in load_rows(file)]
    asked = [r for r in found if r.claim and claim(r.claim).kind != 'value' and not tried_afterwards(r)]
    by_runs = dict.fromkeys(verdict_counts([]), 0)
    for r in asked:
        trained = r.kind != 'law'
        assert claim(r.claim).about == ('trained networks' if trained else 'identities'), r.id
        by_runs[claim(r.claim).about] += 1
    counts = verdict_counts(found)
    assert {about: sum(words.values()) for about, words in counts.items()} == by_runs
    assert counts['identities']['fail'] == sum(r.verdict == 'fails' for r in asked)
    assert counts['trained networks']['not comparable'] == sum(bool(claim(r.claim).paper_only) for r in asked) == 8
    assert all(
        f'{number:,} {word}' in counts_in_words(found) for words in counts.values() for word, number in words.items()
    )


@pytest.mark.parametrize('page', ['repro_diffmem_fig1', 'repro_diffmem_fig2'])
def test_a_claim_of_the_papers_own_scale_says_why_on_its_page(page):
    (only,) = [c for c in papers()['diffmem'].claims if c.paper_only and c.notebook == page]
    shown = [o for c in cells(f'{page}.ipynb') for o in c.get('outputs', [])]
    assert only.paper_only.startswith('2026-11-27') and only.paper_only[:40] in json.dumps(shown, ensure_ascii=False)
    rows = [r for profile in ('quick', 'custom') for r in committed(page, profile) if r.claim == only.id]
    assert rows and {r.verdict for r in rows} == {'not comparable'}


def test_the_blog_post_leads_to_pages_and_claims():
    "Each figure stands in a line, and each check has its notebook and begins the id of a claim."
    lines = blog_post()['lines']
    assert [n for line in lines for n in re.findall(r'Figure (\d)', line['where'])] == list('123456789')
    checks = {check for line in lines for check in line['checks']}
    assert all((NBS / f'repro_{check.partition("/")[0]}.ipynb').exists() for check in checks)
    for check in checks:
        assert any(id.startswith(check if '/' in check else f'{check}/') for id in known()), check
    assert len(blog_table([])) == len(lines) and all(bool(line['checks']) != bool(line['reason']) for line in lines)
