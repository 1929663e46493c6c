"Networks: EDM's counts and keys, golden values, bad input, switches."

import json, math
from dataclasses import asdict, replace
from pathlib import Path
import pytest, torch
from ambient_nb.core import BadInput, rng
from ambient_nb.networks import NetConfig, PRESETS, make_net

GOLDEN = Path(__file__).parent / 'golden' / 'networks.json'
TINY = replace(PRESETS['tiny'], attn_resolutions=(8, 4))
NCSN = dict(embedding_type='fourier', channel_mult_noise=2, encoder_type='residual', resample_filter=(1, 3, 3, 1))
CASES = {  # name: config, resolution, channels, classes, augmentation labels; all equal to NVlabs/edm's to 1e-5 when written
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
    assert projections(name) == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=1e-4)


COUNTS = [
    ('ddpmpp-32', 32, 0, 9, 55_733_891, 425),
    ('ddpmpp-32', 32, 10, 9, 55_735_299, 427),
    ('ddpmpp-32', 32, 0, 0, 55_732_739, 424),
    ('ncsnpp-32', 32, 0, 9, 56_397_827, 432),
    ('ddpmpp-64', 64, 0, 9, 61_805_571, 553),
    ('ncsnpp-64', 64, 0, 9, 62_761_091, 563),
    ('adm-64', 64, 1000, 0, 295_899_267, 553),
]


@pytest.mark.parametrize('name,res,classes,aug,count,entries', COUNTS)
def test_counts(name, res, classes, aug, count, entries):
    with torch.device('meta'):
        net = make_net(name, res, 3, classes, aug)
    assert sum(p.numel() for p in net.parameters()) == count and len(net.state_dict()) == entries


def test_keys():
    with torch.device('meta'):
        song, adm = (
            set(make_net('ncsnpp-32', 32, 3, 10, 9).state_dict()),
            set(make_net('adm-64', 64, 3, 1000).state_dict()),
        )
    assert {
        'map_noise.freqs',
        'map_label.weight',
        'map_augment.weight',
        'map_layer0.bias',
        'enc.32x32_conv.weight',
        'enc.16x16_down.conv0.resample_filter',
        'enc.16x16_aux_residual.weight',
        'enc.16x16_block0.qkv.weight',
        'dec.8x8_in0.proj.bias',
        'dec.8x8_in1.affine.weight',
        'dec.16x16_up.skip.weight',
        'dec.32x32_aux_norm.weight',
        'dec.32x32_aux_conv.bias',
    } <= song
    assert {
        'out_norm.weight',
        'out_conv.bias',
        'enc.32x32_down.skip.resample_filter',
        'map_label.weight',
    } <= adm and 'map_label.bias' not in adm


def test_weights_are_a_function_of_seed_and_name():
    before = torch.get_rng_state()
    a, b, other, plain = (
        make_net(replace(PRESETS['tiny'], attn_resolutions=r), seed=s).state_dict()
        for r, s in (((4,), 0), ((4,), 0), ((4,), 1), ((), 0))
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a[k], b[k]) for k in a) and not torch.equal(
        a['map_layer0.weight'], other['map_layer0.weight']
    )
    assert all(torch.equal(a[k], v) for k, v in plain.items()) and not torch.equal(
        a['dec.4x4_in0.conv0.weight'], a['dec.4x4_in1.conv0.weight']
    )


def test_init_scales():  # uniform laws: largest value and std
    net = make_net('tiny', seed=0)
    w = net.dec['8x8_up'].conv0.weight
    limit = math.sqrt(6 / (2 * 64 * 9))
    assert 0.99 * limit < w.abs().max() <= limit and w.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert net.dec['8x8_up'].conv1.weight.abs().max() <= 1e-5 * limit and net.dec[
        '4x4_in0'
    ].qkv.weight.abs().max() <= math.sqrt(0.2) * math.sqrt(6 / (4 * 64))


def test_keep_skips():
    x, c = torch.randn(2, 1, 8, 8, generator=rng(0, 'x')), torch.zeros(2)
    nets = {k: loud(make_net(replace(PRESETS['tiny'], keep_skips=k))) for k in (None, (0, 1, 2, 3), (), (3,), (0,))}
    outs = {k: net(x, c) for k, net in nets.items()}
    assert torch.equal(outs[None], outs[0, 1, 2, 3]) and len({o.sum().item() for o in outs.values()}) == 4
    assert {k: v.shape for k, v in nets[()].state_dict().items()} == {
        k: v.shape for k, v in nets[None].state_dict().items()
    }
    outs[()].sum().backward()  # weights that read only skips learn nothing
    skip = nets[()].dec['8x8_block1'].skip.weight.grad
    assert skip[:, 32:].abs().max() == 0 < skip[:, :32].abs().max()


def test_blind_to_noise():
    net = loud(make_net(replace(PRESETS['tiny'], embedding_type='none')))
    x = torch.randn(2, 1, 8, 8, generator=rng(0, 'x'))
    assert torch.equal(net(x, torch.zeros(2)), net(x, torch.ones(2)))


def test_labels():
    net = loud(make_net('tiny', 8, 1, 10, 9))
    x, c = torch.randn(2, 1, 8, 8, generator=rng(0, 'x')), torch.zeros(2)
    assert torch.equal(net(x, c, torch.tensor([3, 7])), net(x, c, torch.eye(10)[[3, 7]])) and torch.equal(
        net(x, c), net(x, c, torch.zeros(2, 10), torch.zeros(2, 9))
    )
    net = loud(make_net(replace(PRESETS['tiny'], label_dropout=1.0), 8, 1, 10))
    eye = torch.eye(10)[[3, 7]]
    assert torch.equal(net(x, c, eye), net(x, c)) and not torch.equal(net.eval()(x, c, eye), net(x, c))


def test_extra_channels():
    assert make_net('tiny', 8, 3, extra_in=1, extra_out=2)(torch.zeros(2, 4, 8, 8), torch.zeros(2)).shape == (
        2,
        5,
        8,
        8,
    )


@pytest.mark.parametrize('name', CASES)
def test_bf16_follows_input(name):
    config, res, channels, classes, aug = CASES[name]
    net = loud(make_net(config, res, channels, classes, aug))
    x, *rest = inputs(name)
    out, exact = net(x.bfloat16(), *rest), net(x, *rest)
    assert out.dtype == torch.bfloat16 and (out.float() - exact).norm() / exact.norm() < 0.03
    out.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    'where,args',
    [
        ('x', (torch.zeros(2, 1, 16, 16), torch.zeros(2))),
        ('x', (torch.zeros(2, 3, 8, 8), torch.zeros(2))),
        ('noise_labels', (torch.zeros(2, 1, 8, 8), torch.zeros(3))),
        ('class_labels', (torch.zeros(2, 1, 8, 8), torch.zeros(2), torch.tensor([0, 10]))),
        ('class_labels', (torch.zeros(2, 1, 8, 8), torch.zeros(2), torch.tensor([-1, 0]))),
        ('class_labels', (torch.zeros(2, 1, 8, 8), torch.zeros(2), torch.zeros(2, 9))),
        ('augment_labels', (torch.zeros(2, 1, 8, 8), torch.zeros(2), None, torch.zeros(2, 8))),
    ],
)
def test_bad_input(where, args):
    with pytest.raises(BadInput, match=f'^{where}='):
        make_net('tiny', 8, 1, 10, 9)(*args)


def test_bad_labels_where_none_are_taken():
    with pytest.raises(BadInput, match='takes none'):
        make_net('tiny')(torch.zeros(2, 1, 8, 8), torch.zeros(2), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    'where,options',
    [
        ('img_resolution', dict(img_resolution=9)),
        ('config', dict(config='huge')),
        ('keep_skips', dict(config=replace(TINY, keep_skips=(4,)))),
        ('dropout', dict(config=replace(TINY, dropout=1.0))),
        ('resample_filter', dict(config=replace(TINY, resample_filter=(1, 2, 1)))),
        ('embedding_type', dict(config=replace(TINY, embedding_type='x'))),
    ],
)
def test_bad_config(where, options):
    with pytest.raises(BadInput, match=f'^{where}='):
        make_net(**options)


def test_config_json():
    for config in PRESETS.values():
        assert NetConfig(**json.loads(json.dumps(asdict(config)))) == config


if __name__ == '__main__':
    GOLDEN.write_text(json.dumps({name: projections(name) for name in CASES}, indent=1) + '\n')
