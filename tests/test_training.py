"""A run can be killed anywhere and ends with the same bits; what is damaged is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from ambient_nb.augment import DRAWS, AugmentPipe
from ambient_nb.checkpoints import Damaged, load_checkpoint, load_json, save_json
from ambient_nb.core import BadInput, content_hash, stream
from ambient_nb.data import digits, order, to_float
from ambient_nb.denoisers import PRECONDS, VPPrecond
from ambient_nb.drive import claim_folder, drive, identity
from ambient_nb.runfolders import newest_state, read_stats, snapshot_path
from ambient_nb.losses import WEIGHTS, EDMLoss, TwoRegimeLoss
from ambient_nb.networks import PRESETS
from ambient_nb.objectives import EDM, Ambient, Consistent, Tweedie, TwoRegime
from ambient_nb.sampling import sample
from ambient_nb.training import (
    TrainConfig,
    Trainer,
    fit,
    load_denoiser,
    make_denoiser,
    make_law,
    one_hot,
    stored_config,
)

TINY = replace(PRESETS['tiny'], model_channels=8, dropout=0.1)
CONFIG = TrainConfig(net=TINY, iters=60, batch=16, loss=TwoRegime(sigma_n=0.4))
IMAGES = digits()[0].take(range(20))
SCRIPT = '''
import sys, torch; torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_training import CONFIG, IMAGES; from ambient_nb.training import fit
fit(CONFIG, IMAGES, {folder!r}, snapshots=(30,), device='cpu', tick=5, save_every=0)
'''


def weights(folder, it=60):
    return load_checkpoint(snapshot_path(folder, it))[0]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    return fit(CONFIG, IMAGES, tmp_path_factory.mktemp('run') / 'straight', snapshots=(30,), device='cpu', tick=5)


def test_kill_9_and_resume(straight, tmp_path):
    script = SCRIPT.format(tests=os.path.dirname(__file__), folder=str(tmp_path / 'killed'))
    process = subprocess.Popen([sys.executable, '-c', script])
    while len(read_stats(tmp_path / 'killed')) < 4:
        assert process.poll() is None, 'the run ended before it could be killed'
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not snapshot_path(tmp_path / 'killed', 60).with_suffix('.json').exists()
    (tmp_path / 'killed' / 'stats.jsonl').open('a').write('{"it": 55, "lo')  # a line cut short, as a kill may leave it
    resumed = fit(CONFIG, IMAGES, tmp_path / 'killed', snapshots=(30,), device='cpu', tick=5)
    assert equal(weights(straight), weights(resumed)) and equal(weights(straight, 30), weights(resumed, 30))
    assert [l['loss'] for l in read_stats(straight)] == [l['loss'] for l in read_stats(resumed)]


def test_the_global_generator_neither_matters_nor_moves(straight, tmp_path):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    other = fit(CONFIG, IMAGES, tmp_path / 'other', device='cpu')
    assert torch.equal(before, torch.get_rng_state()) and equal(weights(straight), weights(other))


def test_seed_sigma_n_and_data_matter(straight, tmp_path):
    others = (
        replace(CONFIG, seed=1),
        replace(CONFIG, loss=EDM()),
        replace(CONFIG, loss=replace(CONFIG.loss, noise_seed=1)),
    )
    for i, config in enumerate(others):
        assert not equal(weights(straight), weights(fit(config, IMAGES, tmp_path / str(i), device='cpu')))


def test_methods_share_everything_but_the_loss():
    a, b = Trainer(CONFIG, IMAGES), Trainer(replace(CONFIG, loss=EDM()), IMAGES)
    assert equal(a.net.state_dict(), b.net.state_dict())
    drawn, again = a.batch(), b.batch()
    assert {*drawn} == {*again, 'noise'} and all(torch.equal(drawn[name], again[name]) for name in again)


def test_ema_is_edms():
    t = Trainer(replace(CONFIG, ema_kimg=0.032, ema_ramp=None), IMAGES)  # half-life of two batches
    start = {k: v.clone() for k, v in t.ema.named_parameters()}
    t.step()
    now = dict(t.net.named_parameters())
    for k, v in t.ema.named_parameters():
        torch.testing.assert_close(v, start[k].lerp(now[k].detach(), 1 - 0.5**0.5))


def test_another_run_is_refused(straight):
    with pytest.raises(BadInput, match='folder'):
        fit(replace(CONFIG, lr=1e-4), IMAGES, straight, device='cpu')
    with pytest.raises(BadInput, match='folder'):
        fit(CONFIG, digits()[0].take(range(21)), straight, device='cpu')


def test_a_damaged_checkpoint_is_refused(tmp_path):
    folder = claim_folder(tmp_path / 'run', CONFIG, IMAGES)
    for event in drive(Trainer(CONFIG, IMAGES), folder, CONFIG.iters, tick=5):
        if event.it == 17:
            break
    assert newest_state(folder)[1]['it'] == 17
    file = next((tmp_path / 'run').glob('state-*.safetensors'))
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(Damaged, match=file.name):
        fit(CONFIG, IMAGES, tmp_path / 'run', device='cpu')


def test_two_processes_do_not_share_a_run(tmp_path):
    folder = claim_folder(tmp_path / 'run', CONFIG, IMAGES)
    for event in drive(Trainer(CONFIG, IMAGES), folder, 3):
        if event.kind == 'step':
            with pytest.raises(BadInput, match='another process'):
                fit(CONFIG, IMAGES, folder, device='cpu')
    assert event.kind == 'stop'


def test_bad_settings():
    for setting in (
        dict(iters=0),
        dict(batch=2.5),
        dict(lr=0),
        dict(augment=2),
        dict(loss='two-regime'),
        dict(loss=dict(kind='edm')),
    ):
        with pytest.raises(BadInput, match=next(iter(setting))):
            TrainConfig(**setting)
    for name, wrong in dict(sigma_n=-1, noise='never', compensate=2, weight='none').items():
        with pytest.raises(BadInput, match=name):
            TwoRegime(**{name: wrong})
    with pytest.raises(BadInput, match='sigma_n'):
        TwoRegime(sigma_n=float('nan'))
    for precond, top in dict(vp=152.2, ve=100.0).items():
        with pytest.raises(BadInput, match=f'sigma_n={top}.*none is left for copies'):
            TrainConfig(precond=precond, loss=Tweedie(sigma_n=top))
    for loss in (Ambient(), Tweedie(), Consistent(EDM())):
        with pytest.raises(BadInput, match='augment'):
            TrainConfig(augment=0.1, loss=loss)


def test_a_diverging_run_says_so(tmp_path):
    with pytest.raises(FloatingPointError, match='smaller lr'):
        fit(replace(CONFIG, lr=1e30), IMAGES, tmp_path / 'run', device='cpu', tick=5)


def test_a_run_is_named_by_what_differs_from_the_defaults(tmp_path):
    mine = dict(net=identity(TINY), iters=60, batch=16, sigma_n=0.4)
    assert identity(TrainConfig()) == {} and identity(CONFIG) == mine
    assert identity(TINY) != identity(replace(TINY, num_blocks=3))
    folder = claim_folder(tmp_path / 'run', CONFIG, IMAGES)
    stored = load_json(folder / 'config.json')
    del stored['config']['precision']  # written before the option existed
    save_json(folder / 'config.json', stored)
    assert claim_folder(folder, CONFIG, IMAGES) == folder
    with pytest.raises(BadInput, match='another one'):
        claim_folder(folder, replace(CONFIG, precision='bf16'), IMAGES)


# What the runs of version 0.1 were named: identity at commit 3d93330 -> its hash. Not one of them may change.
BLOCKS = dict(model_channels=16, channel_mult=[1, 2], num_blocks=2, attn_resolutions=[], dropout=0.0)
PAPER = dict(iters=15000, batch=512, lr=1e-4, weight_decay=0.01, ramp_kimg=10000.0, ema_ramp=None, augment=0.15)
SMALL = dict(net=replace(PRESETS['tiny'], model_channels=16, num_blocks=2), iters=550, lr=2e-3, sigma_data=0.75, seed=2)
NAMES = {
    '44136fa355b3678a': (dict(), EDM(), {}),
    'e0d3c64f999cad67': (SMALL, EDM(), dict(SMALL, net=BLOCKS)),
    'ec07659b029fd530': (SMALL, TwoRegime(sigma_n=0.2), dict(SMALL, net=BLOCKS, sigma_n=0.2)),
    '3a8ac3f97072d6c6': (dict(), TwoRegime(sigma_n=0.4, noise_seed=7), dict(sigma_n=0.4, noise_seed=7)),
    '0ccf79961e999fb8': (dict(augment=0.15), TwoRegime(0.5, 'before'), dict(augment=0.15, sigma_n=0.5, noise='before')),
    '8fc577ebcf71386f': (dict(), TwoRegime(0.4, 'fresh', 3), dict(sigma_n=0.4, noise='fresh', noise_seed=3)),
    '3d41bd92de58c56f': (dict(), TwoRegime(sigma_n=0.4, compensate=True), dict(sigma_n=0.4, compensate=True)),
    'ad992b4b70ec7f7a': (
        dict(augment=0.2),
        TwoRegime(0.3, 'before', 1, True),
        dict(augment=0.2, sigma_n=0.3, noise='before', noise_seed=1, compensate=True),
    ),
    'dd690cb74ea2ef83': (dict(augment=0.1), TwoRegime(noise='before'), dict(augment=0.1, noise='before')),
    '46b80e0d70e645fc': (
        dict(precond='vp', label_dim=10),
        TwoRegime(sigma_n=0.4),
        dict(precond='vp', label_dim=10, sigma_n=0.4),
    ),
    'ccda30da95b9de3f': (
        dict(PAPER, net=PRESETS['ddpmpp-32'], precision='bf16', compile=True),
        TwoRegime(sigma_n=0.5),
        dict(PAPER, net={}, precision='bf16', compile=True, sigma_n=0.5),
    ),
}


@pytest.mark.parametrize('name', NAMES)
def test_old_runs_keep_their_names(name):
    settings, loss, expected = NAMES[name]
    ours = identity(TrainConfig(**settings, loss=loss))
    assert json.loads(json.dumps(ours)) == expected and content_hash(ours) == name


OLD = dict(sigma_n=0.4, noise_seed=0, noise='after', compensate=False)  # where the loss stood until 0.1


def as_before(folder):
    "Make a run's config.json what version 0.1 wrote: a flat loss, no shape, no name of the data."
    stored = load_json(folder / 'config.json')
    del stored['config']['loss'], stored['shape'], stored['dataset']
    stored['config'] |= OLD
    save_json(folder / 'config.json', stored)
    return folder


def test_a_folder_of_version_0_1_is_read_and_completed(tmp_path, straight):
    folder = claim_folder(tmp_path / 'run', CONFIG, IMAGES)
    for event in drive(Trainer(CONFIG, IMAGES), folder, CONFIG.iters, snapshots=[20], tick=5):
        if event.it == 25:
            break
    assert stored_config(as_before(folder)) == CONFIG
    with pytest.raises(Damaged, match='no shape'):
        load_denoiser(folder, 20)
    assert equal(weights(straight), weights(fit(CONFIG, IMAGES, folder, snapshots=(20,), device='cpu', tick=5)))
    stored = load_json(folder / 'config.json')
    assert stored['shape'] == [1, 8, 8] and stored['dataset'] == 'digits' and stored_config(folder) == CONFIG
    assert equal(load_denoiser(folder).state_dict(), weights(folder, 60))
    assert equal(load_denoiser(folder, 20).state_dict(), weights(folder, 20))
    with pytest.raises(BadInput, match='it=30 is not allowed: it must be one of 20, 60'):
        load_denoiser(folder, 30)
    with pytest.raises(BadInput, match='another one'):
        claim_folder(as_before(folder), replace(CONFIG, seed=9), IMAGES)


@pytest.mark.parametrize('where', ['config', 'net', 'loss'])
def test_unknown_settings_are_refused(where, tmp_path):
    folder = claim_folder(tmp_path / 'run', CONFIG, IMAGES)
    stored = load_json(folder / 'config.json')
    part = stored['config'] if where == 'config' else stored['config'][where]
    part['temperature'] = 1
    save_json(folder / 'config.json', stored)
    with pytest.raises(BadInput, match='temperature'):
        stored_config(folder)


# Preconditioning, classes and the source of the fixed noise.

BARE = TrainConfig(net=replace(PRESETS['tiny'], model_channels=8), iters=40, batch=32, lr=2e-3)
MANY = digits()[0].take(range(32))


@pytest.mark.parametrize('precond', PRECONDS)
@pytest.mark.parametrize('sigma_n', (0.0, 0.4))
def test_every_preconditioning_learns_and_samples(precond, sigma_n, tmp_path):
    config = replace(BARE, precond=precond, loss=TwoRegime(sigma_n=sigma_n) if sigma_n else EDM())
    D = load_denoiser(fit(config, MANY, tmp_path / 'run', device='cpu'))
    start, trainer = make_denoiser(config, (1, 8, 8)), Trainer(config, MANY)
    formula = trainer.loss if sigma_n else trainer.loss.func  # EDM's is told that there is no noise
    assert type(D) is PRECONDS[precond] and formula.weight is WEIGHTS[precond]
    assert isinstance(formula, TwoRegimeLoss if sigma_n else EDMLoss)
    with torch.no_grad():
        draws = trainer.batch()
        assert trainer.loss(D, **draws).sum() < trainer.loss(start, **draws).sum()
    assert sample(D, range(4), (1, 8, 8), steps=6).isfinite().all()


def test_the_law_is_the_preconditionings():
    u = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    medians = {p: make_law(replace(BARE, precond=p)).sigma(u).median().item() for p in PRECONDS}
    assert medians['edm'] == pytest.approx(0.301, rel=0.05) and medians['ve'] == pytest.approx(
        2**0.5, rel=0.05
    )  # exp(-1.2); geometric mean of .02 and 100
    assert medians['vp'] == pytest.approx(
        make_denoiser(replace(BARE, precond='vp'), (1, 8, 8)).schedule.sigma(0.5).item(), rel=0.05
    )
    assert make_law(replace(BARE, P_mean=0.0)).share_above(1.0) == 0.5


def copies(config):  # the noisy copies of the next batch, and what they are made of
    trainer = Trainer(config, MANY)
    batch, rows = trainer.batch(), order(len(MANY), config.seed, 0, config.batch)
    fixed = trainer.image_data['noise'][rows] if 'noise' in trainer.image_data else None
    return batch['y'], batch['noise'], to_float(trainer.pixels[rows]), fixed


def test_noise_before_augmentation_moves_with_the_image():
    config = replace(BARE, loss=TwoRegime(sigma_n=0.5), augment=0.5)
    y, noise, x, fixed = copies(replace(config, loss=TwoRegime(sigma_n=0.5, noise='before')))
    params = AugmentPipe(p=0.5).params(stream((DRAWS,), config.seed, 'augment', start=0, count=config.batch), x.shape)
    torch.testing.assert_close(y + 0.5 * noise, AugmentPipe(p=0.5).transform(x + 0.5 * fixed, params))
    again, after, _, _ = copies(config)
    assert torch.equal(again, y) and torch.equal(after, fixed) and not torch.allclose(noise, fixed, atol=0.1)


def test_without_augmentation_the_order_does_not_matter():
    a, b = (copies(replace(BARE, loss=TwoRegime(sigma_n=0.5, noise=n)))[1] for n in ('after', 'before'))
    assert torch.equal(a, b)


def test_fresh_noise_is_new_at_each_look_and_does_not_depend_on_cuts():
    fresh = replace(BARE, loss=TwoRegime(sigma_n=0.5, noise='fresh'))
    small, large = Trainer(replace(fresh, batch=32), MANY), Trainer(replace(fresh, batch=64), MANY)
    first = small.batch()['noise']
    small.it = 1
    second = small.batch()['noise']
    assert torch.equal(torch.cat([first, second]), large.batch()['noise'])
    by_image = lambda noise, start: noise[order(len(MANY), 0, start, 32).argsort()]
    assert not torch.allclose(by_image(first, 0), by_image(second, 32), atol=0.1)
    assert abs(torch.cat([first, second]).std() - 1) < 0.05


def test_classes_reach_the_network():
    config = replace(BARE, label_dim=10)
    trainer = Trainer(config, MANY)
    told = trainer.batch()['labels']
    assert torch.equal(told.argmax(1), MANY.labels[order(len(MANY), 0, 0, 32)]) and (told.sum(1) == 1).all()
    for _ in range(20):
        trainer.step()
    x, labels = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.eye(10)
    assert not torch.allclose(trainer.net(x, 1.0, labels[:2]), trainer.net(x, 1.0, labels[2:4]), atol=1e-4)


def test_what_is_refused():
    for setting in (dict(precond='ddim'), dict(label_dim=-1)):
        with pytest.raises(BadInput, match=next(iter(setting))):
            TrainConfig(**setting)
    with pytest.raises(BadInput, match='label_dim.*at least'):
        one_hot(MANY, 3)
    with pytest.raises(BadInput, match='no labels'):
        one_hot(replace(MANY, labels=None), 10)
    assert isinstance(make_denoiser(TrainConfig(precond='vp', sigma_data=9.0), (1, 8, 8)), VPPrecond)


# The paper profile's parts on a small network: augmentation, dropout, weight decay and ramp together.

PAPERLIKE = TrainConfig(
    net=replace(PRESETS['tiny'], model_channels=8, dropout=0.13),
    iters=10,
    loss=TwoRegime(sigma_n=0.5),
    augment=0.15,
    weight_decay=0.01,
    lr=1e-4,
    ramp_kimg=1,
)


def test_batches_of_augmented_images_do_not_depend_on_cuts():
    small, large = Trainer(replace(PAPERLIKE, batch=16), MANY), Trainer(replace(PAPERLIKE, batch=32), MANY)
    first = small.batch()
    small.it = 1
    second, both = small.batch(), large.batch()
    assert all(torch.equal(torch.cat([first[name], second[name]]), both[name]) for name in both)
    assert {*both} == {'y', 'noise', 'sigma', 'z', 'augment_labels'} and both['augment_labels'].abs().sum() > 0


def test_the_ramp_starts_at_zero_and_ends_at_lr():
    trainer = Trainer(replace(PAPERLIKE, batch=100), MANY)
    rates = []
    for _ in range(12):
        trainer.step()
        rates.append(trainer.optimizer.param_groups[0]['lr'])
    torch.testing.assert_close(torch.tensor(rates), torch.tensor([1e-4 * min(k * 0.1, 1) for k in range(12)]))
