#!/bin/sh
# Once the controller is there: a network that anybody may join who knows the planet, and what its members are told.
set -eu
network=$(cut -c 1-10 "$ZTNODE_STATE/zerotier/identity.public")000001
ztnode controller show "$network" >/dev/null 2>&1 ||
    ztnode controller create --nwid "$network" --name compose --public --subnet 10.121.15.0/24
printf 'planet = "%s"\njoin = ["%s"]\n' "$SHARED/planet" "$network" >"$SHARED/member.toml"
