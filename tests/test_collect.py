"Collecting: what the rows of a plan hold, and what they do not hide."

from dataclasses import replace


from ambient_nb.collect import SELECTION, TRIED, collect, measured, neighbours_figure, pair_rows, row_of
from ambient_nb.stats import Estimate


def test_rows_of_a_sweep(split_plan):
    rows = collect(split_plan)
    assert len({r.id for r in rows}) == len(rows)
    shares = {r.labels['method']: r for r in rows if r.labels['metric'] == 'memorized' and r.labels['it'] == 12}
    assert (
        set(shares) == {a.name for a in split_plan.arms} | {'difference'}
        and shares['two-regime above 0.4'].labels['x'] == 0.4
    )
    pairs = {
        r.labels['pair']: r
        for r in rows
        if r.labels['method'] == 'difference' and r.labels['metric'] == 'memorized' and r.labels['it'] == 12
    }
    one = pairs['two-regime above 0.4 − baseline']
    assert one.claim == 'ablation_split/above/memorized' and one.detail['values'] == [
        shares['two-regime above 0.4'].ours.value - shares['baseline'].ours.value
    ]
    assert {r.verdict for r in rows if r.claim} == {'smoke: no verdict'}


def test_swapped_networks_are_asked_for_the_image_they_end_at(split_plan):
    "Counted by hand from the tables, of every swap and of nothing else."
    rows = [r for r in collect(split_plan) if r.labels['metric'] == 'same_nearest']
    found = {arm.name: measured(split_plan, arm).tables for arm in split_plan.arms}
    assert {r.labels['pair'] for r in rows} == {f'{a.name} − baseline' for a in split_plan.arms if a.partner}
    for r in rows:
        ours, theirs = (found[name][r.labels['it']][0].nearest for name in r.labels['pair'].split(' − '))
        assert r.ours.value == sum(a == b for a, b in zip(ours, theirs)) / len(ours) and r.ours.over == 'images'
        assert r.claim is None and len(r.runs) == 2 and 0 < r.detail['chance'][0] < 1


def test_printed_values_stand_beside_rows_of_another_scale(split_plan):
    m = measured(split_plan, split_plan.arms[0])
    cifar = replace(split_plan, dataset='cifar10', profile='custom', item='diffmem_fig5')
    row = row_of(
        cifar,
        replace(m, arm=replace(m.arm, n=1000)),
        'unconditional',
        12,
        'memorized',
        Estimate(0.9, 0.88, 0.92, 1000),
        {},
        'diffmem_fig5/cifar10/1000/unconditional/memorized',
    )
    assert (row.printed, row.verdict) == (0.92, 'not comparable')
    paper = row_of(
        replace(cifar, profile='paper'),
        m,
        'unconditional',
        12,
        'memorized',
        Estimate(0.9, 0.88, 0.92, 3, 'seeds'),
        {},
        'diffmem_fig5/cifar10/1000/unconditional/memorized',
    )
    assert paper.verdict == 'not comparable' and (row.selection, paper.selection) == (TRIED, SELECTION), (
        'our subset is not the first of each class, and no maximum over snapshots is taken'
    )


def test_a_difference_knows_both_its_sides(split_plan):
    "Another iteration, other data and another encoder on the other side are never hidden."
    a, b = (measured(split_plan, split_plan.arms[k]) for k in (0, 1))
    pair = split_plan.pairs[0]
    short = replace(pair, b=replace(pair.b, budgets=(4, 8), train=replace(pair.b.train, iters=8)))
    b = replace(b, tables={4: b.tables[8], 8: b.tables[12]}, metas={4: b.metas[8], 8: b.metas[12]})
    rows = pair_rows(split_plan, short, a, b)
    last = next(r for r in rows if r.labels['it'] == 12 and r.labels['metric'] == 'memorized')
    assert last.detail['against'] == dict(it=8, data=b.shas['train'])
    assert {r.labels['metric'] for r in rows} > {'memorized', 'frechet'}

    class Other:
        id = 'other'

    assert {r.labels['metric'] for r in pair_rows(split_plan, short, a, replace(b, encoder=Other()))} == {'memorized'}


def test_the_training_images_own_distance_stands_beside_the_arms(split_plan):
    rows = collect(split_plan)
    own = [r for r in rows if r.labels['method'] == 'training images']
    assert [(r.labels['metric'], r.labels['it']) for r in own] == [('frechet', 0), ('kid', 0)] and own[0].ours.value > 0
    assert {r.kind for r in own} == {'copier'} and not any(r.runs for r in own)


def test_every_kind_of_row_says_what_it_came_from(split_plan):
    rows = collect(split_plan)
    both = {part.key for run in split_plan.runs for part in run.parts}
    assert {r.kind for r in rows} == {'arm', 'pair', 'null', 'copier'} and len(both) == 2
    for r in rows:
        assert r.made_by == split_plan.made_by
        swapped = 'two-regime ' in r.labels['method'] or r.kind == 'pair'
        alone = r.kind == 'arm' and not swapped
        assert len(r.runs) == (2 if swapped else alone) and set(r.runs) <= both, r.id


def test_a_claim_attaches_only_to_data_that_has_claims(split_plan):
    m, pair = measured(split_plan, split_plan.arms[2]), split_plan.pairs[0]
    assert any(r.claim for r in pair_rows(split_plan, pair, m, m))
    own = replace(split_plan, record=replace(split_plan.record, name='photos', papers=()))
    assert {(r.claim, r.printed, r.verdict) for r in pair_rows(own, pair, m, m)} == {(None, None, 'no claim')}


def test_rows_of_another_encoder_say_so_and_share_the_runs(split_plan):
    p = replace(split_plan, encoder='pixels', arms=split_plan.arms[:2], pairs=())
    for ours, other in zip(collect(p), collect(replace(p, encoder='auto')), strict=True):
        assert (ours.id, ours.runs) == (other.id, other.runs)
        seen = ours.labels['metric'].startswith(('sim', 'frechet', 'kid'))
        assert (ours.metric_id == other.metric_id) != seen and (not seen or '@ pixels-' in ours.metric_id)


def test_long_names_of_arms_have_room(split_plan):
    "A label runs along a row of pictures, about fourteen letters long."
    arms = [a for a in split_plan.arms if a.partner][:2]
    labels = [ax.get_ylabel() for ax in neighbours_figure(split_plan, arms, 2).axes if ax.get_ylabel()]
    assert any('two-regime' in label for label in labels)
    assert max(len(part) for label in labels for part in label.split('\n')) <= 14 < max(len(a.name) for a in arms)
