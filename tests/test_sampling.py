"""Preconditionings, laws and samplers: golden values that NVlabs/edm gave for the same weights and draws; loss weights.

Every sampler case is told apart call by call: what the denoiser was asked, and the level, and what came out in the end.
"""

import json, math
from pathlib import Path
import pytest, torch
from ambient_nb.core import BadInput, rng
from ambient_nb.denoisers import PRECONDS, Precond, iDDPMPrecond
from ambient_nb.losses import WEIGHTS, EDMLoss, edm_weight
from ambient_nb.networks import make_net
from ambient_nb.sampling import Churn, ablation, churn_noise, heun, noise_levels
from ambient_nb.schedules import (
    DISCRETIZATIONS,
    LinearSchedule,
    VELaw,
    VESchedule,
    VPLaw,
    VPSchedule,
    edm_sigmas,
)

GOLDEN = Path(__file__).parent / 'golden' / 'sampling.json'
LEVELS = (0.03, 0.3, 2.0, 60.0)
draw = lambda *shape, id: torch.randn(*shape, generator=rng(0, 'samplers', id))


def precond(name: str, quiet: float = 1.0) -> Precond:
    "A small network with weights that let every part speak, preconditioned; twice the output channels for iDDPM."
    net = make_net('tiny', 8, 3, 10, 9, extra_out=3 * (name == 'iddpm'))
    for key, v in net.state_dict().items():
        if 'resample_filter' in key:
            continue
        z = draw(*v.shape, id=key)
        v.copy_(
            z / math.sqrt(v[0].numel()) * quiet
            if v.ndim > 1
            else 0.3 * z * quiet + ('norm' in key and key.endswith('weight'))
        )
    return PRECONDS[name](net)


def denoise(D) -> dict:  # also run on NVlabs/edm's, when the golden values were made
    "Outputs, gradients of the input and gradients of all weights at four levels; the loss counts all levels alike."
    x, sigma = draw(4, 3, 8, 8, id='x'), torch.tensor(LEVELS)
    x = (x * (1 + sigma.reshape(-1, 1, 1, 1) ** 2).sqrt()).requires_grad_()
    out = D(x, sigma, torch.eye(10)[[0, 3, 3, 9]], augment_labels=draw(4, 9, id='a'))
    (out * draw(*out.shape, id='w') / sigma.reshape(-1, 1, 1, 1)).sum().backward()
    return dict(out=out.detach(), dx=x.grad, weights={k: p.grad for k, p in D.named_parameters()})


def projections(r: dict) -> list:
    "A few numbers that stand for all of them."
    per_image = [(r[k].double() * draw(*r[k].shape, id=f'p{k}')).flatten(1).sum(1) for k in ('out', 'dx')]
    weights = [
        sum((g.double() * draw(*g.shape, id=f'{j}{k}')).sum().item() for k, g in r['weights'].items()) for j in range(2)
    ]
    return [v for p in per_image for v in p.tolist()] + weights


class Mixture:
    "The exact denoiser of four Gaussians, standard deviation 0.3; knows all levels, like EDM's."

    sigma_min, sigma_max, means = 0.0, math.inf, draw(4, 12, id='means').double()

    def round_sigma(self, sigma):
        return torch.as_tensor(sigma)

    def __call__(self, x, sigma, labels=None):
        flat, v = x.float().flatten(1).double(), 0.09 + sigma.double().reshape(-1, 1) ** 2
        best = ((flat @ self.means.T - self.means.square().sum(1) / 2) / v).softmax(1) @ self.means
        return (best + 0.09 / v * (flat - best)).reshape(x.shape).to(x.dtype)


class Recorder:
    "A denoiser that writes down what it is asked."

    def __init__(self, D):
        self.D, self.asked = D, []

    def __getattr__(self, name):
        return getattr(self.D, name)

    def __call__(self, x, sigma, labels=None, **kwargs):
        self.asked.append((x.float().clone(), sigma.flatten()[0].item()))
        return self.D(x, sigma, labels)


SCHEDULES = dict(vp=VPSchedule.between(0.02, 80.0), ve=VESchedule(), linear=LinearSchedule())
CHURN, SHAPE, N = dict(S_churn=1.5, S_min=0.05, S_max=50.0, S_noise=1.01), (3, 2, 2), 6
CASES = {  # name: the denoiser ('mixture' or a preconditioning), the sampler and its options
    **{
        f'{d}-{s}-{k}-{v}': ('mixture', 'ablation', dict(discretization=d, schedule=s, scaling=k, solver=v))
        for d in ('vp', 've', 'iddpm', 'edm')
        for s in ('vp', 've', 'linear')
        for k in ('none', 'vp')
        for v in ('euler', 'heun')
    },
    **{
        f'alpha{a}-{s}-{k}': ('mixture', 'ablation', dict(schedule=s, scaling=k, alpha=a))
        for a, s, k in ((0.5, 'linear', 'none'), (2 / 3, 'vp', 'vp'), (0.5, 've', 'none'))
    },
    **{
        f'churned-{d}-{s}-{k}': ('mixture', 'ablation', dict(discretization=d, schedule=s, scaling=k, **CHURN))
        for d, s, k in (('edm', 'linear', 'none'), ('vp', 'vp', 'vp'), ('ve', 've', 'none'))
    },
    'heun': ('mixture', 'heun', {}),
    'heun-churned': ('mixture', 'heun', CHURN),
    **{f'heun-{p}': (p, 'heun', {}) for p in PRECONDS},
    **{f'heun-{p}-churned': (p, 'heun', CHURN) for p in ('edm', 'iddpm')},
}


def case(name: str):
    "The denoiser, the starting noise and a function (step) -> fresh noise."
    kind = CASES[name][0]
    shape = SHAPE if kind == 'mixture' else (3, 8, 8)
    D = Recorder(Mixture() if kind == 'mixture' else precond(kind, quiet=0.3).eval().requires_grad_(False))
    return D, draw(2, *shape, id='start'), lambda step: churn_noise((11, 5), shape, step)


def run(name: str) -> tuple:  # what the denoiser was asked, and the end
    D, start, _ = case(name)
    _, sampler, options = CASES[name]
    churn = Churn(**{k: v for k, v in options.items() if k.startswith('S_')})
    if sampler == 'heun':
        steps = heun(D, start, noise_levels(D, N), churn=churn, seeds=(11, 5))
    else:
        rest = {k: v for k, v in options.items() if k in ('scaling', 'solver', 'alpha')}
        sigmas = DISCRETIZATIONS[options.get('discretization', 'edm')](N, 0.02, 80.0)
        steps = ablation(
            D, start, sigmas, schedule=SCHEDULES[options.get('schedule', 'linear')], churn=churn, seeds=(11, 5), **rest
        )
    *_, last = steps
    return D.asked, last.x


def numbers(asked: list, end: torch.Tensor) -> list:
    "The level, the size and one direction of each question; the size and two directions of the end."
    w = draw(*end.shape, id='numbers').double()
    return [
        v
        for x, sigma in asked
        for v in (sigma, x.double().norm().item(), (x.double() * w).sum().item() / x.double().norm().item())
    ] + [
        end.norm().item(),
        (end * w).sum().item() / end.norm().item(),
        (end * w.flip(0)).sum().item() / end.norm().item(),
    ]


@pytest.mark.parametrize('name', PRECONDS)
def test_golden_preconditioning(name):
    assert projections(denoise(precond(name))) == pytest.approx(
        json.loads(GOLDEN.read_text())['preconds'][name], rel=1e-4, abs=1e-4
    )


@pytest.mark.parametrize('name', CASES)
def test_golden_sampler(name):
    assert numbers(*run(name)) == pytest.approx(json.loads(GOLDEN.read_text())['samplers'][name], rel=1e-4, abs=1e-4)


def test_golden_laws():
    "Levels at the quantiles 0.1, 0.3, … 0.9, and the rounding of iDDPM."
    golden = json.loads(GOLDEN.read_text())['laws']
    u = torch.special.ndtri(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    assert VPLaw().sigma(u).tolist() == pytest.approx(golden['vp'], rel=1e-4) and VELaw().sigma(
        u
    ).tolist() == pytest.approx(golden['ve'], rel=1e-4)
    assert iDDPMPrecond(torch.nn.Identity()).round_sigma(torch.tensor(golden['asked'])).tolist() == pytest.approx(
        golden['rounded'], rel=1e-4
    )


def test_every_weight_undoes_its_c_out():
    s = torch.logspace(-1.5, 1.5, 20)
    for name, kind in PRECONDS.items():
        torch.testing.assert_close(
            WEIGHTS[name](s, 0.5) * kind(torch.nn.Identity()).coefficients(s).out ** 2, torch.ones(20)
        )


def test_a_weight_multiplies_the_loss():
    y, z, sigma = draw(4, 1, 2, 2, id='y'), draw(4, 1, 2, 2, id='z'), torch.tensor([0.1, 0.5, 1.0, 9.0])
    D = lambda x, s, labels: x / 2
    plain = EDMLoss(weight=lambda s, d: s * 0 + 1)(D, y, None, sigma, z)
    torch.testing.assert_close(plain, ((y + sigma.reshape(-1, 1, 1, 1) * z) / 2 - y).square().flatten(1).sum(1))
    torch.testing.assert_close(EDMLoss(weight=WEIGHTS['vp'])(D, y, None, sigma, z), plain / sigma**2)
    torch.testing.assert_close(EDMLoss(0.3)(D, y, None, sigma, z), plain * edm_weight(sigma, 0.3))


def test_vp_through_edms_own_levels():
    "EDM's formula for beta_d and beta_min, from .002 to 80: beta_min below 0, and the same end."
    low, high, e = math.log1p(0.002**2), math.log1p(80.0**2), 1e-3
    beta_d = 2 * (low / e - high) / (e - 1)
    found = VPSchedule.between(0.002, 80.0)
    assert (found.beta_d, found.beta_min) == pytest.approx((beta_d, high - beta_d / 2)) and -0.0048 < found.beta_min < 0
    ends = []
    for schedule, scaling in ((found, 'vp'), (LinearSchedule(), 'none')):
        *_, last = ablation(Mixture(), draw(2, *SHAPE, id='start'), edm_sigmas(300), schedule=schedule, scaling=scaling)
        ends.append(last.x)
    assert last.x.isfinite().all() and (ends[0] - ends[1]).abs().max() < 2e-3
    for refuse in (lambda: found.sigma(1e-4), lambda: VPSchedule(1.0, -0.6), lambda: VPSchedule.between(0.2, 80.0)):
        with pytest.raises(BadInput):
            refuse()
