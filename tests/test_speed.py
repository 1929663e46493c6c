"A precision changes what the network computes in and nothing else; float32 is untouched; what is fast is measured."

import shutil
from dataclasses import replace

import pytest
import torch

from ambient_nb import settings, speed
from ambient_nb.checkpoints import load_checkpoint
from ambient_nb.core import BadInput, seed_of
from ambient_nb.data import digits
from ambient_nb.denoisers import EDMPrecond
from ambient_nb.drive import claim_folder, drive
from ambient_nb.runfolders import snapshot_path
from ambient_nb.losses import TwoRegimeLoss
from ambient_nb.networks import PRESETS, make_net
from ambient_nb.objectives import TwoRegime
from ambient_nb.precisions import at_precision, bound_gradients
from ambient_nb.training import TrainConfig, Trainer, ema_beta, fit

TINY = replace(PRESETS['tiny'], model_channels=8, dropout=0.1)
CONFIG = TrainConfig(net=TINY, iters=12, batch=16, loss=TwoRegime(sigma_n=0.4), weight_decay=0.01)
IMAGES = digits()[0].take(range(40))


def test_float32_is_bit_for_bit_the_plain_step():
    "Against a step written out here, which knows nothing of precision."
    trainer = Trainer(CONFIG, IMAGES)
    net, ema = (EDMPrecond(make_net(TINY, 8, 1, seed=0), 0.5) for _ in range(2))
    optimizer = torch.optim.Adam(net.parameters(), lr=CONFIG.lr, weight_decay=0.01, fused=True)
    for it in range(12):
        draws = trainer.batch()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed_of(0, 'dropout', it))
            loss = TwoRegimeLoss(0.4)(net, **draws).mean()
        optimizer.param_groups[0]['lr'] = CONFIG.lr * (it > 0)  # the ramp starts at 0 images
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for p, q in zip(ema.parameters(), net.parameters()):
                p.lerp_(q, 1 - ema_beta(16, it * 16, CONFIG.ema_kimg * 1000))
        assert trainer.step().item() == (loss.detach() / 64).item()
    for ours, plain in ((trainer.net, net), (trainer.ema, ema)):
        assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), plain.state_dict().values()))


def dtypes_in(D) -> set:
    "What the convolutions of one forward pass compute in."
    seen = set()
    hooks = [
        m.register_forward_hook(lambda m, given, out: seen.add(out.dtype))
        for m in D.modules()
        if isinstance(m, torch.nn.Conv2d)
    ]
    out = D(torch.zeros(2, 1, 8, 8), torch.ones(2))
    for h in hooks:
        h.remove()
    assert out.dtype == torch.float32
    return seen


def test_bf16_is_the_networks_alone():
    D = EDMPrecond(make_net(TINY))
    assert (
        dtypes_in(D) == {torch.float32}
        and dtypes_in(at_precision(D, 'bf16')) == {torch.bfloat16}
        and dtypes_in(at_precision(D, 'fp32')) == {torch.float32}
    )
    trainer = Trainer(replace(CONFIG, precision='bf16'), IMAGES)
    assert dtypes_in(trainer.net) == {torch.bfloat16} and dtypes_in(trainer.ema) == {torch.float32}
    trainer.step()
    assert (
        {t.dtype for t in trainer.state().values()}
        == {torch.float32}
        == {p.grad.dtype for p in trainer.net.parameters()}
    )


def test_bf16_trains_for_200_steps():
    config = TrainConfig(net=TINY, iters=200, batch=32, lr=2e-3, loss=TwoRegime(sigma_n=0.3), sigma_data=0.75)
    losses = {p: torch.tensor(l) for p, l in speed.loss_curves(config, IMAGES).items()}
    assert all(l.isfinite().all() for l in losses.values())
    last = {p: l[-50:] for p, l in losses.items()}
    assert last['bf16'].mean() < 0.7 * losses['bf16'][:10].mean() and not torch.equal(losses['bf16'], losses['fp32'])
    assert abs(last['bf16'].mean() - last['fp32'].mean()) < last['fp32'].std()


def test_a_bf16_run_resumes_bit_for_bit(tmp_path):
    config = replace(CONFIG, precision='bf16')
    fit(config, IMAGES, tmp_path / 'straight', device='cpu', tick=4)
    for event in drive(Trainer(config, IMAGES), claim_folder(tmp_path / 'killed', config, IMAGES), 12, tick=4):
        if event.it == 6:
            break
    fit(config, IMAGES, tmp_path / 'killed', device='cpu', tick=4)
    a, b = (load_checkpoint(snapshot_path(tmp_path / name, 12))[0] for name in ('straight', 'killed'))
    assert all(torch.equal(a[k], b[k]) for k in a)
    with pytest.raises(BadInput, match='of another one'):
        fit(CONFIG, IMAGES, tmp_path / 'killed', device='cpu')


def test_gradients_are_bounded():
    p, untouched = torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(1))
    p.grad = torch.tensor([float('nan'), float('inf'), -float('inf'), -0.5])
    bound_gradients([p, untouched])
    assert p.grad.tolist() == [0, 1e5, -1e5, -0.5] and untouched.grad is None


@pytest.mark.gpu
@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_sixteen_bits_on_a_gpu(precision):
    losses = speed.loss_curves(
        TrainConfig(net=TINY, iters=200, batch=32, lr=2e-3, sigma_data=0.75), IMAGES, ('fp32', precision), 'cuda'
    )
    a, b = (torch.tensor(losses[p][-50:]) for p in ('fp32', precision))
    assert b.isfinite().all() and abs(a.mean() - b.mean()) < a.std()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('g++') is None, reason='torch.compile needs a C++ compiler on a CPU')
def test_compiled_is_the_same_network():
    plain, compiled = (
        Trainer(replace(CONFIG, net=replace(TINY, dropout=0.0), compile=c), IMAGES) for c in (False, True)
    )
    torch.compiler.reset()
    frames = torch._dynamo.utils.counters['frames']
    before = frames['ok']
    for _ in range(5):
        torch.testing.assert_close(plain.step(), compiled.step(), rtol=1e-4, atol=1e-5)
    assert frames['ok'] > before, 'nothing was compiled'
    assert plain.state().keys() == compiled.state().keys()


def test_auto_measures_once_and_says_what():
    speed.step_times.cache_clear()
    given = dict(net=TINY, shape=(1, 8, 8), batch=4, device='cpu', rounds=1)
    choice = speed.choose_precision('auto', **given)
    assert choice.precision in ('fp32', 'bf16') and set(choice.ms) == {'fp32', 'bf16'} and min(choice.ms.values()) > 0
    assert speed.choose_precision('auto', **given) == choice and speed.step_times.cache_info().misses == 1
    assert speed.choose_precision('bf16', **given) == speed.Choice('bf16', {})


@pytest.mark.parametrize(
    'ms, wanted',
    [(dict(fp32=10.0, bf16=5.0), 'bf16'), (dict(fp32=10.0, bf16=9.6), 'fp32'), (dict(fp32=5.0, bf16=10.0), 'fp32')],
)
def test_auto_takes_the_fastest_and_float32_in_a_draw(monkeypatch, ms, wanted):
    monkeypatch.setattr(speed, 'step_times', lambda *given: ms)
    assert speed.choose_precision('auto', TINY, device='cpu').precision == wanted


@pytest.mark.parametrize(
    'wrong',
    [
        lambda: TrainConfig(precision='half'),
        lambda: TrainConfig(precision='auto'),
        lambda: TrainConfig(compile='yes'),
        lambda: at_precision(EDMPrecond(make_net(TINY)), 'fp8'),
        lambda: at_precision(EDMPrecond(make_net(TINY)), 'fp16'),
        lambda: Trainer(replace(CONFIG, precision='fp16'), IMAGES),
    ],
)
def test_refused(wrong):
    with pytest.raises(BadInput):
        wrong()


def test_quick_is_the_quick_profiles_network():
    quick = settings.QUICK_DIGITS.train
    assert (speed.QUICK.net, speed.QUICK.batch) == (quick.net, quick.batch)
