# SPDX-License-Identifier: Apache-2.0
# Runs a script of pg_regress and what it builds on, and prints what came of each, without the times.
cd /opt/suites/postgres || exit 9
programs=/usr/lib/postgresql/15/bin
needs=(test_setup)
case $1 in
  test_setup) needs=() ;;
esac
run() { su postgres -c "$*"; }
run "$programs/pg_ctl -D cluster -w -o '-k /tmp -c listen_addresses=' -l /tmp/server start" >/tmp/log 2>&1 </dev/null || {
  cat /tmp/log /tmp/server >&2
  exit 8
}
run "./pg_regress --host=/tmp --inputdir=. --outputdir=/tmp --dlpath=. --bindir=$programs ${needs[*]} $1" >/tmp/log 2>&1 </dev/null
status=$?
sed -nE 's/^test ([a-z0-9_. ]+) +\.\.\. ([a-zA-Z]+).*/\1 \2/p' /tmp/log
run "$programs/pg_ctl -D cluster -m fast stop" >/dev/null 2>&1
[ $status = 0 ] || { tail -n 20 /tmp/log; head -n 100 /tmp/regression.diffs; } >&2
exit $status
