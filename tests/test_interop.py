"EDM's pickles read as data, hostile ones refused. No foreign code: the pickles are written here."

import io
import os
import pickle
import subprocess
import sys
import types
import zipfile
from functools import partial
from dataclasses import asdict, replace
from unittest.mock import patch

import numpy as np
import pytest
import safetensors.torch
import torch
from nets import NETS, PARAMS, loud, model_of
from torch import nn

from ambient_nb import architectures, interop
from ambient_nb.checkpoints import Damaged, load_json
from ambient_nb.core import BadInput, rng
from ambient_nb.interop import convert, read_edm_pickle, read_pickle
from ambient_nb.models import build, load_model, save_model

SONG_ONLY = 'embedding_type', 'channel_mult_noise', 'encoder_type', 'decoder_type', 'resample_filter'


# A writer of EDM's layout


def reconstruct(meta):
    raise AssertionError('a name in a pickle, never called')


reconstruct.__module__, reconstruct.__name__, reconstruct.__qualname__ = (
    'torch_utils.persistence',
    '_reconstruct_persistent_obj',
    '_reconstruct_persistent_obj',
)

convert = partial(convert, overwrite=True)  # to one place, again and again
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


@pytest.mark.parametrize('keeps', [[1] * 4, [1, 0, 0, 1], (0, 1, 1, 1), [0] * 4])
@pytest.mark.parametrize('family', ['ddpmpp', 'ncsnpp'])
def test_the_skips_of_diffmemorize(tmp_path, family, keeps):
    "Their `skip_connections` are our `keep_skips`; what is no 0 or 1 for each skip is refused."
    config = model_of(family)
    convert(write(tmp_path / 'n.pkl', network(config, skip_connections=keeps)), tmp_path / 'm.safetensors')
    D, meta = load_model(tmp_path / 'm.safetensors')
    kept = None if all(keeps) else tuple(i for i, keep in enumerate(keeps) if keep)
    x, theirs = torch.randn(2, 3, 16, 16, generator=rng(0, 'x')), loud(config)
    theirs.model.keep_skips = kept
    assert meta['model'].net.keep_skips == kept and torch.equal(D(x, 1.0), theirs(x, 1.0))
    for bad in ([1] * 3, [1, 1, 1, 0.5], None, 4):
        with pytest.raises(BadInput, match='skip_connections=.*4 times 0 or 1'):
            read_edm_pickle(write(tmp_path / 'n.pkl', network(config, skip_connections=bad)))


# Architectures

FORK = """
class Conv2d:
    def forward(self, x):
        return -x
"""


def test_another_forward_needs_trust(tmp_path):
    "A class of known name and other code converts on demand only, and the JSON says so."
    src, dst = write(tmp_path / 'n.pkl', network(), source=FORK), tmp_path / 'm.safetensors'
    with pytest.raises(BadInput, match='the code of Conv2d in this file is not the one known.*trust_architecture'):
        convert(src, dst)
    assert not dst.exists()
    about = load_json(convert(src, dst, trust_architecture=True))
    assert about['architecture'] == 'trusted' and 'Conv2d' in about['warnings'][0]
    known = load_json(convert(write(src, network()), dst))
    assert known['architecture'].startswith('not compared') and 'warnings' not in known


def test_known_code_is_known_whatever_its_comments(tmp_path, monkeypatch):
    monkeypatch.setitem(architectures.KNOWN_CODE, 'Conv2d', (architectures.digest(FORK, 'Conv2d'),))
    source = FORK.replace('-x', '-x  # turned') + 'class Unused: pass'
    _, _, meta = read_edm_pickle(write(tmp_path / 'n.pkl', network(), source=source))
    assert meta['architecture'] == 'known'
    for other in (
        FORK.replace('-x', '+x'),
        FORK.replace('class Conv2d', 'y = 1\nclass Conv2d').replace('-x', '-x * y'),
    ):
        with pytest.raises(BadInput, match='Conv2d'):
            read_edm_pickle(write(tmp_path / 'n.pkl', network(), source=other))


def test_edm2_is_named(tmp_path):
    "By its layers, by its names, and where its file asks for more than we read."
    content = network()
    content['ema'].model.enc['16x16_conv'].__class__ = type(
        'MPConv', (type(content['ema'].model.enc['16x16_conv']),), {}
    )
    state = {'unet.emb_gain': torch.zeros(1), 'unet.enc.64x64_conv.weight': torch.zeros(1)}
    array = dict(ema=None, mean=np.zeros(3), source='class MPConv:')
    for blob in (dumps(content), pickle.dumps(dict(ema=state)), pickle.dumps(array)):
        with pytest.raises(BadInput, match='EDM2'):
            convert(write(tmp_path / 'n.pkl', blob), tmp_path / 'm.safetensors')


# State dicts


def stored(content, **kwargs) -> bytes:
    torch.save(content, file := io.BytesIO(), **kwargs)
    return file.getvalue()


WAYS = {
    'pickle': lambda s: pickle.dumps(dict(ema=s, loss_fn=None, augment_pipe=None)),
    'pt': stored,
    'legacy pt': lambda s: stored(s, _use_new_zipfile_serialization=False),
    'pt, compiled': lambda s: stored(dict(ema_model={f'_orig_mod.{k}': v for k, v in s.items()}, net=s, step=1)),
    'pt, DDP': lambda s: stored({f'module.{k}': v for k, v in s.items()}),
    'safetensors': lambda s: safetensors.torch.save(s),
}


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('family', NETS)
def test_a_state_dict_gives_its_network_back(tmp_path, family, way):
    "Settings from names and shapes, what is assumed is said, outputs equal to the bit."
    config = model_of(family)
    theirs = loud(config)
    src = write(tmp_path / 'weights.bin', WAYS[way](theirs.state_dict()))
    about = load_json(convert(src, tmp_path / 'm.safetensors', sigma_data=0.4))
    D, _ = load_model(tmp_path / 'm.safetensors', shape=(3, 16, 16))
    x, labels, told = torch.randn(2, 3, 16, 16), torch.eye(10)[[3, 7]], torch.randn(2, 9)
    assert torch.equal(D(x, 2.0, labels, told), theirs(x, 2.0, labels, told))
    assert ('EMA' == about['weights']) == (way in ('pickle', 'pt, compiled')) and 'does not say' in about['warnings'][0]


def ambient_state(gated: bool):  # (a masked denoiser, its tensors under Ambient Diffusion's names)
    quirks = ('scaled-mask', 'twice-gated') if gated else ('scaled-mask',)
    net = replace(NETS['ddpmpp'], model_channels=32)
    D = build(model_of(net=net, label_dim=0, augment_dim=0, extra_in=3, extra_out=3, quirks=quirks))
    for name, p in D.named_parameters():
        p.copy_(torch.randn(p.shape, generator=rng(0, name)) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.2))
        if name.endswith('gate.bias'):
            p.zero_()
    made = {k.replace('.gate.weight', '.gate_weight'): v for k, v in D.state_dict().items() if '.gate.' not in k}
    gates = {k.replace('.gate.weight', '.gate_weight'): v for k, v in D.state_dict().items() if '.gate.weight' in k}
    return D, made | gates


@pytest.mark.parametrize('gated', [False, True])
def test_masked_networks_of_ambient_diffusion(tmp_path, gated):
    theirs, state = ambient_state(gated)
    src = write(tmp_path / 'network-snapshot.pkl', pickle.dumps(dict(ema=state, loss_fn=None)))
    convert(src, tmp_path / 'm.safetensors', sigma_data=0.4)
    D, meta = load_model(tmp_path / 'm.safetensors', shape=(3, 16, 16))
    x, mask = torch.randn(2, 3, 16, 16), (torch.rand(2, 3, 16, 16) < 0.5).float()
    assert meta['model'].extra_in == 3 and torch.equal(D(x * mask, 2.0, mask=mask), theirs(x * mask, 2.0, mask=mask))
    assert not torch.equal(D(x * mask, 2.0, mask=mask), D(x * mask, 2.0, mask=0 * mask))


def test_adm_levels_without_heads(tmp_path):
    "Below 64 channels a level of ADM has no heads, and no layers for them."
    net = replace(NETS['adm'], model_channels=32, channel_mult=(1, 2, 2), attn_resolutions=(16, 8))
    state = loud(model_of(net=net)).state_dict()
    has = {k.split('.')[2] for k in state if k.endswith('qkv.weight')}
    assert has and not any(name.startswith('16x16') for name in has)
    convert(write(tmp_path / 'n.pkl', network(model_of(net=net))), tmp_path / 'm.safetensors')
    convert(write(tmp_path / 'n.pt', stored(state)), tmp_path / 'n.safetensors')
    a, b = (load_model(tmp_path / f'{name}.safetensors')[0].state_dict() for name in 'mn')
    assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


def test_training_states_and_other_whole_files_are_named(tmp_path):
    "None is called damaged."
    state, D = loud(model_of()).state_dict(), loud(model_of())
    ours = {f'{part}.{k}': v.clone() for part in ('net', 'ema') for k, v in state.items()} | {
        'adam.0.step': torch.zeros(1)
    }
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, 'w') as z:
        z.writestr('readme.txt', 'no weights')
    files = {
        'training state': stored(dict(net=state, optimizer_state={})),
        r'training state \(it holds objects': stored(dict(net=D, optimizer_state={})),
        r'training state .it holds ema, net, adam': safetensors.torch.save(ours),
        'training state.*optimizer': pickle.dumps(dict(net=state, optimizer={})),
        'web page': b'  <!DOCTYPE html><html></html>',
        'Git-LFS': b'version https://git-lfs.github.com/spec/v1',
        'ambient_nb.denoisers.EDMPrecond': stored(D),
        'a zip of something else': zipped.getvalue(),
        'gzip': b'\x1f\x8b\x08',
        'kept outside': b'\x80\x04\x8c\x010Q.',
        'this has a, …': safetensors.torch.save(dict(a=torch.zeros(1))),
        'this file holds a, b': stored(dict(a=state, b=state)),
    }
    for says, blob in files.items():
        with pytest.raises(BadInput, match=says):
            convert(write(tmp_path / 'n.bin', blob), tmp_path / 'm.safetensors')
    for blob in (stored(state)[:-500], safetensors.torch.save(state)[:-500]):
        with pytest.raises(Damaged, match='Fetch it again'):
            convert(write(tmp_path / 'n.bin', blob), tmp_path / 'm.safetensors')
    assert [f.name for f in tmp_path.iterdir()] == ['n.bin']


# deepinv


def test_deepinv_layout_in_and_out(tmp_path):
    "Under 128 channels the groups differ: asked for on the way in, refused or said on the way out."
    narrow = replace(model_of(label_dim=0, augment_dim=0, params=dict(sigma_data=0.5)))
    narrow = replace(narrow, net=replace(narrow.net, model_channels=32))
    save_model(src := tmp_path / 'm.safetensors', narrow, loud(narrow).state_dict())
    with pytest.raises(BadInput, match='fewer than 128 channels.*trust_architecture'):
        convert(src, tmp_path / 'n.pt', layout='deepinv')
    assert not (tmp_path / 'n.pt').exists()
    about = load_json(convert(src, tmp_path / 'n.pt', layout='deepinv', trust_architecture=True))
    assert 'denoises differently' in about['warnings'][0] and 'pixel_std=0.5' in about['made_by']
    assert set(torch.load(tmp_path / 'n.pt')) == {k.removeprefix('model.') for k in loud(narrow).state_dict()}
    with pytest.raises(BadInput, match="layout=None.*'edm' or 'deepinv'"):
        convert(tmp_path / 'n.pt', tmp_path / 'back.safetensors')
    x, outs = torch.randn(2, 3, 16, 16), {}
    for layout in ('edm', 'deepinv'):
        convert(tmp_path / 'n.pt', tmp_path / f'{layout}.safetensors', layout=layout, sigma_data=0.5)
        outs[layout] = load_model(tmp_path / f'{layout}.safetensors')[0](x, 1.0)
    assert torch.equal(outs['edm'], loud(narrow)(x, 1.0)) and not torch.allclose(
        outs['edm'], outs['deepinv'], atol=0.01
    )
    convert(tmp_path / 'deepinv.safetensors', tmp_path / 'again.pt', layout='deepinv')
    convert(tmp_path / 'n.pt', tmp_path / 'usual.safetensors', layout='deepinv')
    assert load_model(tmp_path / 'usual.safetensors')[1]['model'].params == dict(sigma_data=0.75)
    with pytest.raises(BadInput, match='says it itself'):
        convert(src, tmp_path / 'x.safetensors', precond='vp')


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
