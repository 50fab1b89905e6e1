# SPDX-License-Identifier: Apache-2.0
# The sqlite3 shell.
set -e
cd /tmp; sqlite3 a.db "create table t(a,b); with recursive c(x) as (select 1 union all select x+1 from c where x<50000) insert into t select x, hex(x*x) from c; create index i on t(b); select count(*), sum(a) from t;"
sqlite3 -csv a.db "select * from t where b like '31%' order by a limit 3"; sqlite3 a.db .dump | md5sum; sqlite3 a.db "vacuum; pragma integrity_check;"; stat -c %F a.db
for i in 1 2 3 4; do (for j in 1 2 3 4 5; do sqlite3 -cmd ".timeout 20000" a.db "insert into t values($i,$j)"; done) & done; wait; sqlite3 a.db "select count(*) from t"
