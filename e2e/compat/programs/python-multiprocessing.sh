# SPDX-License-Identifier: Apache-2.0
# multiprocessing with fork and spawn, shared memory, locks, pools, concurrent.futures.
set -e
cat > /tmp/mp.py <<'P'
import multiprocessing as mp, sys, os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import shared_memory
def square(x): return x * x
def add(counter, lock):
    for _ in range(200):
        with lock: counter.value += 1
def put(q, i): q.put((i, os.getpid() != os.getppid()))
def write(name):
    s = shared_memory.SharedMemory(name=name); s.buf[:5] = b"child"; s.close()
if __name__ == "__main__":
    for method in ["fork", "spawn"]:
        c = mp.get_context(method)
        with c.Pool(3) as pool: print(method, sum(pool.map(square, range(200))))
        counter, lock = c.Value("i", 0), c.Lock(); ps = [c.Process(target=add, args=(counter, lock)) for _ in range(4)]
        [p.start() for p in ps]; [p.join() for p in ps]; print(counter.value, [p.exitcode for p in ps])
        q = c.Queue(); ps = [c.Process(target=put, args=(q, i)) for i in range(4)]
        [p.start() for p in ps]; print(sorted(q.get() for _ in ps)); [p.join() for p in ps]
        s = shared_memory.SharedMemory(create=True, size=100000); p = c.Process(target=write, args=(s.name,)); p.start(); p.join()
        print(bytes(s.buf[:5])); s.close(); s.unlink()
        a, b = c.Pipe(False); p = c.Process(target=b.send, args=("x" * 100000,)); p.start(); print(len(a.recv())); p.join()
        sem = c.BoundedSemaphore(2); sem.acquire(); sem.release(); ev = c.Event(); p = c.Process(target=ev.set); p.start(); print(ev.wait(20)); p.join()
    with ProcessPoolExecutor(3) as e: print(sum(e.map(square, range(50), chunksize=5)))
    with ThreadPoolExecutor(8) as e: print(sum(e.map(square, range(500))))
P
python3 /tmp/mp.py
