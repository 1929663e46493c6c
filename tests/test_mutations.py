"""What readers make of files that were changed at random: pictures or numbers, or one error of ours, and nothing else.

`make test` changes each file a few dozen times, `make test-slow` as often as SURVIVAL_MUTATIONS says (10,000).
With SURVIVAL_ROWS=FILE what was found is written beside what tests/test_survival.py finds.
"""

import io
import json
import os
import pickle
import warnings
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from ambient_nb.checkpoints import Damaged, load_checkpoint, load_json, save_checkpoint, save_json
from ambient_nb.core import BadInput, content_hash
from ambient_nb.data import Images, digits, read_zip, write_zip
from ambient_nb.interop import read_network
from ambient_nb.models import ModelConfig, build, load_model, save_model
from ambient_nb.networks import PRESETS
from ambient_nb.plans import plan
from ambient_nb.rows import load_rows
from ambient_nb.runfolders import read_stats
from ambient_nb.sources import read_pictures
from ambient_nb.training import stored_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_interop import network, stored, write
from test_survival import tally  # noqa: F401

MANY = int(os.environ.get('SURVIVAL_MUTATIONS', 10_000))
FEW = 40
OURS = (BadInput, Damaged)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just('set'), st.floats(0, 1), st.integers(0, 255)),
        st.tuples(st.just('flip'), st.floats(0, 1), st.integers(0, 7)),
        st.tuples(st.just('cut'), st.floats(0, 1), st.just(0)),
        st.tuples(st.just('put'), st.floats(0, 1), st.binary(min_size=1, max_size=9)),
        st.tuples(st.just('drop'), st.floats(0, 1), st.integers(1, 9)),
    ),
    min_size=1,
    max_size=4,
)


def changed(content, changes):
    "A file after some changes, each at a place that is a share of its length."
    content = bytearray(content)
    for what, share, how in changes:
        at = min(int(share * len(content)), max(0, len(content) - 1))
        if what == 'cut':
            del content[at:]
        elif what == 'put':
            content[at:at] = how
        elif what == 'drop':
            del content[at : at + how]
        elif content:
            content[at] = how if what == 'set' else content[at] ^ 1 << how
    return bytes(content)


PIXELS = digits()[0].take(range(6)).pixels


def zip_of(path):
    return write_zip(path, Images(PIXELS, torch.arange(6), torch.arange(6), 'x')).read_bytes()


def npz_of(path):
    np.savez_compressed(path, x=PIXELS[:, 0].numpy(), y=np.arange(6))
    return path.read_bytes()


def parquet_of(path):
    from PIL import Image

    def png(a):
        Image.fromarray(a).save(out := io.BytesIO(), format='PNG')
        return out.getvalue()

    rows = [dict(image=dict(bytes=png(a), path=None), label=i % 2) for i, a in enumerate(PIXELS[:, 0].numpy())]
    pd.DataFrame(rows).to_parquet(path)
    return path.read_bytes()


def tar_of(path):
    import tarfile

    with zipfile.ZipFile(path.with_suffix('.zip'), 'w') as z, tarfile.open(path, 'w:gz') as tar:
        z.writestr('none', b'')
        for i, a in enumerate(PIXELS[:, 0].numpy()):
            np.save(out := io.BytesIO(), a[None])
            info = tarfile.TarInfo(f'{i}.npy')
            info.size = len(out.getvalue())
            tar.addfile(info, io.BytesIO(out.getvalue()))
    return path.read_bytes()


def cifar_of(path):
    data = np.zeros((2, 3072), np.uint8)
    return pickle.dumps({b'data': data, b'labels': [0, 1], b'filenames': [b'a.png', b'b.png']}, 2)


def read_folder(path):
    "A folder that holds CIFAR's files, of which one was changed."
    (folder := path.parent / 'cifar').mkdir(exist_ok=True)
    (folder / 'data_batch_1').write_bytes(path.read_bytes())
    return open_all(folder)


def open_all(path):
    "A source with all its pictures, as an audit reads it."
    return read_pictures(path, 'generated', folder=path.parent)


def rows_of(path):
    from ambient_nb.rows import results

    rows = json.loads((results() / 'repro_table1.quick.json').read_text())['rows'][:2]
    runs = {key: {} for row in rows for key in row['runs']}
    return save_json(path, dict(rows=rows, runs=runs)).read_bytes()


def config_of(path):
    about = dict(shape=[1, 8, 8], config=dict(net=asdict(PRESETS['tiny']), iters=5, loss=dict(kind='edm')))
    return save_json(path, about).read_bytes()


def rehashed(read):
    "A JSON file whose hash somebody made fit again."

    def again(path):
        try:
            content = json.loads(path.read_bytes())
            content.pop('hash', None)
            path.write_text(json.dumps(dict(content, hash=content_hash(content))))
        except (ValueError, AttributeError, TypeError, RecursionError):
            pass
        return read(path)

    return again


def read_config(path):
    path.rename(path.with_name('config.json'))
    return stored_config(path.parent)


def model_of(path):
    config = ModelConfig(replace(PRESETS['tiny'], model_channels=8), 8, 1)
    save_model(path.with_name('m.safetensors'), config, build(config).state_dict())
    return path.with_name('m.json').read_bytes()


def read_model(path):
    path.replace(path.with_name('m.json'))
    return load_model(path.with_name('m.safetensors'))


def tensors_of(path):
    save_checkpoint(path.with_name('c'), dict(w=torch.arange(6.0)), dict(it=1))
    return path.with_name('c.safetensors').read_bytes()


def read_tensors(path):
    "A safetensors file whose hash somebody made fit again."
    from ambient_nb.core import file_sha

    path.replace(file := path.with_name('c.safetensors'))
    save_json(path.with_name('c.json'), dict(it=1, sha256=file_sha(file)))
    return load_checkpoint(path.with_name('c'))


def state_dict_of(path):
    D = build(ModelConfig(replace(PRESETS['tiny'], model_channels=8), 8, 1))
    return stored(D.state_dict())


def curve_of(path):
    from ambient_nb.runfolders import line_text

    return ''.join(line_text(dict(it=it, loss=1 / it)) for it in (1, 2, 3)).encode()


READERS = {
    'zip, as a data set': ('x.zip', zip_of, read_zip),
    'zip, as a source': ('x.zip', zip_of, open_all),
    'tar.gz': ('x.tar.gz', tar_of, open_all),
    'npz': ('x.npz', npz_of, open_all),
    'parquet': ('x.parquet', parquet_of, open_all),
    'pickle of CIFAR': ('x.pkl', cifar_of, read_folder),
    'pickle of a network': ('x.pkl', lambda path: write(path, network()).read_bytes(), read_network),
    'torch file': ('x.pt', state_dict_of, lambda path: read_network(path, layout='edm')),
    'safetensors, hash made to fit': ('x.safetensors', tensors_of, read_tensors),
    'JSON': ('x.json', config_of, load_json),
    'config of a run, hash made to fit': ('x.json', config_of, rehashed(read_config)),
    'description of a model, hash made to fit': ('x.json', model_of, rehashed(read_model)),
    'rows, hash made to fit': ('x.json', rows_of, rehashed(load_rows)),
    'curve of a run': ('stats.jsonl', curve_of, lambda path: read_stats(path.parent)),
}


def counts():
    return pytest.mark.parametrize('count', [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=['few', 'many'])


def often(count):
    return settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@counts()
@pytest.mark.parametrize('name', READERS)
def test_a_changed_file_is_read_or_refused_by_name(name, count, tally, tmp_path):  # noqa: F811
    file, make, read = READERS[name]
    content, found = make(tmp_path / file), dict(read=0, refused=0)

    @often(count)
    @given(CHANGES)
    def look(changes):
        (tmp_path / file).write_bytes(changed(content, changes))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                read(tmp_path / file)
        except OURS:
            found['refused'] += 1
        else:
            found['read'] += 1

    look()
    for outcome, n in found.items():
        tally(f'changed file: {name}', dict(read='read', refused='one error of ours')[outcome], n)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.binary(max_size=5),
    st.sampled_from(['cpu', 'cuda', 'meta', 'auto', '1,2,3', '0.1', '1e3', '-5', 'nan', '300,300', 'true']),
)
NAMES = ('n', 'seeds', 'sigma_n', 'iters', 'samples', 'steps', 'profile', 'dataset', 'data', 'device', 'encoder', 'out')


@counts()
@pytest.mark.parametrize('item', ['table1', 'diffmem_fig2', 'ablation_noise'])
def test_a_parameter_is_taken_or_refused_by_name(item, count, tally, tmp_path):  # noqa: F811
    found = dict(taken=0, refused=0)

    @often(count)
    @given(st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1, max_size=2))
    def look(asked):
        usual = dict(n=20, profile='smoke', seeds='0', out=str(tmp_path), device='cpu')
        try:
            plan(item, **(usual | asked), dry_run=True)
        except OURS:
            found['refused'] += 1
        else:
            found['taken'] += 1

    look()
    tally('parameters of a page', 'taken', found['taken'])
    tally('parameters of a page', 'one error of ours', found['refused'])
