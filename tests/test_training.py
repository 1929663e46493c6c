"""A run can be killed anywhere and ends with the same bits; what is damaged is refused."""

import os, signal, subprocess, sys, time
import pytest, torch
from dataclasses import replace
from ambient_nb.checkpoints import Damaged, load_checkpoint, load_json, save_json
from ambient_nb.core import BadInput
from ambient_nb.data import digits
from ambient_nb.training import (
    TrainConfig,
    Trainer,
    claim_folder,
    fit,
    identity,
    newest_state,
    read_stats,
    snapshot_path,
)
from ambient_nb.networks import PRESETS

TINY = replace(PRESETS['tiny'], model_channels=8, dropout=0.1)
CONFIG = TrainConfig(net=TINY, iters=60, batch=16, sigma_n=0.4)
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
    for i, config in enumerate((replace(CONFIG, seed=1), replace(CONFIG, sigma_n=0.0), replace(CONFIG, noise_seed=1))):
        assert not equal(weights(straight), weights(fit(config, IMAGES, tmp_path / str(i), device='cpu')))


def test_methods_share_everything_but_the_loss():
    a, b = Trainer(CONFIG, IMAGES), Trainer(replace(CONFIG, sigma_n=0.0), IMAGES)
    assert equal(a.net.state_dict(), b.net.state_dict())
    (drawn, _), (again, _) = a.batch(), b.batch()
    assert all(torch.equal(x, y) for x, y in zip(drawn, again))


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
    class Stop(Exception):
        pass

    def stop(trainer, line):
        if trainer.it == 20:
            raise Stop

    with pytest.raises(Stop):
        fit(CONFIG, IMAGES, tmp_path / 'run', device='cpu', tick=5, save_every=0, hooks=[stop])
    assert newest_state(tmp_path / 'run')[1]['it'] == 15
    file = next((tmp_path / 'run').glob('state-*.safetensors'))
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(Damaged, match=file.name):
        fit(CONFIG, IMAGES, tmp_path / 'run', device='cpu')


def test_two_processes_do_not_share_a_run(tmp_path):
    def intrude(trainer, line):
        with pytest.raises(BadInput, match='another process'):
            fit(CONFIG, IMAGES, tmp_path / 'run', device='cpu')

    fit(CONFIG, IMAGES, tmp_path / 'run', device='cpu', tick=30, hooks=[intrude])


def test_bad_settings():
    for setting in (
        dict(iters=0),
        dict(batch=2.5),
        dict(lr=0),
        dict(sigma_n=-1),
        dict(sigma_n=float('nan')),
        dict(augment=2),
    ):
        with pytest.raises(BadInput, match=next(iter(setting))):
            TrainConfig(**setting)


def test_a_diverging_run_says_so(tmp_path):
    with pytest.raises(FloatingPointError, match='smaller lr'):
        fit(replace(CONFIG, lr=1e30), IMAGES, tmp_path / 'run', device='cpu', tick=5)


def test_a_run_is_named_by_what_differs_from_the_defaults(tmp_path):
    assert identity(TrainConfig()) == {} and identity(CONFIG) == dict(
        net=identity(TINY), iters=60, batch=16, sigma_n=0.4
    )
    assert identity(TINY) != identity(replace(TINY, num_blocks=3))
    folder = claim_folder(tmp_path / 'run', CONFIG, IMAGES)
    stored = load_json(folder / 'config.json')
    del stored['config']['precision']  # written before the option existed
    save_json(folder / 'config.json', stored)
    assert claim_folder(folder, CONFIG, IMAGES) == folder
    with pytest.raises(BadInput, match='another one'):
        claim_folder(folder, replace(CONFIG, precision='bf16'), IMAGES)
