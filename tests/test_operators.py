"Every operator of the registry keeps every law: draws however the work is cut, adjoints, further corruption, refusals."

import json
from cmath import rect
from math import pi, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch

from ambient_nb.core import BadInput, rng
from ambient_nb.corruptions import FixedBox, GaussianNoise, KeepPatch, Mask, PixelMask, RandomBox, observed_share
from ambient_nb.fourier import FourierSet, MRILines, UVTracks, fourier, nudft, to_complex
from ambient_nb.measurements import Blur, Downsample, GaussianMeasurements
from ambient_nb.operators import OPERATORS, released

SHAPE, IDS = (2, 16, 16), torch.tensor([5, 0, 7, 900, 3, 2])
X = torch.randn(6, *SHAPE, generator=rng(0, 'x'), dtype=torch.float64)
LINEAR = [name for name in OPERATORS if name != 'noise']
RELEASED = ['ambient_box', 'ambient_fixed_box', 'ambient_keep_patch']
RANDOM = ['noise', 'dust', 'dust_channels', 'random_box', 'keep_patch', 'gaussian', 'mri', 'mri_coils', 'uv', *RELEASED]
REDRAWN = [
    'noise',
    'dust',
    'dust_channels',
    'random_box',
    'fixed_box',
    'keep_patch',
    'gaussian',
    'mri',
    'mri_coils',
    'frequencies',
    'uv',
    *RELEASED[:2],
]
MASKS = [name for name in OPERATORS if isinstance(OPERATORS[name](SHAPE), Mask)]


@pytest.fixture(params=OPERATORS)
def op(request):
    return OPERATORS[request.param](SHAPE)


def pair(op, x, ids):
    y = op.corrupt(x, ids)
    return y, op.further(y, ids)


def test_same_draws_in_any_order_and_batch(op):
    y, further = pair(op, X, IDS)
    for rows in ([5, 2, 0], [3], [1, 4, 3, 0, 2, 5], [2, 2]):
        part = pair(op, X[rows], IDS[rows])
        torch.testing.assert_close(part[0], y[rows], rtol=0, atol=1e-12)
        torch.testing.assert_close(part[1], further[rows], rtol=0, atol=1e-12)
    assert torch.equal(op.corrupt(X, IDS.tolist()), y)


def test_global_generators_are_neither_used_nor_touched(op):
    y, further = pair(op, X, IDS)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again = pair(op, X, IDS)
    assert torch.equal(again[0], y) and torch.equal(again[1], further)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize('name', RANDOM)
def test_draws_hang_on_seed_and_image(name):
    x = X[:1].expand(6, -1, -1, -1)
    y, other = OPERATORS[name](SHAPE).corrupt(x, IDS), OPERATORS[name](SHAPE, seed=1).corrupt(x, IDS)
    assert (y != y[:1]).any() and (y != other).any()


@pytest.mark.parametrize('name', REDRAWN)
def test_another_draw_is_another_further(name):
    op = OPERATORS[name](SHAPE)
    ids = torch.arange(30)
    y = op.corrupt(X[:1].expand(30, -1, -1, -1), ids)
    assert (
        torch.equal(op.further(y, ids), op.further(y, ids, draw=0))
        and (op.further(y, ids) != op.further(y, ids, draw=1)).any()
    )


@pytest.mark.parametrize('name', LINEAR)
def test_adjoint(name):
    op = OPERATORS[name](SHAPE)
    y = op.corrupt(X, IDS)
    v = torch.randn(y.shape, generator=rng(0, 'v'), dtype=torch.float64)
    there, back = (y * v).sum(), (X * op.adjoint(v, IDS)).sum()
    assert (
        (there - back).abs() < 1e-10 * y.norm() * v.norm()
        and y.dtype == back.dtype == torch.float64
        and there.abs() > 1e-6
    )
    torch.testing.assert_close(op.corrupt(3 * X - X.flip(0), IDS), 3 * y - op.corrupt(X.flip(0), IDS))


@pytest.mark.parametrize('name', MASKS)
def test_masks_are_what_corrupt_and_further_do(name):
    op = OPERATORS[name](SHAPE)
    A, At = op.mask(IDS, SHAPE), op.further_mask(IDS, SHAPE)
    assert op.mask([], SHAPE).shape == op.further_mask([], SHAPE).shape == (0, *A.shape[1:])
    assert (
        set(A.unique().tolist()) | set(At.unique().tolist()) <= {0.0, 1.0} and (At <= A).all() and A.shape == At.shape
    )
    assert torch.broadcast_shapes(A.shape, X.shape) == X.shape and (op.mask(IDS, SHAPE, draw=1) != A).any() == (
        name != 'fixed_box'
    )
    y, further = pair(op, X, IDS)
    torch.testing.assert_close(further, y * At)
    if 'mri' not in name:
        torch.testing.assert_close(y, X * A)
    redrawn, ids = op.further_mask(IDS, SHAPE, draw=3, mask_draw=1), torch.arange(50)
    assert (redrawn <= op.mask(IDS, SHAPE, draw=1)).all()
    again = (op.further_mask(ids, SHAPE, draw=1) != op.further_mask(ids, SHAPE)).any()  # B is redrawn
    assert again == (name != 'ambient_keep_patch')  # whose 8 px of 9 have one place only
    assert (op.further_mask(ids, SHAPE, draw=1) <= op.mask(ids, SHAPE)).all()  # of the same A


@pytest.mark.parametrize('p, delta, share', [(0.4, 0.1, 0.130), (0.8, 0.1, 0.0244), (0.4, 0.0, 0.0), (0.0, 0.1, 1.0)])
@pytest.mark.parametrize('shared', [True, False])
def test_survival_of_dust(p, delta, share, shared):
    op = PixelMask(p, delta=delta, shared_channels=shared)
    ids = range(400)
    A, At = op.mask(ids, (3, 16, 16)), op.further_mask(ids, (3, 16, 16))
    assert A.shape[1] == (1 if shared else 3) and observed_share(p, delta) == pytest.approx(share, abs=5e-4)
    assert abs(A.mean() - (1 - p)) < 0.008 and abs(At.mean() - (1 - p) * (1 - delta)) < 0.008
    if (At == 0).any():
        assert abs(A[At == 0].mean() - share) < 0.01
    if not shared:
        assert abs(torch.corrcoef(A.transpose(0, 1).flatten(1))[0, 1]) < 0.02 or p == 0


def test_boxes():
    ids = range(300)
    A, At = RandomBox(4).mask(ids, SHAPE), RandomBox(4).further_mask(ids, SHAPE)
    assert ((A == 0).flatten(1).sum(1) == 16).all() and (
        (At == 0).flatten(1).sum(1) == 32
    ).all()  # two, that never touch
    assert (A.mean(0) < 1).all() and torch.equal(RandomBox(4, delta=0).further_mask(ids, SHAPE), A)
    assert FixedBox(6).mask([0], SHAPE)[0, 0, 5:11, 5:11].sum() == 0 and FixedBox(6).mask([0], SHAPE).sum() == 256 - 36
    kept = KeepPatch(6).mask(ids, SHAPE)
    assert (kept.flatten(1).sum(1) == 36).all() and (kept.mean(0) > 0).all()


GOLDEN = json.loads((Path(__file__).parent / 'golden' / 'ambient.json').read_text())


def sides(mask, value):  # (n,1,H,W) -> first row and first column of each image that hold the value, and the rows
    found = mask[:, 0] == value
    rows, columns = found.any(2), found.any(1)
    return rows.int().argmax(1), columns.int().argmax(1), rows.sum(1)


@pytest.mark.parametrize('theirs', GOLDEN['masks'], ids=lambda g: f'{g["pattern"]}-{g["side"]}-{g["p"]}')
def test_masks_are_those_of_the_released_code(theirs):
    "Sizes, places and how often a pixel is shown or graded, against masks that the released code drew."
    shape, ids = (1, theirs['side'], theirs['side']), range(theirs['n'])
    op = released(theirs['pattern'])(shape, p=theirs['p'], delta=theirs['delta'])
    A, At = op.mask(ids, shape), op.further_mask(ids, shape)
    top, left, rows = sides(A, theirs['pattern'] == 'keep_patch')
    assert (op.size, rows.max()) == (theirs['size'], theirs['size'])
    for ours, name in ((top, 'top'), (left, 'left')):
        assert [ours.min().item(), ours.max().item()] == theirs[name]
    shares = dict(shown=A.mean(), shown_further=At.mean(), graded=A[At == 0].mean())
    if 'overlap' in theirs:
        shares['overlap'] = ((At == 0).flatten(1).sum(1) < 2 * op.size**2).double().mean()
    if 'inner' in theirs:
        inside, _, kept = sides(At, 1)
        assert op.inner == theirs['inner'] and (kept == op.inner).all()
        assert [(inside - top).min().item(), (inside - top).max().item()] == theirs['offset']
    assert shares == {name: pytest.approx(theirs[name], abs=0.05 if name == 'overlap' else 0.012) for name in shares}


def test_noise_and_blur_algebra():
    op, ids = OPERATORS['noise'](SHAPE), range(200)
    y = op.corrupt(torch.zeros(200, *SHAPE), ids)
    further = op.further(y, ids)
    assert abs(y.std() - 3) < 0.03 and abs(further.std() - 5) < 0.05 and abs((further - y).std() - 4) < 0.04
    assert abs(torch.corrcoef(torch.stack([y.flatten(), (further - y).flatten()]))[0, 1]) < 0.01
    assert torch.equal(GaussianNoise(3.0).further(y, ids), y)
    torch.testing.assert_close(
        Blur(3.0, s_further=5.0).further(Blur(3.0).corrupt(X, IDS), IDS), Blur(5.0).corrupt(X, IDS)
    )
    torch.testing.assert_close(
        Downsample(2, further_factor=4).further(Downsample(2).corrupt(X, IDS), IDS), Downsample(8).corrupt(X, IDS)
    )
    point = torch.zeros(1, 1, 65, 65, dtype=torch.float64)
    point[..., 32, 32] = 1
    spread = Blur(3.0).corrupt(point, [0])[0, 0]
    n = torch.arange(65.0) - 32
    assert (spread.sum(0) * n**2).sum().sqrt() == pytest.approx(3, rel=1e-6)


def test_gaussian_measurements_are_isotropic_and_dropped_at_random():
    op = GaussianMeasurements(8, (1, 3, 3), drop=3)
    ids = range(3000)
    A = op.matrix(ids)
    assert ((A.mT @ A).mean(0) - torch.eye(9)).abs().max() < 0.06
    kept = op.kept(ids)
    assert (kept.sum(1) == 5).all() and (kept.mean(0) - 5 / 8).abs().max() < 0.04
    x = X[:, :1, :3, :3]
    torch.testing.assert_close(
        op.further(op.corrupt(x, IDS), IDS), torch.einsum('bmd,bd->bm', op.further_matrix(IDS).double(), x.flatten(1))
    )


@pytest.mark.parametrize('R, removed', [(2, 54), (4, 16), (6, 8), (8, 5)])
def test_mri_lines(R, removed):
    op, shape = MRILines(R), (2, 4, 320)
    M, Mt = op.mask(range(100), shape), op.further_mask(range(100), shape)
    assert (M.sum(3) == 320 // R).all() and ((M - Mt).sum(3) == removed).all() and Mt[..., 150:170].all()
    outside = torch.ones(320, dtype=torch.bool)
    outside[150:170] = False
    share = M[Mt == 0].mean().item()
    assert share == pytest.approx(removed / (320 - 320 // (R + 1)), abs=1e-6)
    assert M[..., outside].mean((0, 1, 2)).std() < 2 * sqrt(1 / R / 100)  # no line is preferred


@pytest.mark.parametrize('coils', [1, 4])
def test_full_mri_is_an_isometry(coils):
    op = MRILines(1, acs=2, coils=coils)
    y = op.corrupt(X, IDS)
    torch.testing.assert_close(op.adjoint(y, IDS), X)
    torch.testing.assert_close(y.norm(), X.norm())
    assert y.shape == (6, 2 * coils, 16, 16)
    constant = MRILines(4, acs=1).corrupt(torch.ones(1, 2, 16, 16), [0])
    assert constant[0, :, 8, 8].tolist() == pytest.approx([16, 16])  # frequency 0 is in the ACS lines


def test_scans_with_maps_of_ones_own():
    "Any maps: adjoint, transform and masks fit together, and nothing asks for maps of unit length."
    maps = torch.randn(3, 16, 16, generator=rng(0, 'maps'), dtype=torch.complex128)
    op = MRILines(2, acs=2, coils=3, maps=maps)
    k = torch.randn(6, 6, 16, 16, generator=rng(0, 'k'), dtype=torch.float64)
    assert (op.transform(X) * k).sum().item() == pytest.approx((X * op.transform_adjoint(k)).sum().item())
    assert (op.corrupt(X, IDS) * k).sum().item() == pytest.approx((X * op.adjoint(k, IDS)).sum().item())
    coil = MRILines(2, acs=2).corrupt(
        torch.cat([to_complex(X).mul(maps[1]).real, to_complex(X).mul(maps[1]).imag], 1), IDS
    )
    torch.testing.assert_close(op.corrupt(X, IDS)[:, 1::3], coil)
    back, power = op.transform_adjoint(op.transform(X)), maps.abs().square().sum(0)
    torch.testing.assert_close(back, power * X)
    assert op == MRILines(2, acs=2, coils=3) and hash(op), 'maps are data, not identity'


@pytest.mark.parametrize(
    'words, make',
    [
        ('y=.*view_as_complex', lambda: MRILines(2, acs=2, coils=4).adjoint(torch.zeros(6, 4, 16, 16, 2), IDS)),
        ('y=.*B,H,W,channels', lambda: MRILines(2, acs=2, coils=4).adjoint(torch.zeros(6, 16, 16, 8), IDS)),
        ('y=.*channels,B,H,W', lambda: MRILines(2, acs=2, coils=4).adjoint(torch.zeros(8, 6, 16, 16), IDS)),
        ('y=.*complex numbers', lambda: MRILines(2, acs=2, coils=4).adjoint(torch.zeros(6, 4, 16, 16) + 0j, IDS)),
        ('maps=.*4,H,W', lambda: MRILines(2, acs=2, coils=4, maps=torch.ones(3, 16, 16) + 0j)),
        ('maps=.*last', lambda: MRILines(2, acs=2, coils=4, maps=torch.ones(16, 16, 4) + 0j)),
        ('maps=.*as the images', lambda: MRILines(2, acs=2, coils=4, maps=torch.ones(4, 8, 8) + 0j).corrupt(X, IDS)),
        (
            'maps=.*as the images',
            lambda: MRILines(2, acs=2, coils=4, maps=torch.ones(4, 8, 8) + 0j).transform_adjoint(X.repeat(1, 4, 1, 1)),
        ),
    ],
)
def test_scans_that_do_not_fit_are_named(words, make):
    with pytest.raises(BadInput, match='^' + words):
        make()


def test_arbitrary_frequencies_agree_with_the_fft_and_shift():
    f = torch.arange(-8, 8) / 16
    grid = torch.stack(torch.meshgrid(f, f, indexing='ij')[::-1], -1).reshape(1, -1, 2)
    torch.testing.assert_close(nudft(X, grid).unflatten(2, (16, 16)), fourier(X.to(torch.complex128)))
    u, v = 0.113, -0.107
    op = FourierSet(16, ((u, v),))
    point = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    point[0, 0, 8 + 3, 8 - 2] = 1  # 3 rows down, 2 columns left
    z = to_complex(op.corrupt(point, [0]))[0, 0, 0] * 16
    assert abs(z.item() - rect(1, -2 * pi * (u * -2 + v * 3))) < 1e-10


def test_uv_tracks():
    op = UVTracks(64, times=1)
    n = 2000
    uv, seen = op.points(range(n))
    assert (
        (seen.sum((1, 2)) > 0).all() and seen.shape == (n, 1, 15) and uv.shape == (n, 15, 2)
    )  # every observation sees something
    assert not seen[..., [4, 8, 11, 13, 14]].any()  # the South Pole never sees M87
    longest = 2 * 6.371e9 / 1.3 * torch.pi / 180 / 3.6e9 * 160 / 64  # the Earth's diameter, cycles per px
    assert 0.3 * longest < uv[seen[:, 0] > 0].norm(dim=1).max() < longest
    At = op.further_mask(range(n))
    assert abs(At.sum() / seen.sum() - 0.9) < 0.01


def test_float32_and_gradients(op):
    x = X.float().requires_grad_()
    y = op.corrupt(x, IDS)
    y.square().sum().backward()
    assert y.dtype == torch.float32 and x.grad.isfinite().all() and x.grad.abs().sum() > 0
    torch.testing.assert_close(y.double(), op.corrupt(X, IDS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'ids',
    [[0, 1, 2, 3, 4, -1], [0.0, 1, 2, 3, 4, 5], [0], [[0, 1, 2, 3, 4, 5]], [True] * 6, None, 'abcdef', [2**70] * 6],
)
def test_bad_ids(op, ids):
    with pytest.raises(BadInput, match='ids'):
        op.corrupt(X, ids)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_non_finite_images(op, value):
    x = X.clone()
    x[2, 0, 0, 0] = value
    with pytest.raises(BadInput, match=r'x=.*\[7\]'):
        op.corrupt(x, IDS)


@pytest.mark.parametrize(
    'name, make',
    [
        ('p', lambda: PixelMask(1.0)),
        ('p', lambda: PixelMask(-0.1)),
        ('p', lambda: PixelMask(float('nan'))),
        ('p', lambda: observed_share(1.0, 0.1)),
        ('delta', lambda: PixelMask(0.4, delta=1.0)),
        ('delta', lambda: FixedBox(2, delta=-0.1)),
        ('delta', lambda: RandomBox(2, delta=1.1)),
        ('delta', lambda: observed_share(0.4, 1.0)),
        ('delta', lambda: FourierSet(16, ((0.0, 0.0),), delta=1.0)),
        ('delta', lambda: MRILines(2, delta=0.1)),
        ('sigma_n', lambda: GaussianNoise(-1.0)),
        ('sigma_further', lambda: GaussianNoise(3.0, sigma_further=2.0)),
        ('size', lambda: RandomBox(17).corrupt(X, IDS)),
        ('size', lambda: RandomBox(6).further(X, IDS)),
        ('size', lambda: KeepPatch(0)),
        ('size', lambda: RandomBox(16, placing='fixed_box').mask([0], SHAPE)),
        ('placing', lambda: RandomBox(4, placing='fixed')),
        ('inner', lambda: KeepPatch(6, inner=6)),
        ('p', lambda: released('box')(SHAPE, p=1.0)),
        ('p', lambda: released('fixed_box')(SHAPE, p=-0.1)),
        ('p', lambda: released('fixed_box')(SHAPE, p=0.05)),
        ('p', lambda: released('box')(SHAPE, p=0.95)),
        ('delta', lambda: released('keep_patch')(SHAPE, delta=0.0)),
        ('delta', lambda: released('keep_patch')(SHAPE, delta=1.0)),
        ('shape', lambda: PixelMask(0.4).mask([0], (16, 16))),
        ('factor', lambda: Downsample(3).corrupt(X, IDS)),
        ('further_factor', lambda: Downsample(1, further_factor=5).further(X, IDS)),
        ('s', lambda: Blur(0.0)),
        ('s_further', lambda: Blur(2.0, s_further=1.0)),
        ('m', lambda: GaussianMeasurements(0, SHAPE)),
        ('drop', lambda: GaussianMeasurements(4, SHAPE, drop=4)),
        ('shape', lambda: GaussianMeasurements(4, (16,))),
        ('x', lambda: GaussianMeasurements(4, (1, 8, 8)).corrupt(X, IDS)),
        ('acceleration', lambda: MRILines(4).corrupt(X, IDS)),
        ('acceleration', lambda: MRILines(16, acs=0).corrupt(X, IDS)),
        ('x', lambda: MRILines(2, acs=2).corrupt(X[:, :1], IDS)),
        ('y', lambda: MRILines(2, acs=2, coils=4).adjoint(X, IDS)),
        ('frequencies', lambda: FourierSet(16)),
        ('frequencies', lambda: FourierSet(16, ((0.6, 0.0),))),
        ('frequencies', lambda: UVTracks(16, ((0.1, 0.0),))),
        ('x', lambda: UVTracks(32).corrupt(X, IDS)),
        ('hours', lambda: UVTracks(16, hours=25)),
        ('draw', lambda: PixelMask(0.4).mask([0], SHAPE, draw=-1)),
        ('x', lambda: PixelMask(0.4).corrupt(X.long(), IDS)),
    ],
)
def test_bad_values(name, make):
    with pytest.raises(BadInput) as e:
        make()
    assert e.value.name == name


def test_relative_error_of_the_crudest_reconstruction():
    op = GaussianMeasurements(512, SHAPE)
    x = X[:2]
    assert ((op.adjoint(op.corrupt(x, [0, 1]), [0, 1]) - x).norm() / x.norm()).item() == pytest.approx(
        sqrt(512 / 512), rel=0.15
    )
