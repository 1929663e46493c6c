"""Table 1 at the paper's scale in half an hour of one GPU: a command that stops in time and goes on where it stopped.

`make gpu-bundle` puts this file beside the package, wheels and images in build/gpu, which is all that the machine
needs. There, again and again until it says "done":

    python3 build/gpu/gpu_table1.py --minutes 9.4

The state stays in runs/gpu_table1; rows, picture and measurements also go to $OUT, where that is set.
"""

import argparse
import importlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).resolve().parent
WHEELS = {  # module -> distribution that the bundle carries as far as it has room, what is needed most first
    'safetensors': 'safetensors',
    'tqdm': 'tqdm',
    'six': 'six',
    'dateutil': 'python-dateutil',
    'pandas': 'pandas',
    'PIL': 'pillow',
}
NEEDED = ('torch', 'numpy', 'scipy', 'pyarrow', 'matplotlib', *WHEELS)  # the first five are too large to carry


def install_missing() -> None:
    "Unpack the bundle's wheels of packages that this machine lacks; never another version of one it has."
    sys.path.append(str(HERE / 'site'))
    wanted = {WHEELS[m].replace('-', '_') for m in WHEELS if find_spec(m) is None}
    wheels = [str(w) for w in sorted((HERE / 'wheels').glob('*.whl')) if w.name.split('-')[0].lower() in wanted]
    if wheels:
        subprocess.run(
            [
                sys.executable,
                '-m',
                'pip',
                'install',
                '-q',
                '--no-index',
                '--no-deps',
                '--target',
                str(HERE / 'site'),
                *wheels,
            ],
            check=True,
        )
    importlib.invalidate_caches()
    if missing := [WHEELS.get(m, m) for m in NEEDED if find_spec(m) is None]:
        sys.exit(f'this machine lacks {", ".join(missing)}, and the bundle brings no wheels of them')


install_missing()

from ambient_nb.checkpoints import load_json, save_json  # noqa: E402
from ambient_nb.core import BadInput, check_float, pick_device, writable_dir
from ambient_nb.draw import arms_table, neighbours_figure
from ambient_nb.drive import claim_folder, drive, snapshots_in
from ambient_nb.networks import PRESETS
from ambient_nb.plans import Plan, forward_flops, plan
from ambient_nb.repro import Run, measure, training_images, trainings
from ambient_nb.rows import Row, collect, measured, row_of, save_rows
from ambient_nb.speed import alternate, bench_table, plan_bench, run_bench
from ambient_nb.suite import Pair, table1
from ambient_nb.training import Trainer

N, SEED = 300, 1
CHANGES = dict(
    lr=2e-4, ramp_kimg=100.0, precision='bf16'
)  # against the paper's settings, beside the number of iterations
ZIPS = ('cifar10-32x32-train.zip', 'cifar10-32x32-test.zip')  # in data/ beside this file
BENCH = 240  # seconds for the bench and the compiled step
RAMP_SHARE = 0.12  # of the time, for the paper's ramp
WORTH = 0.8  # of the time of a step: a compiled one must take less, since every command compiles anew
LEAST = 0.1  # share of memorized samples that the baseline must reach at half-time


class TimeUp(Exception):
    "What comes next does not fit into this command."


def say(text: str) -> None:
    print(time.strftime('%H:%M:%S'), text, flush=True)


class Work:
    "A folder, a device, a deadline, and what was decided and measured so far."

    def __init__(self, minutes: float, session: float, out: Path, device, smoke: bool):
        self.end, self.out, self.device, self.smoke, self.file = (
            time.monotonic() + 60 * minutes,
            out,
            device,
            smoke,
            out / 'session.json',
        )
        self.notes = (
            load_json(self.file) if self.file.exists() else dict(begun=time.time(), minutes=session, seconds={})
        )

    def note(self, **found) -> None:
        "Keep decisions and measurements."
        self.notes |= found
        save_json(self.file, self.notes)

    def need(self, seconds: float) -> None:
        "Go on only if this much time is left in the command."
        if self.end - time.monotonic() < seconds:
            raise TimeUp

    @property
    def rest(self) -> float:  # seconds left of all the commands together
        return self.notes['begun'] + 60 * self.notes['minutes'] - time.time()


def limited(seconds: float, work, *args) -> bool:  # whether it came to its end
    "Call a function in a process of its own, and end that when its time is up."
    process = get_context('spawn').Process(target=work, args=args)
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def time_steps(config, images, device: str, file: Path, ways: dict) -> None:  # ways: name -> compiled or not
    "Seconds of a training step, and the loss after some."
    found = {}
    for name, compiled in ways.items():
        trainer = Trainer(replace(config, compile=compiled), images, device)
        found[name] = dict(
            seconds=list(alternate({name: trainer.step}, 8, device, least=0.0)[name]), loss=trainer.step().item()
        )
        save_json(file, found)


def is_worth_compiling(steps: dict) -> bool:  # from `time_steps`
    "Whether the compiled step is much faster and computes the same."
    if 'compiled' not in steps:
        return False
    fast, slow = (statistics.median(steps[k]['seconds']) for k in ('compiled', 'eager'))
    return fast < WORTH * slow and abs(steps['compiled']['loss'] / steps['eager']['loss'] - 1) < 0.1


def budget(
    seconds: float,  # for two trainings and three evaluations
    step: float,  # seconds of a training step
    sample: float,  # seconds of a sample
    overhead: float,  # seconds of an evaluation beside sampling
    samples: int = 10_000,  # at most, of each method
) -> dict:  # iters of each method; samples of each, and of the baseline at half-time
    "How much fits: at most 30 % of the time goes into samples."
    samples = max(min(samples, int(0.3 * seconds / (2 * sample))), 100)
    half = min(samples, 1000)
    return dict(
        iters=int((seconds - 3 * overhead - (2 * samples + half) * sample) / (2 * step)), samples=samples, half=half
    )


def plan_of(work: Work, changes: dict, iters: int, samples: int, suffix: str = '') -> Plan:
    "The main paper's Table 1 for n = 300, one seed, with these changes and this budget."
    base = plan(
        'table1',
        n=N,
        dataset='cifar10',
        profile='paper',
        seeds=SEED,
        out=work.out,
        data=str(HERE / 'data'),
        device=work.device,
    )
    setup = replace(
        base.setup, train=replace(base.setup.train, iters=iters, **changes), budgets=(iters,), curve=(), samples=samples
    )
    if work.smoke:
        setup = replace(
            setup,
            train=replace(setup.train, net=replace(PRESETS['tiny'], model_channels=8, channel_mult=(1,)), batch=8),
            steps=2,
        )
    baseline, method = (replace(a, name=a.name + suffix) for a in table1(setup, (N,))[0])
    return replace(
        base,
        profile='smoke' if work.smoke else 'custom',
        setup=setup,
        arms=(baseline, method),
        pairs=(Pair('direction', method, baseline),),
    )


def half_time(p: Plan, samples: int) -> tuple:  # (plan, the baseline read at half of its iterations)
    "The same training with fewer samples from its middle."
    return replace(p, setup=replace(p.setup, samples=samples)), replace(
        p.arms[0], budgets=(max(1, p.arms[0].train.iters // 2),)
    )


def train(work: Work, runs: list[Run]) -> None:
    "Train what these runs share, up to the end of the command."
    (t,) = trainings(runs, work.out)
    if {*t.snapshots} <= {*snapshots_in(t.folder)}:
        return
    images = training_images(t.run)
    folder, trainer = claim_folder(t.folder, t.config, images), Trainer(t.config, images, work.device)
    options = dict(snapshots=t.snapshots, tick=1 if work.smoke else 20, save_every=120.0)
    with closing(drive(trainer, folder, t.config.iters, **options)) as events:
        for event in events:
            if event.kind == 'tick':
                work.need(15)  # whoever leaves the loop leaves a state behind


def evaluate(work: Work, name: str, run: Run, it: int | None) -> float:  # seconds
    "Measure a snapshot (None: the held-out images), if that fits."
    if name not in work.notes['seconds']:
        if it:
            work.need(work.notes['overhead'] + work.notes['sample'] * run.samples)
        begun = time.monotonic()
        measure(run, it, work.out, work.device)
        work.note(seconds=work.notes['seconds'] | {name: time.monotonic() - begun})
        say(f'{name}: measured in {work.notes["seconds"][name]:.0f} s')
    return work.notes['seconds'][name]


def bench(work: Work) -> dict:  # the rows of bench_edm.json, the ceiling of bf16
    "Speed first: every precision, then the very step of the pair, also compiled."
    begun, file = time.monotonic(), work.out / 'bench_edm.json'
    if not file.exists():
        run_bench(plan_bench(nets=None if work.smoke else 'ddpmpp-32', device=str(work.device), out=work.out))
        say('the bench is done')
    rows = load_json(file)['rows']
    print(bench_table(rows).to_string())
    p = plan_of(work, CHANGES, 1, 32 if work.smoke else 10_000)
    work.note(overhead=evaluate(work, 'held-out', p.runs[0], None))
    if 'step' not in work.notes:
        ways = dict(eager=False) if work.smoke else dict(eager=False, compiled=True)
        ended = limited(
            max(60, BENCH - (time.monotonic() - begun)),
            time_steps,
            p.arms[0].train,
            training_images(p.runs[0]),
            str(work.device),
            work.out / 'steps.json',
            ways,
        )
        if not (work.out / 'steps.json').exists():
            raise RuntimeError('not even the plain training step ended in time')
        steps = load_json(work.out / 'steps.json')
        compiled = is_worth_compiling(steps)
        sampling = next(r for r in rows if (r['task'], r['precision']) == ('sampling', 'fp32'))
        work.note(
            step=statistics.median(steps['compiled' if compiled else 'eager']['seconds']),
            compile=compiled,
            compile_ended=ended and not work.smoke,
            sample=1.1 * statistics.median(sampling['seconds']) / sampling['batch'] * (2 * p.setup.steps - 1) / 3,
        )
    return max(r['ceiling'] for r in rows if r['precision'] == 'bf16')


def pair(
    work: Work, key: str, changes: dict, share: float, most: int, suffix: str = ''
) -> Plan | None:  # None where no time is left
    "Train and measure both methods for as many iterations as fit, the same number each."
    if key not in work.notes:
        said = (
            dict(iters=2, samples=32, half=16)
            if work.smoke
            else budget(share * work.rest - 40, work.notes['step'], work.notes['sample'], work.notes['overhead'], most)
        )
        work.note(**{key: said})
        say(f'{key}: {said}')
    said = work.notes[key]
    if said['iters'] < 2:
        return None
    p = plan_of(work, changes | dict(compile=work.notes['compile']), said['iters'], said['samples'], suffix)
    (middle, arm), (baseline, method) = half_time(p, said['half']), p.runs
    train(work, [baseline, middle.run(arm, SEED)])
    evaluate(work, f'{arm.name}, half-time', middle.run(arm, SEED), arm.budgets[0])
    train(work, [method])
    for a, run in zip(p.arms, p.runs):
        evaluate(work, a.name, run, a.train.iters)
    return p


def judged(row: Row, half: float, smoke: bool) -> Row:  # half: share memorized by the baseline at half-time
    "No verdict on a pair whose baseline had not begun to memorize."
    weak = row.claim and row.labels['method'] == 'difference' and half < LEAST and not smoke
    return (
        replace(row, verdict=f'underpowered (at half-time the baseline memorized {half:.1%}, less than {LEAST:.0%})')
        if weak
        else row
    )


def rows_of(work: Work, p: Plan, key: str, ceiling: float) -> list[Row]:
    "The rows of a pair: collected as ever, with cost, deviations and the verdict's condition."
    c, s, names = p.arms[0].train, work.notes[key], [a.name for a in p.arms]
    (middle, arm), flops = (
        half_time(p, s['half']),
        3 * forward_flops(p.arms[0].train.net, (3, 32, 32), 0, p.arms[0].train.augment > 0),
    )
    m = measured(middle, arm)
    half = m.summaries[arm.budgets[0]][0]['memorized']
    found = collect(p) + [row_of(middle, m, arm.name, arm.budgets[0], 'memorized', half, dict(values=[half.value]))]
    if key != 'main':
        found = [r for r in found if r.labels['method'] in (*names, 'difference')]
    kept = load_json(HERE / 'manifest.json')['commit']
    said = (
        f'the iterations are those that the time gave both methods, {s["samples"]} samples are drawn once, '
        f'at the end, in float32; against the paper: {c.iters} iterations, lr {c.lr:g}, ramp {c.ramp_kimg:g} kimg, '
        f'{c.precision}{", compiled" if c.compile else ""}'
    )

    def with_cost(r):
        if not r.cost:
            return {}
        mine = r.cost['images_per_sec']
        return r.cost | dict(
            mfu=mine * flops / ceiling,
            gpu_minutes=(r.cost['training_sec'] + work.notes['seconds'][r.labels['method']]) / 60,
        )

    return [
        replace(
            judged(r, half.value, work.smoke),
            cost=with_cost(r),
            selection=said,
            provenance=dict(r.provenance, commit=kept),
        )
        for r in found
    ]


def store(work: Work, rows: list[Row], p: Plan) -> None:
    "Rows, and samples beside their nearest neighbours."
    save_rows(rows, work.out / 'gpu_table1.paper.json')
    neighbours_figure(p).savefig(work.out / 'gpu_table1.png', dpi=80)
    print(arms_table(rows).T.to_string())


def hand_over(work: Work) -> None:
    "Copy what is small to $OUT."
    if not os.environ.get('OUT'):
        return
    for file in work.out.glob('*.*'):
        shutil.copy(file, os.environ['OUT'])


def main(work: Work) -> None:
    "All of it, in order; what is done already is read back."
    ceiling = bench(work)
    p = pair(work, 'main', CHANGES, 1 - RAMP_SHARE, 10_000)
    if p is None:
        raise BadInput('session', work.notes['minutes'], 'more minutes: not even two iterations fit')
    rows = rows_of(work, p, 'main', ceiling)
    store(work, rows, p)
    slow = pair(work, 'ramp', dict(precision=CHANGES['precision']), 1.0, 1000, ", the paper's ramp")
    if slow:
        store(work, rows + rows_of(work, slow, 'ramp', ceiling), p)


def parse() -> Work:
    "The command line, checked."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', default=9.4, help='of this command; it stops before')
    parser.add_argument(
        '--session', default=24.0, help='minutes of all commands together: the first one divides them up'
    )
    parser.add_argument('--out', default='runs/gpu_table1', help='where the state is kept')
    parser.add_argument('--smoke', action='store_true', help='two iterations of a tiny network, on any machine')
    a = parser.parse_args()
    for name in ZIPS:
        if not (HERE / 'data' / name).is_file():
            raise BadInput(
                'data',
                str(HERE / 'data'),
                f'a folder that holds {name}: run the copy of this file that `make gpu-bundle` makes',
            )
    device = pick_device('cpu' if a.smoke else None)
    if device.type != 'cuda' and not a.smoke:
        raise BadInput('device', str(device), 'a CUDA GPU; --smoke runs anywhere')
    if a.smoke:
        os.environ['AMBIENT_NB_PROFILE'] = 'smoke'
    os.environ.setdefault('AMBIENT_NB_PROGRESS', '0')
    os.environ.setdefault('MPLBACKEND', 'agg')
    return Work(
        check_float('minutes', a.minutes, 0, open_lo=True),
        check_float('session', a.session, 0, open_lo=True),
        writable_dir(a.out),
        device,
        a.smoke,
    )


if __name__ == '__main__':
    try:
        work = parse()
    except BadInput as e:
        sys.exit(str(e))
    try:
        main(work)
        say('done')
    except TimeUp:
        say('stopped in time: the same command goes on from here')
    except BadInput as e:
        sys.exit(str(e))
    finally:
        hand_over(work)
