"The hub's layout and diffusers: the same model, the same images."

import json
import os
import sys
import types
from dataclasses import asdict
from unittest.mock import patch

import numpy as np
import pytest
import torch
from nets import loud, model_of

from ambient_nb import hub
from ambient_nb.core import BadInput
from ambient_nb.hub import Card, load_hub, save_hub
from ambient_nb.sampling import sample
from ambient_nb.stats import Estimate, wilson

CARD = Card(
    'Digits',
    data='The first 300 digits of scikit-learn.',
    data_sha='0f' * 32,
    weights='EMA with a half-life of 500 kimg.',
    licence='apache-2.0',
    sampling='Heun, 18 steps.',
    metrics={'fd-digits': Estimate(3.21, 3.0, 3.5, 1000)},
    memorization={'memorized': wilson(120, 1000)},
    rule='Nearest below a third of second nearest.',
)


def test_a_hub_id_is_downloaded_without_code(tmp_path):
    config = model_of()
    folder = save_hub(tmp_path / 'hub', config, loud(config).state_dict(), card=CARD)
    asked = []

    def snapshot_download(repo, allow_patterns):
        asked.append((repo, allow_patterns))
        return str(folder)

    with patch.dict(sys.modules, huggingface_hub=types.SimpleNamespace(snapshot_download=snapshot_download)):
        assert load_hub('someone/digits')[1] == CARD
    assert asked == [('someone/digits', ['config.json', 'model.safetensors', 'README.md'])]
    with patch.dict(sys.modules, huggingface_hub=None), pytest.raises(ImportError, match=r'ambient_nb\[sd\]'):
        load_hub('someone/digits')


@pytest.fixture(scope='module')
def diffusers(torch_fidelity, tmp_path_factory):
    "diffusers, offline, its cache in a temporary folder; importable also beside a torchvision that does not fit."
    os.environ.update(HF_HOME=str(tmp_path_factory.mktemp('hf')), HF_HUB_OFFLINE='1')
    return pytest.importorskip('diffusers', reason="diffusers is not installed (extra 'sd')")


@pytest.mark.parametrize('family, precond', [('ddpmpp', 'edm'), ('ncsnpp', 've'), ('adm', 'iddpm')])
def test_stock_diffusers_samples_the_same_images(diffusers, tmp_path, family, precond):
    "Written by us, loaded by DiffusionPipeline.from_pretrained, sampled, saved by diffusers and loaded once more."
    config = model_of(family, precond, augment_dim=0)
    D = loud(config)
    folder, labels = hub.save_pipeline(tmp_path / 'pipe', config, D.state_dict()), torch.eye(10)[[4, 2]]
    assert not any('torch_utils' in f.read_text() for f in folder.rglob('*.py')) and json.loads(
        (folder / 'model_index.json').read_text()
    )['_class_name'] == ['pipeline', 'AmbientPipeline']
    ours = sample(D, [5, 0], config.shape, steps=4, labels=labels, block=8)

    def draw(pipe):
        return pipe(seeds=[5, 0], labels=labels, num_inference_steps=4, block=8, output_type='raw').images

    pipe = diffusers.DiffusionPipeline.from_pretrained(str(folder), trust_remote_code=True)
    custom = diffusers.DiffusionPipeline.from_pretrained(
        str(folder), custom_pipeline=str(folder), trust_remote_code=True
    )
    pipe.save_pretrained(str(tmp_path / 'again'))
    again = diffusers.DiffusionPipeline.from_pretrained(str(tmp_path / 'again'), trust_remote_code=True)
    for loaded in (pipe, custom, again):
        torch.testing.assert_close(draw(loaded), ours, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match='trust_remote_code'):
        diffusers.DiffusionPipeline.from_pretrained(str(folder))


def test_pipeline_outputs(diffusers, tmp_path):
    config = model_of(label_dim=0)
    pipe = hub.AmbientPipeline(hub.AmbientDenoiser(**asdict(config)))
    raw, pt, array, pictures = (
        pipe(seeds=[1], num_inference_steps=2, block=2, output_type=t).images for t in ('raw', 'pt', 'np', 'pil')
    )
    assert (
        torch.equal(pt, (raw / 2 + 0.5).clamp(0, 1))
        and np.array_equal(array[0].transpose(2, 0, 1), pt[0].numpy())
        and pictures[0].size == (16, 16)
    )
    with pytest.raises(BadInput, match='output_type'):
        pipe(output_type='jpeg')


def test_a_pipeline_takes_what_users_of_diffusers_bring(diffusers):
    "A generator and a batch size stand for seeds: the same images again, and one by one."
    config = model_of(label_dim=0)
    pipe = hub.AmbientPipeline(hub.AmbientDenoiser(**asdict(config)))

    def draw(**given):
        return pipe(num_inference_steps=2, block=2, output_type='raw', **given).images

    def generator(seed):
        return torch.Generator().manual_seed(seed)

    two = draw(batch_size=2, generator=generator(7))
    seeds = hub.pipeline_seeds(None, 2, generator(7))
    assert torch.equal(two, draw(seeds=seeds)) and torch.equal(two, draw(batch_size=2, generator=generator(7)))
    assert torch.equal(draw(generator=[generator(8), generator(7)])[1], two[0]) and not torch.equal(two[0], two[1])
    assert torch.equal(draw(), draw(seeds=[0])) and torch.equal(draw(batch_size=2), draw(seeds=[0, 1]))
    with pytest.raises(BadInput, match='seeds=.* must be left out where `generator` or `batch_size`'):
        draw(seeds=[0, 1], batch_size=2)
