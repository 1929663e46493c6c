"Pipelines of diffusers as text denoisers. What is said of diffusers was seen with 0.42.1 and transformers 5.24.0."

import pytest
import torch
from sd import needs_sd

from ambient_nb.core import refused, rng
from ambient_nb.sampling import euler
from ambient_nb.text import guided, noise_of
from ambient_nb.times import scheduler_levels, time_levels

diffusers = needs_sd()

from ambient_nb.pipelines import PipelineDenoiser, open_pipeline, tiny_pipeline  # noqa: E402

SDXL = dict(beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear')


def drawn(*shape, name='x'):
    return torch.randn(*shape, generator=rng(0, 'test_pipelines', name))


@pytest.fixture(scope='module', params=['sd', 'sdxl'])
def pipe(request):
    return tiny_pipeline(request.param)


def own_answer(pipe, D, z, t, words):
    "What the pipeline's network gives at a time, asked as diffusers' own pipelines ask it."
    more = {}
    if words.pooled is not None:
        ids = torch.tensor([[16.0, 16, 0, 0, 16, 16]] * len(z))
        more = dict(added_cond_kwargs=dict(text_embeds=words.pooled, time_ids=ids))
    with torch.no_grad():
        return pipe.unet(z, t, encoder_hidden_states=words.tokens, **more).sample


@pytest.mark.parametrize('t', [1, 500, 999])
def test_epsilon_is_that_of_the_network(pipe, t):
    D = PipelineDenoiser(pipe)
    words, z = D.embed(['a cat', 'two dogs']), drawn(2, *D.shape)
    sigma = D.sigma_of(t)
    with torch.no_grad():
        ours = noise_of(D, z * (1 + sigma**2).sqrt().float(), sigma, words)
    own = own_answer(pipe, D, z, t, words)
    torch.testing.assert_close(ours, own, rtol=0, atol=2e-5)  # float32: x is some 35 times as large as its noise


@pytest.mark.parametrize('kind', ['epsilon', 'v_prediction', 'sample'])
def test_the_posterior_mean_is_that_of_the_scheduler(kind):
    pipe = tiny_pipeline(prediction_type=kind)
    D = PipelineDenoiser(pipe)
    words, z, t = D.embed(['a cat']), drawn(1, *D.shape), 601
    pipe.scheduler.set_timesteps(5)
    theirs = pipe.scheduler.step(own_answer(pipe, D, z, t, words), t, z).pred_original_sample
    sigma = D.sigma_of(t)
    with torch.no_grad():
        torch.testing.assert_close(D(z * (1 + sigma**2).sqrt().float(), sigma, words), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', ['epsilon', 'v_prediction'])
@pytest.mark.parametrize('end', [0, 1])
def test_a_picture_is_that_of_the_stock_pipeline(pipe, kind, end):
    "Every step of DDIM and Euler, with guidance, and the decoder; SDXL's empty prompt is zeros, not an embedding."
    name = ('DDIMScheduler', 'EulerDiscreteScheduler')[end]
    more = dict(timestep_spacing='leading', steps_offset=1, prediction_type=kind)
    pipe.scheduler = getattr(diffusers, name)(**SDXL, **more, **{} if end else dict(clip_sample=False))
    D, z = PipelineDenoiser(pipe), drawn(1, 4, 8, 8, name='start')
    asked = dict(prompt='a cat', num_inference_steps=5, guidance_scale=3.0, latents=z.clone())
    theirs = pipe(**asked, output_type='latent').images
    levels, words = scheduler_levels(pipe.scheduler, 5), D.embed(['a cat'])
    with torch.no_grad():
        start = z * ((1 + levels[0] ** 2).sqrt() / levels[0]).float()
        *_, last = euler(guided(D, 3.0), start, levels, words)
        ours = (last.x / (1 + levels[-1] ** 2).sqrt()).float()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())
        picture = pipe.vae.decode(theirs / pipe.vae.config.scaling_factor).sample.clamp(-1, 1)
    torch.testing.assert_close(D.decode(theirs), picture)
    pipe.scheduler = tiny_pipeline('sdxl' if D.two else 'sd').scheduler


def test_the_empty_prompt_is_what_the_stock_pipeline_guides_away_from(pipe):
    "SDXL: zeros (`force_zeros_for_empty_prompt`), which the embedding of an empty text is not."
    D = PipelineDenoiser(pipe)
    written = D.embed([''])
    assert torch.equal(D.empty.tokens, torch.zeros_like(written.tokens) if D.two else written.tokens)
    assert written.tokens.abs().max() > 0.1 and (D.empty.pooled is not None) == D.two


def test_levels_of_times_in_diffusers():
    "SDXL's table of the paper; DDIM as Stable Diffusion ships it ends at time 0, not at a level of 0."
    levels = time_levels(diffusers.EulerDiscreteScheduler(**SDXL))
    vp = levels / (1 + levels**2).sqrt()
    table = [(100, 0.325, 0.344), (500, 0.851, 1.618), (800, 0.981, 5.11), (900, 0.993, 8.35)]
    for t, sigma_vp, sigma_ve in table:
        assert vp[t].item() == pytest.approx(sigma_vp, abs=6e-4) and levels[t].item() == pytest.approx(
            sigma_ve, rel=2e-3
        )
    ddim = diffusers.DDIMScheduler(**SDXL, set_alpha_to_one=False, steps_offset=1)
    assert scheduler_levels(ddim, 50)[-1] == levels[0]
    assert levels[0].item() == pytest.approx(0.0292, abs=1e-4)
    leading = diffusers.EulerDiscreteScheduler(**SDXL, timestep_spacing='leading', steps_offset=1)
    assert scheduler_levels(leading, 50)[[0, -1]].tolist() == pytest.approx([13.12, 0], abs=0.01)
    assert levels[-1].item() == pytest.approx(14.61, abs=0.01)


def test_a_last_time_of_pure_noise():
    "`rescale_betas_zero_snr`: DDIM and DDPM end in alphas_cumprod 0, Euler in 2^-24, and so at a level of 4096."
    zero = dict(SDXL, rescale_betas_zero_snr=True)
    assert len(time_levels(diffusers.DDIMScheduler(**zero))) == len(time_levels(diffusers.DDPMScheduler(**zero))) == 999
    assert time_levels(diffusers.EulerDiscreteScheduler(**zero))[-1].item() == pytest.approx(4096, rel=1e-6)


def test_a_long_prompt_is_said_not_cut(pipe):
    "diffusers cuts it, and tells its log alone."
    D, long = PipelineDenoiser(pipe), 'a cat and ' * 20
    asked = dict(device='cpu', num_images_per_prompt=1, do_classifier_free_guidance=False)
    cut = [pipe.encode_prompt(prompt, **asked)[0] for prompt in (long, long + 'dog')]
    assert torch.equal(*cut)
    assert '77 tokens, start and end included; it has 142' in refused(D.embed, ['a', long])
    assert 'a list of texts' in refused(D.embed, 'one text')


def lacking(kind='sd', **parts):
    pipe = tiny_pipeline(kind)
    for name, part in parts.items():
        setattr(pipe, name, part)
    return pipe


def test_what_no_pipeline_may_be():
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    said = [
        refused(PipelineDenoiser, bad)
        for bad in (
            lacking(scheduler=flow),
            lacking(text_encoder=None),
            lacking('sdxl', tokenizer_2=None),
            lacking(vae=diffusers.AutoencoderKL(latent_channels=9)),
            lacking('sdxl', unet=tiny_pipeline().unet),
            tiny_pipeline(prediction_type='flow_prediction'),
        )
    ]
    words = (
        'alphas_cumprod',
        'no text_encoder',
        'no tokenizer_2',
        'inpainting',
        'addition_embed_type None',
        'v_prediction',
    )
    assert all(word in text for word, text in zip(words, said)), said


def test_levels_that_were_not_trained_are_refused(pipe):
    D = PipelineDenoiser(pipe)
    with torch.no_grad():
        said = [refused(D, drawn(1, *D.shape), sigma) for sigma in (80.0, 0.002)]
    assert all('0.02917 to 14.61' in text for text in said)


def test_tokens_get_gradients_and_half_precision_stays_inside(pipe):
    D = PipelineDenoiser(pipe)
    words = D.embed(['a cat'])
    tokens = words.tokens.clone().requires_grad_()
    noise_of(D, drawn(1, *D.shape), 2.0, words._replace(tokens=tokens)).square().sum().backward()
    assert tokens.grad.abs().amax(2).min() > 0
    try:
        pipe.unet.to(torch.bfloat16)
        with torch.no_grad():
            out = D(drawn(1, *D.shape), 2.0, words)
    finally:
        pipe.unet.to(torch.float32)
    assert out.dtype == torch.float32 and out.isfinite().all()


def test_latents_of_images(pipe):
    D = PipelineDenoiser(pipe)
    images, noise = drawn(2, 3, 16, 16).tanh(), drawn(2, *D.shape, name='vae')
    mean = D.encode(images)
    with torch.no_grad():
        found = pipe.vae.encode(images).latent_dist
    torch.testing.assert_close(mean, found.mode() * pipe.vae.config.scaling_factor)
    torch.testing.assert_close(D.encode(images, noise) - mean, found.std * noise * pipe.vae.config.scaling_factor)


def test_random_weights_are_those_of_the_seed_and_nothing_else_is_drawn():
    before = torch.get_rng_state()
    a, b, c = tiny_pipeline(seed=1), tiny_pipeline(seed=1), tiny_pipeline(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    weights = [torch.cat([w.flatten() for w in p.unet.parameters()]) for p in (a, b, c)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_saved_pipeline_opens_and_gives_the_same_picture(pipe, tmp_path, monkeypatch):
    pipe.save_pretrained(tmp_path / 'p')
    back = open_pipeline(tmp_path / 'p')
    back.set_progress_bar_config(disable=True)
    asked = dict(prompt='a cat', num_inference_steps=2, latents=drawn(1, 4, 8, 8), output_type='pt')
    assert torch.equal(back(**asked).images, pipe(**asked).images)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    assert 'hf download no/such --local-dir' in refused(open_pipeline, 'no/such')
    (tmp_path / 'p' / 'unet' / 'diffusion_pytorch_model.safetensors').unlink()
    assert 'all that model_index.json names' in refused(open_pipeline, tmp_path / 'p')
    assert 'model_index.json' in refused(open_pipeline, tmp_path)
