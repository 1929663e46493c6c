"""Train and measure what the frontier of quality against copying is made of, going on wherever it was stopped.

    AMBIENT_NB_DATA=FOLDER AMBIENT_NB_RUNS=OUT OMP_NUM_THREADS=1 python tools/frontier.py [cifar10 | digits] [--list]

FOLDER holds cifar10-32x32-train.zip and cifar10-32x32-test.zip (`ambient-nb data make`); digits need none. One process,
one core: about seven core-hours for photographs, nine for digits. sigma_n is chosen first, by the protocol's rule; then
the runs follow in the order of the protocol, each trained and then measured at its checkpoints. Kill it at will and
call it again: a run goes on from its last state, bit for bit. `--list` says how far each run is, with the verdicts of
what is there; `--rows FILE.json` also writes the rows of complete runs, and FILE.png, and measures what is not
measured yet; `--pair FOLDER` writes both last models of seed 1 there and draws their samples of the same noise at three
ages; `--halves FILE.json` writes how alike networks on disjoint images are, beside the rows of other data sets in it.

A second core: once sigma_n is chosen, a second process with `--backwards` comes from the other end. Who meets a run
that the other is at ends there, with an error that names its lock.
"""

import argparse
import sys
import time
from pathlib import Path

from ambient_nb.ages import ages_figure
from ambient_nb.checkpoint_curves import measure_checkpoint, measured_points, select_sigma
from ambient_nb.core import BadInput, runs_dir, writable_dir
from ambient_nb.execute import iterations_done, train
from ambient_nb.frontier import FRONTIER_TRAIN, frontier_runs, selection_runs
from ambient_nb.frontier_figures import frontier_figure, frontier_table, terminal_text
from ambient_nb.frontier_rows import frontier_rows
from ambient_nb.halves_rows import halves_rows
from ambient_nb.models import ModelConfig, save_model
from ambient_nb.protocols import protocol
from ambient_nb.rows import METHODS, load_rows, save_rows


def say(*words) -> None:
    print(time.strftime('%Y-%m-%d %H:%M:%S'), *words, flush=True)


def in_words(point) -> str:
    "A checkpoint in a line."
    kid, of_new = point['kid'], point['of_new']
    shares = ' '.join(f'{name} {100 * point[name]:.1f} %' for name in ('copying', 'memorized', 'new_and_good'))
    new = f', of new ones {of_new["kid"]["value"]:.4f}' if of_new else ''
    around = f'[{kid["lo"]:.4f}, {kid["hi"]:.4f}]'
    return f'{point["it"]}: {shares} KID {kid["value"]:.4f} {around}{new} Fréchet {point["frechet"]:.3f}'


def work(p, out, backwards=False) -> None:
    "All of it, up to a run that another process is at."
    for sigma, run in selection_runs(p).items():
        say('selection', sigma, run.key)
        train(run, out, 'cpu')
        say('  ' + in_words(measure_checkpoint(run, run.config.iters, p, out)))
    chosen = select_sigma(p, out)
    say('chosen: sigma_n =', chosen)
    queue = list(frontier_runs(p, chosen).items())
    for name, run in reversed(queue) if backwards else queue:
        say(*name, run.key)
        train(run, out, 'cpu')
        for point in measured_points(run, p, out):
            say('  ' + in_words(point))


def report(p, out, file=None) -> None:
    "How far it is, what follows, and the rows in a file."
    selection = selection_runs(p)
    runs = {('selection', sigma): run for sigma, run in selection.items()}
    is_chosen = all(iterations_done(run, out) == run.config.iters for run in selection.values())
    chosen = select_sigma(p, out) if is_chosen else None
    runs |= frontier_runs(p, chosen) if is_chosen else {}
    for name, run in runs.items():
        say(*name, run.key, f'{iterations_done(run, out)} of {run.config.iters}')
    rows = frontier_rows(p, chosen, out) if is_chosen else []
    say(f'sigma_n = {chosen}, {len(rows)} rows')
    print(terminal_text(frontier_table(rows)))
    if file and rows:
        save_rows(rows, file)
        frontier_figure(rows).savefig(Path(file).with_suffix('.png'), dpi=120)


def pair(p, out, folder) -> None:
    "Both methods of the first seed: a picture at three ages, and their last models in bf16."
    e = p.experiments[0]
    runs = {arm: run for (n, arm, seed), run in frontier_runs(p, select_sigma(p, out)).items() if (n, seed) == (e.n, 1)}
    both, folder = {arm: runs[arm] for arm in METHODS}, writable_dir(folder, 'pair')
    ages = both['baseline'].snapshots[1::3]
    look = dict(dpi=90, bbox_inches='tight', metadata=dict(Software=None))
    ages_figure(both, ages, p, out).savefig(folder / f'{p.dataset}-ages.png', **look)
    for arm, run in both.items():
        c, it, shape = run.config, run.config.iters, dict(channels=run.shape[0], img_resolution=run.shape[-1])
        config = ModelConfig(c.net, **shape, precond=c.precond, params=dict(sigma_data=c.sigma_data))
        tensors = {k: v.bfloat16() for k, v in run.denoiser(it, out).state_dict().items()}
        about = dict(run=run.key, it=it, images=run.images.sha, settings=run.settings)
        save_model(folder / f'{p.dataset}-{arm}.safetensors', config, tensors, about)


def halves(p, out, file) -> None:
    "How alike networks on disjoint images are, beside the rows of other data sets in the file."
    stored = load_rows(file) if file.exists() else []
    rows = halves_rows(p, select_sigma(p, out), out)
    save_rows([r for r in stored if r.labels['dataset'] != p.dataset] + rows, file)
    say(f'{len(rows)} rows about n =', *dict.fromkeys(r.labels['n'] for r in rows))


def main() -> None:
    about = 'Photographs need AMBIENT_NB_DATA, a folder with the zips of CIFAR-10.'
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=about)
    parser.add_argument('dataset', nargs='?', default='cifar10', choices=FRONTIER_TRAIN, help='default: cifar10')
    parser.add_argument('--list', action='store_true', help='say how far each run is, and train nothing')
    parser.add_argument('--backwards', action='store_true', help='take the runs from the last to the first')
    parser.add_argument('--rows', metavar='FILE.json', help='also write the rows there, and the picture beside them')
    parser.add_argument('--pair', metavar='FOLDER', help='write both models of seed 1 there, and their picture')
    parser.add_argument('--halves', metavar='FILE.json', help='write how alike networks on disjoint images are')
    asked = parser.parse_args()
    p = protocol(dataset=asked.dataset)
    if asked.pair:
        pair(p, runs_dir(), asked.pair)
    elif asked.halves:
        halves(p, runs_dir(), Path(asked.halves))
    elif asked.list or asked.rows:
        report(p, runs_dir(), asked.rows)
    else:
        work(p, runs_dir(), asked.backwards)


if __name__ == '__main__':
    try:
        main()
    except BadInput as e:
        sys.exit(f'Error: {e}')
