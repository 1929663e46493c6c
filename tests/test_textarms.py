"The text table: what is asked, how prompts are moved, and that every claim has an arm."

from collections import Counter
from pathlib import Path

import torch
from page_rows import judged, rows_of
from tree import cells

from ambient_nb.captionarms import TextRun, caption_arms
from ambient_nb.mitigations import TRAIN_TIME
from ambient_nb.papers import papers
from ambient_nb.sampling import start_noise
from ambient_nb.text import Words
from ambient_nb.textdifference import text_difference
from ambient_nb.textlooks import ASKED, Moving, asked_words, moved_prompts, training_question
from ambient_nb.textmitigation import moved_prompt


class Hears:
    "A denoiser of which every token moves the picture in a direction of its own."

    shape, sigmas, sigma_min, sigma_max = (1, 4, 4), None, 0.002, 80.0

    def embed(self, prompts):
        return Words(torch.stack([torch.full((3, 2), float(len(p))) for p in prompts]))

    def __call__(self, x, sigma, labels=None):
        if labels is None:
            return 0.5 * x
        pull = labels.tokens.flatten(1) @ torch.linspace(-1, 1, 6 * 16).reshape(6, 16).to(labels.tokens)
        return 0.5 * x + pull.tanh().reshape(-1, 1, 4, 4).to(x)


def test_prompts_moved_together_are_prompts_moved_one_by_one():
    D, x = Hears(), 3.0 * start_noise(range(4), Hears.shape)
    words = Words(torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0)))
    target = text_difference(D, x, 3.0, words).median().item()
    moved, taken = moved_prompts(D, words, x, 3.0, target)
    alone = [moved_prompt(D, words.take([k]), x[k : k + 1], 3.0, target) for k in range(4)]
    assert taken.tolist() == [one.steps for one in alone] and 0 in taken and len({*taken.tolist()}) > 1
    torch.testing.assert_close(moved.tokens, torch.cat([one.words.tokens for one in alone]))


def test_what_is_moved_meets_the_noise_that_the_picture_begins_with():
    D = Hears()
    noise, words = 80.0 * start_noise(range(3), D.shape), D.embed(['a', 'bb', 'ccc'])
    begun = text_difference(D, noise, 80.0, words).mean().item()
    wanted = moved_prompts(D, words, noise, 80.0, 0.9 * begun)[0].tokens
    assert torch.equal(asked_words(D, ['a', 'bb', 'ccc'], Moving(0.9)).tokens, wanted)
    assert torch.equal(asked_words(D, ['a', 'bb', 'ccc'], Moving(2.0)).tokens, words.tokens)
    assert not torch.equal(wanted, words.tokens)


def test_every_arm_is_asked_the_same():
    arms = caption_arms((), (), 0.2)
    asked = [(run.images, run.config.duplication) for run in (TextRun(arm, 2, 30, 4, 8) for arm in arms.values())]
    first, *others = [training_question(*about, 3) for about in asked]
    assert len(first.prompts) == 90 and first.prompts[:30] == first.prompts[60:] and first.often.sum() == 18
    for other in others:
        assert other.prompts == first.prompts and torch.equal(other.often, first.often)
        assert torch.equal(other.digits, first.digits)


def test_every_claim_has_an_arm():
    rivals = [*TRAIN_TIME, *(name for name in ASKED if name != 'numbers')]
    topics = ['two-regime', *(f'against/{name}' for name in rivals)]
    wanted = {f'text_table/{topic}/equal-copying/{metric}' for topic in topics for metric in ('kid', 'alignment')}
    mine = {c.id for c in papers()['text'].claims if c.kind != 'value'}
    assert mine == wanted | {'text_table/moved/same-budget/memorized'}
    asked = {c.id for c in papers()['dcr'].claims if c.notebook == 'repro_dcr_inference'}
    ways = [name for name in ASKED if name != 'moved']
    assert asked == {f'dcr_inference/{name}/{metric}' for name in ways for metric in ('memorized', 'alignment')}


def by_name(item: str) -> dict:
    return {r.id.split('/', 1)[1]: r for r in rows_of(item)}


def prose(item: str) -> str:
    texts = [c['source'] for c in cells(Path(f'repro_{item}.ipynb')) if c['cell_type'] == 'markdown']
    return next(text for text in texts if text.startswith('## What the rows say'))


def short(x: float, digits: int = 3) -> str:
    return f'{x:.{digits}f}'.replace('-', '−').replace('0.', '.', 1)


def interval(e, sign: int = 1) -> str:
    lo, hi = sorted((sign * e.lo, sign * e.hi))
    return f'{short(sign * e.value)} [{short(lo)}, {short(hi)}]'


def percent(r) -> str:
    return f'{100 * r.ours.value:.0f}'


def test_the_text_table_says_what_its_rows_say():
    r, told, found = by_name('text_table'), prose('text_table'), judged('text_table')
    ends = {name: {m: percent(r[f'{name}/{m}']) for m in ('memorized', 'alignment')} for name in ('baseline', 'mixup')}
    assert {name: percent(r[f'{name}/memorized']) for name in ('two-regime', 'baseline')} == {
        'two-regime': '30',
        'baseline': '60',
    }
    for name in ('two-regime', 'baseline', 'repeat', 'add', 'moved', 'training images'):
        assert short(r[f'{name}/kid'].ours.value) in told, name
    asked = [r[f'{name}/{metric}'] for metric in ('memorized', 'alignment') for name in ('repeat', 'add', 'moved')]
    assert [*map(percent, asked)] == ['8', '5', '18', '77', '57', '57'] and ends['baseline']['alignment'] == '99'
    assert '8, 5 and 18 %' in told and '77, 57 and 57 %' in told and ends['mixup']['alignment'] == '9'
    for name in ('two-regime/equal-copying/kid', 'two-regime/equal-copying/alignment', 'RC/equal-copying/alignment'):
        assert interval(r[name].ours) in told, name
    assert interval(r['against/MC/equal-copying/kid'].ours, -1) in told
    assert interval(r['against/MC/equal-copying/alignment'].ours) in told
    words = Counter(row.verdict for row in found.values() if row.labels['metric'] != 'memorized')
    assert words == {'better': 7, 'not worse': 7, 'undecided': 6}
    assert 'seven are better, seven not worse and six undecided' in told
    assert {row.verdict for row in found.values() if row.labels['metric'] == 'memorized'} == {'same direction'}
    half = (r['two-regime/equal-copying/kid'].ours.hi - r['two-regime/equal-copying/kid'].ours.lo) / 2
    assert 0.28 < half / r['two-regime/equal-copying/kid'].detail['base'] < 0.38
    assert not any(name.startswith('against/add') for name in r)


def test_the_page_on_asking_says_what_its_rows_say():
    r, told, found = by_name('dcr_inference'), prose('dcr_inference'), judged('dcr_inference')
    ends = {
        name: tuple(percent(r[f'{name}/{metric}']) for metric in ('memorized', 'alignment'))
        for name in (id.rpartition('/')[0] for id in r if id.endswith('similarity'))
    }
    assert ends == {
        'baseline': ('60', '99'),
        'noise 0.1': ('48', '99'),
        'noise 0.3': ('14', '83'),
        'noise 1': ('1', '28'),
        'add 2': ('11', '76'),
        'add 4': ('5', '57'),
        'numbers 2': ('12', '76'),
        'numbers 4': ('3', '59'),
        'repeat 2': ('20', '88'),
        'repeat 4': ('8', '77'),
    }
    for text in ('20, 11 and 12 % copies', 'at 88, 76 and 76 %', '14 % at 83 %', 'λ = 1 leaves 1 %', '28 % show'):
        assert text in told, text
    kids = [short(r[f'{name}/kid'].ours.value) for name in ('baseline', 'repeat 4', 'numbers 4', 'add 4')]
    assert f'from {kids[0]} to {kids[1]}, {kids[2]} and {kids[3]}' in told
    words = {id.removeprefix('dcr_inference/'): row.verdict for id, row in found.items()}
    assert {v for id, v in words.items() if id.endswith('memorized')} == {'same direction'}
    assert {id for id, v in words.items() if v == 'not worse'} == {'noise/alignment'}
    assert sum(v == 'worse' for v in words.values()) == 3 and len(words) == 8
    half = [seed[1] for seed in r['baseline/memorized'].detail['looks']]
    assert {look['it'] for look in half} == {400}
    assert [f'{100 * sum(look[m] for look in half) / 3:.0f}' for m in ('memorized', 'alignment')] == ['6', '95']
    four, plain = ([seed[-1] for seed in r[f'{name}/memorized'].detail['looks']] for name in ('add 4', 'baseline'))
    often = [f'{100 * sum(look[kind] for look in of) / 3:.0f}' for kind in ('often', 'seldom') for of in (four, plain)]
    assert often == ['15', '87', '2', '53']


def test_both_pages_read_the_same_looks():
    table, asked = by_name('text_table'), by_name('dcr_inference')
    for ours, theirs in {'baseline': 'baseline', 'noise': 'noise 0.1', 'add': 'add 4', 'repeat': 'repeat 4'}.items():
        for metric in ('memorized', 'kid', 'alignment'):
            assert table[f'{ours}/{metric}'].ours == asked[f'{theirs}/{metric}'].ours
