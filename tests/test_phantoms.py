"Random phantoms: the same for the same numbers wherever they stand, in range, unlike each other."

import math

import pytest
import torch
from ambient_nb.fourier import MRILines, to_complex
from ambient_nb.phantoms import phantom_images, phantoms, random_ellipses, render_ellipses


@pytest.mark.parametrize('size', [32, 37, 48])
def test_a_number_is_an_image(size):
    "In any company and order, by seed, at any size the same thing."
    x = phantoms([5, 0, 7], size)
    assert torch.equal(phantoms([7, 5], size), x[[2, 0]]) and x.shape == (3, 2, size, size) and x.dtype == torch.float32
    assert not torch.equal(phantoms([5], size, seed=1), x[:1])
    size_ = to_complex(x).abs()
    assert size_.max() <= 1 + 1e-6 and (size_.amax((1, 2, 3)) > 0.3).all()
    assert (size_[:, :, [0, -1]] == 0).all() and (size_[..., [0, -1]] == 0).all()  # a rim of nothing
    coarse = torch.nn.functional.adaptive_avg_pool2d(to_complex(phantoms([5], 96)).abs(), size)
    assert (coarse - size_[:1]).abs().mean() < 0.03


def test_area():
    "The mean of an ellipse is its brightness times its share of the square."
    for i in range(20):
        for row in random_ellipses(i):
            inside = row.clone()
            inside[3:5] = inside[3:5].clamp(-0.05, 0.05)  # whole in the square
            want = math.pi / 4 * row[0] * row[1] * row[2]
            assert abs(render_ellipses(inside[None], 32).mean() - want) < 2e-3 * abs(row[0])
    two = random_ellipses(0)[:2]
    assert torch.allclose(render_ellipses(two, 16), sum(render_ellipses(row[None], 16) for row in two))


def test_boxes_leave_nothing_out():
    "Each ellipse is drawn in a box around it: the bits are those of every ellipse asked at every point."
    for i in range(40):
        at = (torch.arange(256, dtype=torch.float64) + 0.5) * 2 / 256 - 1
        brightness, a, b, x, y, angle = random_ellipses(i).T[..., None, None]
        right, down = at[None, None, :] - x, at[None, :, None] - y
        along, across = angle.cos() * right + angle.sin() * down, angle.cos() * down - angle.sin() * right
        inside = ((along / a) ** 2 + (across / b) ** 2 < 1).double()
        whole = torch.nn.functional.avg_pool2d((brightness * inside).sum(0)[None], 8)[0]
        assert torch.equal(render_ellipses(random_ellipses(i), 32), whole)
    large = torch.tensor([[1.0, 3.0, 3.0, 0.0, 0.0, 0.4], [1.0, 0.2, 0.1, 1.5, 0.0, 0.0]])  # over the rim, and outside
    assert torch.equal(render_ellipses(large, 16), torch.ones(16, 16, dtype=torch.float64))


def test_no_two_are_alike():
    "300 phantoms, the nearest pair of which is far apart; and what is drawn does not drift with the number."
    z = to_complex(phantoms(range(300), 32))[:, 0].abs().flatten(1)
    apart = torch.cdist(z, z) / z.norm(dim=1).mean()
    assert apart[~torch.eye(300, dtype=torch.bool)].min() > 0.1
    assert abs(z[:150].mean() - z[150:].mean()) < 0.03


def test_data_set():
    pool, held = phantom_images(6, 32), phantom_images(6, 32, first=6)
    assert pool.channels == 2 and pool.ids.tolist() == list(range(6)) and held.ids.tolist() == list(range(6, 12))
    assert phantom_images(6, 32).sha == pool.sha != held.sha
    assert torch.equal(phantom_images(2, 32, first=4).pixels, pool.pixels[4:])
    scan = MRILines(2, acs=6, coils=4)
    assert scan.corrupt(phantoms([0], 32), [0]).shape == (1, 8, 32, 32)
