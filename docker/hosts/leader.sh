#!/bin/sh
# The first host of a group: waits for the others, then runs the given command as one rank on each, under mpirun.
#
#   leader.sh llmserve run ENGINE …
#
# LeaderWorkerSet tells LWS_LEADER_ADDRESS (this host's name, e.g. llmserve-0.llmserve.default) and LWS_GROUP_SIZE; its
# other hosts are then llmserve-0-1.llmserve.default and so on.
set -eu
: "${LWS_LEADER_ADDRESS:?is not set: start this as the leader of a LeaderWorkerSet}"
: "${LWS_GROUP_SIZE:?is not set: start this as the leader of a LeaderWorkerSet}"
patience=${LLMSERVE_HOSTS_TIMEOUT:-900} # seconds until all hosts have to be there

trap 'exit 143' TERM INT # PID 1 ignores what it has no trap for

leader=${LWS_LEADER_ADDRESS%%.*}
domain=${LWS_LEADER_ADDRESS#"$leader"}
hosts=$LWS_LEADER_ADDRESS:1
deadline=$(($(date +%s) + patience))
i=1
while [ "$i" -lt "$LWS_GROUP_SIZE" ]; do
    host=$leader-$i$domain
    until ssh -o ConnectTimeout=2 "$host" true; do
        if [ "$(date +%s)" -ge "$deadline" ]; then
            echo "leader: $host could not be reached within $patience s; see its log and the secret of both." >&2
            exit 1
        fi
        sleep 1
    done
    hosts=$hosts,$host:1
    i=$((i + 1))
done

# mpirun answers SIGTERM by killing its ranks; SIGUSR1 it hands on to them, and they finish what runs.
mpirun=
stopping=false
trap 'stopping=true; [ -z "$mpirun" ] || kill -USR1 $mpirun' TERM INT
mpirun -n "$LWS_GROUP_SIZE" --host "$hosts" --bind-to none "$@" &
mpirun=$! early=$stopping # in one command: a signal comes before it and is early, or finds mpirun
if $early; then kill -USR1 $mpirun; fi
code=0
wait $mpirun || code=$?
# A trapped signal ends the first wait; the next has mpirun's own exit code.
while kill -0 $mpirun 2>/dev/null; do
    code=0
    wait $mpirun || code=$?
done
# Of a host that is lost mpirun tells, and then may exit with 0.
if [ "$code" -eq 0 ] && ! $stopping; then
    echo "leader: mpirun ended without having been asked to." >&2
    code=1
fi
exit $code
