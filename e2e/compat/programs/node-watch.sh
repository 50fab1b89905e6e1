# SPDX-License-Identifier: Apache-2.0
# Node: fs.watch.
node -e '
const fs=require("fs");fs.mkdirSync("/tmp/watched");const w=fs.watch("/tmp/watched",(e,f)=>{console.log(f);w.close();clearTimeout(t)});
const t=setTimeout(()=>{console.log("nothing");process.exit(1)},3000);setTimeout(()=>fs.writeFileSync("/tmp/watched/file","x"),100)'
