# SPDX-License-Identifier: Apache-2.0
# sqlite3 from Python: locks, journal modes, threads and processes on one database.
python3 - <<'P'
import sqlite3, subprocess, sys, threading
p = "/tmp/db"; c = sqlite3.connect(p); print(c.execute("pragma journal_mode=wal").fetchone())
c.execute("create table t (i integer primary key, v text)")
with c: c.executemany("insert into t values (?, ?)", ((i, "v%d" % i) for i in range(20000)))
print(c.execute("select count(*), sum(i), max(v) from t").fetchone())
def add(n):
    d = sqlite3.connect(p, timeout=30)
    for i in range(20):
        with d: d.execute("insert into t (v) values (?)", (f"{n}-{i}",))
    d.close()
ts = [threading.Thread(target=add, args=(n,)) for n in range(4)]; [t.start() for t in ts]; [t.join() for t in ts]
code = f"import sqlite3\nd = sqlite3.connect({p!r}, timeout=30)\nfor i in range(20):\n    with d: d.execute('insert into t (v) values (?)', (i,))"
ps = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
print([x.wait() for x in ps], c.execute("select count(*) from t").fetchall())
c.close(); d = sqlite3.connect(p); print(d.execute("pragma journal_mode=delete").fetchone(), d.execute("pragma integrity_check").fetchall()); d.close()
a = sqlite3.connect(p, timeout=5, isolation_level=None); a.execute("begin exclusive")
b = sqlite3.connect(p, timeout=0.1)
try: b.execute("insert into t (v) values (1)")
except sqlite3.OperationalError as e: print(e)
P
