"Quality in few axes, beside another package's KID and beside the slow way."

import numpy as np
import pytest
import torch

from ambient_nb.axes import Reference, kernel_distance, leading_axes
from ambient_nb.core import rng
from ambient_nb.torchfidelity import their_metric


def drawn(n, d, *name, scale=1.0):
    return (scale * torch.randn(n, d, generator=rng(0, *name), dtype=torch.float64)).numpy()


def test_torch_fidelity_has_the_same_kid():
    a, b = drawn(120, 16, 'a', scale=1.3), drawn(120, 16, 'b')
    kid = their_metric('kid')
    how = dict(kid_subsets=1, kid_subset_size=120, verbose=False)
    theirs = kid.kid_features_to_metric(torch.from_numpy(a), torch.from_numpy(b), **how)
    assert kernel_distance(a, Reference(b)).value == pytest.approx(theirs['kernel_inception_distance_mean'], abs=1e-10)


def test_the_interval_is_about_as_wide_as_the_spread():
    "Beside the spread of 200 fresh pairs, where the distance is far from zero."
    found = [kernel_distance(drawn(150, 8, 'x', i, scale=1.4), Reference(drawn(300, 8, 'y', i))) for i in range(200)]
    spread, half = np.std([e.value for e in found]), np.mean([e.hi - e.value for e in found])
    assert 0.85 < half / (1.96 * spread) < 1.15


def test_axes_don_t_depend_on_the_images_they_measure():
    x = drawn(300, 12, 'z') * np.linspace(3, 1, 12)
    axes = leading_axes(x[:100], 5)
    assert np.array_equal(axes(x[100:])[:7], axes(x[100:107])) and axes.dim == 5
    assert np.allclose(axes.basis.T @ axes.basis, np.eye(5))


def test_a_ball_reaches_to_the_kth_other_image():
    x = drawn(60, 3, 'ball')
    slow = np.sort(((x[:, None] - x) ** 2).sum(2), axis=1)[:, 4]
    assert np.allclose(Reference(x).reach(4).numpy(), slow)
