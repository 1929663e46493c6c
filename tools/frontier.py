"""Train and measure what the frontier of quality against copying is made of, going on wherever it was stopped.

    AMBIENT_NB_DATA=FOLDER AMBIENT_NB_RUNS=OUT OMP_NUM_THREADS=1 python tools/frontier.py [--sigma-n .3] [--list]

FOLDER holds cifar10-32x32-train.zip and cifar10-32x32-test.zip (`ambient-nb data make`). One process, one core:
about six core-hours in all. Kill it at will and call it again: a run goes on from its last state, bit for bit.
"""

import argparse
import time

from ambient_nb.core import runs_dir
from ambient_nb.execute import iterations_done, train
from ambient_nb.frontier import frontier_runs, selection_runs
from ambient_nb.protocols import protocol


def say(*words) -> None:
    print(time.strftime('%Y-%m-%d %H:%M:%S'), *words, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--sigma-n', type=float, default=0.3, help='std of the fixed copies')
    parser.add_argument('--list', action='store_true', help='say how far each run is, and do nothing')
    asked, out, p = parser.parse_args(), runs_dir(), protocol()
    queue = {('selection', sigma): run for sigma, run in selection_runs(p).items()}
    queue |= frontier_runs(p, asked.sigma_n)
    for name, run in queue.items():
        if not asked.list:
            say('train', *name, run.key)
            train(run, out, 'cpu')
        say(*name, run.key, f'{iterations_done(run, out)} of {run.config.iters} iterations')


if __name__ == '__main__':
    main()
