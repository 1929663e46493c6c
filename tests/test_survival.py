"""What a run, a row and a report survive: kills, full disks, damage; what readers make of files that were changed.

`make test` takes a few of each, `make test-slow` as many as SURVIVAL_TRIES says (100). With SURVIVAL_ROWS=FILE they
write what they found; the page survival shows it, and says with which command.
"""

import os
import re
import resource
import shutil
import signal
import time
from collections import Counter
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from ambient_nb.audit import FILES, audit
from ambient_nb.checkpoints import Damaged, load_checkpoint, load_json, save_json
from ambient_nb.collect import reproduce
from ambient_nb.core import BadInput, rng
from ambient_nb.data import digits
from ambient_nb.runfolders import read_stats, snapshot_path
from ambient_nb.execute import measure_all, train
from ambient_nb.networks import PRESETS
from ambient_nb.origin import provenance
from ambient_nb.plans import plan
from ambient_nb.rows import same_numbers
from ambient_nb.training import TrainConfig, fit

MANY = int(os.environ.get('SURVIVAL_TRIES', 100))  # of each fault in the slow tests
FEW = 2  # in the others
OURS = (BadInput, Damaged)
CONFIG = TrainConfig(net=replace(PRESETS['tiny'], model_channels=8), iters=60, batch=16)
IMAGES = digits()[0].take(range(20))
FORK = get_context('fork')


FOUND = {}  # fault -> what became of it -> how often; of all tests of this process that ask for `tally`


@pytest.fixture(scope='session')
def tally():
    "Where a test notes what became of a fault; at the end the table is written, if there is a place for it."
    yield lambda fault, outcome, n=1: FOUND.setdefault(fault, Counter()).update({outcome: n})
    if (file := os.environ.get('SURVIVAL_ROWS')) and FOUND:
        rows = [dict(fault=f, outcome=o, count=n) for f, outcomes in FOUND.items() for o, n in outcomes.items() if n]
        before = load_json(Path(file))['rows'] if Path(file).exists() else []
        rows += [row for row in before if row['fault'] not in FOUND]  # of tests that were not asked for this time
        save_json(Path(file), dict(rows=sorted(rows, key=lambda r: list(r.values())), provenance=provenance()))


def tries(names, slow):
    "Each kind of work a few times, or many times in the slow tests; some only there."
    few = [pytest.param(name, FEW, id=f'{name}-few') for name in names if name not in slow]
    many = [pytest.param(name, MANY, id=f'{name}-many', marks=pytest.mark.slow) for name in names]
    return pytest.mark.parametrize('name, count', few + many)


def same_bytes(a, b):
    "Tensors by name, bit for bit."
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# Four kinds of work. Each is done in a folder, and says what it came to.


def training(folder):
    return fit(CONFIG, IMAGES, folder / 'run', snapshots=(30,), device='cpu', tick=5, save_every=0)


def trained(folder):
    run = training(folder)
    lines = [line['loss'] for line in read_stats(run)]
    return [load_checkpoint(snapshot_path(run, it))[0] for it in (30, 60)], lines


def small_plan(folder):
    return plan('table1', n=20, profile='smoke', seeds='0', out=folder, device='cpu')


class Inline:
    "An executor that works in this process."

    _processes = {}

    def submit(self, work, *job):
        (done := Future()).set_result(work(*job))
        return done


@contextmanager
def inline(count):
    yield Inline()


def sampling(folder):
    run = small_plan(folder).runs[0]
    train(run, folder, 'cpu')
    return measure_all(run, folder, 'cpu')


def sampled(folder):
    sampling(folder)
    files = sorted(small_plan(folder).runs[0].folder(folder).glob('eval-*.safetensors'))
    return [load_checkpoint(file.with_suffix(''))[0] for file in files], []


def reproducing(folder):
    with patch('ambient_nb.execute.workers_of', inline):
        return reproduce(small_plan(folder))


def auditing(folder):
    pool, heldout = digits()
    samples = torch.cat([pool.pixels[:20], heldout.pixels[:60]])
    return audit(samples, pool.pixels[:200], heldout.pixels[300:400], out=folder / 'report', cache=folder / 'cache')


def audited(folder):
    auditing(folder)
    assert sorted(p.name for p in (folder / 'report').iterdir()) == list(FILES)
    return [], [pd.read_parquet(folder / 'report' / 'samples.parquet').to_json()]


def reproduced(folder):
    return [], reproducing(folder)


WORK = dict(train=(training, trained), sample=(sampling, sampled), audit=(auditing, audited))
WORK['reproduce'] = (reproducing, reproduced)


def is_same(a, b):
    "Whether two results are equal, times and commits aside."
    if a[1] and hasattr(a[1][0], 'provenance'):
        return same_numbers(a[1], b[1])
    return len(a[0]) == len(b[0]) and all(map(same_bytes, a[0], b[0])) and a[1] == b[1]


@pytest.fixture(scope='session')
def straight(tmp_path_factory):
    "Each kind of work without a fault: what it comes to, and the seconds it takes."
    found = {}

    def of(name):
        if name not in found:
            folder, began = tmp_path_factory.mktemp(name), time.monotonic()
            result = WORK[name][1](folder)
            found[name] = result, time.monotonic() - began, folder
        return found[name]

    return of


def forked(work, *args):
    "A process that is this one up to here; its exit code tells how it ended: 3 for an error of ours, 4 for OSError."

    def run():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            work(*args)
        except OURS:
            os._exit(3)
        except OSError:
            os._exit(4)
        except BaseException:
            os._exit(5)
        os._exit(0)

    process = FORK.Process(target=run)
    process.start()
    return process


@tries(WORK, ('reproduce',))
def test_killed_at_random_moments_and_taken_up_again(name, count, straight, tally, tmp_path):
    "Kills in one folder until it is done there, then in the next, `count` in all; each folder ends with the same."
    expected, seconds, _ = straight(name)
    moments, kills, k = torch.Generator().manual_seed(count), 0, 0
    while kills < count:
        folder, in_this = tmp_path / str(k), 0
        folder.mkdir()
        while kills < count and in_this < 5:
            process = forked(WORK[name][0], folder)
            process.join(float(torch.rand((), generator=moments)) * seconds)
            if process.exitcode is None:
                process.kill()
                kills, in_this = kills + 1, in_this + 1
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL
        if in_this:
            same = is_same(WORK[name][1](folder), expected)
            tally(f'kill -9 while it does: {name}', 'the same bits' if same else 'another result', in_this)
            assert same
        shutil.rmtree(folder)
        k += 1


def dying_at(operation, number, work, folder):
    "Work that is killed at the n-th call of an operation on files, before it is done."
    real, calls = getattr(os, operation), [0]

    def die(*args, **kwargs):
        calls[0] += 1
        if calls[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    with patch.object(os, operation, die):
        work(folder)


@pytest.mark.parametrize('count', [2, pytest.param(10, marks=pytest.mark.slow)], ids=['few', 'many'])
def test_killed_while_a_checkpoint_is_written(count, straight, tally, tmp_path):
    "Between the temporary file and its name, of tensors and of descriptions."
    expected, _, _ = straight('train')
    for number in range(4, 4 + count):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = forked(dying_at, 'replace', number, training, folder)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        same = is_same(trained(folder), expected)
        tally('kill -9 while a checkpoint is written', 'the same bits' if same else 'another result')
        assert same and not [*(folder / 'run').glob('.state-*.part')]


def within(limit, work, folder):
    "Work on a disk that takes no file beyond a size."
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    work(folder)


@tries(('train', 'sample', 'audit'), ('sample', 'audit'))
def test_a_full_disk_then_room_again(name, count, straight, tally, tmp_path):
    expected, _, folder = straight(name)
    largest = max(file.stat().st_size for file in folder.rglob('*') if file.is_file())
    for k in range(count if name == 'train' else -(-count // 3)):
        (place := tmp_path / str(k)).mkdir()
        limit = int(largest * (k + 0.5) / count)
        process = forked(within, limit, WORK[name][0], place)
        process.join()
        code = process.exitcode
        said = {0: 'had room enough', 3: 'one error of ours', 4: 'one error of the disk'}.get(code, f'code {code}')
        same = is_same(WORK[name][1](place), expected)
        tally(f'disk full while it does: {name}', f'{said}, then ' + ('the same bits' if same else 'another result'))
        assert same and code in (0, 3, 4)
        shutil.rmtree(place)


def damage(file, k):
    "A file cut short, or with one bit changed, at a place that follows from k."
    content = bytearray(file.read_bytes())
    at = int(torch.randint(max(1, len(content)), (), generator=rng(k, 'damage', file.name)))
    if k % 2:
        content[at] ^= 1 << (k // 2 % 8)
    else:
        del content[at:]
    file.write_bytes(content)


def cured(work, tally, fault):
    "Do again, and follow what errors say, as long as they are ours and say what to delete."
    for k in range(4):
        try:
            return work(), k
        except Damaged as e:
            target = re.search(r'Delete (it|that line|\S+)', str(e))
            assert target, str(e)
            named = {'it': e.path, 'that line': e.path}.get(target[1], target[1].rstrip(','))
            Path(named).unlink(missing_ok=True)
    raise AssertionError(f'{fault}: no way out')


def damaged_files(folder):
    "What a run, its measurements and its caches have left."
    skip = ('lock', 'log.txt')
    return [f for f in sorted(folder.rglob('*')) if f.is_file() and f.name not in skip]


@tries(('sample', 'reproduce', 'audit'), ('reproduce',))
def test_damaged_files_are_noticed_and_their_cure_works(name, count, straight, tally, tmp_path):
    "Any one file of a finished piece of work, cut short or with one bit changed; the work is done again."
    expected, _, folder = straight(name)
    files = damaged_files(folder)
    for k in range(count):
        place = tmp_path / str(k)
        shutil.copytree(folder, place)
        file = place / files[(7 * k) % len(files)].relative_to(folder)
        damage(file, k)
        if k % 3 == 0:  # the weights are wanted again
            for measured in place.rglob('eval-*.json'):
                measured.unlink()
        result, cures = cured(lambda: WORK[name][1](place), tally, f'{file.name}, {k}')
        same = is_same(result, expected)
        how = 'refused by name, its cure followed' if cures else 'not read, or made again by itself'
        what = {'.parquet': 'table', '.jsonl': 'curve', '.html': 'report'}.get(file.suffix, 'checkpoint or description')
        tally(f'damaged {what} of {name}', how + ('' if same else ', ANOTHER RESULT'))
        assert same, (file, k)
        shutil.rmtree(place)


def test_nothing_is_written_where_nothing_can_be(tally):
    "A folder that takes no file, root's rights or not."
    for place in (Path('/proc/ambient_nb'), Path('/dev/null/runs')):
        for work in (training, auditing):
            with pytest.raises(BadInput, match='can be written to'):
                work(place)
            tally('folder that cannot be written to', 'refused before any work')
    if os.getuid():
        pytest.skip('seen above; as root every folder can be written to')


def test_a_run_that_another_process_works_on(tally, tmp_path):
    first = forked(fit, replace(CONFIG, iters=100_000), IMAGES, tmp_path / 'run')
    while not read_stats(tmp_path / 'run'):
        time.sleep(0.05)
    with pytest.raises(BadInput, match='another process holds its lock'):
        fit(replace(CONFIG, iters=100_000), IMAGES, tmp_path / 'run', device='cpu')
    tally('two processes on one run', 'the second refuses')
    first.terminate()
    first.join()
    tally('SIGTERM to a training', 'its step kept' if [*(tmp_path / 'run').glob('state-*.json')] else 'lost')
    assert first.exitcode == 5 and [*(tmp_path / 'run').glob('state-*.json')]  # SystemExit(143), which `forked` takes


@pytest.mark.parametrize('count', [4, pytest.param(12, marks=pytest.mark.slow)], ids=['few', 'many'])
def test_audits_at_once_in_one_place(count, tally, tmp_path):
    together = [forked(auditing, tmp_path) for _ in range(count)]
    [process.join() for process in together]
    tally('audits at once in one place', 'whole', sum(process.exitcode == 0 for process in together))
    assert [process.exitcode for process in together] == [0] * count
    assert sorted(p.name for p in (tmp_path / 'report').iterdir()) == list(FILES)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith('.report')] == []


def test_the_commit_of_a_training_stays_with_its_rows(tmp_path):
    with patch('ambient_nb.drive.commit', lambda: 'first'), patch('ambient_nb.execute.commit', lambda: 'first'):
        rows = reproduced(tmp_path)[1]
    assert {r.provenance['commit'] for r in rows if r.kind == 'arm'} == {'first'}
    with patch('ambient_nb.origin.commit', lambda: 'later'):
        again = reproduced(tmp_path)[1]
    assert {r.provenance['commit'] for r in again if r.kind == 'arm'} == {'first'}
    assert {r.provenance['collected'] for r in again if r.kind == 'arm'} == {'later'}
