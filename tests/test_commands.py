"Every command a page shows exists, with the parameters it is shown with; the quick ones are run."

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from papermill import inspect_notebook
from tree import BIN, NBS, ROOT, cells, notebooks

ENV = os.environ | dict(PATH=f'{BIN}{os.pathsep}{os.environ["PATH"]}', NO_COLOR='1', COLUMNS='200')
PLAIN = set('pip git cd export python python3 source accelerate torchrun dask'.split())  # a reader's own tools


def shown() -> list[str]:
    "The lines of every fenced shell block: the top-level pages, and the prose of every notebook."
    prose = [p.read_text(encoding='utf-8') for p in sorted(ROOT.glob('*.md'))]
    prose += [c['source'] for nb in notebooks() for c in cells(nb) if c['cell_type'] == 'markdown']
    blocks = [b for text in prose for b in re.findall(r'^```(?:bash|sh|shell|console)\n(.*?)^```', text, re.M | re.S)]
    return sorted(
        {
            line.strip()
            for b in blocks
            for line in b.replace('\\\n', ' ').splitlines()
            if line.strip() and not line.strip().startswith('#')
        }
    )


def words(line: str) -> list[str]:
    "Arguments without comments and leading VAR=value."
    found = shlex.split(line, comments=True)
    while re.match(r'[A-Z_]+=', found[0]):
        found = found[1:]
    return found


def run(*command, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    "A command; one of ours in a process forked from a warm one."
    ours = Path(command[0]).parent == BIN
    return (warm.run if ours else subprocess.run)(
        [str(c) for c in command], cwd=cwd, env=ENV, capture_output=True, text=True
    )


@pytest.mark.parametrize('line', shown())
def test_shown_command_exists(line):
    tool, *args = words(line)
    if tool == 'make':
        done = run('make', '-n', *args)
        assert done.returncode == 0, done.stderr
    elif tool == 'papermill':
        parameters = inspect_notebook(str(ROOT / args[0]))
        assert {args[i + 1] for i, a in enumerate(args) if a == '-p'} <= set(parameters)
    elif (
        tool == 'ambient-nb'
    ):  # --help is eager: the rest is parsed, unknown sub-commands and options refused, nothing run
        done = run(BIN / 'ambient-nb', *args, '--help')
        assert done.returncode == 0, done.stderr
    else:
        assert tool in PLAIN or (BIN / tool).exists()


@pytest.mark.parametrize('line', [line for line in shown() if 'dry_run True' in line])
def test_plans_print_from_any_folder(line, tmp_path):
    _, nb, out, *args = words(line)
    done = run(BIN / 'papermill', ROOT / nb, out, *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [p.name for p in tmp_path.iterdir()] == [out]


def test_parameters_table_of_the_readme():
    "The README's table names the parameters of Table 1, all of them."
    table = re.search(r'\| parameter \| meaning \|\n(.*?)\n\n', (ROOT / 'README.md').read_text(), re.S)[1]
    assert set(re.findall(r'^\| `(\w+)`', table, re.M)) == set(inspect_notebook(str(NBS / 'repro_table1.ipynb')))


def test_ci_gives_the_command_of_the_readme():
    "`.ci/run` gives the second command that README shows, letter for letter, in a clone; so does CONTRIBUTING."
    readme, contributing = ((ROOT / f'{name}.md').read_text(encoding='utf-8') for name in ('README', 'CONTRIBUTING'))
    command = re.search(r'^## Run it\n.*?^```bash\n.*?\n(.*?) *#', readme, re.M | re.S)[1]
    ci = (ROOT / '.ci' / 'run').read_text(encoding='utf-8')
    assert 'test' in command and re.search(rf'^{command} +#', contributing, re.M)
    assert re.search(rf'^git clone .*\n(?:.*\n)*{command} 2>&1 \|', ci, re.M)


MAKE = """#!/bin/sh
echo "$1 $([ -d .git ] && pwd) data=$AMBIENT_NB_DATA"
echo "===== 1 passed in 1s ====="
case " $FAILS " in *" $1 "*) exit 1;; esac
"""


@pytest.mark.skipif(not (ROOT / '.git').exists(), reason='not a checkout: .ci/run tests what is committed')
@pytest.mark.parametrize('fails', ['', 'test', 'test-data', 'test test-data'])
def test_ci_tests_a_clone_without_data_then_with(fails, tmp_path):
    "With a make that only tells what it was asked, and where."
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'make').write_text(MAKE)
    (tmp_path / 'bin' / 'make').chmod(0o755)
    env = ENV | dict(PATH=f'{tmp_path}/bin{os.pathsep}{ENV["PATH"]}', AMBIENT_NB_DATA='/images', FAILS=fails)
    done = subprocess.run([ROOT / '.ci' / 'run'], env=env, capture_output=True, text=True)
    assert (done.returncode != 0) == bool(fails), done.stderr
    (without, place, no), (with_data, same_place, data) = [
        line.split() for line in done.stdout.splitlines() if 'data=' in line
    ]
    assert (without, no) == ('test', 'data=') and (with_data, data) == ('test-data', 'data=/images')
    assert place == same_place and not Path(place).exists() and not Path(place).is_relative_to(ROOT)
    assert done.stdout.splitlines()[-2:] == [
        f'make {target}: ===== 1 passed in 1s =====' for target in (without, with_data)
    ]


def test_the_program_of_the_front_page():
    "Ten lines at most, shown with what they print and draw; nbdev_test runs them with the page."
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    program, printed = re.search(r'^```python\n([^`]*)^```\n\n {4}(.*)\n', readme, re.M).groups()
    (cell,) = [c for c in cells(Path('index.ipynb')) if c['source'].strip() == program.strip()]
    assert len([line for line in program.splitlines() if line]) <= 10
    assert all(word in program for word in ('fit(', 'sample(', 'memorized')) and '% of 64 samples are copies' in printed
    assert cell['metadata'] == {} and ''.join(cell['outputs'][0]['text']) == f'{printed}\n'


def test_make_table1_is_the_plain_form_and_ends_with_the_small_table():
    *_, notebook, small = run('env', '-u', 'AMBIENT_NB_RUNS', 'make', '-n', 'table1').stdout.splitlines()
    assert notebook.endswith('papermill nbs/repro_table1.ipynb "runs/table1.ipynb" -p n "300" ')
    assert small.endswith('python tools/terminal.py "runs/table1.ipynb"')
    told = run(sys.executable, 'tools/terminal.py', NBS / 'repro_table1.ipynb').stdout
    (cell,) = [c for c in cells(Path('repro_table1.ipynb')) if 'terminal' in c['metadata'].get('tags', [])]
    assert told == ''.join(cell['outputs'][0]['text']) and told.count('two-regime') >= 3 and 'at 20%' in told


def test_make_help_lists_every_target():
    phony = re.search(r'^\.PHONY: (.*)$', (ROOT / 'Makefile').read_text(), re.M)[1].split()
    assert re.findall(r'^  make (\S+)', run('make').stdout, re.M) == phony


def test_make_refuses_an_old_python(tmp_path):
    "The comparison itself, with this interpreter as the old one."
    done = run('make', 'table1', f'PYTHON={sys.executable}', 'MIN_PYTHON=3.99', f'VENV={tmp_path}/venv')
    assert done.returncode != 0 and 'needs Python 3.99 or newer' in done.stdout
    assert (
        f'Python {sys.version_info.major}.{sys.version_info.minor}.' in done.stdout and not (tmp_path / 'venv').exists()
    )
