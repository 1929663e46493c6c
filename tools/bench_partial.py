"""The rows of the table in nbs/14o_parts.ipynb: what three searches find of copies that show a part or were changed.

    AMBIENT_NB_DATA=FOLDER python tools/bench_partial.py tinyimagenet cifar10

Each reads the two zips of a data set, plants copies of its training images under every disguise and writes
nbs/results/bench_partial.json. A rule flags what it flags; a score flags what lies beyond 99 % of the held-out images.
"""

import argparse
import time

import numpy as np
import torch
from ambient_nb.backbones import encoder_named
from ambient_nb.core import data_dir, rng, root
from ambient_nb.data import read_zip
from ambient_nb.disguises import KINDS, near_copy
from ambient_nb.memorization import is_memorized
from ambient_nb.neighbours import nearest_exact
from ambient_nb.origin import provenance
from ambient_nb.partial import PART_RATIO, compare_parts
from ambient_nb.parts import DISGUISED, disguise_part
from ambient_nb.checkpoints import load_json, save_json
from ambient_nb.stats import wilson

CIFAR = 'cifar10-32x32-train.zip', 'cifar10-32x32-test.zip'
TINY = 'tinyimagenet-64x64-train6k.zip', 'tinyimagenet-64x64-val5k.zip'
SETS = {
    'tinyimagenet': (*TINY, 6000, 4500, 200, ('parts', 'pixels')),
    'cifar10, 10,000': (*CIFAR, 10_000, 1000, 100, ('parts', 'pixels', 'cnn', 'cnn_similarity')),
    'cifar10': (*CIFAR, 50_000, 1000, 100, ('parts', 'pixels')),
}  # name -> zips of training and held-out images, how many of them, copies of each kind, searches


def by_parts(images, train):
    "The search of this package for parts: which training image, and its score, small where it looks copied."
    df = compare_parts(images, train)
    return df.nearest.to_numpy(), df.ratio.to_numpy(), df.ratio.to_numpy() < PART_RATIO


def by_distance(images, train):
    "The 1/3 rule, over bytes or features."
    d, near = (t.numpy() for t in nearest_exact(images, train))
    return near[:, 0], d[:, 0] / np.maximum(d[:, 1], 1e-12), is_memorized(*d.T)


def by_similarity(images, train):
    "The largest cosine similarity, of features; the audit's own number beside the 1/3 rule."
    a, b = (torch.nn.functional.normalize(x, dim=1) for x in (images, train))
    d, near = (t[:, 0].numpy() for t in nearest_exact(a, b, 1))
    return near, d, np.zeros(len(d), dtype=bool)


def planted(train, others):
    "Every kind of copy, and the rows they are copies of."
    for kind in (*KINDS, *DISGUISED):
        rows = torch.randperm(len(train), generator=rng(0, 'bench', kind))[: len(others)]
        draws = rng(1, 'bench', kind)
        if kind in KINDS:
            yield kind, rows, near_copy(train[rows], kind, generator=draws)
        else:
            yield kind, rows, disguise_part(train[rows], kind, others, generator=draws)


def measured(name, search, rule, sets, kinds, rows):
    "The records of one search, and what it cost."
    (train, images, held), copies = sets, len(rows[0])
    cpu = time.process_time()
    near, score, flagged = rule(images, train)
    cost = dict(cpu_s=round(time.process_time() - cpu, 1), images=len(images), train=len(train))
    cut = np.sort(score[:held])[int(0.01 * held)]
    about = dict(set=name, search=search)
    records = [about | dict(copy='held out', rule=wilson(int(flagged[:held].sum()), held).to_dict(), cut=float(cut))]
    for i, (kind, of) in enumerate(zip(kinds, rows)):
        part = slice(held + i * copies, held + (i + 1) * copies)
        right = near[part] == of.numpy()
        shares = [wilson(int((hits & right).sum()), copies).to_dict() for hits in (flagged[part], score[part] < cut)]
        records.append(about | dict(copy=kind, rule=shares[0], at_one_percent=shares[1]))
    print(search, cost, {r['copy']: r['rule']['value'] for r in records}, flush=True)
    return records, cost


def main(name: str):
    *zips, n, held, each, searches = SETS[name]
    train, rest = (read_zip(data_dir() / z).pixels for z in zips)
    train = train[:n]
    kinds, rows, copies = zip(*planted(train, rest[-each:]))
    images = torch.cat([rest[:held], *copies])
    sets = dict.fromkeys(('parts', 'pixels'), (train, images, held))
    if 'cnn' in searches:
        cnn = encoder_named('cifar10-cnn')
        sets |= dict.fromkeys(('cnn', 'cnn_similarity'), (cnn(train), cnn(images), held))
    rules = dict(parts=by_parts, pixels=by_distance, cnn=by_distance, cnn_similarity=by_similarity)
    done = {search: measured(name, search, rules[search], sets[search], kinds, rows) for search in searches}
    file = root() / 'nbs' / 'results' / 'bench_partial.json'
    older = load_json(file) if file.is_file() else dict(rows=[], costs={})
    kept = [r for r in older['rows'] if r['set'] != name] + [r for records, _ in done.values() for r in records]
    costs = older['costs'] | {name: {search: cost for search, (_, cost) in done.items()}}
    save_json(file, dict(rows=kept, costs=costs, provenance=provenance('cpu')))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sets', nargs='+', choices=SETS)
    torch.set_num_threads(1)
    for name in parser.parse_args().sets:
        main(name)
