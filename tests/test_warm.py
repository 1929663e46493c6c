"A warm process is as good as a fresh one: nothing of one command is left for the next, and it ends as it would have."

import sys

import warm

CHANGE = """
import os, random, sys, matplotlib, numpy, torch
os.environ['LEFT'] = sys.argv[1]
os.chdir('/')
torch.set_num_threads(3)
torch.manual_seed(random.randrange(9))
matplotlib.rcParams['lines.linewidth'] = 99
numpy.left = torch.left = 1
"""
LOOK = """
import os, sys, matplotlib, numpy, torch
ours = [name for name in sys.modules if name.split('.')[0] == 'ambient_nb']
print(ours, os.environ.get('LEFT'), os.getcwd() == sys.argv[1], torch.get_num_threads())
print(matplotlib.rcParams['lines.linewidth'], hasattr(torch, 'left'), matplotlib.get_backend(), __name__)
"""


def python(code: str, *args, **kwargs):
    return warm.run([sys.executable, '-c', code, *args], **kwargs)


def test_nothing_is_left_of_the_last_command(tmp_path):
    fresh = python(LOOK, tmp_path, cwd=tmp_path).stdout
    assert python(CHANGE, 'x').returncode == 0
    assert fresh == python(LOOK, tmp_path, cwd=tmp_path).stdout == '[] None True 1\n1.5 False agg __main__\n'


def test_a_command_ends_as_it_would_have():
    assert [python(f'import sys; sys.exit({code!r})').returncode for code in (None, 0, 3, 'said')] == [0, 0, 3, 1]
    assert python('import sys; sys.exit("said")').stderr == 'said\n'
    failed = python('print("so far"); 1 / 0')
    assert failed.returncode == 1 and failed.stdout == 'so far\n' and 'ZeroDivisionError' in failed.stderr
    assert python('import os; os.kill(os.getpid(), 9)').returncode == -9


def test_what_it_costs_is_counted():
    before = warm.spent[0]
    assert python('import time\nwhile time.process_time() < 1: pass').returncode == 0
    assert 0.8 < warm.spent[0] - before < 5
