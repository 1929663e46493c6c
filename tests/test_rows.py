"Rows: what is committed has not changed, follows the rule, and leads back to the runs that its plan yields."

import hashlib
import json
import re
import shlex
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import pytest
from tree import NBS, cells

from ambient_nb import core, rows as rowing
from ambient_nb.attackarms import attack_runs
from ambient_nb.captionarms import TextRun, caption_arms
from ambient_nb.core import BadInput, content_hash
from ambient_nb.corrupted import corrupted_runs
from ambient_nb.drive import identity
from ambient_nb.frontier import frontier_runs
from ambient_nb.mask_turns import MaskTurns
from ambient_nb.papers import shipped
from ambient_nb.plans import plan
from ambient_nb.promptmoves import FilteredRun
from ambient_nb.protocols import protocol
from ambient_nb.reconstruction import scan_losses, scan_runs
from ambient_nb.restorers import delta_losses, restoration_losses, restorers
from ambient_nb.rows import command_of, load_rows, verdict
from ambient_nb.suite import ITEMS
from ambient_nb.turns import MethodTurns

GOLDEN = json.loads((Path(__file__).parent / 'golden' / 'rows.json').read_text())
ADDED = ('same_nearest',)  # metrics that rows were added for since
FILES = sorted(f.stem for f in (NBS / 'results').glob('*.json') if '"kind": "' in f.read_text())


@lru_cache(maxsize=None)
def stored(name: str) -> list:
    return load_rows(NBS / 'results' / f'{name}.json')


@lru_cache(maxsize=None)
def arms_of_files() -> set:  # keys
    "The runs of all committed arms."
    return {key for name in FILES for r in stored(name) if r.kind == 'arm' for key in r.runs}


@lru_cache(maxsize=None)
def planned(made_by: str):
    "The plan that a row says it was made by."
    return plan(**json.loads(made_by), dry_run=True, device='cpu')


TURNS = {turns.name: turns for turns in (MethodTurns, MaskTurns)}


@lru_cache(maxsize=None)
def protocol_configs(name: str) -> list:
    "The configs of a protocol's runs, whichever sigma_n was chosen, or of those by turns, as JSON has them."
    if name in TURNS:
        turns = [TURNS[name](seed=seed) for seed in (1, 2, 3)]
        found = [t.run(arm) for t in turns for arm in t.arms]
    else:
        parts = [protocol(name, dataset) for dataset in ('cifar10', 'digits')]
        found = [run for p in parts for sigma in p.selection['sigmas'] for run in frontier_runs(p, sigma).values()]
    return json.loads(json.dumps([identity(run.config) for run in found]))


RESTORING = dict(
    ambient_restoration=lambda ps, twins, sigma_ns, **_: restoration_losses(ps, twins, sigma_ns),
    ambient_fig3=lambda p, delta, deltas, **_: delta_losses(*p, (*delta, *deltas)),
)  # item -> the losses of its sizes


@lru_cache(maxsize=None)
def restoring_keys(made_by: str) -> set:
    "The runs of a page about networks that restore."
    asked = json.loads(made_by)
    item, profile, seeds = (asked.pop(k) for k in ('item', 'profile', 'seeds'))
    sizes = {k: () if v == 'none' else tuple(map(float, str(v).split(','))) for k, v in asked.items()}
    budget = {name: int(asked[name]) for name in ('n', 'iters', 'batch')}
    trained = tuple(int(s) + 1 for s in seeds.split(','))
    return {run.key for run in restorers(profile, RESTORING[item](**sizes), trained, **budget).values()}


@lru_cache(maxsize=None)
def scanning_keys(made_by: str) -> set:
    "The runs of the page about scans."
    asked = json.loads(made_by)
    scans, trained = (tuple(map(int, str(asked[k]).split(','))) for k in ('accelerations', 'seeds'))
    losses = {(name, s + 1): loss for name, loss in scan_losses(scans).items() for s in trained}
    budget = {name: int(asked[name]) for name in ('size', 'iters', 'batch')}
    return {run.key for run in scan_runs(asked['profile'], losses, **budget).values()}


CAPTIONED = ('dcr_train', 'text_table', 'dcr_inference')


@lru_cache(maxsize=None)
def captioned_keys(made_by: str) -> set:
    "The runs of a page about captions; one that has fewer questions has no styles, weights or sigma_n."
    asked = dict(styles='none', weights='none', sigma_n=0.2) | json.loads(made_by)
    styles, weights = (() if asked[k] == 'none' else asked[k].split(',') for k in ('styles', 'weights'))
    arms = caption_arms(styles, tuple(map(float, weights)), float(asked['sigma_n']))
    budget = {name: int(asked[name]) for name in ('n', 'iters', 'batch', 'looks')}
    return {TextRun(arm, int(s) + 1, **budget).key for arm in arms.values() for s in asked['seeds'].split(',')}


@lru_cache(maxsize=None)
def attacked_keys(made_by: str) -> set:
    "The runs of the page about attacks."
    asked = json.loads(made_by)
    budget = {name: int(asked[name]) for name in ('n', 'iters', 'batch', 'tuned')}
    sigma_ns = tuple(map(float, asked['sigma_ns'].split(',')))
    bases, tuned = attack_runs([int(s) + 1 for s in asked['seeds'].split(',')], **budget, sigma_ns=sigma_ns)
    return {run.key for runs in (bases, *tuned.values()) for run in runs}


def prompted_keys(made_by: str) -> set:
    "The runs of the pages about prompts known by heart: the captions' baseline, and its filtered twin."
    asked = json.loads(made_by)
    base, budget = caption_arms((), (), 0.2)['baseline'], {k: int(asked[k]) for k in ('n', 'iters', 'batch', 'looks')}
    trained = tuple(int(s) + 1 for s in asked['seeds'].split(','))
    found = {TextRun(base, s, **budget).key for s in trained}
    if 'threshold' in asked:
        found |= {FilteredRun(base, s, **budget, threshold=float(asked['threshold'])).key for s in trained}
    return found


CORRUPTED = ('ambient_fig5', 'ambient_table2')


@lru_cache(maxsize=None)
def corrupted_keys(made_by: str) -> set:
    "The runs of a page about networks of corrupted images."
    asked = json.loads(made_by)
    ps, sigma_ns = (tuple(map(float, asked[k].split(','))) if k in asked else () for k in ('ps', 'sigma_ns'))
    trained = tuple(int(s) + 1 for s in asked['seeds'].split(','))
    budget = {k: int(asked[k]) for k in ('n', 'iters', 'batch', 'looks', 'samples', 'steps')}
    losses = restoration_losses(ps, (), sigma_ns)
    runs = corrupted_runs(asked['network'], losses, trained, dataset=asked['dataset'], **budget)
    return {run.key for run in runs.values()}


def numbers(r: rowing.Row) -> tuple:
    return (r.id, r.ours.value, r.ours.lo, r.ours.hi, r.ours.n, r.verdict)


@pytest.mark.parametrize('name', GOLDEN)
def test_published_numbers_are_those_of_commit_3d93330(name):
    "Whoever changes one on purpose runs the notebook again and puts its new hash into tests/golden/rows.json."
    told = json.dumps([numbers(r) for r in stored(name) if r.labels['metric'] not in ADDED])
    assert hashlib.sha256(told.encode()).hexdigest() == GOLDEN[name]


@pytest.mark.parametrize('name', FILES)
def test_every_committed_row_leads_to_runs_of_its_plan(name):
    for r in stored(name):
        if 'command' in r.made_by:  # a protocol's runs, which need images that are not in the tree
            configs = [settings['config'] for settings in r.runs.values()]
            assert r.kind in ('null', 'copier') or all(c in protocol_configs(r.made_by['item']) for c in configs), r.id
            continue
        if r.made_by['item'] == 'locality' and r.runs:  # a page about Table 1's networks
            asked = dict(profile=r.profile, n=r.labels['n'], seeds='1,2,3')
            assert set(r.runs) <= {run.key for run in planned(json.dumps(dict(asked, item='table1'))).runs}, r.id
            continue
        if r.made_by['item'] in RESTORING and r.runs:  # pages about networks that restore
            assert set(r.runs) <= restoring_keys(json.dumps(r.made_by)), r.id
            continue
        if r.made_by['item'] == 'ambient_mri' and r.runs:
            assert set(r.runs) <= scanning_keys(json.dumps(r.made_by)), r.id
            continue
        if r.made_by['item'] in CAPTIONED:
            assert r.runs and set(r.runs) <= captioned_keys(json.dumps(r.made_by)), r.id
            continue
        if r.made_by['item'] == 'tweedie_attacks':
            assert r.runs and set(r.runs) <= attacked_keys(json.dumps(r.made_by)), r.id
            continue
        if r.made_by['item'] in ('detect_roc', 'detect_mitigation'):
            assert r.runs and set(r.runs) <= prompted_keys(json.dumps(r.made_by)), r.id
            continue
        if r.made_by['item'] in CORRUPTED:
            assert set(r.runs) <= corrupted_keys(json.dumps(r.made_by)) and bool(r.runs) == (r.kind != 'null'), r.id
            continue
        if r.kind == 'fit':  # of arms of this file and of others
            assert r.runs and set(r.runs) <= arms_of_files(), r.id
            continue
        if r.made_by['item'] not in ITEMS:
            assert r.kind == 'law' and not r.runs, r.id
            continue
        p = planned(json.dumps(r.made_by))
        sides = {(a.n, a.name): (a,) for a in p.arms} | {(q.a.n, q.name): (q.a, q.b) for q in p.pairs}
        sides |= {(a.n, f'{a.name} − {a.name}'): (a, a) for a in p.arms}  # two ways down from one network
        if r.kind in ('arm', 'pair'):
            sole = p.pairs[0].name if r.labels['method'] == 'difference' else r.labels['method']
            arms = sides[r.labels['n'], r.labels.get('pair', sole).replace(', truncated', '')]  # samples stopped early
            assert len(arms) == 1 + (r.kind == 'pair') and r.labels['it'] in arms[0].snapshots
            runs = [p.run(a, s) for a in arms for s in r.seeds]
            assert list(r.runs) == list(dict.fromkeys(part.key for run in runs for part in run.parts)), r.id
            assert r.data['train'] == runs[0].images.sha
        else:
            assert not r.runs and r.data['train'] in {run.images.sha for run in p.runs}, r.id


@pytest.mark.parametrize('name', FILES)
def test_a_key_is_the_hash_of_what_stands_beside_it(name):
    for r in stored(name):
        for key, settings in r.runs.items():
            assert content_hash(dict(settings, numerics=r.numerics)) == key
            assert settings['config'].get('seed', 0) in r.seeds


@pytest.mark.parametrize('name', FILES)
def test_a_command_says_all_that_a_row_was_made_by(name):
    for row in {json.dumps(r.made_by): r for r in stored(name)}.values():
        words = shlex.split(command_of(row))
        if 'command' in row.made_by:
            assert words[0] == 'python' and (NBS.parent / words[1]).is_file()
            continue
        assert words[:2] == ['ambient-nb', 'reproduce'] and words[3] == '--profile'
        given = dict(word.split('=', 1) for word in words[6::2])
        page = next(c for c in cells(Path(f'{words[2]}.ipynb')) if 'parameters' in c['metadata'].get('tags', []))
        assert set(given) <= set(re.findall(r'^(\w+) = ', page['source'], re.M))
        if row.made_by['item'] in ITEMS:
            again = plan(words[2].removeprefix('repro_'), profile=words[4], **given, dry_run=True, device='cpu')
            assert again.made_by == row.made_by


def test_committed_rows_follow_the_rule_that_was_written_before():
    "Every published verdict is what the rule says of the published numbers; the selection has ids of before."
    claims = {c.id: c for p in shipped().values() for c in p.claims}
    for r in (r for name in FILES if not name.startswith('select') for r in stored(name)):
        assert r.verdict == verdict(
            claims.get(r.claim),
            r.ours,
            r.detail.get('values', ()),
            profile=r.profile,
            margin=r.detail.get('margin', 0.0),
        ), r.id
        if r.claim and r.kind == 'pair' and len(r.seeds) < 3 and 'command' not in r.made_by:
            assert r.verdict.startswith('underpowered') or claims[r.claim].paper_only


def test_show_finds_each_home_of_a_row(tmp_path):
    "A row of Table 1 may also stand among those by which sigma_n was chosen."
    told = rowing.chain('table1/digits/300/baseline/3300/memorized', tmp_path)
    homes = re.findall(r' in (\S+)\.json\n', told)
    assert homes == ['repro_table1.quick', *(f'select_sigma_n.{s}' for s in ('0.2', '0.4', '0.7'))]
    for r in (r for r in stored('repro_table1.quick') if r.kind == 'pair' and r.labels['it'] == 3300):
        told = rowing.chain(r.id, tmp_path)
        assert rowing.chain(r.id.replace('−', '-'), tmp_path) == told, 'no keyboard has a minus sign'
        assert all(key in told for key in r.runs) and r.provenance['commit'] in told and command_of(r) in told
    with pytest.raises(BadInput, match='such as table1/digits/50/baseline'):
        rowing.chain('table1/digits/50/baselin/550/memorized')


def test_a_run_on_this_machine_is_compared(tmp_path):
    from ambient_nb.checkpoints import save_json

    r = next(r for r in stored('repro_table1.quick') if r.kind == 'arm')
    key, settings = next(iter(r.runs.items()))
    folder = tmp_path / 'train' / key
    for seed, said in ((1, f'in {folder}'), (2, 'not what')):
        save_json(folder / 'config.json', dict(identity=dict(settings['config'], seed=seed), data=settings['data']))
        assert f'{key}, seed 1: {said}' in rowing.chain(r.id, tmp_path)
    assert rowing.run_state(key, settings, r.numerics + 1, tmp_path) == 'not the key of these settings'


def test_outside_a_checkout_there_are_no_rows(monkeypatch):
    monkeypatch.setattr(core, 'root', lambda: None)
    assert rowing.committed('repro_table1', 'quick') == []
    with pytest.raises(BadInput, match='those in nbs/results'):
        rowing.chain('table1')


def test_stored_rows_are_the_same_rows(tmp_path):
    for name in ('repro_table1.quick', 'repro_theory_feldman.quick'):
        again = load_rows(rowing.save_rows(stored(name), tmp_path / 'rows.json'))
        assert [asdict(r) for r in again] == [asdict(r) for r in stored(name)]
