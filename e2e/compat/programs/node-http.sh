# SPDX-License-Identifier: Apache-2.0
# Node: an HTTP server and client on loopback.
node -e '
const http=require("http");const s=http.createServer((q,r)=>{let n=0;q.on("data",d=>n+=d.length);q.on("end",()=>r.end("got "+n))}).listen(0,"127.0.0.1",async()=>{
const port=s.address().port;let done=0;for(let i=0;i<20;i++){const q=http.request({port,host:"127.0.0.1",method:"POST"},r=>{let b="";r.on("data",d=>b+=d);r.on("end",()=>{if(i==19)console.log(b);if(++done==20){console.log("all");s.close();process.exit(0)}})});q.end("x".repeat(i*1000))}})'
