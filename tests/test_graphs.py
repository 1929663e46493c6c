"Steps that are recorded and replayed: the bits of plain ones; where that can't be done, a line and the same bits."

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ambient_nb.core import pick_device
from ambient_nb.data import digits
from ambient_nb.graphs import GraphedTrainer, cuda_graph
from ambient_nb.networks import PRESETS
from ambient_nb.objectives import EDM, Ambient, TwoRegime
from ambient_nb.training import TrainConfig, Trainer

IMAGES = digits()[0].take(range(12))
NET = replace(PRESETS['tiny'], model_channels=8, attn_resolutions=(4,))
SMALL = TrainConfig(net=NET, batch=8, precision='bf16', ramp_kimg=0.024, halve_kimg=0.04, loss=TwoRegime(sigma_n=0.3))


class Tape(TorchDispatchMode):
    "A CUDA graph's stand-in: it keeps operators and the tensors they read and wrote, and nothing of Python."

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        self.calls.append((f, args, kwargs or {}, out := f(*args, **(kwargs or {}))))
        return out

    @torch.no_grad()
    def replay(self):
        for f, args, kwargs, out in self.calls:
            for old, new in zip(tree_leaves(out), tree_leaves(f(*args, **kwargs))):
                if torch.is_tensor(old) and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)


@pytest.fixture
def modes(monkeypatch):
    "CUDA as far as `cuda_graph` asks for it; what captures were asked to forbid."
    asked = []
    parts = dict(Stream=Mock, current_stream=Mock, stream=lambda side: nullcontext(), CUDAGraph=Tape)
    parts['graph'] = lambda tape, capture_error_mode: asked.append(capture_error_mode) or tape
    for name, part in parts.items():
        monkeypatch.setattr(torch.cuda, name, part)
    return asked


def same(a, b) -> bool:
    "Whether two trainers are in the same state, to the bit."
    mine, other = a.state(), b.state()
    return {*mine} == {*other} and all(torch.equal(x, other[name]) for name, x in mine.items())


@pytest.mark.parametrize('loss', [EDM(), TwoRegime(sigma_n=0.3), Ambient('dust', options=(('p', 0.4), ('delta', 0.1)))])
def test_replayed_steps_are_plain_steps(loss, modes):
    "Rows, draws and learning rate change at each of them; two leave a state that a plain trainer goes on from."
    config, said = replace(SMALL, loss=loss), []
    plain, recorded = Trainer(config, IMAGES), GraphedTrainer(config, IMAGES, 'cpu', cuda_graph, said.append)
    for it in range(7):
        assert plain.step().item() == recorded.step().item(), it
        assert same(plain, recorded), it
    assert modes == ['thread_local'] and len(said) == 1 and said[0].startswith('steps are recorded: ')
    later = Trainer(config, IMAGES)
    later.load({name: x.clone() for name, x in recorded.state().items()}, recorded.it)
    assert later.step().item() == recorded.step().item() and same(later, recorded)


def recorded_by(trainer, work):
    "What the package does on a GPU."
    return cuda_graph(work)


def failing(trainer, work):
    raise RuntimeError('operation not permitted\nwhen stream is capturing')


def idle(trainer, work):
    return lambda: None


def weaker(trainer, work):
    return lambda: work() or torch._foreach_mul_(trainer.places, 0.9)


def broken(trainer, work):
    return lambda: work() or trainer.places[3].fill_(float('nan'))


@pytest.mark.parametrize(
    'record, change, words',
    [
        (failing, {}, 'RuntimeError: operation not permitted'),
        (idle, {}, 'replayed gradients differ by 100%'),
        (weaker, {}, 'replayed gradients differ by 10%'),
        (broken, {}, 'replayed gradients differ by nan%'),
        (recorded_by, dict(net=replace(NET, dropout=0.1)), 'dropout'),
        (recorded_by, dict(augment=0.5, loss=EDM()), 'augmentation'),
    ],
)
def test_what_can_not_be_recorded_costs_a_line(record, change, words, modes):
    config, said = replace(SMALL, **change), []
    plain, other = Trainer(config, IMAGES), GraphedTrainer(config, IMAGES, say=said.append)
    other.record = partial(record, other)
    for _ in range(3):
        assert plain.step().item() == other.step().item()
    assert same(plain, other) and not modes
    (line,) = said
    assert line.startswith('steps are not recorded (') and words in line and '\n' not in line


@pytest.mark.gpu
def test_a_real_graph():
    "Within what bf16 leaves open: a GPU does not repeat itself to the bit."
    device, said = pick_device('cuda'), []
    plain, recorded = Trainer(SMALL, IMAGES, device), GraphedTrainer(SMALL, IMAGES, device, cuda_graph, said.append)
    losses = torch.tensor([[plain.step().item(), recorded.step().item()] for _ in range(20)])
    assert said[0].startswith('steps are recorded: ') and torch.allclose(*losses.T, rtol=0.05)
