"Detection and attacks through pipelines of diffusers, random and tiny: what the rooms show holds there too."

import numpy as np
import pytest
import torch
from sd import needs_sd

from ambient_nb.core import refused, rng
from ambient_nb.maskattack import box_mask, inpainted, mask_attack
from ambient_nb.noiseattack import noise_attack
from ambient_nb.sampling import noise_levels, start_noise
from ambient_nb.textdetection import detect
from ambient_nb.textdifference import text_difference, text_differences
from ambient_nb.textmitigation import token_significance
from ambient_nb.textsharpness import sharpness_difference

needs_sd()

IMAGES = torch.randint(256, (3, 3, 16, 16), generator=rng(0, 'test', 'images')).to(torch.uint8)


@pytest.fixture(scope='module')
def pipe():
    from ambient_nb.pipelines import tiny_pipeline

    return tiny_pipeline()


@pytest.fixture(scope='module')
def D(pipe):
    from ambient_nb.pipelines import PipelineDenoiser

    return PipelineDenoiser(pipe)


def test_prompts_are_scored_by_what_the_network_of_a_pipeline_says(pipe, D):
    sigmas = D.sigmas[[901, 601, 301]]
    found = text_differences(D, ['a cat'], 2, sigmas=torch.cat([sigmas, torch.zeros(1)]), k=1)
    x = sigmas[0].float() * start_noise(range(2), D.shape)
    with torch.no_grad():
        words = [w.tokens.expand(2, -1, -1) for w in (D.embed(['a cat']), D.empty)]
        shrunk = x / (1 + sigmas[0].float() ** 2).sqrt()
        told, free = (pipe.unet(shrunk, 901, encoder_hidden_states=w).sample for w in words)
    direct = (told - free).flatten(1).norm(dim=1)
    torch.testing.assert_close(found.values[0, :, 0], direct.double(), rtol=1e-3, atol=0)
    assert (direct > 0).all()


def test_a_pipeline_can_be_differentiated_by_prompt_and_by_latents(D):
    words, sigma = D.embed(['a cat']), 5.0
    x = sigma * start_noise(range(2), D.shape)
    felt = token_significance(D, words, x, sigma)
    assert felt.shape == (77,) and (felt > 0).all()
    exact, by_step = (sharpness_difference(D, x, sigma, words, delta=d) for d in (None, 1.0))
    assert (exact > 0).all() and by_step.isfinite().all()


def test_a_step_on_the_latents_is_the_derivative_along_it(D):
    words, sigma = D.embed(['a cat']), 5.0
    x = (sigma * start_noise([0], D.shape)).double()
    v = start_noise([1], D.shape).double()
    at = [text_difference(D, (x + h * v).float(), sigma, words).item() for h in (-0.5, 0.5)]
    x = x.float().requires_grad_()
    slope = (torch.autograd.grad(text_difference(D, x, sigma, words).sum(), x)[0] * v.float()).sum().item()
    assert abs(at[1] - at[0] - slope) < 0.2 * abs(slope) + 1e-5


def test_a_ranked_list_of_prompts_through_a_pipeline(D):
    null = [f'null {i}' for i in range(3)]
    found = detect(D, ['a cat', 'dogs'], null, [True, False], n=1, k=1, sigmas=noise_levels(D, 3))
    assert found.table.score.is_monotonic_decreasing and set(found.table.p) <= {0.25, 0.5, 0.75, 1.0}
    assert found.judged is None and 'score' in found.section.body


def test_an_inpainting_pipeline_completes_what_is_hidden_and_nothing_else(pipe):
    import diffusers

    parts = {name: part for name, part in pipe.components.items() if name != 'image_encoder'}
    inpaint = diffusers.StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    inpaint.set_progress_bar_config(disable=True)
    x = IMAGES.float() / 127.5 - 1
    masks = torch.stack([box_mask([(2, 3, 8, 8)], (16, 16))] * 3)
    made, again = (inpainted(inpaint, x, masks, 2, steps=4) for _ in range(2))
    shown = masks.bool()[:, None].expand_as(made)
    assert torch.equal(made, again) and torch.equal(made[shown], x[:, None].expand_as(made)[shown])
    assert not torch.equal(made[:, 0], made[:, 1]) and made.isfinite().all()
    assert 'at most 77 tokens' in refused(inpainted, inpaint, x, masks, prompts=['a', 'b', 'word ' * 90])
    found = mask_attack(lambda x, masks: inpainted(inpaint, x, masks, 1, steps=2), IMAGES, seed=1)
    assert len(found.table) == 3 and (found.table.score < 0).all()


def test_the_noise_attack_works_on_latents(D):
    low, high = (noise_attack(D, IMAGES, sigma, n=1, steps=2, prompts=['a', 'b', 'c']) for sigma in (0.05, 10.0))
    assert len(low.pictures) == 3 and np.isfinite(low.table.score).all() and np.isfinite(high.table.score).all()
    assert low.table.score.max() > high.table.score.max()
    asked = dict(n=1, steps=2, prompts=['a', 'b', 'c'], null=IMAGES)
    assert 'null_prompts' in refused(noise_attack, D, IMAGES, 0.05, **asked)
