"Distances and shares of fidelity: equal to closed forms and to torch-fidelity's, without bias where that is claimed, cached by content."

import importlib

import numpy as np
import pytest
import torch

from ambient_nb.backbones import Inception
from ambient_nb.core import BadInput, rng
from ambient_nb.data import digits, to_float
from ambient_nb.features import DigitsEncoder, PixelEncoder
from ambient_nb.fidelity import balls, frechet, frechet_gaussians, frechet_infinity, halves, prdc, squared_between
from ambient_nb.torchfidelity import (
    METRICS,
    Statistics,
    cached_features,
    class_logits,
    metric_name,
    read_statistics,
    score_id,
    scores,
    statistics_of,
    torch_fidelity,
)


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


# the Fréchet distance


@pytest.mark.parametrize('seed', range(3))
def test_random_gaussians_have_their_closed_form(seed):
    "Covariances that share eigenvectors, and a torch-fidelity opinion on ones that do not."
    q, m = np.linalg.qr(normal(8, 8, name=f'q{seed}'))[0], normal(8, name=f'm{seed}')
    s, t = (np.abs(normal(8, name=f'{n}{seed}')) for n in 'st')
    assert frechet_gaussians(np.zeros(8), q * s**2 @ q.T, m, q * t**2 @ q.T) == pytest.approx(
        (m**2).sum() + ((s - t) ** 2).sum(), rel=1e-9
    )
    a, b = (x @ x.T for x in (normal(8, 12, name=f'a{seed}'), normal(8, 12, name=f'b{seed}')))
    ours = frechet_gaussians(np.zeros(8), a, m, b)
    torch_fidelity()
    module = importlib.import_module('torch_fidelity.metric_fid')
    assert ours == pytest.approx(
        module.fid_statistics_to_metric(dict(mu=np.zeros(8), sigma=a), dict(mu=m, sigma=b), verbose=False)[
            'frechet_inception_distance'
        ],
        rel=1e-9,
    )


def test_infinity_takes_the_bias_away():
    "Over 30 pairs of sets the plain distance is too large, the extrapolated one is right."
    d, n = 24, 600
    truth = d * 0.15**2 + d * 0.2**2
    pairs = [(0.15 + 1.2 * normal(n, d, name=f'a{k}'), normal(n, d, name=f'b{k}')) for k in range(30)]
    plain = np.array([frechet(a, b) for a, b in pairs])
    limit = [frechet_infinity(a, b, n_boot=20, generator=rng(k)) for k, (a, b) in enumerate(pairs)]
    values = np.array([e.value for e in limit])
    error = values.std() / 30**0.5
    assert (
        plain.mean() > truth + 10 * plain.std() / 30**0.5
        and abs(values.mean() - truth) < 3 * error
        and error < 0.05 * truth
    )
    assert np.mean([e.lo <= truth <= e.hi for e in limit]) >= 0.8 and limit[0] == frechet_infinity(
        *pairs[0], n_boot=20, generator=rng(0)
    )


def test_infinity_of_one_law_is_about_zero_and_may_be_negative():
    values = [
        frechet_infinity(normal(300, 8, name=f'a{k}'), normal(300, 8, name=f'b{k}'), n_boot=10, generator=rng(k)).value
        for k in range(20)
    ]
    assert abs(np.mean(values)) < 0.05 and min(values) < 0


# precision, recall, density, coverage


def test_prdc_by_hand():
    "Real at 0, 1, 2, 3 on a line and k = 1: balls of radius 1. Generated at .5, 10, 10.1, 12."
    real, generated = (np.array(x)[:, None] for x in ([0.0, 1, 2, 3], [0.5, 10, 10.1, 12]))
    a, b = map(torch.from_numpy, (generated, real))
    found = balls(squared_between(b, b), squared_between(a, a), squared_between(a, b), 1)
    # .5 lies in the balls of 0 and 1; its own ball reaches 9.5 and holds all real ones; the others reach none
    assert found.tolist() == [0.25, 1.0, 0.5, 0.5]


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


def test_density_and_coverage_mean_what_they_say():
    real, x = normal(400, 4, name='r'), normal(400, 4)
    same, copies, one = (prdc(g, real, n_half=20, generator=rng(0)) for g in (x, real, np.repeat(real[:1], 400, 0)))
    assert (
        abs(same['density'].value - 1) < 0.15
        and same['coverage'].value > 0.9
        and copies['coverage'].value == copies['precision'].value == 1
    )
    assert one['precision'].value == 1 and one['coverage'].hi < 0.1 and one['recall'].value < 0.1
    assert all(e.lo <= e.value <= e.hi and e.n == 400 for r in (same, copies, one) for e in r.values())


def test_halves_have_the_spread_of_fresh_samples():
    "For a mean the truth is known: half-width 1.96 s / sqrt(n)."
    x, y = normal(500), normal(400, name='y')
    (e,) = halves(lambda i, j: x[i].mean() - y[j].mean(), 500, 400, n_half=2000, generator=rng(0))
    assert e.value == pytest.approx(x.mean() - y.mean()) and (e.hi - e.lo) / 2 == pytest.approx(
        1.96 * (x.var() / 500 + y.var() / 400) ** 0.5, rel=0.06
    )


def test_fidelity_refuses():
    x = normal(30, 20)
    g = rng(0)
    for call in (
        lambda: frechet_infinity(x, x, generator=g),
        lambda: frechet_infinity(x, x, parts=1, generator=g),
        lambda: prdc(x, x[:, :5], generator=g),
        lambda: prdc(x, x, 0, generator=g),
        lambda: prdc(x, x, 15, generator=g),
        lambda: prdc(np.full((30, 3), np.nan), x[:, :3], generator=g),
        lambda: halves(lambda i, j: 0.0, 9, 9, level=1.5, generator=g),
    ):
        with pytest.raises(BadInput):
            call()


# through torch-fidelity


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


def test_only_inception_measures_fid(encoder):
    assert [metric_name(m, encoder) for m in ('fid', 'kid', 'isc')] == [
        'frechet',
        'kernel',
        'class_score',
    ] and metric_name('fid', object.__new__(Inception)) == 'fid'
    assert encoder.id in score_id('frechet', encoder) and torch_fidelity().__version__ in score_id('frechet', encoder)


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


def test_published_statistics(images, encoder, tmp_path):
    a, b = images
    s = statistics_of(encoder(b))
    np.savez(tmp_path / 'ref.npz', mu=s.mu, sigma=s.sigma)
    read = read_statistics(tmp_path / 'ref.npz')
    assert (read.mu == s.mu).all() and (read.sigma == s.sigma).all()
    fixed, both = (
        scores(a, ref, encoder, ('fid',), n_boot=10, cache=tmp_path, generator=rng(0))['frechet'] for ref in (read, b)
    )
    assert fixed.value == both.value and fixed.lo < fixed.value < fixed.hi and fixed.n == 400
    with pytest.raises(BadInput, match='need images'):
        scores(a, read, encoder, ('kid',), cache=tmp_path, generator=rng(0))
    with pytest.raises(BadInput, match='128 features'):
        scores(a, Statistics(np.zeros(5), np.eye(5)), encoder, ('fid',), cache=tmp_path, generator=rng(0))


def test_broken_statistics_are_refused(tmp_path):
    (tmp_path / 'text.npz').write_text('mu')
    np.save(tmp_path / 'one.npy', np.zeros(3))
    for name, arrays in dict(
        missing=dict(mu=np.zeros(3)),
        shape=dict(mu=np.zeros(3), sigma=np.eye(4)),
        nan=dict(mu=np.full(3, np.nan), sigma=np.eye(3)),
        skew=dict(mu=np.zeros(2), sigma=np.array([[1.0, 2], [0, 1]])),
        pickled=dict(mu=np.array([{}], dtype=object), sigma=np.eye(1)),
    ).items():
        np.savez(tmp_path / f'{name}.npz', **arrays)
    for file in [*tmp_path.iterdir(), tmp_path / 'nowhere.npz']:
        with pytest.raises(BadInput):
            read_statistics(file)


def test_scores_refuse(images, encoder, tmp_path):
    a, b = images
    for call in (
        lambda: scores(a, b, encoder, ('fd',), cache=tmp_path, generator=rng(0)),
        lambda: scores(a, b, encoder, n_boot=1, cache=tmp_path, generator=rng(0)),
        lambda: scores(a, b, PixelEncoder(digits()[1]), ('isc',), cache=tmp_path, generator=rng(0)),
        lambda: scores(a.float(), b, encoder, cache=tmp_path, generator=rng(0)),
    ):
        with pytest.raises(BadInput):
            call()
    assert METRICS == ('fid', 'kid', 'prc')
    with pytest.raises(BadInput, match='weights-inception'):
        Inception(weights=tmp_path)


def test_class_logits_belong_to_the_encoder(images, encoder):
    a, _ = images
    assert torch.equal(class_logits(encoder, a, None).argmax(1), encoder.logits(to_float(a)).argmax(1))
    inception = object.__new__(Inception)
    inception.net = torch.nn.Module()
    inception.net.fc = torch.nn.Linear(4, 7)
    f = torch.from_numpy(normal(3, 4)).float()
    assert torch.allclose(class_logits(inception, None, f), inception.net.fc(f) - inception.net.fc.bias, atol=1e-6)
