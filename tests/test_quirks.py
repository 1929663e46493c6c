"Ambient Diffusion's own network, run by its own code, and the same weights converted: the same answers."

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ambient_nb.core import rng
from ambient_nb.interop import convert
from ambient_nb.models import ModelConfig, build, load_model
from ambient_nb.networks import PRESETS

GOLDEN = json.loads((Path(__file__).parent / 'golden' / 'ambient.json').read_text())['denoiser']
NET = replace(PRESETS['tiny'], model_channels=32, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,), dropout=0.0)
X = 2 * torch.randn(2, 3, 8, 8, generator=rng(0, 'x'))
MASK = (torch.rand(2, 1, 8, 8, generator=rng(0, 'mask')) < 0.54).float().expand(-1, 3, -1, -1)


def weights(gated: bool) -> dict:
    "Tensors under the names of that code, each drawn from its name."
    quirks = ('scaled-mask', 'twice-gated') if gated else ('scaled-mask',)
    D = build(ModelConfig(NET, 8, 3, extra_in=3, extra_out=3, quirks=quirks))
    drawn = {name: b for name, b in D.named_buffers() if 'filter' in name}
    for ours, p in D.named_parameters():
        name = ours.replace('.gate.weight', '.gate_weight')
        if not ours.endswith('gate.bias'):
            start, size = (0, p[0].numel() ** -0.5) if p.ndim > 1 else (name.endswith('weight'), 0.2)
            drawn[name] = start + size * torch.randn(p.shape, generator=rng(0, name))
    return drawn


@pytest.fixture(scope='module', params=[False, True], ids=['plain', 'gated'])
def converted(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp('converted')
    (folder / 'snapshot.pkl').write_bytes(pickle.dumps(dict(ema=weights(request.param), loss_fn=None)))
    convert(folder / 'snapshot.pkl', folder / 'm.safetensors', sigma_data=0.5)
    return request.param, *load_model(folder / 'm.safetensors', shape=(3, 8, 8))


def test_converted_weights_denoise_as_there(converted):
    gated, D, meta = converted
    assert meta['model'].quirks[0] == 'scaled-mask' and len(meta['model'].quirks) == 1 + gated
    for golden in (g for g in GOLDEN if g['gated'] == gated):
        ours = D(MASK * X, golden['sigma'], mask=MASK).flatten()[::16]
        torch.testing.assert_close(ours, torch.tensor(golden['values']), rtol=1e-4, atol=2e-5)


def test_the_quirk_is_a_mask_over_its_scale(converted):
    "Without it the same weights want mask * c_in, and are far off with the mask itself."
    _, D, meta = converted
    usual = build(replace(meta['model'], quirks=meta['model'].quirks[1:]))
    usual.load_state_dict(D.state_dict())
    for sigma in (0.5, 20.0):
        there, c_in = D(MASK * X, sigma, mask=MASK), (sigma**2 + 0.25) ** -0.5
        torch.testing.assert_close(usual(MASK * X, sigma, mask=MASK * c_in), there, rtol=1e-5, atol=1e-5)
        off = (usual(MASK * X, sigma, mask=MASK) - there).square().mean().sqrt()
        assert off > 0.01 * there.square().mean().sqrt()
