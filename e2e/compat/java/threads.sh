# SPDX-License-Identifier: Apache-2.0
# javac and java: threads, executors, garbage collection, ProcessBuilder, files.
set -e
cd /tmp; cat > T.java <<'J'
import java.nio.file.*; import java.util.*; import java.util.concurrent.*; import java.util.concurrent.atomic.*; import java.util.stream.*;
public class T {
  static int depth(int n) { return depth(n + 1) + 1; }
  public static void main(String[] a) throws Exception {
    ExecutorService e = Executors.newFixedThreadPool(8); List<Future<Long>> fs = new ArrayList<>();
    for (int i = 0; i < 50; i++) { final int n = i; fs.add(e.submit(() -> LongStream.range(0, 100000).map(x -> x * n).sum())); }
    long s = 0; for (Future<Long> f : fs) s += f.get(); e.shutdown(); System.out.println(s);
    AtomicInteger c = new AtomicInteger(); Thread[] ts = new Thread[20]; for (int i = 0; i < 20; i++) { ts[i] = new Thread(() -> { for (int j = 0; j < 10000; j++) c.incrementAndGet(); }); ts[i].start(); } for (Thread t : ts) t.join(); System.out.println(c);
    Object o = null; int caught = 0; for (int i = 0; i < 100000; i++) try { o.hashCode(); } catch (NullPointerException x) { caught++; } System.out.println(caught);
    try { depth(0); } catch (StackOverflowError x) { System.out.println("stack overflow"); }
    try { int z = 0; System.out.println(1 / z); } catch (ArithmeticException x) { System.out.println(x.getMessage()); }
    List<byte[]> l = new ArrayList<>(); for (int i = 0; i < 3000; i++) { l.add(new byte[100000]); if (l.size() > 200) l.subList(0, 150).clear(); } System.gc(); System.out.println("gc");
    Process p = new ProcessBuilder("sh", "-c", "cat; exit 3").redirectErrorStream(true).start(); p.getOutputStream().write("piped".getBytes()); p.getOutputStream().close();
    System.out.println(new String(p.getInputStream().readAllBytes()) + " " + p.waitFor()); Path f = Files.createTempFile("x", "y"); Files.writeString(f, "text"); System.out.println(Files.readString(f) + " " + Files.size(f)); Files.delete(f);
    System.out.println(IntStream.range(0, 1000000).parallel().filter(x -> x % 3 == 0).count() + " " + CompletableFuture.supplyAsync(() -> 42).get()); try { byte[] b = new byte[Integer.MAX_VALUE]; } catch (OutOfMemoryError x) { System.out.println("out of memory"); }
    Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("hook"))); System.exit(4);
  }
}
J
javac T.java && java -Xmx300m T || echo "status $?"; for gc in Serial G1 Parallel; do java -Xmx200m -XX:+Use${gc}GC -Xlog:disable T > out || true; tail -n 1 out; done; java -Xint -Xmx300m -version 2>&1 | head -n 1 | cut -c1-12
