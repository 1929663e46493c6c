"Networks: golden values that equalled NVlabs/edm's, and the same in bfloat16; the rest is beside the code."

import json, math
from dataclasses import replace
from pathlib import Path
import pytest, torch
from ambient_nb.core import rng
from ambient_nb.networks import PRESETS, make_net

GOLDEN = Path(__file__).parent / 'golden' / 'networks.json'
TINY = replace(PRESETS['tiny'], attn_resolutions=(8, 4))
NCSN = dict(embedding_type='fourier', channel_mult_noise=2, encoder_type='residual', resample_filter=(1, 3, 3, 1))
CASES = {  # name: config, resolution, channels, classes, augmentation labels; NVlabs/edm's were equal to 1e-5
    'ddpmpp': (PRESETS['tiny'], 8, 1, 0, 0),
    'ddpmpp-labels': (TINY, 8, 3, 10, 9),
    'ncsnpp': (replace(TINY, **NCSN), 8, 3, 0, 9),
    'skip-skip': (
        replace(TINY, encoder_type='skip', decoder_type='skip', channel_mult=(2, 1, 3), resample_filter=(1, 3, 3, 1)),
        16,
        3,
        0,
        0,
    ),
    'residual-box': (replace(TINY, encoder_type='residual'), 16, 3, 0, 0),
    'adm': (
        replace(
            PRESETS['adm-64'], model_channels=64, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,), dropout=0.0
        ),
        16,
        3,
        10,
        9,
    ),
    'gated': (replace(TINY, gated=True, keep_skips=(0, 3)), 8, 1, 0, 0),
}


def loud(net):  # weights large enough that every part matters
    for name, v in net.state_dict().items():
        if 'resample_filter' in name:
            continue
        z = torch.randn(v.shape, generator=rng(0, 'cmp', name))
        v.copy_(z / math.sqrt(v[0].numel()) if v.ndim > 1 else 0.3 * z + ('norm' in name and name.endswith('weight')))
    return net


def inputs(name):
    _, res, channels, classes, aug = CASES[name]
    draw = lambda *shape, id: torch.randn(*shape, generator=rng(0, id))
    labels = torch.eye(classes)[[3, 7]] if classes else None
    return draw(2, channels, res, res, id='x'), draw(2, id='c'), labels, draw(2, aug, id='a') if aug else None


def projections(name):  # 3 of the output, 3 of the gradient of all weights, 1 of the gradient of the input
    config, res, channels, classes, aug = CASES[name]
    net = loud(make_net(config, res, channels, classes, aug, seed=1))
    x, *rest = inputs(name)
    x.requires_grad_()
    out = net(x, *rest)
    w = [torch.randn(out.shape, generator=rng(k, 'w')) for k in range(3)]
    (out * w[0]).sum().backward()
    grads = [(k, p.grad.double()) for k, p in net.named_parameters()]
    return (
        [(out.double() * v).sum().item() for v in w]
        + [sum((g * torch.randn(g.shape, generator=rng(k, 'g', n))).sum() for n, g in grads).item() for k in range(3)]
        + [(x.grad.double() * w[1]).sum().item()]
    )


@pytest.mark.parametrize('name', CASES)
def test_golden(name):
    assert projections(name) == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize('name', CASES)
def test_bf16_follows_input(name):
    config, res, channels, classes, aug = CASES[name]
    net = loud(make_net(config, res, channels, classes, aug))
    x, *rest = inputs(name)
    out, exact = net(x.bfloat16(), *rest), net(x, *rest)
    assert out.dtype == torch.bfloat16 and (out.float() - exact).norm() / exact.norm() < 0.03
    out.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters() if p.grad is not None)


if __name__ == '__main__':
    GOLDEN.write_text(json.dumps({name: projections(name) for name in CASES}, indent=1) + '\n')
