"Encoders with published weights: features as their networks give them, files checked before they are run."

import hashlib
import importlib
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ambient_nb.backbones import CLIP, SSCD, DINOv2, Inception, encoder_named, position_grid
from ambient_nb.core import BadInput, rng
from ambient_nb.preprocess import DINO_VIEWS, SSCD_VIEWS


def pictures(*shape, name='u'):
    return torch.randint(0, 256, shape, generator=rng(0, 'backbones', name), dtype=torch.uint8)


@pytest.fixture(scope='module')
def transformers(torch_fidelity):
    try:
        yield importlib.import_module('transformers')
    except ImportError:
        pytest.skip('needs the extra `features`: transformers is not installed')


@pytest.fixture(autouse=True)
def no_weights_folder(monkeypatch):
    monkeypatch.delenv('AMBIENT_NB_WEIGHTS', raising=False)


def offline():
    raise ConnectionError('no route')


# SSCD: any TorchScript file under its name


class Toy(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x):
        return self.gain * F.adaptive_avg_pool2d(x, 4).flatten(1)


@pytest.fixture(scope='module')
def toys(tmp_path_factory):
    "Two folders, each with a network under SSCD's file name."
    folders = [tmp_path_factory.mktemp(f'sscd{gain}') for gain in (1, 2)]
    for gain, folder in zip((1.0, 2.0), folders):
        torch.jit.trace(Toy(gain), torch.zeros(1, 3, 8, 8), check_trace=False).save(
            str(folder / 'sscd_disc_mixup.torchscript.pt')
        )
    return folders


def test_sscd_is_its_network_of_the_prepared_images(toys):
    u = pictures(40, 3, 32, 32)
    encoder = SSCD('mixup', weights=toys[0], device='cpu')
    assert encoder.dim == 48 and encoder.name == 'sscd-mixup-dcr'
    torch.testing.assert_close(encoder(u), F.adaptive_avg_pool2d(SSCD_VIEWS['dcr'](u), 4).flatten(1), rtol=0, atol=1e-5)
    assert torch.equal(encoder(u)[30:], encoder(u[30:])) and torch.equal(
        encoder(u[:, :1]), encoder(u[:, :1].repeat(1, 3, 1, 1))
    )
    with pytest.raises(BadInput, match='images'):
        encoder(pictures(1, 2, 32, 32))


def test_another_preprocessing_under_the_same_name_is_another_id(toys, monkeypatch):
    before = SSCD('mixup', weights=toys[0], device='cpu')
    monkeypatch.setitem(SSCD_VIEWS, 'dcr', replace(SSCD_VIEWS['dcr'], mean=(0.5, 0.5, 0.4)))
    after = SSCD('mixup', weights=toys[0], device='cpu')
    assert before.name == after.name and before.id != after.id


def test_the_hash_is_checked_before_the_file_is_run(toys, monkeypatch):
    file = toys[0] / 'sscd_disc_mixup.torchscript.pt'
    right, wrong = hashlib.sha256(file.read_bytes()).hexdigest(), hashlib.sha256(b'').hexdigest()
    assert encoder_named('sscd-mixup-dcr', weights=toys[0], sha256=right, device='cpu').definition['weights'] == right
    monkeypatch.setattr(torch.jit, 'load', lambda *a, **k: pytest.fail('it was run'))
    for bad in (wrong, right[:4], ''):
        with pytest.raises(BadInput, match='sha256'):
            SSCD('mixup', weights=file, sha256=bad)


# Inception, through torch-fidelity


@pytest.fixture(scope='module')
def inception_file(torch_fidelity, tmp_path_factory):
    "Random weights under the published name."
    port = importlib.import_module('torch_fidelity.feature_extractor_inceptionv3')
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(port, 'load_state_dict_from_url', lambda *a, **k: {})
        patch.setattr(port.FeatureExtractorInceptionV3, 'load_state_dict', lambda self, state: None)
        torch.manual_seed(0)
        net = port.FeatureExtractorInceptionV3('inception', ['2048'])
    file = tmp_path_factory.mktemp('inception') / port.URL_INCEPTION_V3.rpartition('/')[2]
    torch.save(net.state_dict(), file)
    return file


def test_inception_is_torch_fidelitys(inception_file):
    port, before = importlib.import_module('torch_fidelity.feature_extractor_inceptionv3'), torch.get_rng_state()
    encoder = Inception(weights=inception_file.parent, sha256=None, device='cpu')
    encoder.block = 4
    assert torch.equal(before, torch.get_rng_state())
    u = pictures(4, 3, 32, 32)
    with torch.random.fork_rng(), torch.no_grad():
        expected = port.FeatureExtractorInceptionV3('x', ['2048'], feature_extractor_weights_path=str(inception_file))(
            u
        )[0]
    assert encoder.dim == 2048 and torch.equal(encoder(u), expected)


def test_inception_has_a_known_hash(inception_file, monkeypatch):
    monkeypatch.setattr(torch, 'load', lambda *a, **k: pytest.fail('it was unpickled'))
    with pytest.raises(BadInput, match='6726825d'):
        Inception(weights=inception_file)


# DINOv2 and CLIP, from folders in transformers' format


@pytest.fixture(scope='module')
def dino_folder(transformers, tmp_path_factory):
    "A tiny DINOv2 with random weights: a grid of 5 x 5 positions."
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = transformers.Dinov2Model(config)
    for name, p in net.named_parameters():
        p.data = torch.randn(p.shape, generator=rng(0, name)) * 0.2
    folder = tmp_path_factory.mktemp('weights')
    net.save_pretrained(folder / 'dinov2-small')
    return folder


@pytest.mark.parametrize('view', DINO_VIEWS)
def test_dinov2_is_the_class_token_of_what_it_sees(transformers, dino_folder, view):
    encoder, u = DINOv2('vits14', view, weights=dino_folder, device='cpu'), pictures(3, 3, 32, 32)
    net = transformers.Dinov2Model.from_pretrained(dino_folder / 'dinov2-small').eval()
    net.embeddings.interpolate_pos_encoding = lambda tokens, h, w: position_grid(
        net.embeddings.position_embeddings, h // 14, w // 14
    )
    with torch.no_grad():
        expected = net(DINO_VIEWS[view](u)).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder(u), expected, rtol=1e-4, atol=1e-5)
    assert encoder.dim == 24 and encoder.name == f'dinov2-vits14-{view}'
    assert torch.equal(encoder(u)[1:], encoder(u[1:]))


def test_dinov2_at_the_size_of_its_grid_is_transformers_own(transformers, dino_folder):
    "64 px are padded to 70: five patches a side, no resampling. At 32 px the two differ."
    encoder, net = (
        DINOv2('vits14', weights=dino_folder, device='cpu'),
        transformers.Dinov2Model.from_pretrained(dino_folder / 'dinov2-small').eval(),
    )
    gaps = []
    for side in (64, 32):
        u = pictures(2, 3, side, side)
        with torch.no_grad():
            gaps.append((encoder(u) - net(DINO_VIEWS['main'](u)).last_hidden_state[:, 0]).abs().max().item())
    assert gaps[0] < 1e-5 < 1e-4 < gaps[1]


def test_dinov2_ids_and_hashes(dino_folder, monkeypatch):
    before = torch.get_rng_state()
    monkeypatch.setenv('AMBIENT_NB_WEIGHTS', str(dino_folder))
    encoders = [DINOv2('vits14', view, device='cpu') for view in DINO_VIEWS]
    right = hashlib.sha256((dino_folder / 'dinov2-small' / 'model.safetensors').read_bytes()).hexdigest()
    assert (
        len({e.id for e in encoders}) == 3
        and {e.definition['weights'] for e in encoders} == {right}
        and torch.equal(before, torch.get_rng_state())
    )
    assert encoder_named('dinov2-vits14-main', sha256=right, device='cpu').id == encoders[0].id
    with pytest.raises(BadInput, match='sha256'):
        DINOv2('vits14', sha256='0' * 64)


def test_a_damaged_folder_is_named(dino_folder, tmp_path):
    import shutil

    shutil.copytree(dino_folder / 'dinov2-small', folder := tmp_path / 'dinov2-small')
    (folder / 'model.safetensors').write_bytes((folder / 'model.safetensors').read_bytes()[:1000])
    with pytest.raises(BadInput, match='dinov2-small'):
        DINOv2('vits14', weights=tmp_path)


def test_without_a_network_the_hub_error_is_ours(transformers, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', lambda *a, **k: offline())
    with pytest.raises(
        BadInput, match=r'dinov2-giant with config.json and model.safetensors.*huggingface.co/facebook/dinov2-giant'
    ):
        DINOv2()


@pytest.fixture(scope='module')
def clip_folder(transformers, tmp_path_factory):
    "A tiny CLIP with random weights and a tokenizer of single letters."
    folder = tmp_path_factory.mktemp('clip') / 'clip-vit-base-patch32'
    letters = [c + end for c in 'abcdefghijklmnopqrstuvwxyz' for end in ('', '</w>')]
    vocab = {t: i for i, t in enumerate([*letters, '<|startoftext|>', '<|endoftext|>'])}
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)
    shared = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    text = dict(
        vocab_size=len(vocab),
        max_position_embeddings=16,
        bos_token_id=vocab['<|startoftext|>'],
        eos_token_id=vocab['<|endoftext|>'],
        pad_token_id=vocab['<|endoftext|>'],
        **shared,
    )
    config = transformers.CLIPConfig(
        text_config=text, vision_config=dict(image_size=64, patch_size=32, **shared), projection_dim=8
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = transformers.CLIPModel(config)
    for name, p in net.named_parameters():
        p.data = torch.randn(p.shape, generator=rng(0, name)) * 0.2
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_clip_projects_images_and_texts(transformers, clip_folder):
    encoder, net = (
        CLIP('vitb32', weights=clip_folder, device='cpu'),
        transformers.CLIPModel.from_pretrained(clip_folder).eval(),
    )
    u, texts = (
        pictures(3, 3, 32, 32),
        ['a cat', 'dog', 'a very long caption that does not fit into the context of sixteen'],
    )
    tokens = encoder.tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors='pt')
    assert tokens['input_ids'].shape == (3, 16) and tokens['input_ids'][1, :5].unique().numel() == 5
    with torch.no_grad():
        both = net(**tokens, pixel_values=encoder.view(u))
    assert encoder.view(u).shape == (3, 3, 64, 64) and encoder.dim == 8
    for ours, theirs in ((encoder(u), both.image_embeds), (encoder.text(texts), both.text_embeds)):
        torch.testing.assert_close(F.normalize(ours, dim=1), theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder.text(texts)[1:2], encoder.text(texts[1:2]), rtol=0, atol=0)
    for bad in ('a cat', [1, 2]):
        with pytest.raises(BadInput, match='texts'):
            encoder.text(bad)


def test_clip_without_its_tokenizer_is_named(clip_folder, tmp_path):
    import shutil

    (folder := tmp_path / 'clip-vit-base-patch32').mkdir()
    for name in ('config.json', 'model.safetensors'):
        shutil.copy(clip_folder / name, folder / name)
    with pytest.raises(BadInput, match='tokenizer'):
        CLIP('vitb32', weights=folder)
