"""A golden run: when its numbers change, core.NUMERICS must be raised and the golden file made again.

`python tests/test_golden.py` writes tests/golden/run.json.
"""

import json
from dataclasses import replace
from pathlib import Path
import pytest
import torch
from ambient_nb import core
from ambient_nb.data import digits, to_uint8
from ambient_nb.features import DigitsEncoder
from ambient_nb.fidelity import frechet
from ambient_nb.memorization import per_sample
from ambient_nb.networks import PRESETS
from ambient_nb.objectives import TwoRegime
from ambient_nb.sampling import sample
from ambient_nb.training import TrainConfig, Trainer

FILE = Path(__file__).parent / 'golden' / 'run.json'


def run(**changes) -> dict:
    "Twelve steps of the two-regime loss, eight samples, and what is measured of them."
    torch.set_num_threads(1)
    config = replace(
        TrainConfig(
            net=replace(PRESETS['tiny'], model_channels=8),
            batch=16,
            loss=TwoRegime(sigma_n=0.3),
            augment=0.2,
            weight_decay=0.01,
            ramp_kimg=0.1,
            seed=5,
        ),
        **changes,
    )
    pool, heldout = digits()
    trainer = Trainer(config, pool.take(range(40)))
    losses = [trainer.step().item() for _ in range(12)]
    images = sample(trainer.ema, range(8), (1, 8, 8), steps=4)
    df = per_sample(to_uint8(images), pool.pixels[:40], encoder := DigitsEncoder())
    return dict(
        losses=losses,
        images=images.flatten(1)[:, ::9].flatten().tolist(),
        d1=df.d1.tolist(),
        similarity=df.similarity.tolist(),
        frechet=frechet(encoder(pool.pixels[:300]), encoder(heldout.pixels[:300])),
        encoder=encoder.id,
    )


def test_the_golden_run():
    golden = json.loads(FILE.read_text())
    assert golden['numerics'] == core.NUMERICS, (
        'NUMERICS was raised: make the golden run again with python tests/test_golden.py'
    )
    ours = run()
    assert ours['encoder'] == golden['encoder']
    for name, rtol, atol in (
        ('losses', 1e-4, 1e-5),
        ('images', 1e-3, 1e-3),
        ('d1', 1e-2, 0.6),
        ('similarity', 1e-2, 1e-2),
        ('frechet', 1e-6, 0),
    ):
        torch.testing.assert_close(
            torch.tensor(ours[name]),
            torch.tensor(golden[name]),
            rtol=rtol,
            atol=atol,
            msg=lambda m: f'{name}: {m}\nthe numbers changed: raise core.NUMERICS and make the golden run again',
        )


@pytest.mark.parametrize(
    'changes',
    [
        dict(loss=TwoRegime(sigma_n=0.31)),
        dict(loss=TwoRegime(sigma_n=0.3, noise_seed=1)),
        dict(seed=6),
        dict(ema_ramp=0.06),
        dict(P_mean=-1.21),
        dict(sigma_data=0.51),
        dict(augment=0.0),
    ],
)
def test_the_golden_run_would_notice(changes):
    golden, ours = json.loads(FILE.read_text()), run(**changes)
    assert any(
        not torch.allclose(torch.tensor(ours[k]), torch.tensor(golden[k]), rtol=1e-4, atol=1e-5)
        for k in ('losses', 'images')
    )


if __name__ == '__main__':
    FILE.write_text(json.dumps(dict(run(), numerics=core.NUMERICS), indent=1) + '\n')
