"""The Fourier room beside the tools of its fields: equal, or different in the way that its page says.

`python tests/test_fourier.py TOOL…`, where those tools are installed, writes what they answer into
tests/golden/fourier.json: sigpy 0.1.27, bart (the program) 0.8.00, fastmri 0.3.0, deepinv 0.5.0, ehtim 1.3.2.
"""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from ambient_nb.fourier import MRILines, coil_maps, fourier, nudft, to_complex, uv_tracks

FILE = Path(__file__).parent / 'golden' / 'fourier.json'
SIZES = (4, 5), (5, 6)  # neither square: odd and even on both sides
SCAN = MRILines(2, acs=1, coils=2)
UV = ((0.1, 0.03), (-0.27, 0.41), (0.0, 0.3))  # cycles per px
SITE_PAIR, GMST_HOURS, SOURCE = (
    (0, 1),
    (0.0, 3.0, 8.0, 12.0),
    (12.5, 12.39),
)  # ALMA-SMT; right ascension h, declination deg
WIDTHS = 6, 7, 8, 9


def picture(h, w):
    "A complex image of random phase, (1,1,h,w) complex128."
    size, turn = np.random.default_rng((h, w)).random((2, h, w))
    return torch.tensor((0.2 + size) * np.exp(2j * np.pi * turn))[None, None]


def channels(z):
    return torch.cat([z.real, z.imag], 1)


def ellipse(n=48):
    "An object with a rim of nothing, (n,n)."
    y, x = np.meshgrid(*2 * [np.linspace(-1, 1, n)], indexing='ij')
    return ((x / 0.75) ** 2 + (y / 0.55) ** 2 < 1) + 0.5 * (((x - 0.2) / 0.2) ** 2 + ((y + 0.1) / 0.3) ** 2 < 1)


def scanned():
    "The frequencies of the ellipse in four coils, and the coils, (4,n,n) complex."
    maps = coil_maps(4, 48, 48)
    return fourier(maps * torch.tensor(ellipse())).numpy(), maps.numpy()


# --- what the tools answer --------------------------------------------------------------------------------------------


def flat(z):
    "A complex array as real parts and imaginary parts."
    z = np.asarray(z).astype(complex).ravel()
    return [np.round(part, 6).tolist() for part in (z.real, z.imag)]


def unit_maps(maps):
    "What a set of maps (coils,n,n) does: shares of unit pixels in the object and out of it, and coil 0's phase."
    size, inside = np.sqrt((abs(maps) ** 2).sum(0)), ellipse() > 0
    there = size > 0.5
    assert np.allclose(size[there], 1, atol=1e-3)
    shares = [round(float(there[where].mean()), 3) for where in (inside, ~inside)]
    return dict(
        inside=shares[0], outside=shares[1], phase_of_coil_0=round(float(abs(np.angle(maps[0][there])).max()), 3)
    )


def columns_got(mask_of, seeds=50):
    "Columns of 320 that a mask function keeps: mean, least, most."
    kept = [int(mask_of(seed).sum()) for seed in range(seeds)]
    return [sum(kept) / seeds, min(kept), max(kept)]


def ask_sigpy():
    import sigpy as sp
    import sigpy.mri as mr

    answers = dict(version=sp.__version__, fft=[], ifft=[], stack=[], sense=[], sense_adjoint=[])
    for h, w in SIZES:
        z, maps = picture(h, w)[0, 0].numpy(), coil_maps(2, h, w).numpy()
        scan = mr.linop.Sense(maps, weights=SCAN.mask([0], (2, h, w))[0, 0].numpy().repeat(h, 0))
        answers['fft'].append(flat(sp.fft(z)))
        answers['ifft'].append(flat(sp.ifft(z)))
        answers['stack'].append(flat(sp.fft(np.stack([z, 2 * z]))))
        answers['sense'].append(flat(scan(z)))
        answers['sense_adjoint'].append(flat(scan.H(scan(z))))
    birdcage = (abs(mr.birdcage_maps((4, 6, 7))) ** 2).sum(0)
    answers['birdcage'] = [round(float(v), 6) for v in (birdcage.min(), birdcage.max())]
    found = mr.app.EspiritCalib(scanned()[0].astype(np.complex64), show_pbar=False).run()
    answers['espirit'] = unit_maps(found)
    corner = np.hypot(*np.meshgrid(*2 * [np.linspace(-1, 1, 64)])) >= 1
    mask = mr.poisson((64, 64), 4, calib=(8, 8), seed=0).real
    answers['poisson'] = dict(
        got=round(mask.size / mask.sum(), 2), in_circle=round((~corner).sum() / mask[~corner].sum(), 2)
    )
    return answers


def ask_bart():
    def bart(command, **arrays):
        "The array that a command of BART writes as `out`."
        with tempfile.TemporaryDirectory() as tmp:
            for name, a in arrays.items():
                Path(tmp, f'{name}.hdr').write_text('# Dimensions\n' + ' '.join(map(str, a.shape)) + '\n')
                np.asarray(a, np.complex64).ravel(order='F').tofile(Path(tmp, f'{name}.cfl'))
            subprocess.run(['bart', *command.split()], cwd=tmp, check=True, capture_output=True)
            shape = [int(n) for n in Path(tmp, 'out.hdr').read_text().split('\n')[1].split()]
            return np.fromfile(Path(tmp, 'out.cfl'), np.complex64).reshape(shape, order='F'), shape

    answers = dict(version=subprocess.run(['bart', 'version'], capture_output=True, text=True).stdout.strip())
    for name, options in dict(fft_u='-u', fft='', fft_i='-i').items():
        answers[name] = [flat(bart(f'fft {options} 3 z out', z=picture(h, w)[0, 0].numpy())[0]) for h, w in SIZES]
    sets = {}
    for name, options in {'ecalib': '', 'ecalib -m1': '-m1', 'ecalib -m1 -P': '-m1 -P'}.items():
        maps, shape = bart(f'ecalib {options} k out', k=scanned()[0].transpose(1, 2, 0)[:, :, None])
        sets[name] = dict(shape=shape[:5]) | unit_maps(maps[:, :, 0, :, 0].squeeze().transpose(2, 0, 1))
    answers['maps'] = sets
    k, image = bart('phantom -x 128 -k out')[0].squeeze(), bart('phantom -x 128 out')[0].squeeze()
    answers['phantom'] = round(float((fourier(torch.tensor(image))[64, 64] / k[64, 64]).real), 1)
    mask = bart('poisson -Y 64 -Z 64 -y 2 -z 2 -C 8 -e out')[0].real
    answers['poisson'] = round(mask.size / float(mask.sum()), 2)
    return answers


def ask_fastmri():
    import fastmri
    from fastmri.data import subsample

    answers = dict(version=fastmri.__version__, fft=[], got={}, middle=[])
    for h, w in SIZES:
        answers['fft'].append(flat(torch.view_as_complex(fastmri.fft2c(torch.view_as_real(picture(h, w))))))
    for name in ('RandomMaskFunc', 'EquiSpacedMaskFunc', 'EquispacedMaskFractionFunc', 'MagicMaskFractionFunc'):
        mask = getattr(subsample, name)([0.08], [4])
        answers['got'][name] = columns_got(lambda seed: mask((1, 1, 320, 2), seed=seed)[0])
    for w in WIDTHS:
        for acs in (2, 3):
            centre = subsample.RandomMaskFunc([acs / w], [2]).calculate_center_mask((1, 1, w, 2), acs)
            answers['middle'].append(np.flatnonzero(centre).tolist())
    return answers


def ask_deepinv():
    import deepinv
    from deepinv.physics import MRI, MultiCoilMRI, generator

    answers = dict(version=deepinv.__version__, mri=[], multicoil=[], multicoil_adjoint=[], got={})
    for h, w in SIZES:
        x, maps = channels(picture(h, w)), coil_maps(2, h, w)
        scan = MultiCoilMRI(mask=SCAN.mask([0], (2, h, w))[0, 0].expand(h, w), coil_maps=maps.to(torch.complex64))
        y = scan(x.float())
        answers['mri'].append(flat(to_complex(MRI(img_size=(h, w))(x.float()))))
        answers['multicoil'].append(np.round(y.numpy(), 6).ravel().tolist())
        answers['multicoil_adjoint'].append(flat(to_complex(scan.A_adjoint(y))))
    louder = MultiCoilMRI(coil_maps=2 * coil_maps(2, 4, 5).to(torch.complex64), img_size=(4, 5))
    x = channels(picture(4, 5)).float()
    answers['louder'] = round(float((louder.A_adjoint(louder(x)) / x).mean()), 4)
    for name in ('RandomMaskGenerator', 'GaussianMaskGenerator', 'EquispacedMaskGenerator', 'PolyOrderMaskGenerator'):
        masks = getattr(generator, name)((2, 4, 320), acceleration=4)
        answers['got'][name] = columns_got(lambda seed: masks.step(1, seed=seed)['mask'][0, 0, 0] > 0)
    return answers


def ask_ehtim():
    from importlib.metadata import version

    import ehtim
    from ehtim.observing import obs_helpers, pulses

    answers = dict(version=version('ehtim'), delta=[], triangle=[])
    for name, pulse in dict(delta=pulses.deltaPulse2D, triangle=pulses.trianglePulse2D).items():
        for h, w in SIZES:
            image = ehtim.image.Image(picture(h, w)[0, 0].real.numpy(), 1e-11, *SOURCE, pulse=pulse)
            seen = image.sample_uv(np.array(UV) / 1e-11, ttype='direct', verbose=False)[0]
            answers[name].append(flat(seen))
    names, places = ('ALMA', 'SMT'), sites()
    table = np.array([(n, *p, 1, 1, 0, 0, 0, 0, 0) for n, p in zip(names, 6.371e6 * places)], ehtim.const_def.DTARR)
    look = dict(timetype='GMST', elevmin=-90, elevmax=90)
    hours, array = np.array(GMST_HOURS), ehtim.array.Array(table)
    u, v = obs_helpers.compute_uv_coordinates(array, *names, hours, 57849, *SOURCE, 230e9, **look)[1:]
    radius = 6.371e6 / (299792458 / 230e9)  # wavelengths
    answers['tracks'] = [np.round(a / radius, 6).tolist() for a in (u, v)]  # Earth radii
    return answers


def sites():
    "ALMA and SMT on a unit sphere, Earth-fixed."
    from ambient_nb.fourier import SITES

    lat, lon = np.deg2rad(np.array([SITES['ALMA'], SITES['SMT']])).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)


TOOLS = dict(sigpy=ask_sigpy, bart=ask_bart, fastmri=ask_fastmri, deepinv=ask_deepinv, ehtim=ask_ehtim)
GOLDEN = json.loads(FILE.read_text()) if FILE.exists() else {}


# --- what we say of it ------------------------------------------------------------------------------------------------


def numbers(stored, shape):
    return torch.complex(*(torch.tensor(part, dtype=torch.float64) for part in stored)).reshape(shape)


def close(ours, theirs, atol=5e-6):
    torch.testing.assert_close(ours.to(theirs.dtype), theirs, rtol=2e-6, atol=atol)


def test_versions_are_those_of_the_page():
    page = (Path(__file__).parents[1] / 'nbs' / '04b_fourier.ipynb').read_text(encoding='utf-8')
    for tool, name in dict(sigpy='sigpy', bart='BART', fastmri='fastMRI', deepinv='deepinv', ehtim='ehtim').items():
        assert f'{name} {GOLDEN[tool]["version"].removeprefix("v")}' in page, tool


@pytest.mark.parametrize('i', range(2))
def test_transforms(i):
    "Centred, orthonormal, exp(-2 pi i): four tools agree; BART's plain ways are longer by the root of the pixels."
    h, w = SIZES[i]
    z, root = picture(h, w)[0, 0], math.sqrt(h * w)
    k, back = fourier(z), fourier(z, inverse=True)
    for tool, name in (('sigpy', 'fft'), ('bart', 'fft_u'), ('fastmri', 'fft'), ('deepinv', 'mri')):
        close(k, numbers(GOLDEN[tool][name][i], (h, w)))
    close(back, numbers(GOLDEN['sigpy']['ifft'][i], (h, w)))
    close(root * k, numbers(GOLDEN['bart']['fft'][i], (h, w)), 1e-5)
    close(root * back, numbers(GOLDEN['bart']['fft_i'][i], (h, w)), 1e-5)
    stacked = torch.stack([k, 3 * k]) / math.sqrt(2)  # along the stack too: the difference, then the sum
    close(stacked, numbers(GOLDEN['sigpy']['stack'][i], (2, h, w)))


@pytest.mark.parametrize('i', range(2))
def test_scans_with_coils(i):
    "Where coils stand differs, what they hear does not."
    h, w = SIZES[i]
    x = channels(picture(h, w))
    y = SCAN.corrupt(x, [0])
    close(to_complex(y)[0], numbers(GOLDEN['sigpy']['sense'][i], (2, h, w)))
    deepinv = torch.tensor(GOLDEN['deepinv']['multicoil'][i]).reshape(
        1, 2, 2, h, w
    )  # (B, real and imaginary, coils, H, W)
    close(y.float(), deepinv.flatten(1, 2))
    adjoint = to_complex(SCAN.adjoint(y, [0]))[0, 0]
    for tool, name in (('sigpy', 'sense_adjoint'), ('deepinv', 'multicoil_adjoint')):
        close(adjoint, numbers(GOLDEN[tool][name][i], (h, w)))


def test_coil_maps():
    "Unit length at every pixel, as sigpy's birdcage; estimated maps stop, or don't, where the object does."
    ours = coil_maps(4, 6, 7).abs().square().sum(0)
    close(torch.stack([ours.min(), ours.max()]), torch.tensor(GOLDEN['sigpy']['birdcage'], dtype=torch.float64))
    assert GOLDEN['deepinv']['louder'] == 4  # A^H A is the sum of squares, maps are taken as they come
    espirit, maps = GOLDEN['sigpy']['espirit'], GOLDEN['bart']['maps']
    assert espirit['inside'] == 1 and 0.1 < espirit['outside'] < 0.5 and espirit['phase_of_coil_0'] == 0
    assert maps['ecalib']['shape'][4] == 2 and maps['ecalib -m1']['shape'][4] == 1
    assert maps['ecalib -m1']['phase_of_coil_0'] > 0.1 and maps['ecalib -m1 -P']['phase_of_coil_0'] == 0
    assert coil_maps(4, 6, 7)[0].angle().abs().max() > 0.1  # ours turns too
    assert abs(GOLDEN['bart']['phantom'] - 128) < 3  # k-space of `phantom -k` is the orthonormal one / N


def test_acceleration_asked_and_got():
    "Of 320 columns at R = 4: ours keeps 80, always; others keep that many on average, or keep more."
    kept = MRILines(4, acs=26).mask(range(50), (2, 4, 320)).sum((1, 2, 3))
    assert kept.unique().tolist() == [80]
    fastmri, deepinv = GOLDEN['fastmri']['got'], GOLDEN['deepinv']['got']
    assert [deepinv[name] for name in ('RandomMaskGenerator', 'GaussianMaskGenerator')] == [[80, 80, 80]] * 2
    assert (
        abs(fastmri['EquispacedMaskFractionFunc'][0] - 80) < 1 and abs(deepinv['EquispacedMaskGenerator'][0] - 80) < 1
    )
    assert abs(fastmri['RandomMaskFunc'][0] - 80) < 4 and fastmri['RandomMaskFunc'][1] < 70
    assert fastmri['EquiSpacedMaskFunc'][1] >= 99 and fastmri['MagicMaskFractionFunc'][2] < 78
    assert deepinv['PolyOrderMaskGenerator'][1] < 75 and deepinv['PolyOrderMaskGenerator'][2] > 85
    poisson = GOLDEN['sigpy']['poisson']
    assert abs(poisson['got'] - 4) < 0.2 and poisson['in_circle'] < 3.4


def test_middle_columns():
    "fastMRI's columns in the middle are ours, but for an even number of them on an odd width: ours start one earlier."
    pairs = [(w, acs) for w in WIDTHS for acs in (2, 3)]
    for (w, acs), theirs in zip(pairs, GOLDEN['fastmri']['middle'], strict=True):
        later = w % 2 and not acs % 2
        assert MRILines(2, acs=acs).middle(w).nonzero()[:, 0].add(later).tolist() == theirs


@pytest.mark.parametrize('i', range(2))
def test_visibilities(i):
    "ehtim counts from the middle of the picture, not of a pixel, and sees each pixel as a triangle of two."
    h, w = SIZES[i]
    uv = torch.tensor(UV, dtype=torch.float64)
    ours = nudft(picture(h, w).real, uv[None])[0, 0]
    shift = uv @ torch.tensor([w // 2 - (w - 1) / 2, h // 2 - (h - 1) / 2], dtype=torch.float64)
    theirs = math.sqrt(h * w) * ours * torch.exp(-2j * torch.pi * shift)
    close(theirs, numbers(GOLDEN['ehtim']['delta'][i], 3))
    close(theirs * torch.sinc(uv).square().prod(1), numbers(GOLDEN['ehtim']['triangle'][i], 3))


def test_tracks():
    "The frequencies of a pair of sites at the same hour and declination."
    hour = (torch.tensor(GMST_HOURS) - SOURCE[0]) * torch.pi / 12
    ours = uv_tracks(hour, math.radians(SOURCE[1]), 1.0)[0][:, 0]  # the first pair: ALMA-SMT
    close(ours.T, torch.tensor(GOLDEN['ehtim']['tracks'], dtype=torch.float64))


if __name__ == '__main__':
    for tool in sys.argv[1:]:
        GOLDEN[tool] = TOOLS[tool]()
    entries = (f'  {json.dumps(tool)}: {json.dumps(answers)}' for tool, answers in sorted(GOLDEN.items()))
    FILE.write_text('{\n' + ',\n'.join(entries) + '\n}\n')
