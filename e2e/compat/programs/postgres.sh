# SPDX-License-Identifier: Apache-2.0
# postgres: initdb, queries, pgbench, restart.
set -e
export PATH=/usr/lib/postgresql/15/bin:$PATH; mkdir -p /tmp/pg /run/postgresql; chown postgres /tmp/pg /run/postgresql; s() { setpriv --reuid=postgres --regid=postgres --clear-groups --inh-caps=-all "$@"; }; cd /tmp
s initdb -D /tmp/pg/d -A trust > /tmp/initdb.log 2>&1 && echo initialised; s pg_ctl -D /tmp/pg/d -l /tmp/pg/log -w -o '-c listen_addresses=' start > /dev/null && echo started
q() { s psql -h /run/postgresql -U postgres -qAt -c "$1"; }; q 'create table t as select generate_series(1,50000) i'; q 'select count(*), sum(i) from t'; q 'create index on t(i); analyze t'; q 'explain select * from t where i=5' | head -n 1 | cut -c1-16; s pgbench -h /run/postgresql -U postgres -i -q postgres > /dev/null 2>&1; s pgbench -h /run/postgresql -U postgres -c 4 -j 2 -t 50 postgres 2>/dev/null | grep 'actually processed'
s pg_ctl -D /tmp/pg/d -m fast -w restart -l /tmp/pg/log -o '-c listen_addresses=' > /dev/null; q 'select max(i) from t'; s pg_ctl -D /tmp/pg/d -m immediate stop > /dev/null; s pg_ctl -D /tmp/pg/d -w -l /tmp/pg/log -o '-c listen_addresses=' start > /dev/null; q 'select sum(abalance) = sum(abalance) from pgbench_accounts'; s pg_ctl -D /tmp/pg/d stop > /dev/null && echo stopped
