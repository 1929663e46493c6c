"Does this pipeline copy? The commands from files to reports, on random tiny pipelines, and what they refuse."

import json
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from PIL import Image
from sd import needs_sd
from test_cli import cli

from ambient_nb.core import refused, rng
from ambient_nb.data import digits
from ambient_nb.digitwords import captioned_digits
from ambient_nb.networks import PRESETS
from ambient_nb.textmodel import TextConfig, TextTrainer
from ambient_nb.training import fit

diffusers = needs_sd('peft')

from ambient_nb.ask import ask_images, ask_prompts, inpainting_of  # noqa: E402
from ambient_nb.finetune import add_lora, save_finetuned  # noqa: E402
from ambient_nb.pipelines import PipelineDenoiser, open_pipeline, tiny_pipeline  # noqa: E402
from ambient_nb.questioned import asked_levels, open_reader  # noqa: E402
from ambient_nb.text import guided  # noqa: E402
from ambient_nb.tune import tune  # noqa: E402

CHEAP = ('--n', 1, '--steps', 2, '--device', 'cpu')


def picture(i):
    pixels = torch.randint(256, (20, 17, 3), dtype=torch.uint8, generator=rng(i, 'test_ask'))
    return Image.fromarray(pixels.numpy())


def lines(path, rows):
    path.write_text('\n'.join(map(json.dumps, rows)) + '\n')
    return path


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "Pipelines, prompts and pictures: six in question, of which two are members, and four of a null."
    room = tmp_path_factory.mktemp('ask')
    for kind in ('sd', 'sdxl'):
        tiny_pipeline(kind).save_pretrained(room / kind)
    for name, numbers in dict(pictures=range(6), null=range(6, 10), members=(1, 4, 11)).items():
        (room / name).mkdir()
        for i in numbers:
            picture(i).save(room / name / f'{i}.png')
        lines(room / name / 'metadata.jsonl', [dict(file_name=f'{i}.png', text=f'picture {i}') for i in numbers])
    lines(room / 'asked.jsonl', [dict(prompt=f'picture {i}', memorized=i < 2) for i in range(4)])
    (room / 'null.txt').write_text('a cat\na dog\nrain\n')
    lines(room / 'boxes.jsonl', [dict(file_name=f'{i}.png', top=2, left=i, height=8, width=8) for i in range(6)])
    return room


def report(out):
    "Its files, and what they say."
    assert sorted(p.name for p in out.iterdir()) == ['report.html', 'samples.parquet', 'summary.json']
    return pd.read_parquet(out / 'samples.parquet'), json.loads((out / 'summary.json').read_text())


@pytest.mark.parametrize('kind, score', [('sd', ('difference', '--k', 1)), ('sdxl', ('sharpness', '--delta', 0.1))])
def test_detect(kind, score, files, tmp_path):
    typed = ['detect', files / kind, files / 'asked.jsonl', '--null', files / 'null.txt', '--score', *score, *CHEAP]
    done = cli(*typed, '--out', tmp_path / 'r')
    assert done.returncode == 0, done.stderr
    table, summary = report(tmp_path / 'r')
    assert len(table) == 7 and table.null.sum() == 3 and table.memorized.eq(True).sum() == 2
    found = summary['detection']
    assert (
        found['judged']['memorized'] == 2
        and found['judged']['others'] == 5
        and summary['pipeline'] == str(files / kind)
    )
    assert 'As a whole' in done.stdout and 'whose truth is known: AUC' in done.stdout
    assert done.stdout.endswith(f'wrote {tmp_path / "r" / "report.html"}\n')
    assert cli(*typed, '--out', tmp_path / 'r').stdout == done.stdout
    assert cli(*typed, '--out', tmp_path / 'r', '--seed', 1).stdout != done.stdout


def test_the_noise_is_that_of_the_papers(files):
    "DDIM's times of 50 steps begin at 981; the attack begins at time 900, and goes on at those below it."
    D = open_reader(files / 'sd', device='cpu')
    assert torch.equal(asked_levels(D, 50)[:2], D.sigmas[[981, 961]]) and len(asked_levels(D, 50)) == 51
    levels = asked_levels(D, 50, D.sigmas[900].item())
    assert torch.equal(levels[:2], D.sigmas[[900, 881]]) and levels[-1] == 0 and len(levels) == 47
    zero = dict(rescale_betas_zero_snr=True, timestep_spacing='trailing')
    pipe = tiny_pipeline(prediction_type='v_prediction')
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, **zero)
    assert asked_levels(PipelineDenoiser(pipe), 4).isfinite().all()  # its last time has no level


@pytest.mark.parametrize('kind', ['sd', 'sdxl'])
def test_attack_by_noise(kind, files, tmp_path):
    typed = ['attack', files / kind, files / 'pictures', '--null', files / 'null', '--truth', files / 'members', *CHEAP]
    done = cli(*typed, '--out', tmp_path / 'r', '--t', 300)
    assert done.returncode == 0, done.stderr
    table, summary = report(tmp_path / 'r')
    assert {*table.image[table.member.eq(True)]} == {'1.png', '4.png'} and len(table) == 10
    level = PipelineDenoiser(tiny_pipeline(kind)).sigmas[300].item()
    assert summary['attack']['how']['sigma'] == pytest.approx(level) and summary['attack']['judged']['others'] == 8
    (tmp_path / 'truth.csv').write_text('file_name,member\n' + ''.join(f'{i}.png,{i in (1, 4)}\n' for i in range(6)))
    asked = ['--truth', tmp_path / 'truth.csv', '--sigma', level, '--out', tmp_path / 'again']
    assert cli(*typed[: -len(CHEAP) - 2], *CHEAP, *asked).stdout.splitlines()[:-1] == done.stdout.splitlines()[:-1]


def test_what_is_told_and_how_strongly(files):
    "Captions reach the model, and guidance works on latents: its encoder is that of the pipeline."
    how = dict(n=1, steps=2, t=900, device='cpu')
    scores = [
        ask_images(files / 'sd', files / 'pictures', **how, **more).table.set_index('image').score.sort_index()
        for more in ({}, dict(column='text'), dict(column='text', scale=7.5), dict(seed=1))
    ]
    assert all((scores[0] - other).abs().min() > 0 for other in scores[1:])
    assert (scores[1] - scores[2]).abs().min() > 0
    assert guided(PipelineDenoiser(tiny_pipeline()), 2.0).encode(torch.zeros(1, 3, 16, 16)).shape == (1, 4, 8, 8)


@pytest.mark.parametrize('kind', ['sd', 'sdxl'])
def test_attack_by_mask(kind, files, tmp_path):
    "Only the boxes are drawn anew, and what is drawn hangs on the prompts."
    typed = ['attack', files / kind, files / 'pictures', '--by', 'mask', '--boxes', files / 'boxes.jsonl', *CHEAP]
    done = cli(*typed, '--null', files / 'null', '--out', tmp_path / 'r', '--column', 'text')
    assert done.returncode == 0, done.stderr
    table, summary = report(tmp_path / 'r')
    assert len(table) == 10 and summary['attack']['how']['attack'] == 'masking' and summary['boxes']
    how = dict(by='mask', boxes=files / 'boxes.jsonl', n=1, steps=2, device='cpu')
    told, untold = (ask_images(files / kind, files / 'pictures', column=column, **how) for column in ('text', None))
    image, shown, drawn = told.pictures['3.png']
    hidden = torch.zeros(16, 16, dtype=torch.bool)
    hidden[2:10, 3:11] = True
    assert torch.equal(image[:, ~hidden], drawn[:, ~hidden]) and (shown[:, hidden] == 0).all()
    assert not torch.equal(image[:, hidden], drawn[:, hidden])
    assert not torch.equal(drawn, untold.pictures['3.png'][2])


def test_a_pipeline_that_was_trained_to_inpaint(files, tmp_path):
    "Its network takes nine channels: it can be asked by mask, and is refused by noise."
    parts = {name: part for name, part in tiny_pipeline().components.items() if name != 'image_encoder'}
    parts['unet'] = diffusers.UNet2DConditionModel.from_config(parts['unet'].config, in_channels=9)
    diffusers.StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False).save_pretrained(tmp_path / 'nine')
    found = ask_images(tmp_path / 'nine', files / 'pictures', by='mask', n=1, steps=2, device='cpu')
    assert len(found.table) == 6 and found.table.score.nunique() == 6
    assert 'inpainting takes more' in refused(ask_images, tmp_path / 'nine', files / 'pictures', device='cpu')


def test_no_safety_checker_is_needed_and_none_blackens_what_is_scored(files):
    with_one = tiny_pipeline()
    assert open_pipeline(files / 'sd').safety_checker is None  # and the commands above ran
    with_one.register_modules(safety_checker=torch.nn.Identity())
    assert inpainting_of(with_one).safety_checker is None and with_one.safety_checker is not None
    assert 'inpaints' in refused(inpainting_of, diffusers.DDPMPipeline(with_one.unet, with_one.scheduler))


def test_lora_and_runs_of_our_own(files, tmp_path):
    "A fine-tuning is its base with its LoRA, by its folder or by hand; half precision is near to single."
    found = {'base': ask_prompts(files / 'sd', files / 'asked.jsonl', n=1, steps=2, device='cpu')}
    tune(
        files / 'sd',
        files / 'pictures',
        tmp_path / 'run',
        t_n=500,
        iters=1,
        lr=0.1,
        batch=2,
        samples=2,
        steps=2,
        device='cpu',
    )
    for name, (source, more) in dict(
        run=(tmp_path / 'run', {}),
        hand=(files / 'sd', dict(lora=tmp_path / 'run' / 'lora')),
        half=(files / 'sd', dict(precision='bf16')),
    ).items():
        found[name] = ask_prompts(source, files / 'asked.jsonl', n=1, steps=2, device='cpu', **more)
    scores = {name: f.table.set_index('prompt').score.sort_index() for name, f in found.items()}
    assert scores['run'].equals(scores['hand']) and not scores['run'].equals(scores['base'])
    assert 0 < (scores['half'] / scores['base'] - 1).abs().max() < 0.2
    own = refused(ask_prompts, tmp_path / 'run', files / 'asked.jsonl', lora='other')
    assert 'left out for a run with LoRA of its own' in own


def test_a_run_on_captions_needs_no_diffusers(files, tmp_path):
    pool = captioned_digits(digits()[0].take(range(6)))
    fit(TextConfig(PRESETS['tiny'], iters=1, batch=2), pool, tmp_path / 'run', device='cpu', trainer=TextTrainer)
    (tmp_path / 'digits').mkdir()
    for i, u in enumerate(pool.pixels):
        Image.fromarray(u[0].numpy()).save(tmp_path / 'digits' / f'{i}.png')
    with patch('ambient_nb.pipelines.extra', side_effect=AssertionError):
        for typed in (
            ['detect', tmp_path / 'run', files / 'null.txt'],
            ['attack', tmp_path / 'run', tmp_path / 'digits', '--sigma', 1],
            ['attack', tmp_path / 'run', tmp_path / 'digits', '--by', 'mask', '--push', 10],
        ):
            done = cli(*typed, *CHEAP, '--out', tmp_path / 'r')
            assert done.returncode == 0, done.stderr
            assert 'are ranked; without a null' in done.stdout
            assert 'score' in done.stdout and 'NaN' not in done.stdout
    assert 'grey' in refused(ask_images, tmp_path / 'run', files / 'pictures', sigma=1, device='cpu')


def test_what_is_refused_and_how_it_is_said(files, tmp_path):
    long, odd = tmp_path / 'long.txt', tmp_path / 'odd'
    long.write_text('a cat\n' + 'word ' * 90)
    tiny_pipeline(prediction_type='flow_prediction').save_pretrained(odd)
    other = PipelineDenoiser(tiny_pipeline('sdxl'))
    add_lora(other.pipe.unet, 2, 2.0, 0)
    lora = save_finetuned(other, tmp_path)
    sd, asked, pictures = files / 'sd', files / 'asked.jsonl', files / 'pictures'
    lines(tmp_path / 'far.jsonl', [dict(file_name='0.png', top=12, left=0, height=8, width=8)])
    (tmp_path / 'alone').mkdir()
    picture(3).save(tmp_path / 'alone' / '0.png')
    refusals = {
        '--prompts must be of at most 77 tokens': ['detect', sd, long],
        'epsilon, v_prediction, sample': ['detect', odd, asked],
        'no layer': ['detect', sd, asked, '--lora', lora],
        'pytorch_lora_weights.safetensors': ['detect', sd, asked, '--lora', tmp_path],
        'a name on the hub': ['detect', tmp_path / 'none', asked],
        'one of difference, sharpness': ['detect', sd, asked, '--score', 'memory'],
        '--k must be': ['detect', sd, asked, '--k', 5],
        'left out for the score sharpness': ['detect', sd, asked, '--score', 'sharpness', '--k', 1],
        'not among those in question': ['detect', sd, asked, '--null', asked],
        'fp32, fp16, bf16': ['detect', sd, asked, '--precision', 'int8'],
        'a text file that can be read': ['detect', sd, tmp_path / 'none.csv'],
        'from 1 to 999': ['attack', sd, pictures, '--t', 1000],
        'or else sigma, and not both': ['attack', sd, pictures, '--t', 5, '--sigma', 1],
        'the levels it was trained at': ['attack', sd, pictures, '--sigma', 80],
        'not of the attack by noise': ['attack', sd, pictures, '--push', 1],
        'left out for a pipeline': ['attack', sd, pictures, '--by', 'mask', '--push', 1],
        "'far.jsonl, 0.png: (12, 0, 8, 8)' is not allowed": [
            'attack',
            sd,
            tmp_path / 'alone',
            '--by',
            'mask',
            '--boxes',
            tmp_path / 'far.jsonl',
        ],
        'a line for each image; 1.png': ['attack', sd, pictures, '--by', 'mask', '--boxes', tmp_path / 'far.jsonl'],
        'with some of those in question': ['attack', sd, pictures, '--truth', files / 'null'],
        'its lists have text': ['attack', sd, pictures, '--column', 'caption'],
        'at most 17': ['attack', sd, pictures, '--side', 32],
        'null=': ['attack', sd, pictures, '--null', files / 'members'],
        'a multiple of 2': ['attack', sd, pictures, '--by', 'mask', '--side', 15],
        'steps=0': ['attack', sd, pictures, '--by', 'mask', '--steps', 0],
        '--steps=0': ['attack', sd, pictures, '--steps', 0],
    }
    for words, typed in refusals.items():
        done = cli(*typed[:1], *CHEAP, *typed[1:], '--out', tmp_path / 'r')  # what comes last counts
        said = done.stderr.splitlines()[-1]
        assert done.returncode == 2 and said.startswith('Error: '), (typed, done.stderr)
        assert words.replace('--', '') in said.replace('--', ''), (words, said)
    assert not (tmp_path / 'r').exists()


def test_what_is_too_long_is_said_before_anything_is_asked(files, tmp_path):
    (tmp_path / 'set').mkdir()
    picture(0).save(tmp_path / 'set' / '0.png')
    lines(tmp_path / 'set' / 'metadata.jsonl', [dict(file_name='0.png', text='word ' * 90)])
    (tmp_path / 'long.txt').write_text('word ' * 90)
    for name, call, *given in (
        ('noise_attack', ask_images, tmp_path / 'set', dict(by='noise', column='text')),
        ('mask_attack', ask_images, tmp_path / 'set', dict(by='mask', column='text')),
        ('detect', ask_prompts, files / 'asked.jsonl', dict(null=tmp_path / 'long.txt')),
    ):
        with patch(f'ambient_nb.ask.{name}', side_effect=AssertionError):
            words = refused(call, files / 'sd', given[0], device='cpu', **given[1])
        assert 'at most 77 tokens' in words


def test_without_the_extra_the_commands_say_which(files, tmp_path):
    for typed in (['detect', files / 'sd', files / 'asked.jsonl'], ['attack', files / 'sd', files / 'pictures']):
        with patch('ambient_nb.pipelines.sd_module', side_effect=ImportError('pip install ambient_nb[sd]')):
            done = cli(*typed, '--out', tmp_path / 'r')
        assert done.returncode == 1 and done.stderr == 'Error: pip install ambient_nb[sd]\n'
