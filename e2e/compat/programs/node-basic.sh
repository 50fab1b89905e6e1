# SPDX-License-Identifier: Apache-2.0
# Node: files, timers, streams, crypto, zlib, process.
set -e
cat > /tmp/b.js <<'J'
const fs = require('fs'), zlib = require('zlib'), crypto = require('crypto'), os = require('os'), path = require('path');
(async () => {
  const d = fs.mkdtempSync('/tmp/n-'); await fs.promises.writeFile(d + '/a', 'x'.repeat(300000)); console.log((await fs.promises.stat(d + '/a')).size);
  await Promise.all([...Array(50).keys()].map(i => fs.promises.writeFile(`${d}/f${i}`, String(i)))); console.log(fs.readdirSync(d).length);
  await new Promise(r => fs.createReadStream(d + '/a').pipe(zlib.createGzip()).pipe(fs.createWriteStream(d + '/a.gz')).on('finish', r));
  console.log(zlib.gunzipSync(fs.readFileSync(d + '/a.gz')).length, crypto.createHash('sha256').update('a').digest('hex').slice(0, 8));
  console.log((await new Promise(r => crypto.pbkdf2('p', 's', 1000, 16, 'sha1', (e, k) => r(k)))).toString('hex'));
  await fs.promises.rename(d + '/a', d + '/b'); await fs.promises.symlink('b', d + '/l'); console.log(await fs.promises.readlink(d + '/l'), fs.realpathSync(d + '/l') === d + '/b');
  fs.rmSync(d, { recursive: true }); console.log(fs.existsSync(d)); const t = Date.now(); await new Promise(r => setTimeout(r, 50)); console.log(Date.now() - t >= 49);
  process.on('SIGUSR2', () => { console.log('usr2'); process.exit(3); }); process.kill(process.pid, 'SIGUSR2'); setTimeout(() => {}, 5000);
})();
J
node /tmp/b.js || echo "status $?"; node -e 'let a=[];for(let i=0;i<3e6;i++)a.push({i});console.log(a.length, process.memoryUsage().rss>1e7)'
node -e 'function f(n){return n<2?n:f(n-1)+f(n-2)};console.log(f(27), [3,1,2].sort(), os.cpus().length>0)'; echo 'console.log("stdin")' | node; node -p 'process.stdin.isTTY; process.versions.node.split(".")[0]'
