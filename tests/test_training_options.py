"""Preconditioning, classes and the source of the fixed noise as settings of a run."""

import pytest, torch
from dataclasses import replace
from ambient_nb.augment import DRAWS, AugmentPipe
from ambient_nb.core import BadInput, stream
from ambient_nb.data import digits, order, to_float
from ambient_nb.denoisers import PRECONDS, VPPrecond
from ambient_nb.losses import WEIGHTS, EDMLoss, TwoRegimeLoss
from ambient_nb.networks import PRESETS
from ambient_nb.objectives import EDM, TwoRegime
from ambient_nb.sampling import sample
from ambient_nb.training import TrainConfig, Trainer, fit, load_denoiser, make_denoiser, make_law, one_hot

TINY = replace(PRESETS['tiny'], model_channels=8)
CONFIG = TrainConfig(net=TINY, iters=40, batch=32, lr=2e-3)
IMAGES = digits()[0].take(range(32))


@pytest.mark.parametrize('precond', PRECONDS)
@pytest.mark.parametrize('sigma_n', (0.0, 0.4))
def test_every_preconditioning_learns_and_samples(precond, sigma_n, tmp_path):
    config = replace(CONFIG, precond=precond, loss=TwoRegime(sigma_n=sigma_n) if sigma_n else EDM())
    D = load_denoiser(fit(config, IMAGES, tmp_path / 'run', device='cpu'))
    start, trainer = make_denoiser(config, (1, 8, 8)), Trainer(config, IMAGES)
    formula = trainer.loss if sigma_n else trainer.loss.func  # EDM's is told that there is no noise
    assert type(D) is PRECONDS[precond] and formula.weight is WEIGHTS[precond]
    assert isinstance(formula, TwoRegimeLoss if sigma_n else EDMLoss)
    with torch.no_grad():
        draws = trainer.batch()
        assert trainer.loss(D, **draws).sum() < trainer.loss(start, **draws).sum()
    assert sample(D, range(4), (1, 8, 8), steps=6).isfinite().all()


def test_the_law_is_the_preconditionings():
    u = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    medians = {p: make_law(replace(CONFIG, precond=p)).sigma(u).median().item() for p in PRECONDS}
    assert medians['edm'] == pytest.approx(0.301, rel=0.05) and medians['ve'] == pytest.approx(
        2**0.5, rel=0.05
    )  # exp(-1.2); geometric mean of .02 and 100
    assert medians['vp'] == pytest.approx(
        make_denoiser(replace(CONFIG, precond='vp'), (1, 8, 8)).schedule.sigma(0.5).item(), rel=0.05
    )
    assert make_law(replace(CONFIG, P_mean=0.0)).share_above(1.0) == 0.5


def copies(config):  # the noisy copies of the next batch, and what they are made of
    trainer = Trainer(config, IMAGES)
    batch, rows = trainer.batch(), order(len(IMAGES), config.seed, 0, config.batch)
    fixed = trainer.image_data['noise'][rows] if 'noise' in trainer.image_data else None
    return batch['y'], batch['noise'], to_float(trainer.pixels[rows]), fixed


def test_noise_before_augmentation_moves_with_the_image():
    config = replace(CONFIG, loss=TwoRegime(sigma_n=0.5), augment=0.5)
    y, noise, x, fixed = copies(replace(config, loss=TwoRegime(sigma_n=0.5, noise='before')))
    params = AugmentPipe(p=0.5).params(stream((DRAWS,), config.seed, 'augment', start=0, count=config.batch), x.shape)
    torch.testing.assert_close(y + 0.5 * noise, AugmentPipe(p=0.5).transform(x + 0.5 * fixed, params))
    again, after, _, _ = copies(config)
    assert torch.equal(again, y) and torch.equal(after, fixed) and not torch.allclose(noise, fixed, atol=0.1)


def test_without_augmentation_the_order_does_not_matter():
    a, b = (copies(replace(CONFIG, loss=TwoRegime(sigma_n=0.5, noise=n)))[1] for n in ('after', 'before'))
    assert torch.equal(a, b)


def test_fresh_noise_is_new_at_each_look_and_does_not_depend_on_cuts():
    fresh = replace(CONFIG, loss=TwoRegime(sigma_n=0.5, noise='fresh'))
    small, large = Trainer(replace(fresh, batch=32), IMAGES), Trainer(replace(fresh, batch=64), IMAGES)
    first = small.batch()['noise']
    small.it = 1
    second = small.batch()['noise']
    assert torch.equal(torch.cat([first, second]), large.batch()['noise'])
    by_image = lambda noise, start: noise[order(len(IMAGES), 0, start, 32).argsort()]
    assert not torch.allclose(by_image(first, 0), by_image(second, 32), atol=0.1)
    assert abs(torch.cat([first, second]).std() - 1) < 0.05


def test_classes_reach_the_network():
    config = replace(CONFIG, label_dim=10)
    trainer = Trainer(config, IMAGES)
    told = trainer.batch()['labels']
    assert torch.equal(told.argmax(1), IMAGES.labels[order(len(IMAGES), 0, 0, 32)]) and (told.sum(1) == 1).all()
    for _ in range(20):
        trainer.step()
    x, labels = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.eye(10)
    assert not torch.allclose(trainer.net(x, 1.0, labels[:2]), trainer.net(x, 1.0, labels[2:4]), atol=1e-4)


def test_what_is_refused():
    for setting in (dict(precond='ddim'), dict(label_dim=-1)):
        with pytest.raises(BadInput, match=next(iter(setting))):
            TrainConfig(**setting)
    with pytest.raises(BadInput, match='label_dim.*at least'):
        one_hot(IMAGES, 3)
    with pytest.raises(BadInput, match='no labels'):
        one_hot(replace(IMAGES, labels=None), 10)
    assert isinstance(make_denoiser(TrainConfig(precond='vp', sigma_data=9.0), (1, 8, 8)), VPPrecond)
