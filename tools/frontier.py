"""Train and measure what the frontier of quality against copying is made of, going on wherever it was stopped.

    AMBIENT_NB_DATA=FOLDER AMBIENT_NB_RUNS=OUT OMP_NUM_THREADS=1 python tools/frontier.py [--list]

FOLDER holds cifar10-32x32-train.zip and cifar10-32x32-test.zip (`ambient-nb data make`). One process, one core:
about seven core-hours in all. sigma_n is chosen first, by the protocol's rule; then the runs follow in the order of
the protocol, each trained and then measured at its checkpoints. Kill it at will and call it again: a run goes on from
its last state, bit for bit. `--list` says how far each run is, with the verdicts of what is there.
"""

import argparse
import time

from ambient_nb.checkpoint_curves import curve_of, measure_checkpoint, measured_points, select_sigma
from ambient_nb.core import runs_dir
from ambient_nb.drive import snapshots_in
from ambient_nb.endpoints import judge
from ambient_nb.execute import iterations_done, train
from ambient_nb.frontier import frontier_runs, selection_runs
from ambient_nb.protocols import protocol


def say(*words) -> None:
    print(time.strftime('%Y-%m-%d %H:%M:%S'), *words, flush=True)


def in_words(point) -> str:
    "A checkpoint in a line."
    kid, of_new = point['kid'], point['of_new']
    shares = ' '.join(f'{name} {100 * point[name]:.1f} %' for name in ('copying', 'memorized', 'new_and_good'))
    new = f', of new ones {of_new["kid"]["value"]:.4f}' if of_new else ''
    around = f'[{kid["lo"]:.4f}, {kid["hi"]:.4f}]'
    return f'{point["it"]}: {shares} KID {kid["value"]:.4f} {around}{new} Fréchet {point["frechet"]:.3f}'


def work(p, out) -> None:
    "All of it."
    for sigma, run in selection_runs(p).items():
        say('selection', sigma, run.key)
        train(run, out, 'cpu')
        say('  ' + in_words(measure_checkpoint(run, run.config.iters, p, out)))
    chosen = select_sigma(p, out)
    say('chosen: sigma_n =', chosen)
    for name, run in frontier_runs(p, chosen).items():
        say(*name, run.key)
        train(run, out, 'cpu')
        for point in measured_points(run, p, out):
            say('  ' + in_words(point))


def report(p, out) -> None:
    "How far it is, and what follows."
    selection = selection_runs(p)
    for sigma, run in selection.items():
        say('selection', sigma, run.key, f'{iterations_done(run, out)} of {run.config.iters}')
    if not all(iterations_done(run, out) == run.config.iters for run in selection.values()):
        return
    chosen, curves = select_sigma(p, out), {}
    for (n, arm, seed), run in frontier_runs(p, chosen).items():
        say(n, arm, seed, run.key, f'{iterations_done(run, out)} of {run.config.iters}')
        if set(run.snapshots) <= set(snapshots_in(run.folder(out))):
            points = measured_points(run, p, out)
            for point in points:
                say('  ' + in_words(point))
            curves[n, seed, arm] = curve_of(points)
    for e in (e for e in p.experiments if e.verdict):
        both = {s: [curves.get((e.n, s, arm)) for arm in ('two-regime', 'baseline')] for s in e.seeds}
        whole = {s: pair for s, pair in both.items() if all(pair)}
        for j in judge(whole, p) if whole else []:
            say(e.dataset, e.n, j.claim, f'{j.ours:.4f}', f'p {j.p:.3g}', f'margin {j.margin:.4f}', j.verdict, j.values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--list', action='store_true', help='say how far each run is, and train nothing')
    (report if parser.parse_args().list else work)(protocol(), runs_dir())


if __name__ == '__main__':
    main()
