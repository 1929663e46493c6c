"Small denoisers of every family and preconditioning, made without the code under test."

from dataclasses import replace

import torch

from ambient_nb.core import rng
from ambient_nb.denoisers import PRECONDS
from ambient_nb.models import ModelConfig
from ambient_nb.networks import PRESETS, make_net

NETS = {
    'ddpmpp': replace(PRESETS['ddpmpp-32'], model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,)),
    'ncsnpp': replace(PRESETS['ncsnpp-32'], model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,)),
    'adm': replace(PRESETS['adm-64'], model_channels=16, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,)),
}

PARAMS = {
    'edm': dict(sigma_data=0.4),
    'vp': dict(beta_d=15.0, beta_min=0.2, M=900, epsilon_t=1e-4),
    've': dict(sigma_min=0.03, sigma_max=70.0),
    'iddpm': dict(C_1=0.002, C_2=0.007, M=500),
}


def model_of(family='ddpmpp', precond='edm', res=16, **changes) -> ModelConfig:
    return ModelConfig(
        **{
            **dict(
                net=NETS[family],
                img_resolution=res,
                channels=3,
                label_dim=10,
                augment_dim=9,
                extra_out=3 * (precond == 'iddpm'),
                precond=precond,
                params=PARAMS[precond],
            ),
            **changes,
        }
    )


@torch.no_grad()
def loud(config):
    "A denoiser all of whose parts speak, made without the code under test."
    net = make_net(
        config.net,
        config.img_resolution,
        config.channels,
        config.label_dim,
        config.augment_dim,
        extra_out=config.extra_out,
    )
    D = PRECONDS[config.precond](net, **config.params).eval().requires_grad_(False)
    for name, p in D.named_parameters():
        p.copy_(torch.randn(p.shape, generator=rng(0, 'loud', name)) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.2))
    return D
