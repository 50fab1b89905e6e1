# SPDX-License-Identifier: Apache-2.0
# jar, jshell, a jar run from its manifest, a signal handler.
set -e
cd /tmp; mkdir c; cat > M.java <<'J'
public class M { public static void main(String[] a) throws Exception { Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("terminated"))); System.out.println("up " + a[0]); System.out.flush(); Thread.sleep(60000); } }
J
javac -d c M.java; jar --create --file m.jar --main-class M -C c .; java -jar m.jar arg > out & p=$!; for i in $(seq 100); do grep -q up out && break; sleep 0.1; done; kill $p; wait $p || echo "status $?"; cat out; echo 'System.out.println(6*7)' | jshell -s - 2>/dev/null | tail -n 1; java M.java x & sleep 3; kill $! ; wait $! || echo "status $?"
