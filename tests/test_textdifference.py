"""Detection of memorized prompts beside the released code: golden numbers, got by running it.

github.com/YuxinWenRick/diffusion_memorization at commit c8fe471 under diffusers 0.42.1 and torch 2.13.0, its pipeline
around the small network below, ten DDIM steps, guidance 7.5, four generations from given noise (2026-11-28).
"""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from ambient_nb.core import bcast, rng
from ambient_nb.text import Words
from ambient_nb.textdifference import text_differences
from ambient_nb.textmitigation import moved_prompt, token_significance

RELEASED = [
    [10.260613, 8.049864, 7.474488, 6.165964, 5.263486, 4.824939, 4.283374, 3.83305, 3.492111, 3.493881],
    [9.37022, 8.012677, 7.316672, 5.964529, 4.797845, 4.456754, 4.360265, 4.248528, 3.990459, 3.872354],
    [8.856019, 8.22607, 6.608389, 5.621609, 5.337873, 4.942479, 4.709878, 4.519327, 4.457763, 4.864573],
    [10.206321, 8.009368, 8.02224, 6.716256, 5.774532, 5.164639, 4.622857, 4.184951, 3.914475, 3.727722],
]  # the norms it tracks, generation by generation, step by step
RELEASED_LOSSES = [
    19.3824462890625,
    18.407474517822266,
    17.373952865600586,
    16.396013259887695,
    15.442924499511719,
    14.631884574890137,
    14.091313362121582,
    13.820472717285156,
    13.72100830078125,
    13.659268379211426,
]  # what it minimises before each of ten steps on the prompt
RELEASED_FIRST_TOKEN = [
    1.8054559230804443,
    -1.2098616361618042,
    -0.9548946022987366,
    0.9905620217323303,
    -0.8619044423103333,
    2.5407135486602783,
]  # after these ten steps
RELEASED_SIGNIFICANCE = [
    0.8674845695495605,
    0.00015390968474093825,
    0.0021019005216658115,
    7.451172132277861e-05,
    6.463124736910686e-05,
    0.0007190001779235899,
]  # of the first tokens


def normal(*shape, name, seed=0, of='off'):
    return torch.randn(*shape, generator=rng(seed, of, name))


class Tiny:
    "A network that sees noise in latents of 4x8x8 and reads 77 tokens of 6 numbers, as a text denoiser."

    shape, sigmas = (4, 8, 8), None

    def __init__(self):
        self.a, self.b = (normal(*s, 3, 3, name=n, of='toy') for n, s in (('a', (8, 4)), ('b', (4, 8))))
        self.c, self.q = normal(8, 6, name='c', of='toy'), normal(6, name='q', of='toy')
        self.prompt, self.empty = normal(1, 77, 6, name='p'), normal(1, 77, 6, name='0')
        alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2, 0)
        self.levels = ((1 - alphas.double()) / alphas.double()).sqrt()

    def embed(self, prompts):
        return Words(self.prompt.expand(len(prompts), 77, 6))

    def __call__(self, x, sigma, labels=None):
        sigma = torch.as_tensor(sigma)
        time = (self.levels - sigma.reshape(-1)[0]).abs().argmin().to(x.dtype) / 1000
        tokens = (self.empty if labels is None else labels.tokens).expand(len(x), 77, 6)
        said = ((tokens @ self.q).softmax(1)[..., None] * tokens).sum(1) @ self.c.T
        s = bcast(sigma, x)
        latents = x / (1 + s**2).sqrt()
        hidden = F.conv2d(latents, self.a, padding=1) / 6 + said[:, :, None, None] + time
        return x - s * (latents * time + F.conv2d(hidden.tanh(), self.b, padding=1) / 8)


@pytest.fixture(scope='module')
def tiny():
    D = Tiny()
    z = torch.stack([normal(4, 8, 8, name='z', seed=j) for j in range(4)])
    sigmas = torch.cat([D.levels[torch.arange(901, 0, -100)], torch.zeros(1)])
    x = z * (1 + sigmas[0] ** 2).sqrt().float()  # a pipeline's latents, by their share of signal
    return SimpleNamespace(D=D, sigmas=sigmas, x=x)


def test_differences_are_those_of_the_released_detector(tiny):
    noise = tiny.x / float(tiny.sigmas[0])
    found = text_differences(tiny.D, ['a prompt'], 4, sigmas=tiny.sigmas, noise=noise, scale=7.5)
    torch.testing.assert_close(found.values[0], torch.tensor(RELEASED).double(), rtol=2e-5, atol=0)
    assert abs(found.scores.item() - 5.8004853) < 1e-4


def test_a_prompt_moves_as_in_the_released_code_whose_norm_is_of_the_batch(tiny):
    theirs = moved_prompt(tiny.D, tiny.D.embed(['']), tiny.x, float(tiny.sigmas[0]), 0.0, norm='batch')
    torch.testing.assert_close(torch.tensor(theirs.history[:10]), torch.tensor(RELEASED_LOSSES), rtol=1e-5, atol=0)
    torch.testing.assert_close(theirs.words.tokens[0, 0], torch.tensor(RELEASED_FIRST_TOKEN), rtol=1e-5, atol=0)
    ours = moved_prompt(tiny.D, tiny.D.embed(['']), tiny.x, float(tiny.sigmas[0]), 0.0, steps=0)
    assert abs(theirs.history[0] / ours.history[0] - 2) < 0.01  # sqrt(4), were all images alike


def test_tokens_matter_as_in_the_released_notebook_but_for_a_factor_of_two_n(tiny):
    felt = token_significance(tiny.D, tiny.D.embed(['']), tiny.x, float(tiny.sigmas[0]), norm='batch')
    torch.testing.assert_close(felt[:6] / 8, torch.tensor(RELEASED_SIGNIFICANCE), rtol=1e-4, atol=0)
