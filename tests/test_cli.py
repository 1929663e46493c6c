"""The command line: help, one clear error, data sets made, a notebook run."""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from ambient_nb import __version__
from ambient_nb.cli import as_typed, main
from ambient_nb.core import BadInput, check_flag, rng
from ambient_nb.data import Images, read_zip, write_zip
from ambient_nb.plans import plan
from ambient_nb.bench import plan_bench
from ambient_nb.theory import plan_theory


def cli(*args):
    "What a command shows, and its exit code."
    out, err, code = io.StringIO(), io.StringIO(), 0
    typed = patch.object(sys, 'argv', ['ambient-nb', *map(str, args)])
    with typed, redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def test_help_comes_before_torch():
    "And before everything else that takes seconds to load."
    code = """
import sys
from ambient_nb.cli import main
helps = ['audit --help', 'data make --help', 'reproduce --help', 'detect --help', 'attack --help']
for typed in ('--help', '--version', 'version', *helps):
    sys.argv = ['ambient-nb', *typed.split()]
    try: main()
    except SystemExit: print(typed, sorted({'torch', 'numpy', 'pandas', 'matplotlib', 'papermill'} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and 'Usage' in done.stdout and __version__ in done.stdout
    assert sum(line.endswith(' []') for line in done.stdout.splitlines()) == 8


@pytest.mark.parametrize('command', [(), ('data',), ('data', 'make'), ('reproduce',), ('show',), ('version',)])
def test_help(command):
    done = cli(*command, '--help')
    assert done.returncode == 0 and 'Usage' in done.stdout


@pytest.mark.filterwarnings('error')
def test_the_commands_of_other_rooms_are_taken_over_without_a_warning():
    assert 'finetune' in cli('--help').stdout


@pytest.mark.parametrize('asked', ['version', '--version'])
def test_version(asked):
    assert cli(asked).stdout == f'{__version__}\n'


def test_a_row_leads_back_to_its_runs():
    done = cli('show', 'table1/digits/50/baseline/550/memorized')
    assert done.returncode == 0 and all(word in done.stdout for word in ('made by', 'commit', 'data', 'seed 1'))
    done = cli('show', 'table1/digits/50/baselin/550/memorised')
    assert done.returncode == 2 and 'table1/digits/50/baseline/550/memorized' in done.stderr


def test_a_fault_of_ours_is_not_dressed_up():
    with patch('ambient_nb.publish.run_notebook', side_effect=ZeroDivisionError), pytest.raises(ZeroDivisionError):
        cli('reproduce', 'repro_table1')


def test_bad_input_is_one_line(tmp_path):
    done = cli('data', 'make', tmp_path / 'nothing', tmp_path / 'out.zip')
    assert (
        done.returncode == 2
        and done.stderr.startswith('Error: src=')
        and len(done.stderr.strip().splitlines()) == 1
        and not (tmp_path / 'out.zip').exists()
    )
    done = cli('reproduce', 'repro_table1', '-p', 'n')
    assert done.returncode == 2 and done.stderr.startswith(
        "Error: --parameter='n' is not allowed: --parameter must be of the form NAME=VALUE"
    )
    done = cli('reproduce', 'repro_table1', '--profile', 'smoke', '-p', 'n=0', '--out', tmp_path / 'runs')
    assert done.returncode == 2 and "Error: n='0' is not allowed" in done.stderr and 'Traceback' not in done.stderr
    done = cli('reproduce', 'repro_table9')
    assert done.returncode == 2 and 'repro_table1' in done.stderr


def test_parameters_say_what_the_cells_say(tmp_path):
    "None is None; text that looks like a number stays text; what cannot be a parameter, or is one twice, is refused."
    given = []

    def run(name, parameters, **how):
        given.append(parameters)

    with patch('ambient_nb.publish.run_notebook', run):
        cli('reproduce', 'repro_table1', '-p', 'n=None', '-p', 'data=2026', '-p', f'seeds={2**53 + 1}')
        bad = [cli('reproduce', 'repro_table1', '-p', p) for p in (' n=5', 'n;m=5', '=5', 'n')]
        bad.append(cli('reproduce', 'repro_table1', '-p', 'n=5', '-p', 'n=5'))
    assert given == [dict(n=None, data='2026', seeds=str(2**53 + 1), profile='auto')]
    assert [(b.returncode, len(b.stderr.splitlines())) for b in bad] == [(2, 1)] * 5


@pytest.mark.parametrize(
    'typed, name, said',
    [
        ('data make', 'per_class', '--per-class'),
        ('data make', 'n', '--n'),
        ('data make', 'src', 'src'),
        ('audit data', 'n', 'n'),
        ('audit', 'size', '--size'),
        ('reproduce', 'n', 'n'),
        ('reproduce', 'size', 'size'),
        ('reproduce', 'profile', '--profile'),
        ('claims set', 'file', 'file'),
    ],
)
def test_an_error_names_the_option_that_was_typed(typed, name, said):
    "An option by its spelling; arguments and what -p gives to a notebook by their names."
    error = str(BadInput(name, f'{name}=3', f'another {name}'))
    with patch.object(sys, 'argv', ['ambient-nb', *typed.split(), 'x']):
        assert as_typed(error) == f"{said}='{name}=3' is not allowed: {said} must be another {name}"


def test_what_a_notebook_refuses_is_one_line_too(capsys):
    class Raised(Exception):
        ename, evalue = 'BadInput', str(BadInput('profile', 'fast', 'one of some'))  # as papermill wraps it

    with (
        patch('ambient_nb.publish.run_notebook', side_effect=Raised),
        patch.object(sys, 'argv', ['ambient-nb', 'reproduce', 'repro_table1', '--profile', 'fast']),
        pytest.raises(SystemExit) as end,
    ):
        main()
    assert (
        end.value.code == 2
        and capsys.readouterr().err == "Error: --profile='fast' is not allowed: --profile must be one of some\n"
    )


@pytest.mark.parametrize(
    'key, allowed',
    [
        ('main', 'table1'),
        ('diffmem_fig7', 'diffmem_fig5'),
        ('table1/direction/memorised', 'table1/direction/memorized'),
    ],
)
def test_unknown_claims_are_an_error(key, allowed):
    done = cli('claims', 'show', key)
    assert (
        done.returncode == 2
        and not done.stdout
        and done.stderr.startswith(f"Error: key={key!r} is not allowed: key must be how a claim id begins: ")
        and allowed in done.stderr
    )
    shown = cli('claims', 'show', allowed)
    assert shown.returncode == 0 and shown.stdout.startswith(allowed) and not shown.stderr


def test_data_make(tmp_path):
    for k in range(2):
        (tmp_path / 'photos' / f'kind{k}').mkdir(parents=True)
        for i in range(5):
            Image.fromarray(np.random.default_rng(10 * k + i).integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(
                tmp_path / 'photos' / f'kind{k}' / f'{i}.png'
            )
    done = cli('data', 'make', tmp_path / 'photos', tmp_path / 'out.zip', '--size', 8, '--crop', 'center', '--n', 6)
    assert done.returncode == 0, done.stderr
    images = read_zip(tmp_path / 'out.zip')
    assert images.pixels.shape == (6, 3, 8, 8) and images.classes == 2
    kept = cli(
        'data', 'make', tmp_path / 'photos', tmp_path / 'kept.zip', '--size', 8, '--crop', 'center', '--seed', -1
    )
    assert kept.returncode == 0 and read_zip(tmp_path / 'kept.zip').labels.tolist() == [0] * 5 + [1] * 5


def test_reproduce_and_back(tmp_path, monkeypatch):
    "Paths mean what they mean where the command is given; a row leads back to the run, the command to the row."
    monkeypatch.chdir(tmp_path)
    pixels = torch.randint(256, (31, 3, 8, 8), dtype=torch.uint8, generator=rng(0, 'photos'))
    write_zip(tmp_path / 'photos.zip', Images(pixels, None, torch.arange(31), 'photos'))
    parameters = [word for p in ('n=20', 'seeds=0', 'data=photos.zip') for word in ('-p', p)]
    done = cli('reproduce', 'repro_table1', '--profile', 'smoke', *parameters, '--out', 'runs')
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / 'runs' / 'repro_table1.ipynb').exists()
    assert len(list((tmp_path / 'runs' / 'rows').glob('table1-smoke-*.json'))) == 1
    shown = cli('show', 'table1/photos/20/two-regime/12/memorized', '--out', 'runs').stdout
    assert 'no claim' in shown and '-p data=photos.zip' in shown and 'seed 0: in runs/train/' in shown


@pytest.mark.parametrize(
    'word, flag', [(True, True), ('True', True), ('true', True), (False, False), ('False', False), ('false', False)]
)
def test_flags_as_a_shell_writes_them(word, flag):
    assert check_flag('dry_run', word) is flag
    plans = (
        plan('table1', n=20, profile='smoke', device='cpu', dry_run=word),
        plan_theory('theory_x', dict(seeds=(1, 1, 1)), (None,) * 3, profile='smoke', dry_run=word),
        plan_bench(nets='tiny', device='cpu', compile=word, dry_run=word),
    )
    assert all(p.dry_run is flag for p in plans) and plans[2].compile is flag


@pytest.mark.parametrize('word', ['perhaps', '', 'yes', 1, 0, None])
def test_no_other_word_is_a_flag(word):
    with pytest.raises(BadInput, match='dry_run must be True or False'):
        check_flag('dry_run', word)


@pytest.mark.parametrize(
    'parameter, said',
    [
        ('profile=smoke', 'given as --profile'),
        ('out=elsewhere', 'given as --out'),
        ('=3', 'of the form NAME=VALUE'),
        (' =3', 'of the form NAME=VALUE'),
    ],
)
def test_parameters_that_have_an_option_or_no_name(parameter, said, capsys):
    with (
        patch('ambient_nb.publish.run_notebook', side_effect=AssertionError),
        patch.object(sys, 'argv', ['ambient-nb', 'reproduce', 'repro_table1', '-p', parameter]),
        pytest.raises(SystemExit) as end,
    ):
        main()
    error = capsys.readouterr().err
    assert (
        end.value.code == 2
        and error.startswith(f'Error: --parameter={parameter!r} is not allowed: --parameter must be ')
        and said in error
        and len(error.splitlines()) == 1
    )


def test_publishing_another_run_is_one_error(tmp_path):
    done = cli(
        'reproduce', 'repro_table1', '--profile', 'quick', '-p', 'dry_run=True', '--publish', '--out', tmp_path / 'runs'
    )
    assert done.returncode == 2 and not (tmp_path / 'runs').exists()
    said = "Error: --publish='dry_run=True' is not allowed: --publish must be left out with this parameter: "
    assert done.stderr == said + 'nbs/ shows repro_table1 with n=50,100,300, seeds=1,2,3\n'


def test_nothing_is_overwritten_by_a_slip(tmp_path):
    for i in range(2):
        (tmp_path / 'photos').mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), 90 * i, np.uint8)).save(tmp_path / 'photos' / f'{i}.png')
    made = ('data', 'make', tmp_path / 'photos', tmp_path / 'x.zip', '--no-check')
    done = [cli(*made), cli(*made), cli(*made, '--overwrite')]
    assert [d.returncode for d in done] == [0, 2, 0]
    assert '--overwrite replaces' in done[1].stderr and len(done[1].stderr.splitlines()) == 1
    for end in ('.safetensors', '.json'):  # either of the two files that would be written
        (tmp_path / f'm{end}').write_text('mine')
        done = cli('convert', tmp_path / 'n.pkl', tmp_path / 'm.safetensors')
        assert done.returncode == 2 and f'm{end}' in done.stderr and '--overwrite replaces' in done.stderr
        (tmp_path / f'm{end}').unlink()


@pytest.mark.parametrize(
    'error, code, said',
    [
        (OSError(28, 'No space left on device', 'x'), 1, 'Error: [Errno 28] No space left on device'),
        (PermissionError(13, 'Permission denied', 'x'), 1, 'Error: [Errno 13]'),
        (KeyboardInterrupt(), 130, 'goes on from here'),
        (SystemExit(143), 143, 'told to end'),
        (SimpleNamespace(ename='OSError', evalue='[Errno 28] No space left on device'), 1, 'No space left'),
        (SimpleNamespace(ename='SystemExit', evalue='143'), 143, 'told to end'),
        (FloatingPointError('the loss is nan'), 1, 'Error: the loss is nan'),
    ],
)
def test_what_lies_outside_of_a_command_is_one_line(error, code, said):
    "Raised here, or in a notebook, whose errors papermill wraps."
    wrapped = isinstance(error, SimpleNamespace)
    raised = type('Wrapped', (Exception,), vars(error))() if wrapped else error
    with patch('ambient_nb.publish.run_notebook', side_effect=raised):
        done = cli('reproduce', 'repro_table1')
    assert done.returncode == code and said in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_file_that_is_missing_is_a_fault_of_ours():
    with patch('ambient_nb.publish.run_notebook', side_effect=FileNotFoundError(2, 'No such file')):
        with pytest.raises(FileNotFoundError):
            cli('reproduce', 'repro_table1')
