// The Python clients' tests, against a stack of their own.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

import { Stack } from "./stack.mjs";

const FOLDER = new URL("python/", import.meta.url).pathname;
const MS_MAX = 600_000;

let stack, control;

before(async () => {
  stack = await Stack.start();
  // Where the tests ask for a restart.
  control = createServer(async (_request, response) => {
    await stack.stopServer();
    await stack.serve();
    response.end();
  }).listen(0, "127.0.0.1");
  await once(control, "listening");
}, { timeout: MS_MAX });

after(async () => {
  control?.close();
  await stack?.stop();
});

for (const file of ["test_realtime.py", "test_supabase.py"]) {
  test(file, { timeout: MS_MAX }, async () => {
    const python = spawn(".venv/bin/python", ["-m", "unittest", "--verbose", file], {
      cwd: FOLDER,
      env: {
        ...process.env,
        PYTHONDONTWRITEBYTECODE: "1",
        WALCAST_TEST_URL: stack.url,
        WALCAST_TEST_SECRET: stack.secret,
        WALCAST_TEST_DATABASE: `postgres://walcast_owner@127.0.0.1:${stack.postgresPort}/walcast`,
        WALCAST_TEST_CONTROL: `http://127.0.0.1:${control.address().port}`,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    for (const stream of [python.stdout, python.stderr]) stream.on("data", (data) => { output += data; });
    const [status] = await once(python, "close");
    assert.equal(status, 0, output);
    assert.match(output, /^OK$/m, output);
  });
}
