"The losses of the rooms 08 on a pipeline's latents: as diffusers trains (0.42.1), and as the papers write them in VP."

import pytest
import torch
from torch.nn.functional import mse_loss
from sd import needs_sd

from ambient_nb.core import bcast, refused, rng
from ambient_nb.draws import image_data, step_draws

diffusers = needs_sd()

from ambient_nb.latents import LATENT_METHODS, NATURAL, frozen_latents, method_loss, time_law  # noqa: E402
from ambient_nb.pipelines import PipelineDenoiser, tiny_pipeline  # noqa: E402
from ambient_nb.tweedie import TweedieVPLoss, alpha_of, copy_from_vp, vp_level, vp_step  # noqa: E402


def drawn(*shape, name='x'):
    return torch.randn(*shape, generator=rng(0, 'test_latents', name), dtype=torch.float64)


def double(kind='sd', prediction='epsilon'):
    pipe = tiny_pipeline(kind, prediction)
    pipe.unet.double()
    return PipelineDenoiser(pipe)


def network(D, z, t, words):
    more = {} if words.pooled is None else D.conditions(words)
    return D.pipe.unet(z, t, encoder_hidden_states=words.tokens, **more).sample


@pytest.mark.parametrize('kind', ['sd', 'sdxl'])
@pytest.mark.parametrize('prediction', ['epsilon', 'v_prediction', 'sample'])
def test_the_standard_loss_is_what_diffusers_trains_with(kind, prediction):
    "`add_noise`, `get_velocity` and a plain mean square, as the training examples of diffusers do."
    D = double(kind, prediction)
    scheduler = diffusers.DDPMScheduler.from_config(D.pipe.scheduler.config)
    y, z, t = drawn(3, *D.shape), drawn(3, *D.shape, name='z'), torch.tensor([1, 400, 998])
    words = D.embed(['a', 'b', 'c'])
    words = words._replace(tokens=words.tokens.double(), pooled=None if words.pooled is None else words.pooled.double())
    with torch.no_grad():
        out = network(D, scheduler.add_noise(y, z, t), t, words)
        target = dict(epsilon=z, v_prediction=scheduler.get_velocity(y, z, t), sample=y)[prediction]
        loss = method_loss('standard', D.sigmas).formula(1.0, NATURAL[prediction])
        ours = loss(D, y=y, sigma=D.sigma_of(t), z=z, labels=words).sum() / y.numel()
    torch.testing.assert_close(ours, mse_loss(out, target), rtol=2e-5, atol=0)  # its levels are float32


@pytest.mark.parametrize('kind', ['sd', 'sdxl'])
def test_two_regimes_in_vp_are_two_regimes_in_ve(kind):
    "Word by word in the pipeline's coordinates: value and gradient, below, at and above t_n."
    D, t_n = double(kind), 500
    t, y, z, n = torch.tensor([100, 499, 500, 501, 900]), *(drawn(5, *D.shape, name=name) for name in 'yzn')
    words, ambient = D.embed(['a b'] * 5), bcast((t >= t_n).double(), y) > 0
    words = words._replace(tokens=words.tokens.double(), pooled=None if words.pooled is None else words.pooled.double())
    vp = vp_level(sigma_ve=D.sigmas)[t]
    nature = vp_level(sigma_ve=D.sigmas[t_n]).item()
    s, c = (bcast(part, y) for part in vp_step(nature=nature, current=vp.clamp(min=nature)))
    alpha, own, alpha_n = bcast(alpha_of(sigma_vp=vp), y), bcast(vp, y), alpha_of(sigma_vp=nature)
    copy = alpha_n * y + nature * n
    seen = torch.where(ambient, s * copy + c * z, alpha * y + own * z)
    noise = network(D, seen, t, words)
    guess = copy_from_vp((seen - own * noise) / alpha, seen, nature=nature, current=vp.clamp(min=nature))
    by_hand = torch.where(ambient, (guess - copy) / (alpha_n * own / alpha), noise - z).square().flatten(1).sum(1)
    loss = method_loss('two-regime', D.sigmas, sigma_n=D.sigmas[t_n].item()).formula(1.0, NATURAL['epsilon'])
    ours = loss(D, y=y, noise=n, sigma=D.sigmas[t], z=z, labels=words)
    torch.testing.assert_close(ours, by_hand, rtol=1e-6, atol=1e-10)
    weight = next(D.pipe.unet.parameters())
    grads = [torch.autograd.grad(part.sum(), weight)[0] for part in (ours, by_hand)]
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-8)
    assert ours[2] < 1e-20 and ours[[1, 3]].min() > 1e-3


def test_tweedie_in_vp_is_tweedie_in_ve():
    "Room 08b's two forms through one pipeline: the VP one, unweighted, is alpha_n^2 times the other."
    D = double()
    t, y, z, n = torch.tensor([500, 640, 999]), *(drawn(3, *D.shape, name=name) for name in 'yzn')
    sigma_n = D.sigmas[500].item()
    nature = vp_level(sigma_ve=sigma_n).item()
    alpha_n = alpha_of(sigma_vp=nature).item()
    with torch.no_grad():
        copy = y + sigma_n * n
        vp = TweedieVPLoss(nature)(D, alpha_n * copy, vp_level(sigma_ve=D.sigmas[t]), z)
        ve = method_loss('tweedie', D.sigmas, sigma_n=sigma_n).formula(1.0, NATURAL['sample'])(D, copy, D.sigmas[t], z)
    torch.testing.assert_close(vp, alpha_n**2 * ve, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize('method', LATENT_METHODS)
def test_every_method_draws_and_learns(method):
    "Draws as a run makes them; at t_n, in float32, a step is of the ambient regime and finite."
    D = PipelineDenoiser(tiny_pipeline())
    loss = method_loss(method, D.sigmas, None if method == 'standard' else 300)
    law, ids = time_law(loss, D.sigmas), torch.tensor([4, 4, 7, 9])
    mine = image_data(loss, ids, D.shape) | step_draws(loss, law, D.shape, 0, 0, 4)
    assert law.first == (300 if method in ('tweedie', 'consistency') else 0)
    if method != 'standard':
        mine['sigma'][0] = D.sigmas.float()[300]
        if method != 'consistency':
            assert torch.equal(mine['noise'][0], mine['noise'][1]) and not torch.equal(*mine['noise'][1:3])
    shown = loss.shown(drawn(4, *D.shape).float(), mine, lambda x: x)
    values = loss.formula(1.0, NATURAL['epsilon'])(D, **shown, labels=D.embed(['a cat'] * 4))
    values.sum().backward()
    assert values.isfinite().all() and (method not in ('two-regime', 'tweedie') or values[0] < 1e-9)
    assert next(D.pipe.unet.parameters()).grad.isfinite().all()


def test_a_picture_is_encoded_once_whatever_the_batch():
    D = PipelineDenoiser(tiny_pipeline())
    pictures = torch.randint(256, (4, 3, 20, 32), dtype=torch.uint8, generator=rng(0, 'pictures'))
    items = [(picture, 'a', i) for i, picture in enumerate(pictures)]
    whole, one = frozen_latents(D, items, 5), frozen_latents(D, [items[3], items[1]], 5, block=1)
    torch.testing.assert_close(whole.pixels[[3, 1]], one.pixels, rtol=0, atol=1e-5)
    assert (frozen_latents(D, items, 6).pixels - whole.pixels).abs().max() > 0.01
    middle = frozen_latents(D, items, 5, crop='center').pixels
    assert (middle - whole.pixels).abs().max() > 0.01
    double = frozen_latents(D, [items[2], (pictures[2], ('b', 'c'), 2)], 5)
    assert torch.equal(*double.pixels) and double.captions == (('a',), ('b', 'c'))


def test_pictures_without_captions_are_named():
    D, picture = PipelineDenoiser(tiny_pipeline()), torch.zeros(3, 16, 16)
    bad = [[(picture, 'a', 1), (picture, None, 2)], [(picture, (), 3)], [], [(picture[:1], 'a', 1)]]
    said = [refused(frozen_latents, D, items) for items in bad]
    words = ('1 of 2 without a caption, such as id 2', 'such as id 3', 'empty', '(3,H,W)')
    assert all(word in text for word, text in zip(words, said)), said
