"Fine-tuning of tiny pipelines. What is said of diffusers and peft was seen with 0.42.1 and 0.21.2."

import os
import subprocess
import sys

import pytest
import torch
from sd import needs_sd
from tree import BIN, ROOT

from ambient_nb.checkpoints import load_checkpoint
from ambient_nb.core import refused, rng
from ambient_nb.drive import claim_folder, drive
from ambient_nb.runfolders import newest_state, save_state, snapshot_path, snapshots_in

diffusers = needs_sd('peft')

from ambient_nb.finetune import (
    Finetuner,
    FinetuneConfig,
    check_lora,
    finetune,
    load_lora,
    lora_layers,
    save_finetuned,
)  # noqa: E402
from ambient_nb.latents import LATENT_METHODS, frozen_latents, method_loss  # noqa: E402
from ambient_nb.pipelines import PipelineDenoiser, tiny_pipeline  # noqa: E402
from ambient_nb.processes import Team  # noqa: E402

ITEMS = [
    (picture, (f'picture {i}', f'another word for {i}'), i)
    for i, picture in enumerate(torch.rand(5, 3, 16, 16, generator=rng(0, 'test_finetune')) * 2 - 1)
]


def denoiser(kind='sd'):
    return PipelineDenoiser(tiny_pipeline(kind))


@pytest.fixture(scope='module')
def latents():
    return frozen_latents(denoiser(), ITEMS)


def loss_of(method, D):
    return method_loss(method, D.sigmas, None if method == 'standard' else 300)


def config_of(D, method='two-regime', **changes):
    return FinetuneConfig(loss_of(method, D), **dict(dict(iters=4, batch=4, lr=0.01, rank=2, alpha=8.0), **changes))


def picture(pipe):
    asked = dict(num_inference_steps=2, output_type='pt', guidance_scale=3.0)
    pipe.set_progress_bar_config(disable=True)
    start = torch.randn(1, 4, 8, 8, generator=rng(0, 'start'))
    return pipe('picture 1', latents=start, **asked).images


def kept(folder, it=4):
    return load_checkpoint(snapshot_path(folder, it))[0]


@pytest.mark.parametrize(
    'method, changes',
    [
        ('two-regime', dict(ema_kimg=0.004, at_once=3)),
        ('standard', dict(rank=0, warmup=3)),
        ('tweedie', dict(rank=0, ema_kimg=0.01)),
        ('consistency', dict()),
    ],
)
def test_a_resumed_run_has_the_same_bits(method, changes, latents, tmp_path):
    config = config_of(denoiser(), method, **changes)
    finetune(config, denoiser(), latents, tmp_path / 'whole', device='cpu')
    claim_folder(tmp_path / 'halves', config, latents)
    for event in drive(Finetuner(config, denoiser(), latents), tmp_path / 'halves', 4, snapshots={4}):
        if event.it == 2:
            break
    assert newest_state(tmp_path / 'halves')[1]['it'] == 2
    finetune(config, denoiser(), latents, tmp_path / 'halves', device='cpu')
    whole, halves = kept(tmp_path / 'whole'), kept(tmp_path / 'halves')
    assert whole.keys() == halves.keys() and all(torch.equal(whole[k], halves[k]) for k in whole)
    assert any('lora' in name for name in whole) == bool(config.rank)


def test_a_run_past_a_wanted_snapshot_goes_back_to_it(latents, tmp_path):
    config = config_of(denoiser())
    claim_folder(tmp_path, config, latents)
    for event in drive(Finetuner(config, denoiser(), latents), tmp_path, 4, snapshots={4}):
        if event.it == 2:
            break
    finetune(config, denoiser(), latents, tmp_path, device='cpu', snapshots={1})
    assert snapshots_in(tmp_path) == [1, 4]


@pytest.mark.parametrize('kind', ['sd', 'sdxl'])
@pytest.mark.parametrize('rank', [0, 2])
def test_stock_diffusers_loads_it_and_draws_the_same_picture(kind, rank, tmp_path):
    D = denoiser(kind)
    before = picture(tiny_pipeline(kind))
    made = finetune(config_of(D, rank=rank, lr=0.05), D, frozen_latents(D, ITEMS), tmp_path / 'run', device='cpu')
    ours = picture(D.pipe)
    if rank:
        stock = tiny_pipeline(kind)
        stock.load_lora_weights(made)
        assert {c.lora_alpha for c in stock.unet.peft_config.values()} == {8}
    else:
        stock = diffusers.DiffusionPipeline.from_pretrained(made)
    assert torch.equal(picture(stock), ours) and (ours - before).abs().max() > 1e-3


def test_alpha_is_not_in_the_file_unless_asked_for(latents, tmp_path):
    "peft's state dict has no alpha: without diffusers' metadata r=2, alpha=8 comes back as alpha=2, silently."
    peft, D = pytest.importorskip('peft'), denoiser()
    tuner = Finetuner(config_of(D, lr=0.05), D, latents)
    tuner.step()
    layers = diffusers.utils.convert_state_dict_to_diffusers(peft.get_peft_model_state_dict(D.pipe.unet))
    diffusers.StableDiffusionPipeline.save_lora_weights(tmp_path, layers)
    stock = tiny_pipeline()
    stock.load_lora_weights(tmp_path)
    assert {c.lora_alpha for c in stock.unet.peft_config.values()} == {2}
    assert not torch.equal(picture(stock), picture(D.pipe))


def test_a_pipeline_with_an_adapter_cannot_be_saved_whole(latents, tmp_path):
    "diffusers writes it and loads it, layers empty; so a run with LoRA saves LoRA."
    D = denoiser()
    Finetuner(config_of(D), D, latents).step()
    D.pipe.save_pretrained(tmp_path / 'whole')
    broken = diffusers.DiffusionPipeline.from_pretrained(tmp_path / 'whole')
    with pytest.raises((RuntimeError, NotImplementedError), match='meta'):
        picture(broken)
    assert save_finetuned(D, tmp_path).name == 'lora' and not (tmp_path / 'pipeline').exists()


def test_lora_of_another_model_is_refused(latents, tmp_path):
    "Stock diffusers leaves layers out that the network has not, with a line in its log."
    from safetensors.torch import load_file, save_file

    D = denoiser()
    Finetuner(config_of(D), D, latents).step()
    file = save_finetuned(D, tmp_path) / 'pytorch_lora_weights.safetensors'
    odd = tmp_path / 'odd.safetensors'
    save_file({k.replace('down_blocks.0', 'down_blocks.7'): v for k, v in load_file(file).items()}, odd)
    stock = tiny_pipeline()
    stock.load_lora_weights(tmp_path, weight_name='odd.safetensors')
    said = [
        refused(load_lora, tiny_pipeline(), odd),
        refused(load_lora, tiny_pipeline('sdxl'), file),
        refused(load_lora, tiny_pipeline(), tmp_path / 'none'),
        refused(Finetuner, config_of(D), D, latents),
    ]
    words = ('no layer down_blocks.7', 'attn2.to_k of that size', 'such a file', 'a pipeline without LoRA')
    assert all(word in text for word, text in zip(words, said)), said
    check_lora(tiny_pipeline().unet, file)
    assert torch.equal(picture(load_lora(tiny_pipeline(), file)), picture(D.pipe))


def kohya(file, path, old='', new='', wide=''):
    "The same layers under the names of other trainers."
    from safetensors.torch import load_file, save_file

    out = {}
    for key, weight in load_file(file).items():
        layer, end = key.removeprefix('unet.').split('.lora.')
        name = f'lora_unet_{layer}'.replace('.', '_').replace(old, new)
        down = end.startswith('down')
        weight = weight.repeat(1, 2) if wide and down and wide in key else weight
        out[f'{name}.lora_{"down" if down else "up"}.weight'] = weight
        out[f'{name}.alpha'] = torch.tensor(8.0)
    save_file({key: weight.contiguous() for key, weight in out.items()}, path)
    return path


def test_lora_of_other_trainers_is_taken_whole_or_refused(latents, tmp_path):
    "diffusers converts it, leaves out what the network has not, and says so in its log alone."
    D = denoiser()
    Finetuner(config_of(D, lr=0.05), D, latents).step()
    file = save_finetuned(D, tmp_path) / 'pytorch_lora_weights.safetensors'
    whole = load_lora(tiny_pipeline(), kohya(file, tmp_path / 'a.safetensors'))
    assert torch.equal(picture(whole), picture(D.pipe)) and lora_layers(whole) == 32
    other = kohya(file, tmp_path / 'b.safetensors', 'down_blocks_0', 'down_blocks_7')
    stock = tiny_pipeline()
    stock.load_lora_weights(tmp_path, weight_name=other.name)
    assert lora_layers(stock) == 24
    assert '24 of its 32 layers' in refused(load_lora, whole, other) and lora_layers(whole) == 32
    wide = kohya(file, tmp_path / 'c.safetensors', wide='attn2.to_k')
    assert 'size mismatch' in refused(load_lora, whole, wide) and torch.equal(picture(whole), picture(D.pipe))


@pytest.mark.parametrize('method', LATENT_METHODS)
def test_gradients_may_be_accumulated_and_shared_out(method, latents, monkeypatch):
    "In parts, or by two processes that add theirs up: the same step, but for the order of sums."
    found = {}

    def gradients(name, team=Team(), **changes):
        D = denoiser()
        tuner = Finetuner(config_of(D, method, **changes), D, latents, team)
        monkeypatch.setattr(Team, 'add_up', lambda team, tensors: None)
        keep = lambda weights: found.update({name: [p.grad.clone() for p in weights]})
        monkeypatch.setattr('ambient_nb.finetune.bound_gradients', keep)
        return [tuner.step(), *found[name]]

    whole, parts = gradients('whole'), gradients('parts', at_once=1)
    halves = [gradients(rank, Team(rank, 2, 'cpu')) for rank in range(2)]
    for a, b, c, d in zip(whole, parts, *halves):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(c + d, a, rtol=1e-4, atol=1e-6)
    D = denoiser()
    assert 'a multiple of 3' in refused(Finetuner, config_of(D), D, latents, Team(0, 3, 'cpu'))


def test_it_learns(latents):
    "The loss on the same draws falls."
    D = denoiser()
    tuner = Finetuner(config_of(D, 'standard', rank=0, lr=3e-3, drop=0.0), D, latents)

    def standing():
        it, tuner.it = tuner.it, 1000
        rows = torch.arange(5).repeat(8)
        mine = dict(
            sigma=tuner.law.sigma(torch.linspace(-2, 2, 40)), z=torch.randn(40, *D.shape, generator=rng(1, 'z'))
        )
        loss = tuner.some(rows, mine, torch.ones(40, dtype=torch.bool), 0).item()
        tuner.it = it
        return loss

    before = standing()
    for _ in range(25):
        tuner.step()
    assert standing() < 0.9 * before


def test_what_the_network_is_told(latents):
    "Dropped captions are the empty prompt; a function of one's own sees texts, numbers and the place in the run."
    D, seen = denoiser(), []
    rows = torch.tensor([3, 0])

    def words(embed, captions, *, ids, start):
        seen.append((captions, ids, start))
        return embed([said[1] for said in captions])

    told = Finetuner(config_of(D, rank=0), D, latents).told(rows, torch.tensor([True, False]), 0)
    assert torch.equal(told.tokens[:1], D.embed(['picture 3']).tokens) and torch.equal(told.tokens[1:], D.empty.tokens)
    D = denoiser()
    tuner = Finetuner(config_of(D, drop=0.0, at_once=2), D, latents, words=words)
    tuner.step()
    tuner.step()
    assert [start for _, _, start in seen] == [0, 2, 4, 6] and seen[0][0][0] == ITEMS[seen[0][1][0]][1]


def test_ema_and_half_precision(latents, tmp_path):
    D = denoiser()
    tuner = Finetuner(config_of(D, ema_kimg=1.0, precision='bf16'), D, latents)
    start = {k: v.clone() for k, v in tuner.kept().items()}
    tuner.step()
    tuner.step()
    moved = max((v - start[k]).abs().max().item() for k, v in tuner.net.state_dict().items())
    behind = max((v - start[k]).abs().max().item() for k, v in tuner.kept().items())
    assert 0 < behind < moved and all(p.dtype == torch.float32 for p in tuner.net.values())


def test_a_state_without_ema_is_kept(latents, tmp_path):
    "Where the average is the network itself, its weights are stored once; and the next step is the same."
    tuner = Finetuner(config_of(D := denoiser(), ema_kimg=0.0), D, latents)
    tuner.step()
    save_state(tmp_path, tuner, dict(it=1))
    again = Finetuner(config_of(D := denoiser(), ema_kimg=0.0), D, latents)
    again.load(newest_state(tmp_path)[0], 1)
    assert torch.equal(tuner.step(), again.step())
    assert all(torch.equal(p, q) for p, q in zip(tuner.net.values(), again.net.values()))


def test_a_folder_belongs_to_one_run(latents, tmp_path):
    finetune(config_of(denoiser(), iters=1), denoiser(), latents, tmp_path, device='cpu')
    other = frozen_latents(denoiser(), ITEMS, 7)
    for config, data in ((config_of(denoiser(), iters=1, lr=1.0), latents), (config_of(denoiser(), iters=1), other)):
        assert 'new, or that of the same run' in refused(finetune, config, denoiser(), data, tmp_path, device='cpu')


SCRIPT = """
import sys, torch
from ambient_nb.core import rng
from ambient_nb.finetune import FinetuneConfig, finetune
from ambient_nb.latents import frozen_latents, method_loss
from ambient_nb.pipelines import PipelineDenoiser, tiny_pipeline
D = PipelineDenoiser(tiny_pipeline())
pictures = torch.rand(5, 3, 16, 16, generator=rng(0, 'pictures')) * 2 - 1
latents = frozen_latents(D, [(p, 'a', i) for i, p in enumerate(pictures)])
loss = method_loss('two-regime', D.sigmas, 300)
finetune(FinetuneConfig(loss, iters=2, batch=4, lr=0.01, rank=2, alpha=8.0), D, latents, sys.argv[1], device='cpu')
"""


@pytest.mark.slow
def test_accelerate_launches_two_processes(tmp_path):
    pytest.importorskip('accelerate', reason="accelerate comes with the extra 'sd'")
    (tmp_path / 'train.py').write_text(SCRIPT)
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    launch = [BIN / 'accelerate', 'launch', '--cpu', '--num_processes', '2', '--num_machines', '1']
    launch += ['--mixed_precision', 'no', '--dynamo_backend', 'no']
    for name, start in (('two', launch), ('one', [sys.executable])):
        command = [*start, tmp_path / 'train.py', tmp_path / name]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
    one, two = kept(tmp_path / 'one', 2), kept(tmp_path / 'two', 2)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-5)
