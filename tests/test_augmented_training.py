"""The paper profile's parts on a small network: augmentation, dropout, weight decay and ramp together."""

import torch
from dataclasses import replace
from ambient_nb.data import digits
from ambient_nb.networks import PRESETS
from ambient_nb.objectives import TwoRegime
from ambient_nb.training import TrainConfig, Trainer

CONFIG = TrainConfig(
    net=replace(PRESETS['tiny'], model_channels=8, dropout=0.13),
    iters=10,
    loss=TwoRegime(sigma_n=0.5),
    augment=0.15,
    weight_decay=0.01,
    lr=1e-4,
    ramp_kimg=1,
)
IMAGES = digits()[0].take(range(32))


def test_batches_of_augmented_images_do_not_depend_on_cuts():
    small, large = Trainer(replace(CONFIG, batch=16), IMAGES), Trainer(replace(CONFIG, batch=32), IMAGES)
    first = small.batch()
    small.it = 1
    second, both = small.batch(), large.batch()
    assert all(torch.equal(torch.cat([first[name], second[name]]), both[name]) for name in both)
    assert {*both} == {'y', 'noise', 'sigma', 'z', 'augment_labels'} and both['augment_labels'].abs().sum() > 0


def test_the_ramp_starts_at_zero_and_ends_at_lr():
    trainer = Trainer(replace(CONFIG, batch=100), IMAGES)
    rates = []
    for _ in range(12):
        trainer.step()
        rates.append(trainer.optimizer.param_groups[0]['lr'])
    torch.testing.assert_close(torch.tensor(rates), torch.tensor([1e-4 * min(k * 0.1, 1) for k in range(12)]))
