#!/bin/bash
# shellcheck disable=SC2154
# The body of the batch script. `slurm_script.py` renders the #SBATCH lines, the variables that this uses and the
# function `setup`, and puts them in the place of these lines.

# One Ray for this job alone: its own port, token and directory, so that jobs that share a node do not meet.
port=$((FIRST_PORT + SLURM_JOB_ID % NUM_PORTS))
ray_dir=/tmp/ray-$SLURM_JOB_ID
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token
export RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0
unset RAY_AUTH_TOKEN RAY_ADDRESS

say() { echo "concord: $*"; }

# The address at which Slurm itself reaches a node.
address_of() { scontrol show node "$1" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p'; }

# Ray on one node, until USR2; again, while it may still be coming up. A pre-emption may begin with SIGTERM to all
# processes of a step: these bear it, and have the script told, so that Ray lives until a checkpoint is saved.
ray_node() {
    setup
    ended=
    trap 'ended=yes' USR2
    trap 'scancel --batch --signal=USR1 "$SLURM_JOB_ID"' TERM
    ip=$(getent ahostsv4 "$(address_of "$SLURMD_NODENAME")" | sed -n '1s/ .*//p')
    gpus=${SLURM_GPUS_ON_NODE:-0}
    if [ "$gpus" -gt 0 ] && command -v nvidia-smi >/dev/null; then
        there=$(timeout 60 nvidia-smi -L 2>&1 | grep -c '^GPU ')
        [ "$there" -ge "$gpus" ] || say "$SLURMD_NODENAME has $there of the $gpus GPUs that Slurm gave: see nvidia-smi"
        [ "$there" -ge "$gpus" ] || gpus=$there
    fi
    # The limit of the job's control group, which Ray does not see: it looks at the host's.
    memory=$("$python" -P -c 'from cluster.host.limits import memory_bytes as m; print(m()[1])') || exit 71
    while
        rm -rf "$ray_dir"
        mkdir -m 700 "$ray_dir" || exit 71
        "$python" -P -c "$block_sigterm" -P -m ray.scripts.scripts start --block --temp-dir="$ray_dir" \
            --num-cpus="$SLURM_CPUS_ON_NODE" --num-gpus="$gpus" --memory=$((memory - object_bytes)) \
            --object-store-memory="$object_bytes" --node-ip-address="$ip" \
            --min-worker-port=0 --max-worker-port=0 "$@" >"$ray_dir/start.log" 2>&1 &
        ray=$!
        until wait "$ray"; [ $? != 143 ]; do :; done
        [ -n "$ended" ] || { say "Ray on $SLURMD_NODENAME ended:"; tail -n 5 "$ray_dir/start.log"; }
        [ -z "$ended" ] && [ "$SECONDS" -lt "$start_timeout" ]
    do sleep 1; done
    kill -KILL "$ray" 2>/dev/null
    rm -rf "$ray_dir" 2>/dev/null || { sleep 1; rm -rf "$ray_dir"; }
}
block_sigterm='
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])'

# A step of this job that runs Ray on its nodes. $1: of which component, $2: which, as options of srun; the rest goes to
# `ray start`, which gives the nodes the labels of their kind.
start_ray() {
    # shellcheck disable=SC2086
    srun ${SLURM_HET_SIZE:+--het-group=$1} --overlap --ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=0 \
        --no-kill --wait=0 $2 bash -c "$(declare -f say setup address_of ray_node)"'; ray_node "$@"' ray_node \
        ${labels[$1]:+"--labels=${labels[$1]}"} "${@:3}" </dev/null
}

# The nodes of a component of this job as Slurm writes them, such as `n[1-4]`; a job of one kind of nodes has only 0.
list_of() {
    local list=SLURM_JOB_NODELIST_HET_GROUP_$1
    echo "${!list:-$SLURM_JOB_NODELIST}"
}

# The nodes of a component, one a line: its number, a node's number of GPUs and its name. A step has the GPUs that the job
# has asked for, but of whole nodes (--exclusive) only those that it asks for itself: these are counted by what Slurm knows
# of each.
nodes_by_gpus() {
    scontrol --oneliner show node "$(list_of "$1")" | awk -v component="$1" -v whole="${whole_nodes[$1]}" '{
        name = ""; gpus = 0
        for (i = 1; i <= NF; i++) {
            if ($i ~ /^NodeName=/) name = substr($i, 10)
            if ($i ~ /^Gres=/ && whole) {
                count = split(substr($i, 6), kinds, ",")
                for (k = 1; k <= count; k++) if (kinds[k] ~ /^gpu[:(]|^gpu$/) {
                    sub(/\(.*/, "", kinds[k])
                    parts = split(kinds[k], words, ":")
                    gpus += words[parts] ~ /^[0-9]+$/ ? words[parts] : 1
                }
            }
        }
        print component, gpus, name
    }'
}

# The option of srun for so many GPUs on each node.
gres() { [ "${1:-0}" = 0 ] || echo "--gres=gpu:$1"; }
gres_of() { gres "$(awk -v name="$1" '$3 == name { print $2 }' <<<"$nodes")"; }

# Ends Ray; what does not end in time, Slurm ends with the job.
end_ray() {
    trap - EXIT
    trap '' USR1 TERM USR2
    scancel --signal=USR2 "$SLURM_JOB_ID"
    for _ in $(seq 100); do
        kill -0 "${steps[@]}" 2>/dev/null || break
        sleep 0.2
    done
    rm -f "$token"
}

# Slurm's warning (USR1) or its end (TERM): the driver saves a checkpoint and ends with code 75.
asked_to_end() {
    signalled=yes
    [ -z "$driver" ] || [ -n "$told" ] || { told=yes; kill -TERM "$driver" 2>/dev/null; }
}

# The driver's end, and its code. A signal ends a `wait`, and two in a row end two of which the second runs no trap: only
# what `wait` says of a driver that is gone is the driver's own code.
wait_for_driver() {
    while kill -0 "$driver" 2>/dev/null; do wait "$driver"; done
    wait "$driver"
    code=$?
}

# The head's step has ended by itself. No attempt could succeed here any more, but one of a new start may.
lost_ray() {
    lost=yes
    asked_to_end
}

# Whether something answers at Ray's port.
listens() { (exec 3<>"/dev/tcp/${address%:*}/$port") 2>/dev/null; }

# Whether this job has ended so not more often than it may.
within() { [ "$(grep -c "^$code\$" "$code_file")" -le "$1" ]; }

cd "$directory" || { say "$SLURMD_NODENAME has no $directory, where the run was submitted from"; exit 2; }
steps=() driver= signalled= told= lost=
setup
export python port ray_dir start_timeout object_bytes block_sigterm
all_nodes=$(for component in "${!whole_nodes[@]}"; do list_of "$component"; done | paste -sd' ')
say "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $all_nodes"
(umask 077 && "$python" -P -c 'import secrets; print(secrets.token_hex(32))' >"$token") || exit 71
trap end_ray EXIT
trap asked_to_end USR1 TERM
trap lost_ray USR2

nodes=$(for component in "${!whole_nodes[@]}"; do nodes_by_gpus "$component"; done)
head=$SLURMD_NODENAME
address=$(address_of "$head"):$port
# Ray's client server, which is there where grpc is, has a port that may be taken, and cannot be left out.
client=$("$python" -P -c 'import importlib.util as u; print(u.find_spec("grpc") and "yes" or "")')
{
    start_ray 0 "--nodes=1 --ntasks=1 --nodelist=$head $(gres_of "$head")" --head --port="$port" --include-dashboard=false \
        ${client:+--ray-client-server-port=$((port + NUM_PORTS))}
    kill -USR2 $$
} &
steps+=($!)
until listens || [ "$SECONDS" -gt "$start_timeout" ] || [ -n "$lost" ]; do sleep 0.2; done
code=69
if ! listens; then
    say "no Ray has come up on $head in $SECONDS s; see above"
elif
    while read -r component gpus; do
        others=$(awk -v head="$head" -v of="$component $gpus" '$3 != head && $1 " " $2 == of { print $3 }' <<<"$nodes")
        number=$(wc -l <<<"$others")
        start_ray "$component" "--nodes=$number --ntasks=$number --nodelist=$(paste -sd, <<<"$others") $(gres "$gpus")" \
            --address="$address" &
        steps+=($!)
    done < <(awk -v head="$head" '$3 != head { print $1, $2 }' <<<"$nodes" | sort -u)
    "$python" -P -m cluster.ray.arrivals "$address" --nodes "$(wc -l <<<"$nodes")" --least "$fewest" \
        --timeout "$start_timeout"
then
    "$python" -P "${command[@]}" --ray-address "$address" </dev/null &
    driver=$!
    [ -z "$signalled" ] || asked_to_end
    wait_for_driver
    # Told before it could hear: nothing is lost.
    [ "$code" != 143 ] || [ -z "$told" ] || code=75
    [ "$code" != 75 ] || [ -z "$lost" ] || code=71
fi
say "ended with code $code"
echo "$code" >>"$code_file"
end_ray
# 75: start me again, with what was saved. A driver that has given up its run says something else; but it cannot mend a
# Ray that is lost or that never came up.
if [ -n "$requeue" ] && [ ! -e "$stop_file" ]; then
    case $code:${driver:-none}:$lost in
        75:*) ;;
        71:*:yes) within "$infrastructure_retries" ;;
        69:none:*) within "$start_up_retries" ;;
        *) false ;;
    esac && say "queued again" && scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
