"Steps that are recorded and replayed: the bits of plain ones; where that can't be done, a line and the same bits."

from contextlib import contextmanager
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


class Cuda:
    "Streams and captures, as far as `cuda_graph` asks for them."

    def __init__(self):
        self.here = self.now = Mock()
        self.asked, self.fails = [], False

    @contextmanager
    def stream(self, wanted):
        before, self.now = self.now, wanted
        try:
            yield
        finally:
            self.now = before

    @contextmanager
    def graph(self, tape, capture_error_mode):
        "As torch's: where a capture fails, its stream stays the current one."
        before, self.now = self.now, Mock()
        self.asked.append(capture_error_mode)
        with tape:
            yield
        if self.fails:
            raise RuntimeError('capture was invalidated')
        self.now = before


@pytest.fixture
def cuda(monkeypatch):
    fake = Cuda()
    parts = dict(Stream=Mock, current_stream=lambda: fake.now, stream=fake.stream, graph=fake.graph, CUDAGraph=Tape)
    for name, part in parts.items():
        monkeypatch.setattr(torch.cuda, name, part)
    return fake


def same(a, b) -> bool:
    "Whether two trainers are in the same state, to the bit."
    mine, other = a.state(), b.state()
    return {*mine} == {*other} and all(torch.equal(x, other[name]) for name, x in mine.items())


@pytest.mark.parametrize('loss', [EDM(), TwoRegime(sigma_n=0.3), Ambient('dust', options=(('p', 0.4), ('delta', 0.1)))])
def test_replayed_steps_are_plain_steps(loss, cuda):
    "Rows, draws and learning rate change at each of them; two leave a state that a plain trainer goes on from."
    config, said = replace(SMALL, loss=loss), []
    plain, recorded = Trainer(config, IMAGES), GraphedTrainer(config, IMAGES, 'cpu', cuda_graph, said.append)
    for it in range(7):
        assert plain.step().item() == recorded.step().item(), it
        assert same(plain, recorded), it
    assert cuda.asked == ['thread_local'] and len(said) == 1 and said[0].startswith('steps are recorded: ')
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
        (failing, {}, "RuntimeError('operation not permitted"),
        (idle, {}, 'replayed gradients differ by 100%'),
        (weaker, {}, 'replayed gradients differ by 10%'),
        (broken, {}, 'replayed gradients differ by nan%'),
        (recorded_by, dict(net=replace(NET, dropout=0.1)), 'dropout'),
        (recorded_by, dict(augment=0.5, loss=EDM()), 'augmentation'),
    ],
)
def test_what_can_not_be_recorded_costs_a_line(record, change, words, cuda):
    config, said = replace(SMALL, **change), []
    plain, other = Trainer(config, IMAGES), GraphedTrainer(config, IMAGES, say=said.append)
    other.record = partial(record, other)
    for _ in range(3):
        assert plain.step().item() == other.step().item()
    assert same(plain, other) and not cuda.asked
    (line,) = said
    assert line.startswith('steps are not recorded, ') and words in line and '\n' not in line


def test_after_a_failed_capture_work_goes_on_in_the_stream_it_came_from(cuda):
    cuda.fails, said = True, []
    plain, other = Trainer(SMALL, IMAGES), GraphedTrainer(SMALL, IMAGES, 'cpu', cuda_graph, said.append)
    assert [plain.step().item() for _ in range(2)] == [other.step().item() for _ in range(2)] and same(plain, other)
    assert cuda.asked and cuda.now is cuda.here and 'capture was invalidated' in said[0] and len(said) == 1


@pytest.mark.gpu
def test_a_real_graph():
    "Within what bf16 leaves open: a GPU does not repeat itself to the bit."
    device, said = pick_device('cuda'), []
    plain, recorded = Trainer(SMALL, IMAGES, device), GraphedTrainer(SMALL, IMAGES, device, cuda_graph, said.append)
    losses = torch.tensor([[plain.step().item(), recorded.step().item()] for _ in range(20)])
    assert said[0].startswith('steps are recorded: ') and torch.allclose(*losses.T, rtol=0.05)
