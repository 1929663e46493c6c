"Suspects: the same denoiser from every place it may lie in, and one line where there is none."

import shutil

import pytest
import torch
from ambient_nb.checkpoints import Damaged, load_checkpoint
from ambient_nb.core import refused
from ambient_nb.data import Images, digits
from ambient_nb.runfolders import snapshot_path
from ambient_nb.hub import Card, save_hub
from ambient_nb.models import ModelConfig, save_model
from ambient_nb.networks import NetConfig
from ambient_nb.objectives import Ambient
from ambient_nb.suspects import check_model, open_model
from ambient_nb.training import TrainConfig, fit

NET = NetConfig(model_channels=8, channel_mult=(1,), num_blocks=1, attn_resolutions=())
POOL = digits()[0]
FEW = Images(POOL.pixels[:20], POOL.labels[:20], POOL.ids[:20], POOL.name)


@pytest.fixture(scope='module')
def places(tmp_path_factory):
    "One denoiser as a run, as a snapshot of it, as a file and in the hub's layout."
    base = tmp_path_factory.mktemp('suspects')
    run = fit(TrainConfig(net=NET, iters=2, batch=4), FEW, base / 'run', snapshots=[1], device='cpu')
    config, tensors = ModelConfig(NET, 8, 1, params=dict(sigma_data=0.5)), load_checkpoint(snapshot_path(run, 2))[0]
    save_model(base / 'mine.safetensors', config, tensors)
    words = {name: 'x' for name in ('title', 'data', 'weights', 'licence', 'sampling')}
    save_hub(base / 'hub', config, tensors, card=Card(data_sha='0' * 64, **words))
    return dict(
        run=run, snapshot=run / 'snapshot-0000002.safetensors', file=base / 'mine.safetensors', hub=base / 'hub'
    )


def test_one_denoiser_from_every_place(places):
    x = torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)
    found = {name: open_model(place) for name, place in places.items()}
    wanted = found['run'].D(x, 0.5)
    for suspect in found.values():
        assert suspect.shape == (1, 8, 8) and suspect.classes == suspect.further == 0 and suspect.weights > 1000
        assert torch.equal(suspect.D(x, 0.5), wanted)
    first = open_model(places['run'] / 'snapshot-0000001.safetensors')
    assert not torch.equal(first.D(x, 0.5), wanted)


def test_what_is_no_model_is_refused_in_one_line(places, tmp_path):
    (tmp_path / 'config.json').write_text('{"_class_name": "UNet2DModel"}')
    (tmp_path / 'network.pkl').write_bytes(b'\x80')
    shutil.copytree(places['run'], unfinished := tmp_path / 'unfinished')
    for file in unfinished.glob('snapshot-*'):
        file.unlink()
    alone = tmp_path / 'alone.safetensors'
    for end in ('.safetensors', '.json'):
        shutil.copy(places['snapshot'].with_suffix(end), alone.with_suffix(end))
    for bad in (tmp_path, tmp_path / 'network.pkl', unfinished, alone, tmp_path / 'gone', 'user/name', '', 3, None):
        said = refused(open_model, bad)
        assert said.startswith('model=') and 'must be' in said and '\n' not in said


def test_a_damaged_model_is_damaged(places, tmp_path):
    for end in ('.safetensors', '.json'):
        shutil.copy(places['file'].with_suffix(end), tmp_path / f'mine{end}')
    (tmp_path / 'mine.safetensors').write_bytes(places['file'].read_bytes()[:-1])
    refused(open_model, tmp_path / 'mine.safetensors', error=Damaged)


def test_a_model_for_other_images_is_refused(places, tmp_path):
    suspect = open_model(places['run'])
    assert check_model(suspect, (1, 8, 8)) is suspect
    for shape, word in (((3, 8, 8), '3 channels'), ((1, 16, 16), '16x16')):
        said = refused(check_model, suspect, shape)
        assert said.startswith("model='run'") and word in said and '8x8 with 1 channel' in said
    masked = fit(TrainConfig(net=NET, iters=1, batch=4, loss=Ambient('dust')), FEW, tmp_path / 'ambient', device='cpu')
    assert 'which pixels are seen' in refused(check_model, open_model(masked), (1, 8, 8))
