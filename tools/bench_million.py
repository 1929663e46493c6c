"""A million training images: what a search for copies, and a search for duplicates, cost in time and memory.

    OMP_NUM_THREADS=1 python tools/bench_million.py [--images 1000000] [--queries 200] [--folder FOLDER]

Writes random 32 x 32 colour images, 3 GB, to an unnamed file in FOLDER and searches them with `copies.search`, as an
audit does that has read them. Among the queries are copies of the first images and of the last ones; whether they were
found is checked. The search of the set in itself, and cosine similarity in pixels, are timed on a few parts and
extrapolated. Prints one JSON object; nothing stays on disk.
"""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import torch
from ambient_nb.copies import QUERY_PART, Space, search, unit
from ambient_nb.core import progress, rng
from ambient_nb.data import to_float
from ambient_nb.memorization import duplicates, others_once
from ambient_nb.origin import provenance
from ambient_nb.picturesets import mapped
from ambient_nb.searches import forget_peak, resident

SHAPE, PART = (3, 32, 32), QUERY_PART // 3072  # of an image; images that a search reads at a time
NEIGHBOURS = 18  # that `memorization.links` asks for first: 16, the image itself, one more


def random_images(n: int):
    "Random images, 10,000 at a time."
    for start in progress(range(0, n, 10_000), desc='writing'):
        generator = rng(0, 'million', start)
        yield torch.randint(0, 256, (min(10_000, n - start), *SHAPE), dtype=torch.uint8, generator=generator).numpy()


class Memory(threading.Thread):
    "What this process holds beyond pages of files, looked at fifty times a second; MiB, Linux only."

    peak, over = 0.0, False

    def run(self):
        while not self.over:
            lines = Path('/proc/self/status').read_text().splitlines()
            held = next(int(line.split()[1]) for line in lines if line.startswith('RssAnon'))
            self.peak = max(self.peak, held / 2**10)
            time.sleep(0.02)


def measured(search) -> tuple:
    "What a search returned; its CPU seconds, its wall seconds and the memory at its peak."
    forget_peak()
    before = dict(mib_before=resident())
    memory, wall, cpu = Memory(daemon=True), time.perf_counter(), time.process_time()
    memory.start()
    found = search()
    cost = before | dict(cpu_s=time.process_time() - cpu, wall_s=time.perf_counter() - wall)
    memory.over = True
    memory.join()
    cost |= dict(peak_mib=resident(peak=True), peak_anonymous_mib=memory.peak)
    return found, {name: round(value, 2) for name, value in cost.items()}


def in_pixels(u: torch.Tensor) -> Space:
    return Space(u, lambda u: u.flatten(1), 3072)


def main(n: int, queries: int, folder: Path | None):
    with tempfile.TemporaryDirectory(dir=folder) as room:
        base = mapped(random_images(n), Path(room))
    half = queries // 2
    copied = torch.cat([torch.arange(half), torch.arange(n - (queries - half), n)])
    asked = base[copied] ^ 1  # every pixel one level away
    (d, near), cost = measured(lambda: search(in_pixels(asked), in_pixels(base), 2))
    assert torch.equal(near[:, 0], copied) and (d[:, 0] == 3072**0.5).all() and (d[:, 1] > 1000).all()
    say = dict(images=n, queries=queries, GB=base.numel() / 1e9, search=cost)

    few = base[: 4 * PART]
    _, cost = measured(lambda: search(in_pixels(few[:PART]), in_pixels(few), NEIGHBOURS))
    hours = cost['cpu_s'] * (n / PART) * (n / len(few)) / 3600
    say['itself'] = cost | dict(of=f'{PART} x {len(few)}', extrapolated_cpu_hours=round(hours, 2))

    def linked():
        d = torch.rand(n, NEIGHBOURS, dtype=torch.float64, generator=rng(0, 'd')).sort(dim=1).values
        near = torch.randint(0, n, (n, NEIGHBOURS), generator=rng(0, 'near'))
        return duplicates(others_once([(d, near)], torch.arange(n))[0])

    say['links'] = measured(linked)[1]

    def similar(u):
        return Space(u, lambda u: unit(to_float(u).flatten(1)), 3072)

    _, cost = measured(lambda: search(similar(asked), similar(few), 1))
    minutes = cost['cpu_s'] * n / len(few) / 60
    say['similarity'] = cost | dict(of=f'{queries} x {len(few)}', extrapolated_cpu_minutes=round(minutes, 2))
    print(json.dumps(say | dict(provenance=provenance('cpu')), indent=1))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=1_000_000)
    parser.add_argument('--queries', type=int, default=200)
    parser.add_argument('--folder', type=Path)
    torch.set_num_threads(1)
    args = parser.parse_args()
    main(args.images, args.queries, args.folder)
