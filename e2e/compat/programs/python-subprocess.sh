# SPDX-License-Identifier: Apache-2.0
# subprocess: pipes, time-outs, process groups, many children.
set -e
python3 - <<'P'
import subprocess as s, os, signal, sys, time
print(s.run(["echo", "hi"], capture_output=True, text=True).stdout.strip())
print(s.run("cat | tr a-z A-Z", shell=True, input="pipe", capture_output=True, text=True).stdout)
try: s.run(["sleep", "10"], timeout=0.2)
except s.TimeoutExpired: print("timeout")
p = s.Popen(["sleep", "10"], start_new_session=True); print(os.getsid(p.pid) == p.pid); os.killpg(p.pid, signal.SIGTERM); print(p.wait())
ps = [s.Popen([sys.executable, "-c", f"print({i})"], stdout=s.PIPE) for i in range(8)]
print(sum(int(p.communicate()[0]) for p in ps))
try: s.run(["/no/such"])
except FileNotFoundError as e: print(e.strerror)
print(s.run(["sh", "-c", "ulimit -n 64; ulimit -n"], capture_output=True, text=True).stdout.strip())
print(s.run(["pwd"], cwd="/usr", capture_output=True, text=True, env={"PATH": "/bin"}).stdout.strip())
big = s.run(["cat"], input=b"x" * 5000000, capture_output=True).stdout; print(len(big))
print(s.run([sys.executable, "-c", "import os;os.close(1);print(1)"], stdout=s.DEVNULL, stderr=s.DEVNULL).returncode)
print(s.run(["id", "-u"], user=1000, group=1000, extra_groups=[], capture_output=True, text=True).stdout.strip())
r, w = os.pipe(); print(s.run(["sh", "-c", f"echo passed >&{w}"], pass_fds=[w]).returncode, os.read(r, 20))
for _ in range(100): s.run(["true"], check=True)
print(s.run(["sh", "-c", "kill -SEGV $$"]).returncode, s.getoutput("echo out; echo err >&2"))
P
