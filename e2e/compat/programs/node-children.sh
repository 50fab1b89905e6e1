# SPDX-License-Identifier: Apache-2.0
# Node: child processes (their pipes are socket pairs), fork with messages, fs.watch.
cat > /tmp/c.js <<'J'
const { exec, execFileSync, spawn, fork, spawnSync } = require('child_process'), fs = require('fs');
if (process.argv[2] === 'child') { process.on('message', m => { process.send(m * 2); process.disconnect(); }); return; }
(async () => {
  console.log(execFileSync('echo', ['sync']).toString().trim(), spawnSync('sh', ['-c', 'exit 5']).status);
  console.log(await new Promise(r => exec('echo out; echo err >&2; exit 2', (e, o, s) => r([e.code, o.trim(), s.trim()]))));
  const c = spawn('cat'); let got = ''; c.stdout.on('data', d => got += d); c.stdin.end('x'.repeat(200000)); await new Promise(r => c.on('close', r)); console.log(got.length);
  const f = fork(__filename, ['child']); f.send(21); console.log(await new Promise(r => f.on('message', r))); await new Promise(r => f.on('exit', r));
  const k = spawn('sleep', ['60']); k.kill('SIGTERM'); console.log(await new Promise(r => k.on('exit', (c, s) => r(s))));
})();
J
node /tmp/c.js
