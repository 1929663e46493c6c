"From fastMRI-shaped files to an error: the phase survives, two steps train, scans of other volumes are reconstructed."

from functools import partial
import numpy as np
import pytest
import torch
from ambient_nb.complex_images import read_complex
from ambient_nb.core import BadInput, refused
from ambient_nb.datamake import account, make_zip
from ambient_nb.fourier import MRILines, coil_maps, fourier, to_complex, to_real
from ambient_nb.objectives import EDM
from ambient_nb.phantoms import phantoms
from ambient_nb.reconstruction import one_step, relative_errors, sampled_scan, scan_losses, scan_runs
from ambient_nb.training import Trainer, fit
from ambient_nb.volumes import spectra

make_zip = partial(make_zip, overwrite=True)  # to one place, again and again

h5py = pytest.importorskip('h5py', reason='MRI volumes need h5py')
MAPS = coil_maps(4, 48, 48)
HEADER = b"""<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding><encodedSpace><matrixSize>
<x>48</x><y>48</y><z>1</z></matrixSize></encodedSpace><reconSpace><matrixSize><x>48</x><y>48</y><z>1</z></matrixSize>
</reconSpace><encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>47</maximum><center>24</center>
</kspace_encoding_step_1></encodingLimits></encoding></ismrmrdHeader>"""


def volume(path, first, lines=None, **more):
    "Three slices of four coils as fastMRI stores them; with `lines`, as in its test set."
    path.parent.mkdir(exist_ok=True)
    k = 1e-4 * fourier(MAPS * to_complex(phantoms(range(first, first + 3), 48).double()))
    with h5py.File(path, 'w') as f:
        f['ismrmrd_header'] = HEADER
        f['kspace'] = (k if lines is None else k * lines).numpy().astype(np.complex64)
        if lines is None:
            rss = fourier(k, inverse=True).abs().square().sum(1).sqrt()
            f['reconstruction_rss'] = rss.numpy().astype(np.float32)
            f.attrs.update(acquisition='AXT2', max=float(rss.max()), norm=float(rss.norm()), patient_id='0')
        else:
            f['mask'] = lines.numpy().astype(bool)
            f.attrs.update(acceleration=4, num_low_frequency=8)
        for name, value in more.items():
            f[name] = value
    return path


def made(folder, out, **options):
    return make_zip(folder, out, kind='fastmri-complex', size=48, **options)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "Two volumes to train on, one to reconstruct; their maps are in them."
    tmp, maps = tmp_path_factory.mktemp('scans'), MAPS.numpy()[None].repeat(3, 0)
    for part, first in dict(multicoil_train=(0, 3), multicoil_val=(6,)).items():
        for i in first:
            volume(tmp / part / f'file{i}.h5', i, maps=maps)
    made(tmp / 'multicoil_train', tmp / 'brains.safetensors')
    made(tmp / 'multicoil_val', tmp / 'brains-val.safetensors', seed=None)
    return tmp


def test_an_image_scans_to_the_kspace_it_was_made_of(files):
    images, notes = read_complex(files / 'brains-val.safetensors')
    assert notes['source'] == [f'file6.h5: slice {i}' for i in range(3)] and notes['meta']['sha'] == images.sha
    assert notes['meta']['converted'] == {'slices by coil maps: of the file': 3} and 'of the file: 3' in account(
        dict(notes['meta'], beside=[])
    )
    with h5py.File(files / 'multicoil_val' / 'file6.h5') as f:
        k, rss = torch.from_numpy(f['kspace'][()]), torch.from_numpy(f['reconstruction_rss'][()])
    scan = MRILines(1, acs=2, coils=4, maps=MAPS)
    again = scan.transform(images.pixels) * rss.max()
    assert (again - to_real(k)).norm() < 1e-6 * k.norm()
    torch.testing.assert_close(to_complex(images.pixels)[:, 0].abs(), rss / rss.max(), rtol=1e-4, atol=1e-5)
    x = to_complex(phantoms(range(6, 9), 48))[:, 0]
    assert (to_complex(images.pixels)[:, 0] * (rss.max() * 1e4) - x).norm() < 1e-5 * x.norm()


def test_two_steps_train_and_scans_of_other_volumes_are_reconstructed(files, tmp_path):
    losses = {(name, 1): loss for name, loss in scan_losses((2,), 4).items()}
    runs = scan_runs('smoke', losses, 48, 2, 2, data=str(files / 'brains.safetensors'))
    images, (held, _) = runs['scans, R = 2', 1].images, read_complex(files / 'brains-val.safetensors')
    assert len(images) == 6 and len({run.key for run in runs.values()}) == 2
    x, scan, ids = held.pixels[:2], MRILines(2, acs=4, coils=4, seed=1), [0, 1]
    y, mask = scan.corrupt(x, ids), scan.mask(ids, x.shape[1:])
    for (name, _), run in runs.items():
        shown = Trainer(run.config, images).batch()['y'].flatten(1)
        assert (shown[:, None] == images.pixels.flatten(1)).all(2).any(1).all(), name
        assert run.config.sigma_data == pytest.approx(images.pixels.std().item(), abs=1e-4)
        fit(run.config, images, run.folder(tmp_path), device='cpu')
        D = run.denoiser(2, tmp_path)
        found = sampled_scan(D, scan, y, ids, None if run.config.loss == EDM() else mask, steps=2)
        errors = [relative_errors(found, x)]
        if run.config.loss != EDM():
            errors.append(relative_errors(one_step(D, scan, y, mask), x))
        assert all(e.isfinite().all() and (e > 0).all() for e in errors), name


def test_measurements_are_reconstructed_by_their_own_lines_and_never_trained_on(tmp_path):
    lines = torch.zeros(48, dtype=torch.float64)
    lines[::4] = lines[20:28] = 1
    path = volume(tmp_path / 'multicoil_test' / 'file9.h5', 9, lines)
    said = refused(made, path.parent, tmp_path / 'x.safetensors', error=BadInput)
    assert 'measurements, not pictures' in said and 'every frequency' in said and 'reconstruction_rss' not in said
    with h5py.File(path) as f:
        y, mask = torch.from_numpy(spectra(f, 0))[None] * 1e4, torch.from_numpy(f['mask'][()]).float()
    scan, seen = MRILines(4, acs=2, coils=4, maps=MAPS), {}

    def spy(x, sigma, labels=None, mask=None):
        seen.update(mask=mask)
        return x

    found = one_step(spy, scan, to_real(y), mask.reshape(1, 1, 1, 48), 1e-4)
    assert torch.equal(seen['mask'][0, 0, 0], mask) and 0.05 < relative_errors(found, phantoms([9], 48)).item() < 1


def test_files_that_do_not_fit_are_refused(files, tmp_path):
    one = dict(losses={('whole images', 1): EDM()}, iters=2, batch=2)
    with pytest.raises(BadInput, match='size must be 48'):
        scan_runs('smoke', size=32, data=str(files / 'brains.safetensors'), **one)
    made(files / 'multicoil_val', tmp_path / 'same.safetensors')
    made(files / 'multicoil_val', tmp_path / 'same-val.safetensors')
    with pytest.raises(BadInput, match='shares no volume.*file6.h5'):
        scan_runs('smoke', size=48, data=str(tmp_path / 'same.safetensors'), **one)
    with pytest.raises(BadInput, match='ends in .safetensors'):
        made(files / 'multicoil_val', tmp_path / 'x.zip')
    with h5py.File(tmp_path / 'rss.h5', 'w') as f:
        f['reconstruction_rss'] = np.ones((3, 48, 48), np.float32)
    said = refused(made, tmp_path / 'rss.h5', tmp_path / 'x.safetensors', error=BadInput)
    assert 'with kspace;' in said and not (tmp_path / 'x.safetensors').exists()


def test_maps_that_nobody_gave_are_estimated(tmp_path):
    pytest.importorskip('sigpy', reason='coil maps are estimated with sigpy')
    path = volume(tmp_path / 'multicoil_train' / 'file0.h5', 0)
    told = made(path.parent, tmp_path / 'x.safetensors', n=1, seed=None)
    assert told['converted'] == {'slices by coil maps: estimated': 1}
    image = to_complex(read_complex(tmp_path / 'x.safetensors')[0].pixels)[0, 0]
    with h5py.File(path) as f:
        rss = torch.from_numpy(f['reconstruction_rss'][()])
    inside = rss[0] > 0.2 * rss.max()
    assert torch.allclose(image.abs()[inside], rss[0][inside] / rss.max(), atol=0.02)
    x = to_complex(phantoms([0], 48))[0, 0] * MAPS[0] / MAPS[0].abs()  # with the phase of coil 0
    off = (image - x * image.abs() / x.abs())[inside].abs()
    assert off.mean() < 0.03 and off.max() < 0.2
