import os
import re
import signal
from pathlib import Path

# Before torch is imported, and for every process a test starts: no setting of the user's, nor what `make` hands down.
DATA = os.environ.get('AMBIENT_NB_DATA')
HANDED_DOWN = {'MAKEFLAGS', 'MAKELEVEL', 'MAKEOVERRIDES', 'MFLAGS'}
HANDED_DOWN |= set(re.findall(r'^(\w+) *\?=', (Path(__file__).resolve().parents[1] / 'Makefile').read_text(), re.M))
for name in [k for k in os.environ if k in HANDED_DOWN or k.startswith('AMBIENT_NB_') and k != 'AMBIENT_NB_DATA']:
    del os.environ[name]
os.environ.update(AMBIENT_NB_PROGRESS='0', AMBIENT_NB_PROFILE='smoke', OMP_NUM_THREADS='1', MPLBACKEND='agg')
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it

import pytest
import torch
import warm

torch.set_num_threads(1)


@pytest.fixture(scope='session', autouse=True)
def own_folders(tmp_path_factory):
    "Runs and cache of this process, away from the user's; images only for the tests that ask for them."
    base = tmp_path_factory.mktemp('ambient_nb')
    os.environ.update(AMBIENT_NB_RUNS=str(base / 'runs'), AMBIENT_NB_CLAIMS=str(base / 'claims.json'))
    os.environ.pop('AMBIENT_NB_DATA', None)
    yield
    warm.stop()


@pytest.fixture(scope='session')
def torch_fidelity():
    "torch_fidelity, which makes torchvision importable also where its operators do not fit the torch beside them."
    from ambient_nb.torchfidelity import torch_fidelity

    return torch_fidelity()


@pytest.fixture(scope='session')
def split_plan(tmp_path_factory):
    "A smoke plan of twelve arms on two trainings, executed once for all tests that look at its runs or rows."
    from ambient_nb.execute import execute_all
    from ambient_nb.plans import plan

    p = plan('ablation_split', profile='smoke', seeds='0', device='cpu', out=tmp_path_factory.mktemp('split'))
    execute_all(p.runs, p.out, p.device)
    return p


@pytest.fixture
def data_dir(monkeypatch) -> Path:
    "The reader's image zips, in $AMBIENT_NB_DATA too, for tests marked real_data."
    monkeypatch.setenv('AMBIENT_NB_DATA', DATA)
    return Path(DATA)


def pytest_collection_modifyitems(items):
    "Skip, with the reason, what this machine cannot run."
    no_data = pytest.mark.skip(reason="needs real images: $AMBIENT_NB_DATA names no folder with CIFAR-10's zips")
    no_gpu = pytest.mark.skip(reason='needs CUDA')
    has_data = DATA and all((Path(DATA) / f'cifar10-32x32-{part}.zip').is_file() for part in ('train', 'test'))
    for item in items:
        if item.get_closest_marker('real_data') and not has_data:
            item.add_marker(no_data)
        if item.get_closest_marker('gpu') and not torch.cuda.is_available():
            item.add_marker(no_gpu)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    item.began = warm.cpu() + warm.spent[0]


def pytest_runtest_makereport(item, call):
    "What a test has cost, fixtures and other processes included, travels with its last report."
    if call.when == 'teardown':
        item.user_properties.append(('cpu', warm.cpu() + warm.spent[0] - item.began))


def pytest_terminal_summary(terminalreporter):
    "CPU, not the clock, says what the suite costs on a machine that others use too."
    files = {}
    for report in terminalreporter.getreports(''):
        name = report.nodeid.split('::')[0]
        files[name] = files.get(name, 0) + dict(report.user_properties).get('cpu', 0)
    dearest = sorted(files.items(), key=lambda kv: -kv[1])
    terminalreporter.section(f'CPU of the tests: {sum(files.values()):.0f} s')
    for name, seconds in [kv for kv in dearest if kv[1] >= 1]:
        terminalreporter.write_line(f'{seconds:7.1f} s {name}')
