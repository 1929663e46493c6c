"""What a file or a network may do to a reader: nothing of a file is run, nothing is sent, nothing listens to others."""

import ast
import io
import pickle
import socket
import sys
import tarfile
import time
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from ambient_nb.bounded import FREE
from ambient_nb.core import BadInput
from ambient_nb.data import digits, read_zip, write_zip
from ambient_nb.interop import read_network
from ambient_nb.pickles import MANY, Record, is_plain
from ambient_nb.interop import records_in
from ambient_nb.published import SafeUnpickler
from ambient_nb.sources import read_pictures
from PIL import Image
from test_interop import stored
from tree import ROOT

CALLS = {
    f.name: [n for n in ast.walk(ast.parse(f.read_text())) if isinstance(n, ast.Call)]
    for f in ROOT.glob('ambient_nb/*.py')
}


def calls_of(*names):
    "Calls in the package by their dotted end: (file, call)."
    return [(file, c) for file, calls in CALLS.items() for c in calls if ast.unparse(c.func) in names]


def given(call, name):
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)


def test_no_file_is_unpickled_as_a_program():
    assert calls_of('pickle.load', 'pickle.loads', 'pd.read_pickle', 'joblib.load', 'eval', 'exec', 'os.system') == []
    loads = calls_of('torch.load')
    assert len(loads) == 2 and all(given(c, 'weights_only') == 'True' for _, c in loads)
    arrays = calls_of('np.load', 'numpy.load')
    assert len(arrays) >= 2 and all(given(c, 'allow_pickle') == 'False' for _, c in arrays)
    assert [given(c, 'shell') for _, c in calls_of('subprocess.run', 'subprocess.Popen') if given(c, 'shell')] == []


def test_the_two_exceptions_come_after_a_hash():
    "TorchScript, and the file that torch-fidelity opens by itself: the line before reads its sha256."
    text = (ROOT / 'ambient_nb' / 'backbones.py').read_text()
    assert (
        [file for file, _ in calls_of('torch.jit.load')]
        == ['backbones.py']
        == [file for file, _ in calls_of('port.FeatureExtractorInceptionV3')]
    )
    for opens in ('torch.jit.load(', 'port.FeatureExtractorInceptionV3('):
        before = text[: text.index(opens)]
        assert before.rindex('check_sha(file, sha256)') > before.rindex('find_weights(')


def cut(content):
    "A tar, compressed."
    with tarfile.open(fileobj=(out := io.BytesIO()), mode='w:gz') as tar:
        for name, size in content.items():
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size)))
    return out.getvalue()


def zeros(sizes):
    "A zip that holds zeros, which shrink to a thousandth."
    with zipfile.ZipFile(out := io.BytesIO(), 'w', zipfile.ZIP_DEFLATED) as z:
        for name, size in sizes.items():
            z.writestr(name, bytes(size))
    return out.getvalue()


@pytest.mark.parametrize('name, make', [('x.zip', zeros), ('x.tar.gz', cut), ('x.npz', zeros)])
def test_what_unpacks_to_much_more_than_it_is_is_refused_before_it_does(name, make, tmp_path):
    "The bounds are made small for it: a harmless file stands for a large one."
    (tmp_path / name).write_bytes(make({'a.npy' if name == 'x.npz' else 'a.png': 1 << 20}))
    with patch('ambient_nb.bounded.FREE', 1 << 16), patch('ambient_nb.bounded.RATIO', 20):
        with pytest.raises(BadInput, match='unpacks to at most 20 times'):
            read_pictures(tmp_path / name, 'generated', folder=tmp_path)
    with pytest.raises(BadInput) as e:  # small enough to be looked at; then it is no picture
        read_pictures(tmp_path / name, 'generated', folder=tmp_path)
    assert 'unpacks to' not in str(e.value) and FREE == 1 << 28


def test_a_zip_of_ours_has_the_same_bound(tmp_path):
    path = write_zip(tmp_path / 'x.zip', digits()[0].take(range(3)))
    assert len(read_zip(path)) == 3
    with zipfile.ZipFile(path, 'a', zipfile.ZIP_DEFLATED) as z:
        z.writestr('more.png', bytes(1 << 20))
    with patch('ambient_nb.bounded.FREE', 1 << 16), patch('ambient_nb.bounded.RATIO', 20):
        with pytest.raises(BadInput, match='^data=.*unpacks to at most 20 times'):
            read_zip(path)


def test_a_state_dict_whose_tensors_share_a_little_memory_is_not_copied_out(tmp_path):
    "A thousand names for one number are a thousand tensors of any size."
    from ambient_nb.models import ModelConfig, build
    from ambient_nb.networks import PRESETS

    D = build(ModelConfig(PRESETS['tiny'], 8, 1))
    small = {k: torch.zeros(1).expand(v.shape) for k, v in D.state_dict().items()}
    (tmp_path / 'n.pt').write_bytes(stored(small))
    with patch('ambient_nb.bounded.FREE', 1 << 16), pytest.raises(BadInput, match='unpacks to at most'):
        read_network(tmp_path / 'n.pt', layout='edm')


def test_work_and_memory_of_a_pickle_are_bounded(tmp_path):
    "Seconds and megabytes for what would take minutes and gigabytes."
    shared = [0]
    for _ in range(60):
        shared = [shared, shared]
    module = Record()
    module.state = dict(_modules={})
    for _ in range(40):
        above = Record()
        above.state = dict(_modules=dict(a=module, b=module))
        module = above
    began = time.process_time()
    assert not is_plain(shared) and not is_plain(1 << 64) and is_plain([1, (2.5, 'x', None)])
    with pytest.raises(BadInput, match=f'over {MANY:,} modules'):
        records_in(module)
    copies = b'](' + b'K\x01' * 4000 + b'eq\x000' + b'cbuiltins\nset\n(h\x00tR0' * 20_000 + b'N.'
    (tmp_path / 'x.pkl').write_bytes(copies)
    with pytest.raises(BadInput, match='more work than a file of its size needs'):
        read_network(tmp_path / 'x.pkl')
    views = {str(i): torch.zeros(1 << 18) for i in range(1)}
    views |= {f'again{i}': views['0'] for i in range(40)}
    (tmp_path / 'y.pkl').write_bytes(pickle.dumps(views))  # one storage, one tensor under forty names
    assert time.process_time() - began < 20
    strange = np.zeros(2, dtype=object)
    with pytest.raises(pickle.UnpicklingError):
        SafeUnpickler(pickle.dumps(dict(data=strange)), encoding='bytes').load()


def test_names_in_a_file_do_not_become_markup(tmp_path):
    "A picture may be called anything; the report forbids scripts besides."
    from ambient_nb.audit import audit

    name = '<img src=x onerror=alert(1)>.png'
    for folder in ('made', 'train'):
        (tmp_path / folder).mkdir()
        for i in range(4):
            pixels = digits()[0].pixels[i + 9 * (folder == 'train'), 0].numpy()
            Image.fromarray(pixels).save(tmp_path / folder / f'{i}{name}')
    audit(tmp_path / 'made', tmp_path / 'train', out=tmp_path / 'report', cache=tmp_path / 'cache', controls=False)
    page = (tmp_path / 'report' / 'report.html').read_text()
    assert '<img src=x' not in page and '&lt;img src=x' in page and "default-src 'none'" in page
    assert '<script' not in page.lower()


@pytest.fixture
def no_network():
    "Sockets that reach this machine and nothing else, and the addresses that were asked for."
    asked, connect = [], socket.socket.connect

    def refuse(self, address, *rest):
        if self.family != socket.AF_UNIX and address[0] not in ('127.0.0.1', '::1', 'localhost'):
            asked.append(address)
            raise OSError(101, 'Network is unreachable')
        return connect(self, address, *rest)

    def look_up(host, *rest, **kwargs):
        asked.append(host)
        raise socket.gaierror(-3, 'no names here')

    with patch.object(socket.socket, 'connect', refuse), patch.object(socket, 'getaddrinfo', look_up):
        yield asked


def test_the_commands_of_the_readme_need_and_ask_no_network(no_network, tmp_path, monkeypatch):
    "Data made, a network converted, an audit, a plan, a row, claims: as a user types them."
    from ambient_nb.cli import main
    from test_interop import network, write

    monkeypatch.chdir(tmp_path)
    bound, bind = [], socket.socket.bind
    for part, first in dict(photos=0, generated=40, held=80).items():
        (tmp_path / part).mkdir()
        for i in range(30):
            Image.fromarray(digits()[0].pixels[first + i, 0].numpy()).resize((16, 16)).save(
                tmp_path / part / f'{i}.png'
            )
    write(tmp_path / 'network.pkl', network())
    commands = [
        'data make photos/ train.zip --size 16 --crop center',
        'data make held/ test.zip --size 16 --no-check',
        'audit generated/ train.zip --holdout test.zip --out report/ --cache cache',
        'convert network.pkl model.safetensors',
        'show table1/digits/50/baseline/550/memorized',
        'claims show table1',
        'version',
    ]

    def noted(self, address):
        bound.append(address)
        return bind(self, address)

    with patch.object(socket.socket, 'bind', noted):
        for command in commands:
            typed = patch.object(sys, 'argv', ['ambient-nb', *command.split()])
            with typed, redirect_stdout(io.StringIO()), redirect_stderr(err := io.StringIO()):
                with pytest.raises(SystemExit) as end:
                    main()
                    raise SystemExit(0)
            assert not end.value.code, (command, err.getvalue())
    assert no_network == [] and bound == [] and (Path('report') / 'report.html').exists()
    with pytest.raises(OSError):
        socket.create_connection(('example.org', 80), timeout=1)
    assert no_network == ['example.org']


@pytest.mark.slow
def test_a_notebook_listens_on_this_machine_only(tmp_path):
    "A kernel talks to its notebook over sockets: all of them are of 127.0.0.1."
    import nbformat
    from ambient_nb.publish import execute

    cell = 'import os\nfrom contextlib import suppress\nfrom pathlib import Path\nmine = set()\n'
    cell += 'for f in os.listdir("/proc/self/fd"):\n    with suppress(OSError):\n'
    cell += '        mine.add(os.readlink(f"/proc/self/fd/{f}").removeprefix("socket:[").rstrip("]"))\n'
    cell += 'lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]\n'
    cell += 'print(sorted({line[1][:8] for line in lines if line[9] in mine and line[3] == "0A"}))'
    if not Path('/proc/net/tcp').exists():
        pytest.skip('needs /proc/net/tcp')
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    page.metadata.kernelspec = dict(name='python3', display_name='python3', language='python')
    nbformat.write(page, tmp_path / 'x.ipynb')
    done = nbformat.read(execute(tmp_path / 'x.ipynb', tmp_path / 'y.ipynb', {}), 4)
    said = ''.join(o.get('text', '') for c in done.cells for o in c.get('outputs', []) if o.get('name') == 'stdout')
    assert said.strip() == "['0100007F']", said
