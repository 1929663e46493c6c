"From a folder of captioned pictures to a fine-tuned pipeline, its pictures and their audit."

import json
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sd import needs_sd
from test_cli import cli

from ambient_nb.captions import Duplication
from ambient_nb.checkpoints import load_json
from ambient_nb.core import refused, rng
from ambient_nb.finetune import finetune
from ambient_nb.latents import frozen_latents
from ambient_nb.tune import TuneConfig, captioned_folder, check_captions, drawing_levels, tune, write_pictures

diffusers = needs_sd('peft')

from ambient_nb.pipelines import PipelineDenoiser, tiny_pipeline  # noqa: E402

FEW = dict(iters=2, batch=2, samples=4, steps=3)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    lines = []
    for i in range(6):
        pixels = torch.randint(256, (16, 16 + i, 3), dtype=torch.uint8, generator=rng(i, 'test_tune'))
        Image.fromarray(pixels.numpy()).save(folder / f'{i}.png')
        lines.append(json.dumps(dict(file_name=f'{i}.png', text=f'picture {i}')))
    (folder / 'metadata.jsonl').write_text('\n'.join(lines) + '\n')
    return folder


@pytest.mark.parametrize('kind', ['sd', 'sdxl'])
def test_the_command(kind, pictures, tmp_path):
    "From files to a report; a second call continues and says the same."
    tiny_pipeline(kind).save_pretrained(tmp_path / 'pipe')
    out = tmp_path / 'run'
    typed = ['finetune', tmp_path / 'pipe', pictures, '--out', out, '--method', 'two-regime', '--t-n', 500]
    typed += ['--device', 'cpu', *(part for k, v in FEW.items() for part in (f'--{k}', v))]
    done = cli(*typed)
    assert done.returncode == 0, done.stderr
    assert f'wrote {out / "audit" / "report.html"}' in done.stdout
    assert (out / 'audit' / 'summary.json').is_file() and (out / 'lora' / 'pytorch_lora_weights.safetensors').is_file()
    assert sorted(p.name for p in (out / 'samples').glob('*.png')) == [f'{i:05d}.png' for i in range(4)]
    assert Image.open(out / 'samples.png').size == (32, 32)
    first = [Image.open(out / 'samples' / f'{i:05d}.png').tobytes() for i in range(4)]
    assert cli(*typed).stdout == done.stdout
    assert [Image.open(out / 'samples' / f'{i:05d}.png').tobytes() for i in range(4)] == first
    assert 'new, or that of the same run' in cli(*typed, '--lr', '0.5').stderr


def test_parquet_with_duplicates_and_a_mitigation(pictures, tmp_path):
    "A table of Hugging Face's, pictures and several captions each: from the command to the report, and a call goes on."
    rows = [json.loads(line) for line in (pictures / 'metadata.jsonl').read_text().splitlines()]
    image = [dict(bytes=(pictures / row['file_name']).read_bytes(), path=row['file_name']) for row in rows]
    said = [[row['text'], f'another word for {row["text"]}'] for row in rows]
    pq.write_table(pa.table(dict(image=image, words=said)), tmp_path / 'set.parquet')
    tiny_pipeline().save_pretrained(tmp_path / 'pipe')
    typed = ['finetune', tmp_path / 'pipe', tmp_path / 'set.parquet', '--out', tmp_path / 'run', '--device', 'cpu']
    typed += ['--method', 'standard', *(part for k, v in FEW.items() for part in (f'--{k}', v)), '--column', 'words']
    typed += ['--duplication', 'dup_image', '--dup-share', 0.5, '--dup-weight', 9]
    with patch('ambient_nb.tune.finetune', wraps=finetune) as called:
        done = cli(*typed, '--mitigation', 'GN', '--amount', 0.2)
    assert {'often', 'words'} <= called.call_args.kwargs.keys()
    assert done.returncode == 0, done.stderr
    about = load_json(tmp_path / 'run' / 'config.json')
    assert about['identity']['duplication'] == dict(kind='dup_image', weight_pc=0.5, dup_weight=9.0)
    assert about['identity']['mitigation'] == dict(kind='noise', amount=0.2) and about['n'] == 6
    summary = json.loads((tmp_path / 'run' / 'audit' / 'summary.json').read_text())
    assert summary['sets']['train']['n'] == 6 and (tmp_path / 'run' / 'lora').is_dir()
    assert cli(*typed, '--mitigation', 'GN', '--amount', 0.2).stdout == done.stdout
    assert 'new, or that of the same run' in cli(*typed, '--mitigation', 'MC').stderr
    assert 'MC, GN, RC' in cli(*typed, '--mitigation', 'XX').stderr
    typed[typed.index('dup_image')] = 'dup_all'
    assert 'nodup, dup_both, dup_image' in cli(*typed).stderr


def test_what_comes_more_often_reaches_the_training(pictures, tmp_path):
    "Order and words of a run are those of its settings, whatever the captions of the rest."
    D, items = PipelineDenoiser(tiny_pipeline()), captioned_folder(pictures)
    items = [(image, (*said, 'something else'), i) for i, (image, said, _) in enumerate(items)]
    latents, seen = frozen_latents(D, items), []
    config = TuneConfig(iters=3, batch=16, drop=0.0, rank=2, duplication=Duplication('dup_image', 0.4, 20.0))
    embed = D.embed
    D.embed = lambda prompts: [seen.extend(prompts), embed(prompts)][1]
    finetune(config, D, latents, tmp_path / 'run', device='cpu', **config.options(latents))
    copied = config.duplication.copied(latents.ids).tolist()
    own = {f'picture {i}': is_copied for i, is_copied in enumerate(copied)}
    often = sum(text == 'something else' or own.get(text, False) for text in seen)
    assert len(seen) == 48 and 0 < sum(copied) < 6 and often > 36 and seen.count('something else') > 8
    said = [refused(check_captions, D, [(None, ('short', 'long ' * 90), 0)], c) for c in (config,)]
    assert "images='long" in said[0] and 'at most 77 tokens' in said[0]
    check_captions(D, [(None, ('short', 'long ' * 90), 0)], TuneConfig())  # the second one is never read


def test_a_pipeline_is_drawn_from_at_all_levels_of_the_stock_scheduler():
    "The first one is above the network's last by a rounding of float32."
    for spacing in ('linspace', 'trailing', 'leading'):
        pipe = tiny_pipeline()
        pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing=spacing)
        levels = drawing_levels(PipelineDenoiser(pipe), 25)
        assert len(levels) == 26 and levels[-1] == 0 and (levels.diff() < 0).all()


def test_a_call_that_draws_fewer_leaves_no_picture_of_an_earlier_one(tmp_path):
    for n in (3, 2):
        write_pictures(torch.zeros(n, 3, 4, 4, dtype=torch.uint8), tmp_path / 'samples', ['a'] * n)
    assert sorted(p.name for p in (tmp_path / 'samples').glob('*.png')) == ['00000.png', '00001.png']


def test_what_would_fail_in_the_end_is_refused_before_a_picture_is_read(tmp_path):
    given = dict(method='standard')
    for more, name in ((dict(encoder='nonsense'), 'encoder'), (dict(steps=0), 'steps'), (dict(scale=-1), 'scale')):
        assert name in refused(tune, 'nothing', tmp_path, tmp_path / 'run', **given | more)
    assert 't_n' in refused(tune, 'nothing', tmp_path, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_what_the_command_refuses(pictures, tmp_path):
    pipe = tmp_path / 'pipe'
    tiny_pipeline().save_pretrained(pipe)
    bare, odd = tmp_path / 'bare', tmp_path / 'odd'
    bare.mkdir()
    Image.new('RGB', (8, 8)).save(bare / 'a.png')
    (long := tmp_path / 'long').mkdir()
    Image.new('RGB', (16, 16)).save(long / 'a.png')
    (long / 'a.txt').write_text('word ' * 90)
    tiny_pipeline(prediction_type='flow_prediction').save_pretrained(odd)
    run = ['--out', tmp_path / 'run', '--device', 'cpu']
    asked = {
        'metadata.jsonl': (pipe, bare, '--t-n', 500),
        'its lists have text': (pipe, pictures, '--t-n', 500, '--column', 'caption'),
        'a name on the hub': (tmp_path / 'none', pictures, '--t-n', 500),
        'epsilon, v_prediction, sample': (odd, pictures, '--t-n', 500),
        'from 1 to 998': (pipe, pictures, '--t-n', 2000),
        'or else sigma_n': (pipe, pictures),
        'pictures with captions of at most 77 tokens': (pipe, long, '--t-n', 500),
        'left out for the standard': (pipe, pictures, '--method', 'standard', '--t-n', 5),
    }
    for words, typed in asked.items():
        done = cli('finetune', *typed, *run)
        said = done.stderr.splitlines()[-1]  # above it are diffusers' bars
        assert done.returncode == 2 and said.startswith('Error: ') and words in said, done.stderr
    assert not (tmp_path / 'run').exists()


def test_without_the_extra_the_command_says_which(pictures, tmp_path):
    with patch('ambient_nb.tune.sd_module', side_effect=ImportError('pip install ambient_nb[sd]')):
        done = cli('finetune', tmp_path, pictures, '--out', tmp_path / 'run')
    assert done.returncode == 1 and done.stderr == 'Error: pip install ambient_nb[sd]\n'


def test_noisy_copies_alone_are_sampled_down_to_their_level(pictures, tmp_path):
    found = tune(tiny_pipeline(), pictures, tmp_path / 'run', method='tweedie', t_n=300, rank=0, device='cpu', **FEW)
    assert (tmp_path / 'run' / 'pipeline' / 'model_index.json').is_file() and len(found.lines) == 4


def test_captions_of_a_folder(pictures):
    items = captioned_folder(pictures)
    ids = [id for _, _, id in items]
    (pictures / '0.png').unlink()
    assert '0.png is not' in refused(captioned_folder, pictures)
    lines = (pictures / 'metadata.jsonl').read_text().splitlines()[1:]
    (pictures / 'metadata.jsonl').write_text('\n'.join(lines))
    left = captioned_folder(pictures)
    assert [id for _, _, id in left] == ids[1:] and len({*ids}) == 6
    Image.new('RGB', (8, 8)).save(pictures / 'bare.png')
    assert 'pictures with a caption each' in refused(captioned_folder, pictures)
    (pictures / 'bare.png').unlink()
    (pictures / '1.png').write_bytes(b'no picture')
    assert 'a picture that opens' in refused(captioned_folder, pictures)
    (pictures / 'metadata.jsonl').write_text('\n'.join(lines[1:]) + '\nnot json')
    assert 'line 5' in refused(captioned_folder, pictures)
