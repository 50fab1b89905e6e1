# SPDX-License-Identifier: Apache-2.0
# Node: worker threads, SharedArrayBuffer, Atomics.
cat > /tmp/w.js <<'J'
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
if (isMainThread) {
  const shared = new Int32Array(new SharedArrayBuffer(8)); let done = 0, sum = 0;
  for (let i = 0; i < 4; i++) { const w = new Worker(__filename, { workerData: { i, shared } });
    w.on('message', m => sum += m); w.on('exit', c => { if (++done == 4) console.log(sum, shared[0], c); }); }
} else { let s = 0; for (let k = 0; k < 1e5; k++) { s += k % 7; Atomics.add(workerData.shared, 0, 1); } parentPort.postMessage(s + workerData.i); }
J
node /tmp/w.js
