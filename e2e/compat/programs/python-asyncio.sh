# SPDX-License-Identifier: Apache-2.0
# asyncio: tasks, subprocesses, pipes, signals, threads (its loop needs a socket pair).
set -e
python3 - <<'P'
import asyncio, signal, os
async def work(i): await asyncio.sleep(0.01 * (i % 5)); return i
async def main():
    print(sum(await asyncio.gather(*(work(i) for i in range(200)))))
    p = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1); print((await p.communicate(b"through cat"))[0], p.returncode)
    p = await asyncio.create_subprocess_shell("exit 4"); print(await p.wait())
    try: await asyncio.wait_for(asyncio.sleep(5), 0.1)
    except asyncio.TimeoutError: print("timeout")
    got = asyncio.Event(); asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, got.set); os.kill(os.getpid(), signal.SIGUSR1); await asyncio.wait_for(got.wait(), 5); print("signal")
    print(await asyncio.to_thread(lambda: 42)); q = asyncio.Queue()
    async def producer():
        for i in range(100): await q.put(i)
        await q.put(None)
    t = asyncio.create_task(producer()); n = 0
    while (x := await q.get()) is not None: n += x
    await t; print(n)
asyncio.run(main())
P
