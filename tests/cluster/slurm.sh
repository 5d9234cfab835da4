#!/usr/bin/env bash
# A real SLURM on this one machine, for the time of this script: the same job here, through `--cluster` (kind slurm) and
# through cluster/slurm/gpuknn.sbatch must give the same bytes.
#   apt-get install slurm-wlm munge; tests/cluster/slurm.sh [PYTHON]      (as root; PYTHON has gpuknn[slurm])
# Nothing outside of a temporary folder is touched: SLURM and munge run with their own configuration and sockets.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
python=${1:-$repository/.venv/bin/python}
export PATH="$(dirname "$python"):$PATH"
work=$(mktemp -d /tmp/gpuknn-slurm.XXXX)
export SLURM_CONF=$work/slurm.conf
cd "$work"

daemons=()
tear_down() {
    squeue -h -o %i 2>/dev/null | xargs -r scancel || true
    kill "${daemons[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    [ "${passed:-}" ] && rm -r "$work" || echo "failed; what is left: $work"
}
trap tear_down EXIT

await() { # until the command works
    for _ in $(seq 300); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    echo "waited in vain for: $*"
    return 1
}

cores=$(nproc)
cat >slurm.conf <<END
ClusterName=gpuknn
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
SlurmctldPort=46817
SlurmdPort=46818
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
CryptoType=crypto/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdTimeout=300
GresTypes=gpu
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$cores RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
printf "Name=gpu File=/dev/%s\n" zero full >gres.conf # as far as SLURM knows
mkdir state spool
(umask 077 && head -c 1024 /dev/urandom >munge.key)
munged --foreground --force --socket "$work/munge.socket" --key-file "$work/munge.key" --pid-file "$work/munge.pid" \
    --log-file "$work/munge.log" --seed-file "$work/munge.seed" 2>munged.log &
daemons+=($!)
await munge --socket "$work/munge.socket" -n
slurmctld -D 2>/dev/null &
daemons+=($!)
slurmd -D 2>/dev/null &
daemons+=($!)
await sh -c 'sinfo -h -o %t | grep -q idle'
sinfo --version
sinfo

python - <<'END'
import numpy as np

rows = np.random.default_rng(0).standard_normal((40_000, 96)).astype(np.float16)
np.save("db.npy", rows)
np.save("q.npy", rows[::80].astype(np.float32))
END
job=(db.npy q.npy -k 20 --shard-rows 3000)

same() { # the answer of $1 is that of here.h5
    gpuknn compare here.h5 "$1"
    python -c 'import h5py, sys
a, b = (h5py.File(name) for name in sys.argv[1:])
assert all(a[key][:].tobytes() == b[key][:].tobytes() for key in ("knns", "dists"))' here.h5 "$1"
}

echo "== here"
gpuknn exact "${job[@]}" -o here.h5 --quiet

echo "== --cluster: $cores jobs, queued and cancelled by the run"
cat >slurm.yaml <<END
kind: slurm
jobs: $cores
cores: 1
memory: 1500MiB
interface: lo
logs: logs
wait: 120
END
time gpuknn exact "${job[@]}" -o queued.h5 --cluster slurm.yaml --json
same queued.h5
cat logs/*.err | grep -c "Start worker at"
await sh -c '[ -z "$(squeue -h)" ]'

echo "== sbatch: one job with scheduler, workers and gpuknn"
WORKERS=cpu sbatch --nodes=1 --ntasks-per-node="$cores" --gpus-per-node=0 --cpus-per-task=1 --mem=3000 \
    --output=sbatch.log "$repository/cluster/slurm/gpuknn.sbatch" "${job[@]}" -o sbatch.h5
time await sh -c '[ -z "$(squeue -h)" ]'
same sbatch.h5 || { cat sbatch.log; exit 1; }
grep -c "Start worker at" sbatch.log
[ -z "$(find . -maxdepth 1 -name 'gpuknn-*')" ]

echo "== what SLURM refuses, and what it never starts, is said in a line"
refused() { # slurm.yaml with these lines in place of its own is refused with these words
    sed "s/^${1%%:*}: .*//; s/^wait: .*/wait: 8/" slurm.yaml >refused.yaml
    echo "$1" >>refused.yaml
    gpuknn exact "${job[@]}" -o refused.h5 --cluster refused.yaml 2>refused.log && return 1 || [ $? = 2 ]
    grep "^gpuknn: error: .*$2" refused.log
    await sh -c '[ -z "$(squeue -h)" ]'
}
refused "queue: nosuch" "invalid partition"
refused "cores: 1000" "squeue tells what jobs wait for"

echo "== a client killed by kill -9 leaves no jobs"
gpuknn exact "${job[@]}" --shard-rows 50 -o killed.h5 --cluster slurm.yaml --quiet &
client=$!
await sh -c 'ls killed.h5.run/*/*-*.json'
kill -9 $client
time await sh -c '[ -z "$(squeue -h)" ]'
gpuknn exact "${job[@]}" -o killed.h5 --cluster slurm.yaml --quiet
same killed.h5

if ! python -c 'import cupy' 2>/dev/null; then
    echo "== GPUs: SLURM gives them, workers start as dask-cuda's (here in name only), and are told apart"
    mkdir -p stub/dask_cuda bin
    echo >stub/dask_cuda/__init__.py
    printf '%s\n' 'from distributed.cli.dask_worker import main' 'if __name__ == "__main__": main()' \
        >stub/dask_cuda/cli.py
    printf '%s\n' '#!/usr/bin/env bash' '[ "$1" = cuda ] && exec python -m dask_cuda.cli "${@:3}"' \
        'exec python -m dask "$@"' >bin/dask
    chmod +x bin/dask
    export PYTHONPATH=$work/stub PATH=$work/bin:$PATH
    sed 's/^jobs: .*/jobs: 1/; $a gpus: 1' slurm.yaml >gpus.yaml # the name-only worker counts no GPUs
    gpuknn exact "${job[@]}" -o gpus.h5 --cluster gpus.yaml 2>gpus.log && exit 1 || [ $? = 2 ]
    grep "CuPy is not installed" gpus.log
    await sh -c '[ -z "$(squeue -h)" ]'
    sbatch --nodes=1 --ntasks-per-node=1 --gpus-per-node=1 --cpus-per-task=1 --mem=3000 --output=gpus.log \
        "$repository/cluster/slurm/gpuknn.sbatch" "${job[@]}" -o gpus.h5
    await sh -c '[ -z "$(squeue -h)" ]'
    grep "CuPy is not installed" gpus.log
fi
passed=yes
echo "== passed"
