"The state every test starts from: quiet, smoke-sized, one thread, its runs and cache in a temporary folder."

import os

# Before torch is imported, and for every process a test starts.
os.environ.update(AMBIENT_NB_PROGRESS='0', AMBIENT_NB_PROFILE='smoke', OMP_NUM_THREADS='1', MPLBACKEND='agg')

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
DATA = os.environ.get('AMBIENT_NB_DATA')


@pytest.fixture(scope='session', autouse=True)
def own_folders(tmp_path_factory):
    "Runs and cache of this process, away from the user's."
    base = tmp_path_factory.mktemp('ambient_nb')
    os.environ.update(AMBIENT_NB_RUNS=str(base / 'runs'), AMBIENT_NB_CLAIMS=str(base / 'claims.json'))


@pytest.fixture(scope='session')
def torch_fidelity():
    "torch_fidelity, which makes torchvision importable also where its compiled operators do not fit the torch beside them."
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
def data_dir() -> Path:
    "$AMBIENT_NB_DATA, for tests marked real_data."
    return Path(DATA)


def pytest_collection_modifyitems(items):
    "Skip, with the reason, what this machine cannot run."
    no_data = pytest.mark.skip(reason='needs real images: $AMBIENT_NB_DATA names no folder with zips')
    no_gpu = pytest.mark.skip(reason='needs CUDA')
    has_data = DATA is not None and any(Path(DATA).glob('*.zip'))
    for item in items:
        if 'real_data' in item.keywords and not has_data:
            item.add_marker(no_data)
        if 'gpu' in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
