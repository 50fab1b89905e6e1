# SPDX-License-Identifier: Apache-2.0
# The interpreter, and modules that rest on the system.
set -e
python3 - <<'P'
import os, sys, time, tempfile, shutil, threading, queue, mmap, signal, select, json, hashlib, random, re, zlib, bz2, lzma, ctypes
print(sys.version_info[:2], os.name, sys.platform)
d = tempfile.mkdtemp(); p = os.path.join(d, "f"); open(p, "w").write("x" * 100000)
print(os.stat(p).st_size, hashlib.sha256(open(p, "rb").read()).hexdigest()[:16])
with open(p, "r+b") as f:
    m = mmap.mmap(f.fileno(), 0); m[0:5] = b"hello"; m.flush(); m.close()
print(open(p).read(8)); shutil.rmtree(d); print(os.path.exists(d))
q = queue.Queue(); ts = [threading.Thread(target=lambda i=i: q.put(i * i)) for i in range(20)]
[t.start() for t in ts]; [t.join() for t in ts]; print(sum(q.get() for _ in ts))
signal.signal(signal.SIGALRM, lambda *a: print("alarm")); signal.setitimer(signal.ITIMER_REAL, 0.05); signal.pause()
r, w = os.pipe(); pid = os.fork()
if pid == 0:
    os.write(w, b"child"); os._exit(7)
print(os.read(r, 10), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(select.select([r], [], [], 0.05)[0] == []); e = select.epoll(); e.register(r, select.EPOLLIN); os.write(w, b"1"); print(len(e.poll(1)))
data = os.urandom(100000); assert zlib.decompress(zlib.compress(data)) == data == bz2.decompress(bz2.compress(data)) == lzma.decompress(lzma.compress(data))
print(ctypes.CDLL(None).abs(-5)); t = time.monotonic(); time.sleep(0.05); print(0.04 < time.monotonic() - t < 1)
os.environ["A"] = "b"; print(os.popen("echo $A").read().strip(), os.system("exit 3") >> 8)
print(sorted(os.listdir("/proc/self/fd"))[:3], os.path.realpath("/proc/self/exe"), os.getcwd())
def rec(n): return 0 if n == 0 else 1 + rec(n - 1)
sys.setrecursionlimit(100000); threading.stack_size(256 << 20); t = threading.Thread(target=lambda: print(rec(20000))); t.start(); t.join()
P
python3 -c 'import sys; sys.exit(5)' || echo "status $?"; python3 -m timeit -n 10 pass > /dev/null; python3 -m compileall -q /usr/lib/python3.11/json && echo compiled
python3 -c 'import os; os.kill(os.getpid(), 9)' || echo "status $?"; python3 -X faulthandler -c 'import ctypes; ctypes.string_at(0)' 2>&1 | grep -c "Segmentation fault"
