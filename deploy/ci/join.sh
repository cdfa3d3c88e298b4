#!/usr/bin/env bash
# Joins a network for the length of a CI job: starts a node in the background, waits until it has an address there, and says
# how programs reach it. For the GitHub Action and the GitLab template beside this directory.
#   ZTNODE_NETWORK    its id
#   ZTNODE_SECRET     the text of an identity.secret that the network's controller lets in; without it a new identity is made,
#                     and an administrator has to let it in
#   ZTNODE_STATE      where the node keeps its state [a temporary directory]
#   ZTNODE_PROXY_PORT of the proxy on 127.0.0.1 [1080]
#   ZTNODE_WAIT       seconds [120]
# Further words are for ztnode serve. Prints lines NAME=VALUE: ZTNODE_STATE, ZTNODE_PID, ZTNODE_IP and ZTNODE_PROXY_URL.
set -euo pipefail
: "${ZTNODE_NETWORK:?the id of the network to join}"
state=${ZTNODE_STATE:-$(mktemp -d)}
port=${ZTNODE_PROXY_PORT:-1080}
wait=${ZTNODE_WAIT:-120}
umask 077
mkdir -p "$state/zerotier"
if [ -n "${ZTNODE_SECRET:-}" ]; then
    printf '%s\n' "$ZTNODE_SECRET" >"$state/zerotier/identity.secret"
fi
# It is written down, and no business of what is started from here on.
unset ZTNODE_SECRET
nohup ztnode serve --state "$state" --port 0 --unlisted --proxy "$port" --join "$ZTNODE_NETWORK" "$@" \
    </dev/null >"$state/serve.log" 2>&1 &
node=$!
failed() {
    echo "$1" >&2
    tail -n 20 "$state/serve.log" >&2
    kill "$node" 2>/dev/null || true
    exit 1
}
ends=$((SECONDS + wait))
until ip=$(ztnode ips --state "$state" "$ZTNODE_NETWORK" 2>/dev/null | head -n 1) && [ -n "$ip" ]; do
    kill -0 "$node" 2>/dev/null || failed "the node ended"
    [ "$SECONDS" -lt "$ends" ] || failed "no address in $ZTNODE_NETWORK after $wait s; does its controller let this node in?"
    sleep 0.5
done
printf '%s\n' "ZTNODE_STATE=$state" "ZTNODE_PID=$node" "ZTNODE_IP=${ip%%/*}" "ZTNODE_PROXY_URL=socks5h://127.0.0.1:$port"
