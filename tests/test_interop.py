"EDM's pickles read as data, hostile ones refused. No foreign code: the pickles are written here."

import io
import os
import pickle
import subprocess
import sys
import types
from dataclasses import asdict, replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from nets import NETS, PARAMS, loud, model_of
from torch import nn

from ambient_nb import interop
from ambient_nb.checkpoints import Damaged
from ambient_nb.core import BadInput, rng
from ambient_nb.interop import convert, read_edm_pickle, read_pickle
from ambient_nb.models import load_model

SONG_ONLY = 'embedding_type', 'channel_mult_noise', 'encoder_type', 'decoder_type', 'resample_filter'


# A writer of EDM's layout


def reconstruct(meta):
    raise AssertionError('a name in a pickle, never called')


reconstruct.__module__, reconstruct.__name__, reconstruct.__qualname__ = (
    'torch_utils.persistence',
    '_reconstruct_persistent_obj',
    '_reconstruct_persistent_obj',
)
STATE = {
    'training',
    '_parameters',
    '_buffers',
    '_non_persistent_buffers_set',
    '_modules',
    '_forward_hooks',
    '_init_kwargs',
    '_init_args',
}


class Writer(pickle.Pickler):
    "Stores modules as EDM's persistence does, with `source` in the place of their module's source code."

    source = ''

    def reducer_override(self, obj):
        if not isinstance(obj, nn.Module) or type(obj) is nn.ModuleDict:
            return NotImplemented
        state = {
            k: v for k, v in vars(obj).items() if k in STATE or (isinstance(v, (int, float)) and not k.startswith('_'))
        }
        state['_modules'] = {k: None if isinstance(v, nn.Identity) else v for k, v in obj._modules.items()}
        return reconstruct, (
            dict(type='class', version=6, module_src=self.source, class_name=type(obj).__name__, state=state),
        )


def dumps(content, source='raise SystemExit') -> bytes:
    persistence, file = types.ModuleType('torch_utils.persistence'), io.BytesIO()
    persistence._reconstruct_persistent_obj = reconstruct
    with patch.dict(
        sys.modules, {'torch_utils': types.ModuleType('torch_utils'), 'torch_utils.persistence': persistence}
    ):
        writer = Writer(file, protocol=4)
        writer.source = source
        writer.dump(content)
    return file.getvalue()


class AugmentPipe(nn.Module):
    "Stands for EDM's, by its name alone."

    def __init__(self):
        super().__init__()
        self.p, self.xflip = 0.12, 1e8


def edm(config, **more):
    "A denoiser with the marks EDM leaves on it: its arguments, with NumPy numbers among them."
    D, net = loud(config), {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config.net).items()}
    for k in ('family', 'gated', 'keep_skips', *(SONG_ONLY if config.net.family == 'adm' else ())):
        net.pop(k)
    D.model._init_kwargs = dict(
        net,
        img_resolution=config.img_resolution,
        in_channels=config.channels,
        out_channels=config.channels + config.extra_out,
        label_dim=config.label_dim,
        augment_dim=config.augment_dim,
        **more,
    )
    D.img_resolution, D.img_channels, D.label_dim, D.use_fp16, D._init_args = (
        config.img_resolution,
        config.channels,
        config.label_dim,
        False,
        (),
    )
    for k, v in config.params.items():
        setattr(D, k, v)
    D.sigma_max = config.params.get('sigma_max', float('inf'))
    D.model.enc._buffers.clear()
    D.model._init_kwargs['num_blocks'] = np.int64(config.net.num_blocks)
    return D


def write(path, content, **kwargs):
    path.write_bytes(content if isinstance(content, bytes) else dumps(content, **kwargs))
    return path


def network(config=None, **kwargs):
    return dict(
        ema=edm(config or model_of(), **kwargs),
        loss_fn=None,
        augment_pipe=AugmentPipe(),
        dataset_kwargs=dict(path='a.zip', xflip=False),
    )


# In


@pytest.mark.parametrize('precond', PARAMS)
@pytest.mark.parametrize('family', NETS)
def test_convert_keeps_the_denoiser(tmp_path, family, precond):
    "Outputs equal bit for bit, settings too, for every family and preconditioning."
    config = model_of(family, precond)
    convert(write(tmp_path / 'network.pkl', network(config)), tmp_path / 'model.safetensors')
    D, meta = load_model(tmp_path / 'model.safetensors', shape=(3, 16, 16))
    assert (
        replace(meta['model'], params={}) == replace(config, params={})
        and config.params.items() <= meta['model'].params.items()
    )
    assert (
        meta['weights'] == 'EMA'
        and meta['augment_pipe'] == dict(kind='AugmentPipe', training=True, p=0.12, xflip=1e8)
        and len(meta['source']['sha256']) == 64
    )
    x, labels, told = (
        torch.randn(2, 3, 16, 16, generator=rng(0, 'x')),
        torch.eye(10)[[3, 7]],
        torch.randn(2, 9, generator=rng(0, 'told')),
    )
    for sigma in (0.05, 1.0, 30.0):
        assert torch.equal(D(x * (1 + sigma), sigma, labels, told), loud(config)(x * (1 + sigma), sigma, labels, told))


def test_tensors_that_do_not_fit_the_settings_are_named_and_nothing_is_written(tmp_path):
    content = network()
    content['ema'].model._init_kwargs['model_channels'] = 16
    with pytest.raises(BadInput, match=r"'model.map_label.weight'.*\(16, 10\).*\(8, 10\)"):
        convert(write(tmp_path / 'n.pkl', content), tmp_path / 'm.safetensors')
    assert [f.name for f in tmp_path.iterdir()] == ['n.pkl']


# Hostile and broken


class Call:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def harm(marker):
    return Call(os.system, f'touch {marker}')


def storage(blob) -> bytes:
    return b'\x80\x04ctorch.storage\n_load_from_bytes\nB' + len(blob).to_bytes(4, 'little') + blob + b'\x85R.'


def tensor(size, stride, offset=0) -> bytes:
    "A tensor of one number whose shape says otherwise."
    file = io.BytesIO()
    torch.save(
        torch.storage.TypedStorage(wrap_storage=torch.zeros(1).untyped_storage(), dtype=torch.float32, _internal=True),
        file,
        _use_new_zipfile_serialization=False,
    )
    return (
        b'\x80\x04ctorch._utils\n_rebuild_tensor_v2\n('
        + storage(file.getvalue())[2:-1]
        + pickle.dumps(offset, 0)[:-1]
        + pickle.dumps(size, 0)[:-1]
        + pickle.dumps(stride, 0)[:-1]
        + b'I00\n}tR.'
    )


HOSTILE = {
    'os.system': (lambda m: pickle.dumps(harm(m)), 'system'),
    'eval': (lambda m: pickle.dumps(dict(ema=Call(eval, f'open({str(m)!r}, "w")'))), 'builtins.eval'),
    'exec, protocol 0': (lambda m: pickle.dumps(Call(exec, f'open({str(m)!r}, "w")'), 0), 'builtin.*exec'),
    'a call among the arguments of a network': (lambda m: dumps(network(note=harm(m))), 'system'),
    'a call in place of a module': (lambda m: dumps(dict(ema=edm(model_of()), loss_fn=harm(m))), 'system'),
    'getattr': (lambda m: pickle.dumps(Call(getattr, 'x', 'upper')), 'builtins.getattr'),
    'a name with dots': (lambda m: b'\x80\x04\x8c\x0ctorch._utils\x8c\x11_rebuild.__code__\x93.', '_rebuild.__code__'),
    'a function of the module that is allowed one': (
        lambda m: b'\x80\x04ctorch._utils\n_import_dotted_name\n.',
        'torch._utils._import_dotted_name',
    ),
    'numpy.load': (lambda m: pickle.dumps(Call(np.load, 'x', None, True)), 'numpy.*load'),
    'rewriting a function of ours': (
        lambda m: b'\x80\x04ctorch._utils\n_rebuild_tensor_v2\n}\x8c\x05valueNsb.',
        'a change of',
    ),
    'rewriting it through slots': (
        lambda m: b'\x80\x04ctorch._utils\n_rebuild_tensor_v2\nN}\x8c\x05valueNs\x86b.',
        'a change of',
    ),
    'a tensor beyond its storage': (lambda m: tensor((1 << 40,), (0,)), 'larger than its storage'),
    'an object as a number': (
        lambda m: b"\x80\x04cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n\x8c\x02O8\x85RC\x01xtR.",
        "type 'O8'",
    ),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_hostile_pickle_is_refused(tmp_path, case):
    "With the name it asks for, before anything in it has run, and with nothing written."
    make, says = HOSTILE[case]
    known, marker = {k: getattr(v, 'value', v) for k, v in interop.KNOWN.items()}, tmp_path / 'marker'
    with pytest.raises(BadInput, match=says):
        convert(write(tmp_path / 'n.pkl', make(marker)), tmp_path / 'm.safetensors')
    assert not marker.exists() and sorted(f.name for f in tmp_path.iterdir()) == ['n.pkl']
    assert known == {k: getattr(v, 'value', v) for k, v in interop.KNOWN.items()}


def test_the_hostile_files_do_harm_elsewhere(tmp_path):
    "The same bytes under the stock unpickler leave their mark: the test above would see it."
    pickle.loads(HOSTILE['os.system'][0](tmp_path / 'a'))
    pickle.loads(HOSTILE['eval'][0](tmp_path / 'b'))
    assert (tmp_path / 'a').exists() and (tmp_path / 'b').exists()


def test_code_inside_a_storage_is_refused(tmp_path):
    "Storages are torch.load's own pickles: read with weights_only."
    file = io.BytesIO()
    torch.save(harm(tmp_path / 'marker'), file, _use_new_zipfile_serialization=False)
    with pytest.raises(Damaged):
        read_pickle(write(tmp_path / 'n.pkl', storage(file.getvalue())))
    assert not (tmp_path / 'marker').exists()


@pytest.mark.parametrize('size, stride, offset', [((1,), (1,), 5), ((1,), (1,), -1), ((-1,), (1,), 0)])
def test_a_tensor_outside_its_storage_is_refused(tmp_path, size, stride, offset):
    with pytest.raises((Damaged, BadInput)):
        read_pickle(write(tmp_path / 'n.pkl', tensor(size, stride, offset)))
    assert read_pickle(write(tmp_path / 'n.pkl', tensor((1,), (1,)))).value.tolist() == [0]


def test_source_code_in_a_pickle_is_not_run(tmp_path):
    source = f'open({str(tmp_path / "marker")!r}, "w")'
    read_edm_pickle(write(tmp_path / 'n.pkl', network(), source=source))
    assert (
        source.encode() in (tmp_path / 'n.pkl').read_bytes()
        and not (tmp_path / 'marker').exists()
        and 'torch_utils' not in sys.modules
    )


def test_truncated_and_flipped_pickles_are_damaged_or_refused(tmp_path):
    "Cut anywhere, or with one byte changed: one clear error, or a network; never another exception."
    blob = dumps(network(model_of(res=8, net=replace(NETS['ddpmpp'], channel_mult=(1,), attn_resolutions=()))))
    draws, errors = torch.randint(len(blob), (60,), generator=rng(0, 'cuts')).tolist(), []
    for cut in draws:
        with pytest.raises(Damaged, match='Fetch it again'):
            read_edm_pickle(write(tmp_path / 'n.pkl', blob[:cut]))
    for place in draws + list(range(0, 400, 7)):
        try:
            read_edm_pickle(write(tmp_path / 'n.pkl', blob[:place] + bytes([blob[place] ^ 0x21]) + blob[place + 1 :]))
        except (Damaged, BadInput) as e:
            errors.append(e)
    assert len(errors) > 20


def test_pickles_of_something_else(tmp_path):
    for content in (dict(G_ema=1), [1, 2], dict(ema=dict(a=1)), dict(ema=nn.ModuleDict())):
        with pytest.raises(BadInput, match="EDM's parts"):
            read_edm_pickle(write(tmp_path / 'n.pkl', content))
    with pytest.raises(BadInput, match='a file that exists'):
        read_edm_pickle(tmp_path / 'nothing.pkl')


# The command


def cli(*args):
    return subprocess.run(
        [sys.executable, '-c', 'from ambient_nb.cli import main; main()', *map(str, args)],
        capture_output=True,
        text=True,
    )


def test_command(tmp_path):
    write(tmp_path / 'network.pkl', network())
    done = cli('convert', tmp_path / 'network.pkl', tmp_path / 'model.safetensors')
    assert done.returncode == 0 and 'model.json' in done.stdout, done.stderr
    assert load_model(tmp_path / 'model.safetensors')[1]['model'].net == NETS['ddpmpp']


@pytest.mark.parametrize(
    'content, dst, code, says',
    [
        (HOSTILE['os.system'][0]('marker'), 'm.safetensors', 2, 'posix.system' if os.name == 'posix' else 'nt.system'),
        (b'\x80\x04\x95', 'm.safetensors', 1, 'damaged'),
        (b'', 'm.pt', 2, 'dst='),
    ],
)
def test_command_says_no_in_one_line(tmp_path, content, dst, code, says):
    write(tmp_path / 'n.pkl', content)
    done = cli('convert', tmp_path / 'n.pkl', tmp_path / dst)
    assert (
        done.returncode == code
        and done.stderr.startswith('Error: ')
        and says in done.stderr
        and len(done.stderr.strip().splitlines()) == 1
    )
    assert [f.name for f in tmp_path.iterdir()] == ['n.pkl']
