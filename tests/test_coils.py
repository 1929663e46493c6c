"Coil maps estimated by sigpy beside those that made the data."

import pytest
import torch
from ambient_nb.coils import combined, espirit_maps
from ambient_nb.fourier import coil_maps, fourier

pytest.importorskip('sigpy', reason='coil maps are estimated with sigpy')


def scanned(n=48):
    "An ellipse with a rim of nothing, in four coils, with a little noise."
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, n, dtype=torch.float64)] * 2, indexing='ij')
    body = ((x / 0.75) ** 2 + (y / 0.55) ** 2 < 1).double() + 0.5 * (((x - 0.2) / 0.2) ** 2 + (y / 0.3) ** 2 < 1)
    noise = torch.randn(4, n, n, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    maps = coil_maps(4, n, n)
    return fourier(maps * body) + 0.01 * noise, maps, body


def test_estimated_maps_are_the_true_ones_where_there_is_an_object():
    kspace, true, body = scanned()
    maps, raw, strict = (espirit_maps(kspace, floor=floor) for floor in (0.1, 0, 0.25))
    size, inside = maps.abs().square().sum(0), body > 0
    assert torch.allclose(size[inside], torch.ones(()).double(), atol=1e-3)
    along = (true.conj() * maps).sum(0).abs()[inside]  # 1 where they differ by a phase alone
    assert along.mean() > 0.999 and along.min() > 0.99
    assert maps[0].angle()[inside].abs().max() < 1e-3  # phases from coil 0
    kept = [(m.abs().square().sum(0) > 0.25)[~inside].double().mean().item() for m in (raw, maps, strict)]
    assert kept[0] > 0.12 and kept[1] < 0.7 * kept[0] and kept[2] < 0.2 * kept[0]  # the trap, and what is left of it


def test_the_image_is_that_of_the_true_maps_up_to_a_phase():
    kspace, true, body = scanned()
    estimated, given = combined(kspace), combined(kspace, true)
    inside = body > 0
    assert torch.allclose(estimated.abs()[inside], given.abs()[inside], atol=0.02)
    assert estimated.abs()[~inside].mean() < given.abs()[~inside].mean()
