#!/bin/sh
# A host of a group that is not the first: waits for rank 0's mpirun, which starts this host's rank through ssh.
set -eu
exec /usr/sbin/sshd -D -e -f /opt/llmserve/hosts/sshd_config
