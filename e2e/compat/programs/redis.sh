# SPDX-License-Identifier: Apache-2.0
# redis as a daemon: commands, append-only file, a background save, restart.
set -e
cd /tmp; redis-server --port 7777 --unixsocket /tmp/r.sock --daemonize yes --dir /tmp --appendonly yes --logfile /tmp/r.log --save '' > /dev/null; c() { redis-cli -p 7777 "$@"; }
for i in $(seq 100); do c ping > /dev/null 2>&1 && break; sleep 0.1; done; c set a 1; c incr a; c lpush l x y z; c lrange l 0 -1; redis-cli -s /tmp/r.sock get a; c eval 'for i=1,10000 do redis.call("set", "k"..i, i) end return redis.call("dbsize")' 0
c bgsave; for i in $(seq 100); do c info persistence | grep -q 'rdb_bgsave_in_progress:0' && break; sleep 0.1; done; c info persistence | grep -E 'rdb_last_bgsave_status' | tr -d '\r'; c bgrewriteaof > /dev/null; sleep 0.5; redis-benchmark -p 7777 -n 2000 -c 10 -q -t set,get > /dev/null; c shutdown nosave || true; sleep 0.3
redis-server --port 7777 --daemonize yes --dir /tmp --appendonly yes --logfile /tmp/r.log --save '' > /dev/null; for i in $(seq 100); do [ "$(c get a 2>/dev/null)" = 2 ] && break; sleep 0.1; done; c get k9999; c shutdown nosave || true
