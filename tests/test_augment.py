"Augmentation: golden values that equalled NVlabs/edm's given the same draws, identities, bad input."

import json
from pathlib import Path
import pytest, torch
from ambient_nb.augment import DRAWS, VALUES, AugmentPipe, doubling
from ambient_nb.core import BadInput, rng

GOLDEN = Path(__file__).parent / 'golden' / 'augment.json'
OFF = dict(xflip=0, yflip=0, scale=0, rotate_frac=0, aniso=0, translate_frac=0)
CASES = {
    'edm': AugmentPipe(),
    'edm-often': AugmentPipe(p=0.8),
    **{name: AugmentPipe(p=0.8, **{**OFF, name: 1.0}) for name in VALUES},
    'all': AugmentPipe(p=0.6, **{name: 1.0 for name in VALUES}),
}
LABELS = dict(
    xflip=1,
    yflip=1,
    rotate_int=2,
    translate_int=2,
    scale=1,
    rotate_frac=2,
    aniso=2,
    translate_frac=2,
    brightness=1,
    contrast=1,
    lumaflip=1,
    hue=2,
    saturation=1,
)


def batch(channels):
    return torch.randn(16, channels, 16, 16, generator=rng(0, 'img', channels)).clamp(-1, 1), torch.randn(
        16, DRAWS, generator=rng(0, 'z', channels)
    )


def projections(name):  # of images and labels, for RGB and grey
    out = []
    for channels in (3, 1):
        x, z = batch(channels)
        pipe = CASES[name]
        params = pipe.params(z, x.shape)
        for v in (pipe.transform(x, params), pipe.labels(params)):
            out += [(v.double() * torch.randn(v.shape, generator=rng(k, 'w'))).sum().item() for k in range(2)]
    return out


@pytest.mark.parametrize('name', CASES)
def test_golden(name):
    assert projections(name) == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize('name', VALUES)
def test_label_dims(name):
    assert AugmentPipe(**{**OFF, name: 1.0}).label_dim == LABELS[name]


def test_edm_set_has_nine():
    assert AugmentPipe().label_dim == 9


def test_identity_at_zero():
    x, _ = batch(3)
    y, labels = AugmentPipe(p=0)(x, generator=rng(0, 'p'))
    assert torch.equal(x, y) and labels.shape == (16, 9) and not labels.any()


def test_zero_labels_mean_untouched():
    x, _ = batch(3)
    y, labels = AugmentPipe(xflip=0)(x, generator=rng(0, 'p'))
    untouched = (x == y).flatten(1).all(1)
    assert torch.equal(untouched, ~labels.any(1)) and 0 < untouched.sum() < 16


def test_rows_are_independent():  # an image's result does not depend on the others of its batch
    x, z = batch(3)
    pipe = AugmentPipe(p=0.8)
    whole = pipe.transform(x, pipe.params(z, x.shape))
    parts = torch.cat([pipe.transform(x[i : i + 3], pipe.params(z[i : i + 3], x.shape)) for i in range(0, 16, 3)])
    assert torch.allclose(whole, parts, atol=1e-4)


def test_turning_on_one_transform_leaves_the_draws_of_others():
    _, z = batch(3)
    a, b = (AugmentPipe(p=0.8, hue=h).params(z, (16, 16)) for h in (0, 1))
    assert all(torch.equal(a[k], b[k]) for k in a if k != 'hue') and not a['hue'].any() and b['hue'].any()


def test_geometry_is_linear():  # so that noise may be moved with the image or apart from it
    x, z = batch(3)
    pipe = AugmentPipe(p=0.8)
    params = pipe.params(z, x.shape)
    n = torch.randn(x.shape, generator=rng(0, 'n'))
    assert torch.allclose(
        pipe.transform(x + n, params), pipe.transform(x, params) + pipe.transform(n, params), atol=1e-4
    )


def test_whole_pixel_moves_by_hand():
    x = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(2, 1, 1, 1)
    params = AugmentPipe(p=0).params(torch.zeros(2, DRAWS), x.shape)

    def only(name, *w):
        return AugmentPipe().transform(x, {**params, name: torch.tensor(w)})

    assert torch.equal(only('xflip', 1.0, 0.0), torch.stack([x[0].flip(2), x[1]])) and torch.equal(
        only('yflip', 0.0, 1.0), torch.stack([x[0], x[1].flip(1)])
    )
    assert torch.equal(only('rotate_int', 2.0, 0.0)[0], x[0].flip(1, 2)) and torch.equal(
        only('rotate_int', 1.0, 3.0)[1], torch.rot90(only('rotate_int', 1.0, 3.0)[0], 2, (1, 2))
    )
    assert only('translate_int', [0.25, 0.0], [0.0, 0.25])[0, 0, 0].tolist() == [1, 0, 1, 2] and only(
        'translate_int', [0.25, 0.0], [0.0, 0.25]
    )[1, 0, :, 0].tolist() == [4, 8, 12, 8]


def test_frequencies():  # each transform is applied to p of the images
    z = torch.randn(20_000, DRAWS, generator=rng(0, 'freq'))
    params = AugmentPipe(p=0.3, **{n: 1.0 for n in VALUES}).params(z, (32, 32))
    for name, share in dict(scale=0.3, hue=0.3, xflip=0.15, lumaflip=0.15, rotate_int=0.225, brightness=0.3).items():
        assert (params[name] != 0).double().mean().item() == pytest.approx(share, abs=0.015)


def test_doubling_is_orthogonal():
    U = doubling(32, torch.zeros((), dtype=torch.float64))
    assert U.shape == (64, 32) and (U.T @ U - torch.eye(32))[3:-3, 3:-3].abs().max() < 1e-7


def test_global_rng_untouched():
    before = torch.get_rng_state()
    x, _ = batch(3)
    AugmentPipe(p=0.8)(x, generator=rng(0, 'p'))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize('options', [dict(p=1.5), dict(p=-1), dict(scale_std=0), dict(hue=-1)])
def test_bad_options(options):
    with pytest.raises(BadInput, match=f'^{next(iter(options))}='):
        AugmentPipe(**options)


def test_bad_draws_and_channels():
    with pytest.raises(BadInput, match='^normals='):
        AugmentPipe().params(torch.zeros(2, 5), (8, 8))
    with pytest.raises(BadInput, match='^images='):
        AugmentPipe(p=1, hue=1)(torch.zeros(2, 2, 8, 8), generator=rng(0, 'p'))


if __name__ == '__main__':
    GOLDEN.write_text(json.dumps({name: projections(name) for name in CASES}, indent=1) + '\n')
