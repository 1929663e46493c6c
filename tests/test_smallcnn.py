"The CIFAR-10 encoder: how it is trained, what is shipped, and that the page which trained it still runs."

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from tree import NBS

from ambient_nb.core import BadInput, asset, file_sha, rng
from ambient_nb.data import Images, digits, read_zip, write_zip
from ambient_nb.datasets import DATASETS
from ambient_nb.runfolders import newest_state, read_stats
from ambient_nb.features import CifarEncoder, cifar_filters
from ambient_nb.smallcnn import CnnConfig, CnnTrainer, cnn_accuracy, cropped, fit_cnn, fresh_cnn, halved, save_cnn

SHIPPED = asset('cifar10_encoder.safetensors')
FEW = CnnConfig(stages=((16, 1), (20, 1)), batch=20, precision='fp32')


def images(n, side=32, seed=0):
    g = rng(seed, 'images')
    return Images(
        torch.randint(0, 256, (n, 3, side, side), generator=g, dtype=torch.uint8),
        torch.arange(n) % 10,
        torch.arange(n),
        'cifar10',
    )


@pytest.fixture(scope='module')
def encoder():
    return CifarEncoder(device='cpu')


# training


@pytest.mark.parametrize('reach', [1, 4])
def test_crops_are_slices_of_a_reflected_image(reach):
    x = torch.randn(20, 3, 16, 16, generator=rng(0, 'x'))
    shifts, flips = torch.randint(-reach, reach + 1, (20, 2), generator=rng(0, 'shifts')), torch.arange(20) % 2 == 0
    wide = F.pad(x, (reach,) * 4, mode='reflect')
    for i, (a, b) in enumerate((shifts + reach).tolist()):
        right = torch.arange(b, b + 16)
        if flips[i]:
            right = (
                16 - 1 + 2 * reach - torch.arange(2 * reach - b, 2 * reach - b + 16)
            )  # the mirrored image, moved the same way in its source
        expected = wide[i][:, a : a + 16]
        torch.testing.assert_close(
            cropped(x[i : i + 1], shifts[i : i + 1], flips[i : i + 1], reach)[0], expected[:, :, right], rtol=0, atol=0
        )
    for bad in (dict(reach=16), dict(reach=reach - 1)):
        with pytest.raises(BadInput):
            cropped(x, torch.full((20, 2), reach), flips, bad['reach'])


def test_stages_and_rate():
    config = CnnConfig(stages=((24, 3), (32, 2)), batch=64)
    assert config.ends(1000) == [47, 79] and CnnConfig().ends(40_000) == [2188, 3125]
    rates = [config.lr_at(it, 79) for it in range(79)]
    assert (
        max(rates) <= config.lr
        and abs(rates.index(max(rates)) - 0.2 * 79) < 1.5
        and all(a < b for a, b in zip(rates[:14], rates[1:15]))
        and all(a > b for a, b in zip(rates[17:], rates[18:]))
        and 0 < rates[-1] < 0.01
    )
    trainer, sides = CnnTrainer(FEW, images(60)), []
    for trainer.it in range(6):
        sides.append(trainer.batch()[0].shape[-1])
    assert sides == [16] * 3 + [20] * 3


def test_a_stopped_run_ends_with_the_same_bits(tmp_path, monkeypatch):
    data, before = images(60), torch.get_rng_state()
    whole = fit_cnn(FEW, data, tmp_path / 'whole', tick=2).state_dict()
    calls, step = [], CnnTrainer.step

    def dying(self):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(1)
        return step(self)

    monkeypatch.setattr(CnnTrainer, 'step', dying)
    with pytest.raises(KeyboardInterrupt):
        fit_cnn(FEW, data, tmp_path / 'cut', tick=2)
    assert newest_state(tmp_path / 'cut')[1]['it'] == 4
    monkeypatch.setattr(CnnTrainer, 'step', step)
    resumed = fit_cnn(FEW, data, tmp_path / 'cut', tick=2).state_dict()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole) and torch.equal(before, torch.get_rng_state())
    keep = ('it', 'loss', 'accuracy', 'side')
    assert [[line[k] for k in keep] for line in read_stats(tmp_path / 'cut')] == [
        [line[k] for k in keep] for line in read_stats(tmp_path / 'whole')
    ]
    assert not torch.equal(fresh_cnn()[0][0].weight, whole['0.0.weight'])
    with pytest.raises(BadInput, match='folder'):
        fit_cnn(FEW, images(60, seed=1), tmp_path / 'cut')


def test_it_learns(tmp_path):
    "Ten flat colours: named after a few steps, with crops and flips."
    colours = torch.rand(10, 3, 1, 1, generator=rng(0, 'colours')).mul(255).to(torch.uint8)
    data = Images(colours.repeat(20, 1, 16, 16), torch.arange(200) % 10, torch.arange(200), 'colours')
    net = fit_cnn(CnnConfig(stages=((16, 6),), batch=25, precision='fp32'), data, tmp_path)
    assert cnn_accuracy(net, data).value > 0.8


@pytest.mark.parametrize(
    'wrong',
    [
        dict(stages=()),
        dict(stages=((8, 1),)),
        dict(stages=((32, 0),)),
        dict(batch=1),
        dict(lr=0),
        dict(climb=0),
        dict(precision='fp16'),
        dict(smoothing=1),
        dict(momentum=-0.1),
        dict(scale=0),
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(BadInput):
        CnnConfig(**wrong)


def test_training_refuses():
    for bad in (digits()[0], Images(images(4).pixels, None, torch.arange(4), 'x')):
        with pytest.raises(BadInput, match='colour images with labels'):
            CnnTrainer(CnnConfig(), bad)


# the file


def test_what_is_saved_is_what_is_loaded(tmp_path):
    net, data = fresh_cnn(3).eval(), images(30)
    file = save_cnn(tmp_path / 'x.safetensors', net, data, dict(hello='world'))
    found = CifarEncoder(file, device='cpu')
    assert found.card == dict(hello='world') and all(
        torch.equal(a, b) for a, b in zip(found.logits.state_dict().values(), net.state_dict().values())
    )
    assert found(data.pixels).double().mean(0).abs().max() < 1e-5  # centred on the images it was saved with
    assert found.accuracy(data) == cnn_accuracy(net, data).value
    other = CifarEncoder(
        save_cnn(tmp_path / 'y.safetensors', fresh_cnn(4).eval(), data, dict(hello='world')), device='cpu'
    )
    assert found.id != other.id and found.definition['weights'] == file_sha(file)


def test_halved_is_exact_in_float16():
    net = halved(fresh_cnn(1))
    assert all(
        torch.equal(v, v.half().float()) for v in net.state_dict().values() if v.is_floating_point()
    ) and not torch.equal(net[0][0].weight, fresh_cnn(1)[0][0].weight)


def test_a_wrong_file_is_named(tmp_path):
    (bad := tmp_path / 'bad.safetensors').write_bytes(SHIPPED.read_bytes()[:5000])
    for file in (bad, tmp_path / 'none.safetensors', asset('digits_encoder.safetensors')):
        with pytest.raises(BadInput, match='weights'):
            CifarEncoder(file)


# the shipped encoder


def test_shipped_file_is_small_half_and_has_a_card(encoder):
    with safe_open(SHIPPED, 'pt') as f:
        kinds = {k: f.get_tensor(k).dtype for k in f.keys()}
    assert SHIPPED.stat().st_size <= 4e6 and {
        t for k, t in kinds.items() if k != 'mean' and not k.endswith('num_batches_tracked')
    } == {torch.float16}
    card = encoder.card
    assert card['name'] == encoder.name == 'cifar10-cnn' and 'fid' not in encoder.id.lower() and card['limits']
    assert (
        '10,000 to 49,999' in card['trained_on'] and '0 to 9,999' in card['never_seen'] and 'test' in card['never_seen']
    )
    a = card['accuracy']
    assert a['n'] == 10_000 and a['value'] > 0.87 and a['lo'] < a['value'] < a['hi'] and a['hi'] - a['lo'] < 0.015


def test_features_do_not_depend_on_batching_or_mirrors(encoder):
    u = images(100).pixels
    whole = encoder(u)
    assert whole.shape == (100, encoder.dim) and whole.isfinite().all()
    for a, b in ((0, 1), (5, 9), (60, 70), (64, 100)):
        assert torch.equal(whole[a:b], encoder(u[a:b]))
    torch.testing.assert_close(encoder(u[:20].flip(-1)), whole[:20], rtol=1e-4, atol=1e-4)
    assert (encoder(u[:20].flip(-2)) - whole[:20]).abs().max() > 0.1
    grey = u[:5, :1]
    assert torch.equal(encoder(grey), encoder(grey.repeat(1, 3, 1, 1)))


def test_the_mean_is_subtracted(encoder):
    from ambient_nb.data import to_float

    u = images(4).pixels
    torch.testing.assert_close(
        encoder(u), cifar_filters(encoder.logits, to_float(u)) - encoder.mean, rtol=1e-4, atol=1e-4
    )
    assert encoder.mean.abs().max() > 0.1


@pytest.mark.parametrize('shape', [(2, 3, 16, 16), (2, 2, 32, 32), (2, 4, 32, 32), (2, 3, 32, 64)])
def test_other_images_are_refused(encoder, shape):
    with pytest.raises(BadInput, match='images'):
        encoder(torch.zeros(shape, dtype=torch.uint8))


def test_it_is_the_encoder_of_cifar10_at_32_px(encoder):
    assert DATASETS['cifar10'].encoder == encoder.name and encoder.id == CifarEncoder(SHIPPED).id
    assert DATASETS['cifar10'].at(16).encoder == DATASETS['imagenette'].encoder == 'pixels'


@pytest.mark.real_data
def test_the_card_tells_the_truth(encoder, data_dir):
    "Accuracy on the first 1,000 test images, within chance of the card's; mirrored copies are exact ones."
    test = read_zip(data_dir / 'cifar10-32x32-test.zip', indices=range(1000), name='cifar10')
    a = encoder.card['accuracy']['value']
    assert abs(encoder.accuracy(test) - a) < 3 * (a * (1 - a) / 1000) ** 0.5
    own = F.cosine_similarity(encoder(test.pixels[:64]), encoder(test.pixels[:64].flip(-1)))
    assert own.min() > 0.9999


@pytest.mark.slow
@pytest.mark.real_data
def test_the_card_names_the_images(encoder, data_dir):
    assert (
        read_zip(data_dir / 'cifar10-32x32-train.zip', indices=range(10_000, 50_000), name='cifar10').sha
        == encoder.card['data_sha256']
    )


# the page


def test_the_page_runs_in_smoke(tmp_path):
    shipped = SHIPPED.read_bytes()
    for part, n in (('train', 60), ('test', 30)):
        write_zip(tmp_path / f'cifar10-32x32-{part}.zip', images(n, seed=n), dict(meta=dict(recipe='cifar10')))
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'papermill',
            NBS / 'train_encoder_cifar10.ipynb',
            tmp_path / 'out.ipynb',
            '-p',
            'profile',
            'smoke',
            '-p',
            'data',
            tmp_path,
            '-p',
            'out',
            tmp_path / 'run',
            '--cwd',
            NBS,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    card = CifarEncoder(tmp_path / 'run' / 'cifar10_encoder.safetensors', device='cpu').card
    assert card['trained_on'] == 'CIFAR-10 training images 12 to 59 of the zip' and SHIPPED.read_bytes() == shipped
    text = json.loads((tmp_path / 'out.ipynb').read_text(encoding='utf-8'))
    assert any('mirrored' in json.dumps(c.get('outputs', '')) for c in text['cells'])
