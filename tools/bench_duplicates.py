"""The rows of nbs/bench_duplicates.ipynb: copies of images that a training set holds twice, ours and two peers.

    AMBIENT_NB_DATA=FOLDER python tools/bench_duplicates.py images build/duplicates
    PEERS/bin/python tools/bench_duplicates.py peers build/duplicates
    python tools/bench_duplicates.py rows build/duplicates

The first needs CIFAR-10's two zips and writes every picture as PNG, which all contenders read. The second runs in an
environment of its own (`pip install imagededup cleanvision`) for some minutes; without it the peers' rows are left out.
The third measures ours and writes nbs/results/bench_duplicates.json.
"""

import argparse
import contextlib
import io
import json
from importlib.metadata import version
from pathlib import Path

N, COPIES, HELD = 4000, 200, 1000  # training images, copies of each kind, innocent samples
DOUBLES = ('exact', 'jpeg', 'noise', 'flip')  # how the second of two differs from the first
SETS = [(None, 0.0), *((double, share) for share in (0.05, 0.5) for double in DOUBLES)]  # what the training set holds
RESULT = Path(__file__).resolve().parents[1] / 'nbs' / 'results' / 'bench_duplicates.json'
PHASH = 10  # bits of 64 in which imagededup's hashes may differ: its default


def write_pictures(folder: Path, name: str, pixels) -> None:
    "Pictures as PNG, numbered."
    from PIL import Image

    (folder / name).mkdir(parents=True, exist_ok=True)
    for i, u in enumerate(pixels):
        Image.fromarray(u.permute(1, 2, 0).numpy()).save(folder / name / f'{i:05d}.png', compress_level=1)


def images(folder: Path) -> None:
    """Training images, their doubles, copies of the first ones under every disguise, held-out images.

    Every copy is of an image that has a double wherever there are doubles.
    """
    from ambient_nb.core import data_dir, rng
    from ambient_nb.data import read_zip
    from ambient_nb.disguises import KINDS, jpeg, near_copy

    zips = (f'cifar10-32x32-{part}.zip' for part in ('train', 'test'))
    train, held = (read_zip(data_dir() / z, indices=range(n)).pixels for z, n in zip(zips, (N, HELD)))
    write_pictures(folder, 'train', train)
    write_pictures(folder, 'heldout', held)
    for kind in DOUBLES:
        some, draws = train[: N // 2], rng(0, 'doubles', kind)
        doubles = jpeg(some, quality=95) if kind == 'jpeg' else near_copy(some, kind, generator=draws)
        write_pictures(folder, f'double-{kind}', doubles)
    for kind in KINDS:
        write_pictures(folder, f'copy-{kind}', near_copy(train[:COPIES], kind, generator=rng(0, 'copies', kind)))


def training_files(folder: Path, double: str | None, share: float) -> list[Path]:
    "The pictures of a training set."
    doubles = sorted((folder / f'double-{double}').iterdir())[: round(N * share)] if double else []
    return sorted((folder / 'train').iterdir()) + doubles


def samples(folder: Path) -> dict[str, list[Path]]:
    "The pictures that are asked about, by what they are."
    return {p.name: sorted(p.iterdir()) for p in sorted(folder.iterdir()) if p.name.startswith(('copy-', 'heldout'))}


def row(who, encoder, double, share, flagged: dict, authentic: dict | None = None) -> dict:
    "Counts of one contender on one training set; `flagged` says of each sample whether it looks copied."
    counts = {name.removeprefix('copy-'): [int(sum(hits)), len(hits)] for name, hits in flagged.items()}
    return dict(
        who=who,
        encoder=encoder,
        double=double,
        share=share,
        accused=counts.pop('heldout'),
        found=counts,
        authentic=authentic,
    )


def phash(folder: Path) -> list[dict]:
    "imagededup's perceptual hash: a sample is flagged where a training image is within its default distance."
    from imagededup.methods import PHash

    hasher, asked = PHash(verbose=False), samples(folder)
    hashes = {}
    for part in sorted(p for p in folder.iterdir() if p.is_dir()):
        hashes |= {str(part / k): v for k, v in hasher.encode_images(str(part), num_enc_workers=0).items()}
    rows = []
    for double, share in SETS:
        train = {str(p) for p in training_files(folder, double, share)}
        wanted = train | {str(p) for files in asked.values() for p in files}
        near = hasher.find_duplicates(
            encoding_map={k: hashes[k] for k in wanted}, max_distance_threshold=PHASH, num_dist_workers=0
        )
        flagged = {name: [not train.isdisjoint(near[str(p)]) for p in files] for name, files in asked.items()}
        rows.append(row(f'imagededup PHash, {PHASH} bits', None, double, share, flagged))
    return rows


def cleanvision(folder: Path) -> list[dict]:
    "cleanvision: a sample is flagged where it shares a set of exact or near duplicates with a training image."
    from cleanvision import Imagelab

    asked, rows = samples(folder), []
    for double, share in SETS:
        train = {str(p) for p in training_files(folder, double, share)}
        files = sorted(train | {str(p) for files in asked.values() for p in files})
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            lab = Imagelab(filepaths=files, verbose=False)
            lab.find_issues({'exact_duplicates': {}, 'near_duplicates': {}}, n_jobs=1, verbose=False)
        groups = [set(g) for kind in ('exact_duplicates', 'near_duplicates') for g in lab.info[kind]['sets']]
        alike = set().union(*(g for g in groups if not train.isdisjoint(g)))
        flagged = {name: [str(p) in alike for p in some] for name, some in asked.items()}
        rows.append(row('cleanvision', None, double, share, flagged))
    return rows


def peers(folder: Path) -> None:
    "What two tools that look for duplicates find of the same pictures."
    found = phash(folder) + cleanvision(folder)
    versions = {name: version(name) for name in ('imagededup', 'cleanvision', 'ImageHash', 'numpy', 'pillow')}
    (folder / 'peers.json').write_text(json.dumps(dict(rows=found, versions=versions)))
    print(json.dumps(versions))


def joined(parts: list):
    "Pictures of one shape, one after the other."
    import torch
    from ambient_nb.picturesets import Pictures

    names, digests = (tuple(x for p in parts for x in getattr(p, field)) for field in ('names', 'digests'))
    return Pictures(torch.cat([p.pixels for p in parts]), names, digests, 'bench', {}, {})


def first(pictures, n: int):
    "The first n pictures."
    from ambient_nb.picturesets import Pictures

    return Pictures(pictures.pixels[:n], pictures.names[:n], pictures.digests[:n], 'bench', {}, {})


def plain(ways: list, base, known: set):
    "The rule that asks for the second nearest image, whichever it is: booleans; distances to the nearest; positions."
    import numpy as np
    from ambient_nb.copies import search
    from ambient_nb.memorization import is_memorized

    found = [(search(space, base, 2), np.array([x in known for x in p.digests])) for p, space in ways]
    d, near = (np.stack([t[i].numpy() for t, _ in found]) for i in (0, 1))
    way, each = d[:, :, 0].argmin(0), np.arange(d.shape[1])
    exact = np.any([e for _, e in found], axis=0)
    return exact | is_memorized(d[way, each, 0], d[way, each, 1]), d[0, :, 0], near[0, :, 0]


def counted(shares, slices: dict) -> dict:
    "Booleans of all samples, by what the samples are."
    return {name: shares[part].tolist() for name, part in slices.items()}


def ours_on(train, asked, slices: dict, encoder, flips: bool, cache: Path):
    "Both rules on one training set: of each the flagged samples, and the authentic ones (without mirror images)."
    from ambient_nb.calibration import authentic
    from ambient_nb.copies import compare_sets, looks_copied, search, spaces
    from ambient_nb.picturesets import mirrored

    base, table, cluster = compare_sets(dict(train=train, samples=asked), encoder, flips=flips, cache=cache)
    ways = [(p, spaces(p, encoder, cache)[0]) for p in ([asked, mirrored(asked, cache)] if flips else [asked])]
    hits, d1, near = plain(ways, base[0], set(train.digests))
    own = search(base[0][near], base[0], 2)[0][:, 1].numpy()
    after = authentic(ways[0][1][:], base[0][:], cluster).authentic.to_numpy()
    for who, flagged, real in (('ours before', hits, d1 > own), ('ours', looks_copied(table).to_numpy(), after)):
        real = None if flips else {k: [sum(v), len(v)] for k, v in counted(real, slices).items() if k != 'heldout'}
        yield who, counted(flagged, slices), real


def rows(folder: Path) -> None:
    "Measure ours, and write all rows for the page."
    import tempfile
    import torch
    from ambient_nb.backbones import encoder_named
    from ambient_nb.checkpoints import save_json
    from ambient_nb.data import Images
    from ambient_nb.origin import provenance
    from ambient_nb.sources import read_pictures

    with tempfile.TemporaryDirectory() as cache:
        read = {p.name: read_pictures(p, folder=Path(cache)) for p in sorted(folder.iterdir()) if p.is_dir()}
        names, found = [n for n in read if n.startswith(('copy-', 'heldout'))], []
        starts = {n: sum(len(read[m]) for m in names[:i]) for i, n in enumerate(names)}
        slices = {n.removeprefix('copy-'): slice(start, start + len(read[n])) for n, start in starts.items()}
        asked = joined([read[n] for n in names])
        pixels = encoder_named('pixels', Images(read['train'].pixels, None, torch.arange(N), 'bench'))
        encoders = [('pixels', pixels, False), ('pixels, flips', pixels, True)]
        encoders.append(('cifar10-cnn', encoder_named('cifar10-cnn', device='cpu'), False))
        for double, share in SETS:
            more = [first(read[f'double-{double}'], round(N * share))] if double else []
            train = joined([read['train'], *more])
            for name, encoder, flips in encoders:
                for who, flagged, real in ours_on(train, asked, slices, encoder, flips, Path(cache)):
                    found.append(row(who, name, double, share, flagged, real))
    peers_file = folder / 'peers.json'
    others = json.loads(peers_file.read_text()) if peers_file.is_file() else dict(rows=[], versions={})
    about = dict(n=N, copies=COPIES, versions=others['versions'], provenance=provenance())
    save_json(RESULT, dict(rows=found + others['rows'], **about))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('step', choices=['images', 'peers', 'rows'])
    parser.add_argument('folder', type=Path)
    args = parser.parse_args()
    dict(images=images, peers=peers, rows=rows)[args.step](args.folder)
