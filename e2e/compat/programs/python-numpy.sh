# SPDX-License-Identifier: Apache-2.0
# numpy: vector registers, threads of the BLAS, memory.
python3 - <<'P'
import numpy as np
a = np.arange(250000, dtype=np.float64).reshape(500, 500); b = a @ a.T
print(b.shape, f"{b.trace():.6e}", np.linalg.matrix_rank(np.eye(50)), np.allclose(np.linalg.inv(np.diag(np.arange(1, 9.))) @ np.diag(np.arange(1, 9.)), np.eye(8)))
r = np.random.default_rng(7); x = r.normal(size=1000000); print(f"{x.mean():.6f} {x.std():.6f}", np.sort(x)[:2].round(4), np.fft.fft(x[:1024])[:1].round(4))
m = np.memmap("/tmp/m", dtype=np.int32, mode="w+", shape=(1000, 1000)); m[:] = 3; m.flush(); print(int(np.memmap("/tmp/m", dtype=np.int32).sum()))
np.save("/tmp/x.npy", x); print(np.array_equal(np.load("/tmp/x.npy", mmap_mode="r"), x))
P
