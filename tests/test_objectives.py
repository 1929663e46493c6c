"Every loss with every operator that fits: trains, resumes bit for bit, loads, samples; what does not fit is refused."

import json
from dataclasses import asdict, replace

import pytest
import torch

from ambient_nb.core import BadInput
from ambient_nb.data import digits
from ambient_nb.draws import image_data, step_draws
from ambient_nb.drive import claim_folder, drive, identity
from ambient_nb.runfolders import read_stats
from ambient_nb.networks import PRESETS
from ambient_nb.objectives import (
    EDM,
    OBJECTIVES,
    Ambient,
    Consistent,
    Mixture,
    Tweedie,
    TweedieVP,
    TwoRegime,
    objective,
)
from ambient_nb.operators import OPERATORS, hides_pixels
from ambient_nb.sampling import sample
from ambient_nb.schedules import LogNormal
from ambient_nb.training import TrainConfig, Trainer, fit, fitting_sampler, load_denoiser, stored_config

IMAGES = digits()[0].take(range(24))
SHAPE = (1, 8, 8)
TINY = TrainConfig(net=replace(PRESETS['tiny'], model_channels=8, dropout=0.1), iters=200, batch=16, lr=2e-3)
MASKS = [name for name in OPERATORS if hides_pixels(OPERATORS[name]((2, 16, 16)))]
FITS = {
    'edm': EDM(),
    'edm with 1/sigma^2': EDM(weight='ve'),
    'two regimes': TwoRegime(sigma_n=0.4),
    'two regimes, exclusive': TwoRegime(sigma_n=0.4, compensate=True, inclusive=False),
    'two regimes, fresh': TwoRegime(sigma_n=0.4, noise='fresh'),
    'tweedie': Tweedie(sigma_n=0.3),
    'tweedie vp': TweedieVP(sigma_n=0.3),
    'tweedie vp, increment': TweedieVP(sigma_n=0.3, target='increment'),
    'mixture': Mixture(sigma_n=0.3, clean_share=0.25),
    'consistent edm': Consistent(EDM(), 0.1, steps=1),
    'consistent tweedie': Consistent(Tweedie(sigma_n=0.3), 0.1, steps=2),
    'consistent as released': Consistent(Tweedie(sigma_n=0.3), 0.1, steps=2, form='laws', branches=3),
    **{f'ambient, {name}': Ambient(name) for name in MASKS},
    'ambient, thin dust': Ambient('dust', (('p', 0.1), ('seed', 3))),
}
SCANS = {
    'scan, one coil': Ambient('mri'),
    'scan, four coils': Ambient('mri_coils', (('acceleration', 1),)),
    'scan, graded as released': Ambient('mri_coils', graded='image'),
}
FITS |= SCANS
COMPLEX = replace(IMAGES, pixels=torch.cat([IMAGES.pixels, IMAGES.pixels.flip(-1)], 1))
SAMPLE = ['two regimes', 'tweedie vp', 'mixture', 'ambient, dust', 'scan, graded as released']  # the others are slow


def data_for(name):
    "Images that a loss can be trained on, and their shape."
    return (COMPLEX, (2, 8, 8)) if name in SCANS else (IMAGES, SHAPE)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_every_kind_and_every_mask_is_tried():
    assert {loss.kind for loss in FITS.values()} == {*OBJECTIVES}
    released = {'ambient_box', 'ambient_fixed_box', 'ambient_keep_patch'}
    assert {'dust', 'dust_channels', 'random_box', 'fixed_box', 'keep_patch', *released} == {*MASKS}


@pytest.mark.parametrize('name', [n if n in SAMPLE else pytest.param(n, marks=pytest.mark.slow) for n in FITS])
def test_trains_resumes_loads_and_samples(name, tmp_path):
    config, (images, shape) = replace(TINY, loss=FITS[name]), data_for(name)
    straight = fit(config, images, tmp_path / 'straight', device='cpu', tick=20)
    left = claim_folder(tmp_path / 'left', config, images)
    for event in drive(Trainer(config, images), left, config.iters, tick=20):
        if event.it == 90:
            break
    D = load_denoiser(fit(config, images, left, device='cpu', tick=20))
    assert stored_config(left) == config and equal(D.state_dict(), load_denoiser(straight, 200).state_dict())
    losses = [line['loss'] for line in read_stats(straight)]
    assert losses == [line['loss'] for line in read_stats(left)] and min(losses[-3:]) < losses[0]
    drawn = sample(D, range(4), shape, steps=6, sampler=fitting_sampler(config, shape), block=4)
    assert drawn.isfinite().all() and drawn.std() > 0.1


@pytest.mark.parametrize('name', FITS)
def test_json_and_back(name):
    loss = FITS[name]
    stored = json.loads(json.dumps(asdict(loss)))
    assert objective(stored) == loss and {**identity(replace(TINY, loss=loss))}
    assert len({json.dumps(other.identity()) for other in FITS.values()}) == len(FITS)


@pytest.mark.parametrize('name', FITS)
def test_a_loss_gets_what_it_wants_and_nothing_else(name):
    "The vocabulary is complete, and its draws do not depend on how a run is cut or which other images there are."
    loss, law, shape = FITS[name], LogNormal(), data_for(name)[1]
    data = image_data(loss, IMAGES.ids, shape)
    whole = step_draws(loss, law, shape, 5, 0, 24)
    assert {*data, *whole} == {*loss.wants} and all(len(t) == 24 for t in (*data.values(), *whole.values()))
    cut = [step_draws(loss, law, shape, 5, start, 8) for start in (0, 8, 16)]
    assert equal({k: torch.cat([part[k] for part in cut]) for k in whole}, whole)
    if 'clean' not in data:  # a share of the images is a property of all of them
        assert equal(image_data(loss, IMAGES.ids[3:7], shape), {k: v[3:7] for k, v in data.items()})


def test_masks_reach_network_and_sampler():
    for name in MASKS:
        config = replace(TINY, loss=Ambient(name))
        for shape in (SHAPE, (3, 8, 8)):
            channels = shape[0] if name == 'dust_channels' else 1
            trainer = Trainer(
                config, IMAGES if shape == SHAPE else replace(IMAGES, pixels=IMAGES.pixels.repeat(1, 3, 1, 1))
            )
            batch = trainer.batch()
            assert batch['mask'].shape[1] == batch['further'].shape[1] == channels
            assert (batch['y'] * (1 - batch['mask']) == 0).all() and (batch['further'] <= batch['mask']).all()
    keep = fitting_sampler(replace(TINY, loss=Ambient()), SHAPE).keywords['operator']
    assert keep.p == 0.4 and keep.seed != 0, 'samples wear masks of their own'


def test_scans_reach_network_and_sampler():
    for name, loss in SCANS.items():
        config = replace(TINY, loss=loss)
        trainer, operator = Trainer(config, COMPLEX), loss.operator_for((2, 8, 8))
        batch = trainer.batch()
        kept, fewer = operator.lines(8)
        assert (batch['mask'].sum(3) == kept).all() and (batch['further'].sum(3) == fewer).all(), name
        keep = fitting_sampler(config, (2, 8, 8)).keywords['operator']
        assert keep.coils == operator.coils and keep.seed != operator.seed, 'samples are scanned by lines of their own'


def test_where_sampling_stops():
    assert fitting_sampler(replace(TINY, loss=Tweedie(sigma_n=0.3)), SHAPE).keywords['sigma_n'] == 0.3
    assert fitting_sampler(replace(TINY, loss=TweedieVP(sigma_n=0.3)), SHAPE).keywords['sigma_n'] == 0.3
    for loss in (EDM(), TwoRegime(sigma_n=0.3), Mixture(), Consistent(Tweedie(sigma_n=0.3))):
        assert fitting_sampler(replace(TINY, loss=loss), SHAPE).__name__ == 'heun'


def test_mixture_trains_on_the_same_clean_images_for_ever():
    trainer = Trainer(replace(TINY, batch=24, loss=Mixture(sigma_n=0.4, clean_share=0.25)), IMAGES)
    assert trainer.image_data['clean'].sum() == 6
    batch = trainer.batch()
    apart = (
        (batch['y'][:, None] - Trainer(replace(TINY, batch=24), IMAGES).batch()['y']).abs().flatten(2).amax(2).amin(1)
    )
    assert torch.equal(apart == 0, batch['clean'])


REFUSED = {
    'loss': lambda: objective(dict(kind='gan')),
    'loss=.*made of': lambda: objective(dict(kind='edm', sigma_n=0.4)),
    'operator=.*dust': lambda: Ambient('fog'),
    'operator=.blur.*hides pixels': lambda: Ambient('blur'),
    'acceleration=8.*lines are left': lambda: Ambient('mri', (('acceleration', 8),)).operator_for((2, 8, 8)),
    'acceleration=5.*never be graded': lambda: Ambient('mri', [('acceleration', 5), ('acs', 1)]).operator_for(
        (2, 8, 8)
    ),
    'images=.1, 8, 8.*complex': lambda: Ambient('mri').operator_for(SHAPE),
    'options=.*maps are data': lambda: Ambient('mri_coils', (('maps', torch.ones(4, 8, 8) + 0j),)),
    'graded': lambda: Ambient(graded='somewhere'),
    'operator=.frequencies': lambda: Ambient('frequencies'),
    'operator=.noise': lambda: Ambient('noise'),
    'options': lambda: Ambient('dust', (('q', 1),)),
    'p=1.5': lambda: Ambient('dust', (('p', 1.5),)),
    'delta=0.0.*ever graded': lambda: Ambient('dust', (('delta', 0.0),)),
    'beside=.*equally noisy': lambda: Consistent(TwoRegime(sigma_n=0.4)),
    'steps': lambda: Consistent(steps=0),
    'beside=.*laws': lambda: Consistent(EDM(), form='laws'),
    'branches=3': lambda: Consistent(branches=3),
    'form': lambda: Consistent(form='mean'),
    'coefficient': lambda: Consistent(coefficient=-1),
    'sigma_n=-1': lambda: Tweedie(sigma_n=-1),
    'sigma_n=nan': lambda: TweedieVP(sigma_n=float('nan')),
    'target': lambda: TweedieVP(target='noise'),
    'clean_share=0': lambda: Mixture(clean_share=0),
    'weight': lambda: EDM(weight='heavy'),
}


@pytest.mark.parametrize('message', REFUSED)
def test_refused(message):
    with pytest.raises(BadInput, match='^' + message):
        REFUSED[message]()
