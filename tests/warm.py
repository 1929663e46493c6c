"""Commands in processes forked from one that has already imported what they import.

`run` takes a command that starts Python, as `subprocess.run` does, and gives what it gives: a process of its own with
its own globals, folder, environment and exit status. Only the imports of other people's packages are paid once for
all tests of a process instead of once a command; this package itself is imported anew each time. Kernels and workers
that such a command starts are forked too; tests/test_table1.py starts them as a user does. What is printed is always
captured, as text.
"""

import atexit
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

IMPORTED = (
    'torch torch.utils.data numpy pandas scipy.stats scipy.linalg sklearn.datasets seaborn PIL.Image pyarrow.parquet '
    'matplotlib.backends.backend_agg matplotlib_inline.backend_inline safetensors.torch tqdm typer ipywidgets '
    'nbdev.test nbdev.cli nbconvert papermill.cli ipykernel.kernelapp jupyter_client.provisioning'
).split()
FORKED = dict(spawn='fork', forkserver='fork')  # how a command's own workers start
spent = [0.0]  # seconds of CPU of the server and all that it forked


@cache
def server() -> subprocess.Popen:
    "The process that all commands of this one are forked from; it ends with its input."
    return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def stop() -> None:
    "End the server, if there is one."
    if server.cache_info().currsize:
        server().stdin.close()
        server().wait()
        server.cache_clear()
        spent[0] = 0.0  # waited for, so counted among our own children


def run(command: list, cwd=None, env=None, capture_output=True, text=True) -> subprocess.CompletedProcess:
    "`subprocess.run` of a command that starts Python: the interpreter with -c, -m or a script, or a script of its own."
    words = [str(word) for word in command]
    if sys.platform == 'darwin':  # whose frameworks do not bear a fork
        return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as folder:
        job = dict(command=words, cwd=str(cwd or os.getcwd()), env=dict(env or os.environ), folder=folder)
        print(json.dumps(job), file=server().stdin, flush=True)
        pid = int(server().stdout.readline())
        try:
            code, spent[0] = json.loads(server().stdout.readline())
        except BaseException:  # the test's time is over
            os.kill(pid, signal.SIGKILL)
            server().stdout.readline()
            raise
        out, err = ((Path(folder) / name).read_text(encoding='utf-8') for name in ('out', 'err'))
    return subprocess.CompletedProcess(words, code, out, err)


def cpu() -> float:  # seconds
    "What this process and its ended children have used, system calls too."
    used = [getrusage(who) for who in (RUSAGE_SELF, RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def serve() -> None:
    "Fork for every job, one at a time."
    for line in sys.stdin:
        child = get_context('fork').Process(target=work, kwargs=json.loads(line))
        child.start()
        print(child.pid, flush=True)
        child.join()
        print(json.dumps([child.exitcode, cpu()]), flush=True)


def work(folder: str, **job) -> None:
    "One job, what it prints in a folder. The process ends without taking every module apart, which takes a second."
    for number, name in ((1, 'out'), (2, 'err')):
        os.dup2(os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT), number)
    sys.modules['jupyter_client.provisioning.local_provisioner'].launch_kernel = launch_kernel
    multiprocessing.get_context = lambda method=None: get_context(FORKED.get(method, method))
    try:
        become(**job)
    finally:
        atexit._run_exitfuncs()


def become(command: list[str], cwd: str, env: dict) -> None:
    "Be the Python process that a command starts."
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if 'MPLBACKEND' in env:
        sys.modules['matplotlib'].rcParams['backend'] = env['MPLBACKEND']
    sys.path[:0] = filter(None, env.get('PYTHONPATH', '').split(os.pathsep))
    how, *words = command[1:] if command[0] == sys.executable else command
    if how == '-c':
        sys.argv = ['-c', *words[1:]]
        sys.path.insert(0, '')
        exec(compile(words[0], '<string>', 'exec'), dict(__name__='__main__'))
    elif how == '-m':
        sys.argv = words
        sys.path.insert(0, cwd)
        runpy.run_module(words[0], run_name='__main__', alter_sys=True)
    else:
        sys.argv = [how, *words]
        sys.path.insert(0, str(Path(how).resolve().parent))
        runpy.run_path(how, run_name='__main__')


class Kernel:
    "A forked process, as far as jupyter_client looks at one."

    stdin = stdout = stderr = returncode = None

    def __init__(self, pid: int):
        self.pid = pid

    def poll(self, flags: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, flags)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        return self.poll(0)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def launch_kernel(command: list[str], cwd=None, env=None, **_) -> Kernel:
    "In place of jupyter_client's: a kernel forked from here."
    import asyncio
    from IPython.core.interactiveshell import InteractiveShell

    pid = os.fork()
    os.setpgid(pid, pid)  # on both sides, since either may come first
    if pid:
        return Kernel(pid)
    try:
        asyncio.set_event_loop(asyncio.new_event_loop())
        if InteractiveShell.initialized():  # a lesson that starts a kernel is itself run by a shell
            type(InteractiveShell.instance()).clear_instance()
        env = dict(MPLBACKEND='module://matplotlib_inline.backend_inline') | (env or dict(os.environ))
        become(command, cwd or os.getcwd(), env)
    finally:
        os._exit(0)


if __name__ == '__main__':
    sys.path.pop(0)
    os.environ.pop('MPLBACKEND', None)
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    serve()
