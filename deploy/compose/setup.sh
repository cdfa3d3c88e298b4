#!/bin/sh
# Once: the root's identity, and the planet that names it.
set -eu
[ -e "$SHARED/planet" ] && exit 0
umask 077
[ -e "$ZTNODE_STATE/zerotier/identity.secret" ] || ztnode identity new --output "$ZTNODE_STATE/zerotier"
ztnode world create "$SHARED/planet" --secret "$ZTNODE_STATE/planet.secret" \
    --root "$ZTNODE_STATE/zerotier/identity.public@$ROOT_AT"
chmod a+r "$SHARED/planet"
