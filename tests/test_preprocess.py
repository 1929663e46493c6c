"Preprocessing to the pixel: that of image files."

import numpy as np
import pytest
import torch

from ambient_nb.core import rng
from ambient_nb.preprocess import DINO_VIEWS, SSCD_VIEWS


@pytest.mark.parametrize(
    'view, resample, size, crop, mean, std',
    [
        (DINO_VIEWS['intended'], 'BICUBIC', 256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (SSCD_VIEWS['dcr'], 'BILINEAR', 256, 224, (0.5,) * 3, (0.5,) * 3),
        (SSCD_VIEWS['publisher'], 'BILINEAR', 288, None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
@pytest.mark.parametrize('h, w', [(32, 32), (300, 300), (40, 60), (330, 301)])
def test_resizing_is_that_of_image_files(view, resample, size, crop, mean, std, h, w):
    "PIL's, but for ties in its fixed-point rounding; then the centre; then (x - mean) / std."
    from PIL import Image

    u = torch.randint(0, 256, (1, 3, h, w), generator=rng(0, 'preprocess'), dtype=torch.uint8)
    shape = (int(size * w / h), size) if h <= w else (size, int(size * h / w))
    image = Image.fromarray(u[0].permute(1, 2, 0).numpy()).resize(shape, getattr(Image.Resampling, resample))
    if crop:
        left, top = (round((s - crop) / 2) for s in image.size)
        image = image.crop((left, top, left + crop, top + crop))
    expected, x = torch.from_numpy(np.array(image)).permute(2, 0, 1).double(), view(u)[0].double()
    levels = (
        x * torch.tensor(std, dtype=torch.float64)[:, None, None]
        + torch.tensor(mean, dtype=torch.float64)[:, None, None]
    ) * 255
    assert levels.shape == expected.shape and (levels - levels.round()).abs().max() < 1e-3
    assert (levels - expected).abs().max() < 2.01 and ((levels - expected).abs() > 0.5).double().mean() < 0.05
