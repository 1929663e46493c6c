"Parts of training images: laws of the search across processors, and its recall on real photographs."

import pytest
import torch
from ambient_nb import partial
from ambient_nb.audit import audit
from ambient_nb.core import rng
from ambient_nb.data import digits, read_zip
from ambient_nb.parts import DISGUISED, disguise_part, plant_parts, recall_of
from drawn import noise


def test_the_quick_look_is_the_same_without_products_of_bytes(monkeypatch):
    train, samples = noise(40, 3, 16, 16), noise(9, 3, 16, 16, seed=1)
    samples[:4] = train[:4].flip(-1)
    rows = torch.arange(40)
    found = partial.glance(samples, train, rows)
    monkeypatch.setattr(partial, 'multiplies_bytes', lambda: False)
    assert all(map(torch.equal, found, partial.glance(samples, train, rows)))
    assert found[0][:4, 0].tolist() == [0, 1, 2, 3] and (found[1][:4, 0] >= len(partial.GLANCES)).all()


def test_the_alignment_finds_a_pose_in_pictures_of_any_side():
    "A smooth picture, seen turned, enlarged and off the middle."
    for side in (16, 32, 48, 64):
        y, x = torch.meshgrid(*(torch.arange(side) / side,) * 2, indexing='ij')
        picture = (128 + 60 * torch.sin(9 * x + 3 * y) + 60 * torch.cos(7 * y - 2 * x))[None, None]
        truth = torch.tensor([[0.45, 0.55, 0.8, 0.1]])
        points = partial.points_of(1.0, 16)[None]
        seen = partial.sampled_at(picture, partial.placed(points, truth))
        begin = torch.tensor([[0.5, 0.5, 0.9, 0.0]])
        r, pose = partial.aligned(seen, points, picture, begin, 8)
        assert r > 0.998 and torch.allclose(pose, truth, atol=5e-3), (side, r, pose)


def test_nothing_resembles_a_picture_without_contrast():
    "Not even one that has the same speck of two grey levels at the same place."
    flat = torch.arange(0, 200, 10, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32).contiguous()
    flat[:, :, 8:10, 8:10] += 2
    df = partial.compare_parts(flat[:5], torch.cat([flat, noise(20, 3, 32, 32)]))
    assert not df.partial.any() and df.score.max() < 0.1


def test_an_audit_with_partial_says_what_is_part_of_a_training_image():
    "Digits are hard: their copies, changed in contrast, are found; nothing else of the audit changes."
    pool, heldout = digits()
    train = pool.pixels[:200]
    lit = (train[:20].double() * 0.7 + 20).to(torch.uint8)
    null = torch.cat([heldout.pixels[60:260], train[:3], heldout.pixels[60:63]])  # three leaked, three are there twice
    sets = torch.cat([lit, heldout.pixels[:60]]), train, null
    plain, found = audit(*sets), audit(*sets, partial=True)
    assert plain.words == found.words and 'partial' not in [s.name for s in plain.sections]
    section = found.sections[-1]
    assert section.name == 'partial' and found.cautions == [*section.cautions] and not plain.cautions
    assert 'more than the null' in section.cautions[0] and set(section.notes) <= set(found.notes)
    assert section.numbers['partial']['value'] >= 0.2 > 5 * section.numbers['null']['value']
    assert section.numbers['null']['n'] <= 200 and section.numbers['partial']['n'] <= 80
    assert section.numbers['p'] < 1e-6 and set(section.numbers['recall']) == set(DISGUISED)


@pytest.mark.real_data
@pytest.mark.parametrize(
    'train_zip,held_zip,most',
    [
        ('cifar10-32x32-train.zip', 'cifar10-32x32-test.zip', 0.04),
        ('tinyimagenet-64x64-train6k.zip', 'tinyimagenet-64x64-val5k.zip', 0.005),
    ],
)
def test_recall_on_photographs(data_dir, train_zip, held_zip, most):
    "Each kind of copy, 30 of each in 2,000 training images; CIFAR-10 itself holds crops of its test images."
    if not (data_dir / train_zip).is_file():
        pytest.skip(f'{train_zip} is not there')
    train = read_zip(data_dir / train_zip, indices=range(2000)).pixels
    held = read_zip(data_dir / held_zip, indices=range(300)).pixels
    copies, lines = plant_parts(train, torch.arange(2000), 30, generator=rng(0, 'test'))
    df = partial.compare_parts(torch.cat([copies, held]), train)
    recall = {kind: e.value for kind, e in recall_of(lines, df[: len(copies)]).items()}
    seen = ('part80', 'part60', 'moved', 'turned', 'framed', 'tinted', 'mixed', 'blurred')
    assert min(recall[kind] for kind in seen) > 0.8 and recall['patched'] < 0.5, recall
    assert df.partial[len(copies) :].mean() <= most


def test_every_disguise_changes_a_picture_and_keeps_its_kind():
    for shape in ((3, 1, 8, 8), (3, 3, 33, 33)):
        u, others = noise(*shape), noise(*shape, seed=1)
        for kind in DISGUISED:
            if kind == 'grey' and shape[1] == 1:
                continue
            v = disguise_part(u, kind, others, generator=rng(0))
            assert v.shape == u.shape and v.dtype == torch.uint8 and not torch.equal(u, v), kind
            assert torch.equal(v, disguise_part(u, kind, others, generator=rng(0)))
