#!/usr/bin/env bash
# Expected: a local Dask cluster that has been closed leaves the process that started it as it found it.
# Happens: six environment variables stay: OMP_NUM_THREADS, MKL_NUM_THREADS and OPENBLAS_NUM_THREADS are 1, and
#   PYTHONHASHSEED, MALLOC_TRIM_THRESHOLD_ and __DASK_PARENT_PID are set. Every process that is started later, a
#   training or a data loader for instance, has one thread, and hashes strings as the cluster's workers did.
# Matters to: whoever spreads a sweep over a local cluster and then trains in the same session: several times slower,
#   without a word.
# ambient_nb: the environment is put back when a cluster is left (`environment_kept`).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile distributed==2026.8.0 dask==2026.8.0 numpy==2.4.6
cat > "$work/leaves.py" <<'PY'
import os
import subprocess
import sys

import distributed

ASKED = 'import os; print(os.environ.get("OMP_NUM_THREADS"))'


def child():
    return subprocess.run([sys.executable, '-c', ASKED], capture_output=True, text=True).stdout.strip()


if __name__ == '__main__':
    before, told = dict(os.environ), child()
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client:
            assert client.submit(sum, [1, 2]).result() == 3
    left = {name: value for name, value in os.environ.items() if before.get(name) != value}
    print('distributed', distributed.__version__)
    print('left behind:', ', '.join(sorted(left)))
    print(f'OMP_NUM_THREADS of a process started before: {told}, after: {child()}')
    threads = {'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'}
    others = {'PYTHONHASHSEED', 'MALLOC_TRIM_THRESHOLD_', '__DASK_PARENT_PID'}
    assert left.keys() == threads | others and {left[name] for name in threads} == {'1'}
    assert told != '1' and child() == '1'
PY
cd "$work"
env -u OMP_NUM_THREADS -u MKL_NUM_THREADS -u OPENBLAS_NUM_THREADS -u PYTHONHASHSEED "$work/venv/bin/python" leaves.py
