#!/usr/bin/env bash
# A Slurm cluster of one node on this machine, for tests. Debian or Ubuntu, as root; no systemd needed.
#
#   start_one_node.sh [FOLDER]      install what is missing, start the daemons; prints the folder
#   start_one_node.sh [FOLDER] 2    the same, as two nodes of one CPU each; their names don't resolve
#   start_one_node.sh stop FOLDER   stop them
#
# Keys, state, sockets and logs are in FOLDER, a new temporary one unless given. Outside it there is one
# link, /etc/slurm/slurm.conf: a job's own `srun` looks only there. Where that file exists already, this
# machine has a Slurm of its own, and nothing is started.
set -euo pipefail

LINK=/etc/slurm/slurm.conf

die() {
    echo "start_one_node.sh: $*" >&2
    exit 1
}

stop() {
    local folder=$1 daemon pid
    if timeout 10 scancel --me 2>/dev/null; then # no job outlives the daemons
        timeout 90 bash -c 'while [ -n "$(squeue --noheader)" ]; do sleep 0.2; done' || true
    fi
    for daemon in "$folder"/{slurmctld,slurmd.*,munged}.pid; do
        pid=$(cat "$daemon" 2>/dev/null) || continue
        kill "$pid" 2>/dev/null || continue
        timeout 30 tail --pid="$pid" -f /dev/null || kill -9 "$pid"
    done
    if [ "$(readlink "$LINK")" = "$folder/slurm.conf" ]; then rm "$LINK"; fi
}

if [ "${1-}" = stop ]; then
    [ -f "${2-}/slurm.conf" ] || die "stop FOLDER: the folder that was started, is '${2-}'"
    stop "$(realpath "$2")"
    exit
fi

[ "$(id -u)" = 0 ] || die "needs root"
if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
    command -v apt-get >/dev/null || die "slurm-wlm and munge are missing, and so is apt-get"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        slurm-wlm munge; } >/dev/null || die "slurm-wlm and munge could not be installed"
fi
[ ! -e "$LINK" ] || die "$LINK exists: this machine has a Slurm already"

folder=$(realpath -m "${1:-$(mktemp -d)}")
mkdir -p "$folder/state"
chmod 755 "$folder"
machine=$(hostname -s)
case ${2:-1} in
    1) nodes=("$machine") names=$machine ports=6818 ;;
    2) nodes=("$machine"-{1,2}) names="$machine-[1-2]" ports="[6818-6819]" ;;
    *) die "one node or two, not '$2'" ;;
esac
cpus=$((2 / ${#nodes[@]}))
head -c 1024 /dev/urandom >"$folder/munge.key"
chmod 600 "$folder/munge.key"

cat >"$folder/slurm.conf" <<END
ClusterName=longrun-test
SlurmctldHost=$machine(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
# without control groups, which a container may not have
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# the node is what is written here, whatever the machine is
SlurmdParameters=config_overrides
ReturnToService=2
# seconds: how long a finished job can be asked for, from SIGTERM to SIGKILL, and before a start
MinJobAge=3600
KillWait=60
SchedulerParameters=batch_sched_delay=0
NodeName=$names NodeHostname=$machine NodeAddr=127.0.0.1 Port=$ports CPUs=$cpus Boards=1 SocketsPerBoard=1 CoresPerSocket=$cpus ThreadsPerCore=1 RealMemory=64000
PartitionName=main Nodes=$names Default=YES MaxTime=UNLIMITED
END
mkdir -p "$(dirname "$LINK")"
ln -sf "$folder/slurm.conf" "$LINK"
trap 'stop "$folder"; tail -n 5 "$folder"/*.log >&2; die "the daemons did not start"' ERR

# each daemon leaves this shell's session and its files, so that whoever waits for the shell is not kept
setsid munged --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" \
    --pid-file "$folder/munged.pid" --log-file "$folder/munged.log" --seed-file "$folder/munge.seed" \
    </dev/null >>"$folder/munged.log" 2>&1
setsid slurmctld -i </dev/null >>"$folder/slurmctld.log" 2>&1
for node in "${nodes[@]}"; do
    mkdir -p "$folder/spool.$node"
    setsid slurmd -N "$node" </dev/null >>"$folder/slurmd.$node.log" 2>&1
done
for _ in $(seq 60); do
    state=$(sinfo --noheader --format=%T 2>/dev/null | sort -u || true)
    [ "$state" != idle ] || break
    sleep 1
done
[ "$state" = idle ]
trap - ERR
echo "$folder"
