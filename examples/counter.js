#!/usr/bin/env node
// counter.js [TIMES]: draw a ticket, or several: no number is given out twice, on
// all nodes. The last number is the value block of the lock file "tickets".
//
//     $ examples/counter.js
//     1
//     $ examples/counter.js 2
//     2
//     3
//
// $LOCKSPACE is the directory of the lockspace, /dlm/web if it is not set.
// Node has no flock: opening a file below .ex takes the lock, closing drops it.
'use strict';

const { open } = require('fs/promises');

const lockspace = process.env.LOCKSPACE ?? '/dlm/web';

// An open that waits keeps one of the four threads that do all of Node's file operations ($UV_THREADPOOL_SIZE).
// Wait for one lock at a time, or four who wait leave no thread to whoever holds the lock and wants to close.
async function draw() {
  const lock = await open(`${lockspace}/.ex/tickets`, 'r+');
  try {
    const { bytesRead, buffer } = await lock.read(Buffer.alloc(32), 0, 32, 0);
    const ticket = Number(buffer.toString('latin1', 0, bytesRead)) + 1;
    await lock.write(`${ticket}\n`, 0);
    console.log(ticket);
  } finally {
    await lock.close();
  }
}

async function main(times = '1') {
  for (let i = 0; i < Number(times); i++) {
    await draw();
  }
}

main(...process.argv.slice(2)).catch((error) => {
  const lost = error.code === 'EIO' ? ' (the last number was lost with a node: write a new one there)' : '';
  console.error(`counter.js: ${error.message}${lost}`);
  process.exitCode = 1;
});
