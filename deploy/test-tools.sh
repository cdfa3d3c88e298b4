#!/usr/bin/env bash
# The system programs that the interoperability tests use. As root on a Debian-like system they are installed;
# elsewhere the tests that need them say so and skip.
set -eu
missing=()
for pair in ip:iproute2 nft:nftables conntrack:conntrack tshark:tshark curl:curl ps:procps dnsmasq:dnsmasq-base wget:wget \
    git:git ssh:openssh-client sshd:openssh-server redis-server:redis-server redis-cli:redis-tools psql:postgresql \
    etcd:etcd-server vsftpd:vsftpd iperf3:iperf3 node:nodejs npm:npm chromium:chromium tinyproxy:tinyproxy-bin \
    danted:dante-server miniupnpd:miniupnpd-nftables openssl:openssl; do
    PATH=$PATH:/usr/sbin command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
done
ldconfig -p 2>/dev/null | grep -q "libsodium\.so\." || missing+=(libsodium23)
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "not installed (some tests will skip): ${missing[*]}"
    exit 0
fi
echo "installing for the tests: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
