"Plans of fine-tunings: commands that the shell takes, captions that hang on a picture alone, and the pages' rows."

import inspect
import shlex

import pytest
from page_rows import judged, rows_of
from sd import needs_sd
from tree import cells

from ambient_nb.latentplans import LABEL_STYLES, UNETS, finetune_line, label_captions, tuning_hours, unet_facts
from ambient_nb.textcommands import finetune_command

NAMES = ('tench', 'church', 'parachute')
PAGES = {page: '\n'.join(c['source'] for c in cells(f'repro_{page}.ipynb')) for page in ('tweedie_sdxl', 'diffmem_sd')}


def printed(page: str) -> list:  # of commands, as words
    "The command lines in a page's outputs."
    text = '\n'.join(
        ''.join(o.get('data', {}).get('text/html', ''))
        for c in cells(f'repro_{page}.ipynb')
        if c['cell_type'] == 'code'
        for o in c['outputs']
    )
    return [
        shlex.split(part.split('</td>')[0]) for part in text.split('<td>') if part.startswith('ambient-nb finetune')
    ]


@pytest.mark.parametrize('page, arms', (('tweedie_sdxl', 7), ('diffmem_sd', 4)))
def test_a_printed_command_has_options_that_exist(page, arms):
    "Every option of every arm, spelt as the command spells it; an arm has a folder of its own."
    known = {'--' + name.replace('_', '-') for name in inspect.signature(finetune_command).parameters}
    lines = printed(page)
    assert len(lines) == arms == len({line[line.index('--out') + 1] for line in lines})
    for line in lines:
        assert {word for word in line if word.startswith('--')} <= known, line


def test_flags_and_what_is_left_out():
    line = shlex.split(finetune_line('a b', 'faces', 'runs/x', t_n=None, flip=False, at_once=2))
    assert line == ['ambient-nb', 'finetune', 'a b', 'faces', '--out', 'runs/x', '--no-flip', '--at-once', '2']
    assert finetune_line('a', 'b', 'c', flip=True).endswith(' --flip')


@pytest.mark.parametrize('style', LABEL_STYLES)
def test_a_caption_hangs_on_its_picture_alone(style):
    labels, ids = [k % 3 for k in range(60)], list(range(60))
    whole = label_captions(style, NAMES, labels, ids)
    assert label_captions(style, NAMES, labels[7:], ids[7:]) == whole[7:]
    assert len({*whole}) == dict(none=1, unique=60).get(style, 3)


def test_random_classes_say_nothing_about_the_picture():
    said = label_captions('random', NAMES, [0] * 3000, range(3000))
    shares = [said.count(f'a photo of a {name}') / 3000 for name in NAMES]
    assert sum(shares) == 1 and all(abs(share - 1 / 3) < 0.04 for share in shares)
    assert len({*label_captions('unique', NAMES, [0] * 9469, range(9469))}) == 9469


def test_a_network_of_a_larger_side_takes_more_and_lora_less():
    needs_sd()
    assert UNETS.keys() == {'SD 1.x', 'SD 2.1', 'SDXL'}
    small, large = (unet_facts('SD 1.x', side) for side in (64, 128))
    assert small['parameters'] == large['parameters'] and 3 < large['gflop'] / small['gflop'] < 5
    hours = {rank: tuning_hours('SD 1.x', 1000, side=64, rank=rank) for rank in (0, 4)}
    assert hours[0] == pytest.approx(1.5 * hours[4])
    more = tuning_hours('SD 1.x', 1000, side=64, sampled=40, steps=25)
    assert more == pytest.approx(2 * hours[4])  # 40 pictures of 25 steps, with guidance: as 2,000 forward passes


@pytest.mark.parametrize('page, count', (('tweedie_sdxl', 20), ('diffmem_sd', 8)))
def test_every_claim_is_judged_by_todays_rule(page, count):
    found = judged(page)
    assert len(found) == count and {r.verdict for r in found.values()} == {'holds'}
    assert f'All {count if count > 9 else "eight"} identities hold' in PAGES[page]


def test_numbers_of_the_page_on_sdxl():
    found = {r.id.removeprefix('tweedie_sdxl/'): r.ours for r in rows_of('tweedie_sdxl')}
    ve = [found[f'schedule/t = {t}/sigma_ve'].value for t in (100, 500, 800, 900)]
    steps, times = ([found[f'stop/t_n = {t}/{what}'].value for t in (100, 500, 800)] for what in ('steps', 'times'))
    said = [', '.join(f'{v:.3f}'.lstrip('0') for v in ve[:3]), f'$t={found["stop/first/time"].value:.0f}$']
    said += [
        '{:.0f}, {:.0f} and {:.0f} are at or above'.format(*steps),
        '{:.0f}, {:.0f} and {:.0f} of the'.format(*times),
    ]
    said += [f'{found["network/SDXL/parameters"].value / 1e6:,.0f} million parameters']
    assert [words for words in said if words not in PAGES['tweedie_sdxl']] == []
    assert max(found[f'loss/t_n = {t}/relative_error'].hi for t in (100, 500, 800)) < 3.5e-14
    assert (
        found['loss/pipeline/relative_error'].hi < 8.5e-7 and found['schedule/diffusers/relative_error'].value < 1.35e-5
    )
    assert max(found[f'copy/t_n = {t}/error'].hi for t in (100, 500, 800)) < 2.5e-13


def test_numbers_of_the_page_on_imagenette():
    found = {r.id.removeprefix('diffmem_sd/'): r.ours.value for r in rows_of('diffmem_sd')}
    losses = [f'{found[f"arms/{style}/loss"]:.3f}' for style in LABEL_STYLES]
    assert f'{losses[0]} without captions, and {losses[1]}, {losses[2]} and {losses[3]} with' in PAGES['diffmem_sd']
    assert f'name {10 * found["prompts/random/share"]:.0f} of the ten' in PAGES['diffmem_sd']
    counts = [f'{found[f"network/{name}/parameters"] / 1e6:.1f}' for name in ('SD 1.x', 'SD 2.1')]
    assert f'{counts[0]} and {counts[1]} million' in PAGES['diffmem_sd']
