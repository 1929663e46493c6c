"A run on captions: resumed with the same bits, told apart by its captions, and nothing else changed for other runs."

from dataclasses import replace

import pytest
import torch
from ambient_nb.captions import Duplication
from ambient_nb.core import BadInput
from ambient_nb.data import digits
from ambient_nb.digitwords import HashedWords, captioned_digits
from ambient_nb.drive import drive
from ambient_nb.mitigations import TRAIN_TIME, Mitigation
from ambient_nb.networks import PRESETS
from ambient_nb.objectives import EDM, TwoRegime
from ambient_nb.textmodel import PixelText, TextConfig, TextTrainer
from ambient_nb.training import Trainer, fit

NET = replace(PRESETS['tiny'], model_channels=4, channel_mult=(1,), label_dropout=0.25)
IMAGES = captioned_digits(digits()[0].take(range(12)), each=3)
CONFIG = TextConfig(
    NET,
    iters=6,
    batch=8,
    loss=TwoRegime(sigma_n=0.3),
    encoder=HashedWords(dim=6, length=20),
    heads=2,
    duplication=Duplication('dup_image', 0.25, 4),
    mitigation=Mitigation('add', 0.5),
)


def test_resumed_bit_for_bit(tmp_path):
    whole = fit(CONFIG, IMAGES, tmp_path / 'whole', device='cpu', trainer=TextTrainer)
    for event in drive(TextTrainer(CONFIG, IMAGES), tmp_path / 'left', CONFIG.iters, tick=1, save_every=0):
        if event.it == 3 and event.kind == 'tick':
            break
    fit(CONFIG, IMAGES, tmp_path / 'left', device='cpu', trainer=TextTrainer)
    a, b = (PixelText(folder).D.state_dict() for folder in (whole, tmp_path / 'left'))
    assert all(torch.equal(a[name], b[name]) for name in a) and 'model.queries.weight' in a
    assert a['model.queries.weight'].abs().max() > 0  # the attention learns, and its EMA is kept
    assert PixelText(whole).config == CONFIG


def test_a_run_belongs_to_its_captions(tmp_path):
    few = replace(CONFIG, iters=1)
    fit(few, IMAGES, tmp_path / 'run', device='cpu', trainer=TextTrainer)
    other = replace(IMAGES, captions=IMAGES.captions[:-1] + (('a seven',),))
    for config, images in (
        (few, other),
        (replace(few, mitigation=Mitigation('add', 0.4)), IMAGES),
        (replace(few, duplication=Duplication('dup_image', 0.25, 5)), IMAGES),
        (replace(few, encoder=HashedWords(dim=6, length=20, seed=1)), IMAGES),
    ):
        with pytest.raises(BadInput, match='of another one'):
            fit(config, images, tmp_path / 'run', device='cpu', trainer=TextTrainer)


def test_captions_change_nothing_but_the_labels():
    "The same images, levels and noise as a run without captions."
    plain = replace(CONFIG, duplication=Duplication(), mitigation=Mitigation())
    mine, theirs = TextTrainer(plain, IMAGES).batch(), Trainer(plain.told(), IMAGES).batch()
    labels, classes = mine.pop('labels'), theirs.pop('labels')
    assert labels.shape == (8, 20, 6) and classes.shape == (8, 12)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    for way in (*TRAIN_TIME.values(), Mitigation('add', 0.0), Mitigation('noise', 0.0), Mitigation('mixup', 0.0)):
        changed = TextTrainer(replace(plain, mitigation=way), IMAGES).batch()['labels']
        assert torch.equal(changed, labels) == (not way.amount and way.kind != 'captions')


def test_duplicated_images_come_with_any_of_their_captions():
    config = replace(CONFIG, batch=256, mitigation=Mitigation(), duplication=Duplication('dup_image', 0.25, 4))
    seen = {}
    for kind in ('dup_image', 'dup_both'):
        trainer = TextTrainer(replace(config, duplication=replace(config.duplication, kind=kind)), IMAGES)
        rows = trainer.rows()
        labels = trainer.prompts(rows)
        seen[kind] = {i: len(labels[rows == i].unique(dim=0)) for i in range(12)}
        often = trainer.copied.nonzero()[:, 0].tolist()
        assert len(often) == 3 and (rows.bincount()[often] > 30).all()
    assert {seen['dup_image'][i] for i in often} == {3} and {*seen['dup_both'].values()} == {1}
    assert {n for i, n in seen['dup_image'].items() if i not in often} == {1}


def test_a_seed_changes_everything():
    a, b = (TextTrainer(replace(CONFIG, seed=seed), IMAGES) for seed in (0, 1))
    assert not torch.equal(a.rows(), b.rows())
    assert any(not torch.equal(p, q) for p, q in zip(a.net.parameters(), b.net.parameters()))
    assert not torch.equal(a.batch()['labels'], b.batch()['labels'])


def test_the_empty_prompt_is_no_prompt():
    trainer = TextTrainer(replace(CONFIG, loss=EDM()), IMAGES)
    for _ in range(3):  # the first has rate 0
        trainer.step()
    D, x, sigma = trainer.net.eval(), torch.ones(2, 1, 8, 8), torch.ones(2)
    nothing, something = (CONFIG.encoder.embed([prompt] * 2).tokens for prompt in ('', 'a seven'))
    torch.nn.init.normal_(D.model.queries.weight)
    assert torch.equal(D(x, sigma), D(x, sigma, nothing))
    assert not torch.equal(D(x, sigma), D(x, sigma, something))
    with pytest.raises(BadInput, match='Captioned'):
        TextTrainer(CONFIG, digits()[0].take(range(4)))
