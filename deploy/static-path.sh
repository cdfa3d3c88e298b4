#!/usr/bin/env bash
# In the virtual environment $1, has Python find ztclient and ztnode by a line of path. What setuptools installs for a
# package that stays where it is is a program, run at each start of Python: 25 to 40 ms of processor time, thousands of
# times in the tests.
set -eu
cd "$(dirname "$0")/.."
for path in "$1"/lib/python*/site-packages/__editable__.zt*.pth; do
    pwd >"$path"
done
