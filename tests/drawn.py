"Pictures that tests draw for themselves."

import io

import numpy as np
import torch
from ambient_nb.core import rng
from PIL import Image


def noise(*shape, seed=0):
    "Bytes at random."
    return torch.randint(256, shape, dtype=torch.uint8, generator=rng(seed, 'noise'))


def png(a, path=None, **options):
    "An array as a PNG file's bytes, also written where a path is given."
    Image.fromarray(np.asarray(a), **options).save(out := io.BytesIO(), format='PNG')
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(out.getvalue())
    return out.getvalue()
