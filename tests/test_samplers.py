"""Preconditionings, training laws, weights and samplers: golden values that NVlabs/edm gave for the same weights and draws, laws, bad input.

Every sampler case is told apart call by call: what the denoiser was asked, and the level, and what came out in the end.
"""

import json, math
from functools import partial
from pathlib import Path
import pytest, torch
from ambient_nb.core import BadInput, rng
from ambient_nb.denoisers import PRECONDS, EDMPrecond, Precond, VEPrecond, VPPrecond, iDDPMPrecond
from ambient_nb.losses import WEIGHTS, EDMLoss, edm_weight
from ambient_nb.networks import make_net
from ambient_nb.sampling import Churn, Guided, ablation, churn_noise, euler, heun, levels, sample
from ambient_nb.schedules import (
    DISCRETIZATIONS,
    LinearSchedule,
    LogNormal,
    VELaw,
    VESchedule,
    VPLaw,
    VPSchedule,
    edm_sigmas,
    iDDPMLaw,
    iddpm_levels,
    iddpm_sigmas,
    ve_sigmas,
    vp_sigmas,
)

GOLDEN = Path(__file__).parent / 'golden' / 'samplers.json'
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
        steps = heun(D, start, levels(D, N), churn=churn, seeds=(11, 5))
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


def test_a_better_order_costs_an_evaluation():
    for sampler, calls in ((heun, 11), (partial(ablation, alpha=0.5), 11), (euler, 6)):
        D = Recorder(Mixture())
        list(sampler(D, draw(1, *SHAPE, id='s'), edm_sigmas(6)))
        assert len(D.asked) == calls


def test_the_family_holds_heun_and_forgets_its_parametrisation():
    "Heun is one of the family; with many steps every schedule and scaling ends at the same image."
    start, D = draw(2, *SHAPE, id='start'), Mixture()
    for a, b in zip(heun(D, start, edm_sigmas(8)), ablation(D, start, edm_sigmas(8))):
        torch.testing.assert_close(a.x, b.x, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(a.x0, b.x0, rtol=1e-6, atol=1e-6)
        assert (a.i, a.sigma) == (b.i, b.sigma)
    ends = [
        list(ablation(D, start, edm_sigmas(300), schedule=s, scaling=k, alpha=a))[-1].x
        for s, k, a in (
            (LinearSchedule(), 'none', 1),
            (VPSchedule(), 'vp', 1),
            (LinearSchedule(), 'vp', 0.5),
            (VESchedule(), 'none', 0.5),
        )
    ]
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    'sampler',
    [
        partial(heun, churn=Churn(5)),
        partial(ablation, schedule=VPSchedule(), scaling='vp', churn=Churn(5)),
        partial(euler, churn=Churn(5)),
    ],
)
def test_fresh_noise_belongs_to_the_sample(sampler):
    whole = sample(Mixture(), range(12), SHAPE, steps=6, block=4, sampler=sampler)
    assert torch.equal(sample(Mixture(), [11, 2, 3], SHAPE, steps=6, block=4, sampler=sampler), whole[[11, 2, 3]])
    torch.testing.assert_close(
        sample(Mixture(), range(12), SHAPE, steps=6, block=5, sampler=sampler), whole, rtol=1e-4, atol=1e-4
    )
    assert (whole - sample(Mixture(), range(12), SHAPE, steps=6, block=4)).abs().max() > 0.1
    fresh = churn_noise(range(500), SHAPE, 1)
    assert abs(fresh.std() - 1) < 0.03 and not torch.equal(fresh, churn_noise(range(500), SHAPE, 2))


def test_fresh_noise_stays_in_its_range():
    D, quiet = Recorder(Mixture()), Recorder(Mixture())
    grid = edm_sigmas(8)
    low, high = grid[5].item(), grid[2].item()
    list(heun(D, draw(1, *SHAPE, id='s'), grid, churn=Churn(4, S_min=low, S_max=high), seeds=[1]))
    list(heun(quiet, draw(1, *SHAPE, id='s'), grid))
    for i, ((_, raised), (_, plain)) in enumerate(zip(D.asked[::2], quiet.asked[::2])):
        assert raised == pytest.approx(plain * (1.4142135 if 2 <= i <= 5 else 1), rel=1e-6)


def test_levels_are_those_the_denoiser_knows():
    assert torch.equal(levels(EDMPrecond(torch.nn.Identity()), 18), edm_sigmas(18)) and torch.equal(
        levels(lambda x, s, l: x, 18), edm_sigmas(18)
    )
    grid = levels(VEPrecond(torch.nn.Identity()), 18)
    assert grid[0].item() == pytest.approx(80) and grid[-2].item() == pytest.approx(0.02)
    D = iDDPMPrecond(torch.nn.Identity())
    grid = levels(D, 18)
    assert (
        torch.equal(D.round_sigma(grid[:-1]), grid[:-1])
        and all(v in D.u.double() for v in grid)
        and levels(Guided(D, 2.0), 18).equal(grid)
    )


def test_iddpm_rounds_to_the_nearest_but_never_to_zero():
    D = iDDPMPrecond(torch.nn.Identity())
    u = iddpm_levels()
    assert len(u) == 1001 and u[-1] == 0 and (u.diff() < 0).all() and 'u' in D.state_dict()
    s = torch.cat([torch.logspace(-4, 4, 300), torch.tensor([1e-9])])
    rounded = D.round_sigma(s)
    assert (rounded > 0).all() and torch.equal(D.round_sigma(rounded), rounded) and rounded.shape == s.shape
    assert all((s[i] - rounded[i]).abs() <= (s[i] - D.u[:-1]).abs().min() + 1e-6 for i in range(len(s)))


@pytest.mark.parametrize(
    'law, smallest, largest',
    [
        (VPLaw(), VPSchedule().sigma(1e-5).item(), VPSchedule().sigma(1).item()),
        (VELaw(), 0.02, 100.0),
        (iDDPMLaw(), iddpm_levels()[-2].item(), iddpm_levels()[0].item()),
        (LogNormal(), 0, math.inf),
    ],
)
def test_training_laws(law, smallest, largest):
    u = draw(40_000, id='u')
    s = law.sigma(u)
    assert s.dtype == torch.float32 and s.shape == u.shape and (law.sigma(u.sort().values).diff() >= 0).all()
    ends = law.sigma(torch.tensor([-12.0, 12.0])) if smallest else s
    assert (
        ends.min().item() >= smallest * 0.9999
        and ends.max().item() <= largest * 1.0001
        and (not smallest or ends.tolist() == pytest.approx([smallest, largest], rel=1e-3))
    )
    for level in (-1.0, 0.0, 0.01, 0.05, 0.5, 5.0, 50.0, 1e5):
        assert law.share_above(level) == pytest.approx((s >= level).double().mean().item(), abs=0.012)


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


def test_guidance():
    D, x, s, c = precond('edm').eval(), draw(2, 3, 8, 8, id='x'), torch.ones(2), torch.eye(10)[:2]
    with torch.no_grad():
        free, told = D(x, s), D(x, s, c)
        for w in (0.0, 1.0, 3.0):
            torch.testing.assert_close(Guided(D, w)(x, s, c), (1 - w) * free + w * told, rtol=1e-4, atol=1e-4)
    assert (free - told).abs().max() > 0.01


@pytest.mark.parametrize('schedule', [VPSchedule(), VPSchedule.between(0.02, 80.0), VESchedule(), LinearSchedule()])
def test_schedules(schedule):
    t = torch.linspace(0.01, 1, 30, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.sigma(t).sum(), t)
    torch.testing.assert_close(schedule.slope(t), slope)
    torch.testing.assert_close(schedule.time(schedule.sigma(t)), t)
    assert schedule.sigma(0).item() == 0


BAD = [
    ('sigmas', lambda: list(heun(Mixture(), torch.zeros(1, *SHAPE), torch.tensor([1.0, 2.0, 0.0])))),
    ('sigmas', lambda: sample(Mixture(), [0], SHAPE, sigmas=torch.tensor([math.inf, 1.0, 0.0]))),
    ('sigmas', lambda: list(euler(Mixture(), torch.zeros(1, *SHAPE), torch.tensor([2.0, -1.0])))),
    ('sigmas', lambda: list(ablation(Mixture(), torch.zeros(1, *SHAPE), torch.tensor([2.0])))),
    ('seeds', lambda: list(heun(Mixture(), torch.zeros(2, *SHAPE), edm_sigmas(4), churn=Churn(1), seeds=[1]))),
    ('S_churn', lambda: Churn(-1)),
    ('S_max', lambda: Churn(S_min=1, S_max=0.5)),
    ('S_noise', lambda: Churn(S_noise=float('nan'))),
    ('alpha', lambda: list(ablation(Mixture(), torch.zeros(1, *SHAPE), edm_sigmas(4), alpha=1.5))),
    ('solver', lambda: list(ablation(Mixture(), torch.zeros(1, *SHAPE), edm_sigmas(4), solver='rk4'))),
    ('scaling', lambda: list(ablation(Mixture(), torch.zeros(1, *SHAPE), edm_sigmas(4), scaling='ve'))),
    ('scale', lambda: Guided(Mixture(), -1)),
    ('labels', lambda: Guided(Mixture(), 2)(torch.zeros(1, *SHAPE), torch.ones(1))),
    ('labels', lambda: Guided(Mixture(), 2)(torch.zeros(1, *SHAPE), torch.ones(1), torch.tensor([3]))),
    ('steps', lambda: iddpm_sigmas(1500)),
    ('steps', lambda: levels(iDDPMPrecond(torch.nn.Identity()), 400)),
    ('steps', lambda: vp_sigmas(1)),
    ('steps', lambda: ve_sigmas(2.5)),
    ('sigma_min', lambda: ve_sigmas(5, 3.0, 2.0)),
    ('sigma_min', lambda: vp_sigmas(5, 1e-5, 80.0)),
    ('sigma_min', lambda: vp_sigmas(5, 1.0, 80.0)),
    ('sigma_max', lambda: iddpm_sigmas(5, 2.0, 1.0)),
    ('beta_d', lambda: VPPrecond(None, beta_d=0)),
    ('epsilon_t', lambda: VPLaw(epsilon_t=0)),
    ('M', lambda: iDDPMPrecond(None, M=1)),
    ('M', lambda: VPPrecond(None, M=0)),
    ('C_1', lambda: iDDPMLaw(C_1=0)),
    ('C_2', lambda: iDDPMLaw(C_2=-1)),
    ('sigma_max', lambda: VEPrecond(None, 1.0, 0.5)),
    ('sigma_min', lambda: VELaw(0.0)),
    ('sigma_data', lambda: EDMPrecond(None, 0)),
    ('sigma_min', lambda: EDMPrecond(None, sigma_min=-1)),
]


@pytest.mark.parametrize('name, bad', BAD)
def test_bad_input(name, bad):
    with pytest.raises(BadInput, match=f'^{name}='):
        bad()
