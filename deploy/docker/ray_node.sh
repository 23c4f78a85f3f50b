#!/bin/sh
# One node of a Ray cluster.
#
#   ray-node head              the cluster itself, and the drivers of jobs submitted to it
#   ray-node worker            room for rollout workers, $WORKER_CPUS of them at one thread each
#   ray-node driver COMMAND    a node that keeps workers away, and a command that trains on the cluster
#
# $RAY_HEAD is host:port of the head. The token is in the file $RAY_AUTH_TOKEN_PATH.
set -eu

common="--object-store-memory=${OBJECT_STORE_BYTES:-402653184} --metrics-export-port=8080"
role=$1
shift
case $role in
head)
    # The dashboard serves the Jobs API: `ray job submit`. The token is asked for there too. No
    # autoscaler's monitor: nodes are started by hand, and it would show its numbers to anybody.
    exec ray start --head --block --port="${RAY_HEAD##*:}" --num-cpus=0 --include-dashboard=true \
        --dashboard-host=0.0.0.0 --no-monitor --disable-usage-stats $common
    ;;
worker)
    exec ray start --block --address="$RAY_HEAD" --num-cpus="${WORKER_CPUS:-1}" $common
    ;;
driver)
    ray start --address="$RAY_HEAD" --num-cpus=0 $common >&2
    # The node's processes end with the container, and so with the command.
    RAY_ADDRESS=$RAY_HEAD exec "$@"
    ;;
*)
    echo "ray-node: head, worker or driver, not '$role'" >&2
    exit 2
    ;;
esac
