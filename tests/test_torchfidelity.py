"Numbers of fidelity: equal to torch-fidelity's, and cached by content."

import importlib

import numpy as np
import pytest
import torch

from ambient_nb.core import rng
from ambient_nb.data import digits, to_float
from ambient_nb.features import DigitsEncoder, PixelEncoder
from ambient_nb.fidelity import frechet, frechet_gaussians, prdc
from ambient_nb.torchfidelity import cached_features, scores, torch_fidelity


def normal(*shape, name='x'):
    return torch.randn(*shape, generator=rng(0, 'test', name), dtype=torch.float64).numpy()


@pytest.fixture(scope='module')
def encoder():
    return DigitsEncoder()


@pytest.fixture(scope='module')
def images():
    return digits()[0].pixels[:400], digits()[1].pixels[:300]


@pytest.fixture(scope='module')
def theirs():
    return torch_fidelity()


@pytest.mark.parametrize('seed', range(3))
def test_random_gaussians_have_their_closed_form(seed, theirs):
    "Covariances that share eigenvectors, and a torch-fidelity opinion on ones that do not."
    q, m = np.linalg.qr(normal(8, 8, name=f'q{seed}'))[0], normal(8, name=f'm{seed}')
    s, t = (np.abs(normal(8, name=f'{n}{seed}')) for n in 'st')
    assert frechet_gaussians(np.zeros(8), q * s**2 @ q.T, m, q * t**2 @ q.T) == pytest.approx(
        (m**2).sum() + ((s - t) ** 2).sum(), rel=1e-9
    )
    a, b = (x @ x.T for x in (normal(8, 12, name=f'a{seed}'), normal(8, 12, name=f'b{seed}')))
    ours = frechet_gaussians(np.zeros(8), a, m, b)
    module = importlib.import_module('torch_fidelity.metric_fid')
    assert ours == pytest.approx(
        module.fid_statistics_to_metric(dict(mu=np.zeros(8), sigma=a), dict(mu=m, sigma=b), verbose=False)[
            'frechet_inception_distance'
        ],
        rel=1e-9,
    )


@pytest.mark.parametrize('n, m, d', [(500, 400, 16), (1000, 797, 64)])
def test_frechet_equals_torch_fidelity(n, m, d, torch_fidelity):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    a, b = normal(n, d) * np.linspace(0.1, 2, d), normal(m, d, name='y') + 0.1
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)), verbose=False
    )['frechet_inception_distance']
    assert frechet(a, b) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize('k', [1, 3, 5])
def test_precision_and_recall_are_torch_fidelitys(k, theirs):
    a, b = normal(150, 6) * 0.7, normal(200, 6, name='y')
    prc = importlib.import_module('torch_fidelity.metric_prc').prc_features_to_metric(
        *map(torch.from_numpy, (a, b)), prc_neighborhood=k, verbose=False
    )
    ours = prdc(a, b, k, n_half=10, generator=rng(0))
    assert (ours['precision'].value, ours['recall'].value) == pytest.approx(
        (prc['precision'], prc['recall'])
    ) and 0 < ours['recall'].value < 1


def test_scores_are_those_of_torch_fidelity_with_our_encoder_registered(images, encoder, theirs, tmp_path):
    "calculate_metrics, end to end, with the digits encoder as a registered feature extractor."
    base, registry = (importlib.import_module(f'torch_fidelity.{m}') for m in ('feature_extractor_base', 'registry'))

    class Ours(base.FeatureExtractorBase):
        def __init__(self, name, features_list, **kwargs):
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list():
            return ('features', 'logits')

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return 'logits' if metric == 'isc' else 'features'

        @staticmethod
        def can_be_compiled():
            return False

        def forward(self, x):
            found = dict(features=encoder(x[:, :1]), logits=encoder.logits(to_float(x[:, :1])))
            return tuple(found[f] for f in self.features_list)

    if 'ambient-digits' not in registry.FEATURE_EXTRACTORS_REGISTRY:
        registry.register_feature_extractor('ambient-digits', Ours)

    class Bare(torch.utils.data.Dataset):
        def __init__(self, x):
            self.x = x.expand(-1, 3, -1, -1)

        def __len__(self):
            return len(self.x)

        def __getitem__(self, i):
            return self.x[i]

    a, b = images
    whole = theirs.calculate_metrics(
        input1=Bare(a),
        input2=Bare(b),
        feature_extractor='ambient-digits',
        cuda=False,
        fid=True,
        kid=True,
        prc=True,
        isc=True,
        kid_subset_size=150,
        kid_subsets=10,
        verbose=False,
        cache=False,
        save_cpu_ram=True,
        batch_size=64,
    )
    ours = scores(
        a,
        b,
        encoder,
        ('fid', 'kid', 'prc', 'isc'),
        subsets=10,
        subset_size=150,
        n_boot=10,
        cache=tmp_path,
        generator=rng(0),
    )
    assert (
        ours['frechet'].value
        == pytest.approx(whole['frechet_inception_distance'], rel=1e-6)
        == frechet(encoder(a), encoder(b))
    )
    assert ours['kernel'].value == pytest.approx(whole['kernel_inception_distance_mean'], rel=1e-3) and ours[
        'class_score'
    ].value == pytest.approx(whole['inception_score_mean'], rel=1e-5)
    assert (ours['precision'].value, ours['recall'].value) == pytest.approx(
        (whole['precision'], whole['recall']), abs=2 / 300
    )
    assert set(ours) == {'frechet', 'kernel', 'precision', 'recall', 'class_score'} and all(
        e.lo < e.value < e.hi for e in ours.values()
    )


def test_features_are_cached_by_content(images, encoder, tmp_path, monkeypatch):
    a, b = images
    first, calls = cached_features(encoder, a, tmp_path), []
    monkeypatch.setattr(
        DigitsEncoder, 'embed', lambda self, x, embed=DigitsEncoder.embed: calls.append(1) or embed(self, x)
    )
    assert (
        torch.equal(cached_features(encoder, a, tmp_path), first) and torch.equal(first, encoder(a)) and len(calls) == 2
    )
    other = a.clone()
    other[0, 0, 0, 0] ^= 1
    calls.clear()
    assert not torch.equal(cached_features(encoder, other, tmp_path), first) and calls
    pixels = cached_features(PixelEncoder(digits()[1]), a, tmp_path)
    assert pixels.shape == (400, 64) and len(list(tmp_path.iterdir())) == 3
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-20])
    assert torch.equal(cached_features(encoder, a, tmp_path), first)
