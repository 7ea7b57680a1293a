// The whole product, as `make run` starts it: Postgres, migrations, sample data, the server, the page.
// Alice and Bob each see their own rows and nothing of the other's, DELETE included.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";

import { freePort } from "../clients/port.mjs";
import { launch, open, screenshot, session } from "./browser.mjs";

const RUN = new URL("../setup/run.sh", import.meta.url).pathname;
const CLEAR = new URL("../clients/stack.sh", import.meta.url).pathname;
const START_MS_MAX = 240_000;
const ALICE = "a11ce000-0000-4000-8000-000000000001";
const BOB = "b0b00000-0000-4000-8000-000000000002";

let folder, run, output = "", address, postgresPort, browser;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "walcast-page-"));
  const port = await freePort();
  address = `http://127.0.0.1:${port}/`;
  const env = {
    // What a loaded machine needs.
    WALCAST_RLS_STATEMENT_TIMEOUT: "20s",
    WALCAST_HANDSHAKE_TIMEOUT: "20s",
    POSTGRES_FSYNC: "off",
    ...process.env,
    RUN_DIR: join(folder, "run"),
    PORT: String(port),
  };
  run = spawn(RUN, { env, stdio: ["ignore", "pipe", "pipe"] });
  for (const stream of [run.stdout, run.stderr]) stream.on("data", (data) => { output += data; });
  await ready();
  postgresPort = (await readFile(join(folder, "run", "postgres-port"), "utf8")).trim();
  browser = await launch();
}, { timeout: START_MS_MAX });

after(async () => {
  await browser?.close();
  if (run?.exitCode === null) {
    run.kill("SIGTERM");
    await once(run, "exit");
  }
  if (!folder) return;
  await promisify(execFile)(CLEAR, ["down", join(folder, "run")]); // the data may be elsewhere
  await rm(folder, { recursive: true });
});

async function ready() {
  const end = Date.now() + START_MS_MAX;
  while (Date.now() < end && run.exitCode === null) {
    const response = await fetch(`${address}ready`).catch(() => null);
    if (response?.ok) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`walcast is not ready:\n${output}`);
}

async function sql(...statements) {
  const url = `postgres://walcast_owner@127.0.0.1:${postgresPort}/walcast`;
  const commands = statements.flatMap((statement) => ["-c", statement]);
  await promisify(execFile)("psql", ["-Xq", "-v", "ON_ERROR_STOP=1", "-d", url, ...commands]);
}

async function subscribe(pane, name) {
  await pane.user.selectOption({ label: name });
  await pane.connect.click();
  await pane.state.filter({ hasText: /^Connected$/ }).waitFor();
  await pane.subscribe.click();
  await pane.subscriptions.getByText("live").waitFor();
}

// What the pane's rows say, the oldest first: the kind and the preview of the record.
async function events(pane) {
  const rows = await pane.rows.evaluateAll((rows) => rows.map((row) => {
    const [, kind, , record] = [...row.querySelector("summary").children].map((cell) => cell.textContent);
    return `${kind} ${record}`;
  }));
  return rows.reverse();
}

// The kinds in order, and not one row that names anything of the other's.
async function assertOwn(pane, kinds, foreign) {
  const seen = await events(pane);
  assert.deepEqual(seen.map((event) => event.split(" ")[0]), kinds, seen.join("\n"));
  const text = await pane.root.textContent(); // the wire's tab is part of it
  for (const word of foreign) assert.ok(!text.includes(word), `${word} in ${text}`);
}

test("alice and bob each see their own rows only, DELETE included", async () => {
  const page = await open(browser, address);
  const [alice, bob] = [session(page, 1), session(page, 2)];
  await subscribe(alice, "alice");
  await subscribe(bob, "bob");
  await sql(
    `INSERT INTO todos (user_id, title) VALUES ('${ALICE}', 'alices secret'), ('${BOB}', 'bobs secret')`,
    "UPDATE todos SET done = true WHERE title IN ('alices secret', 'bobs secret')",
    "DELETE FROM todos WHERE title IN ('alices secret', 'bobs secret')",
    // The sentinels: when they are there, everything before them has been decided.
    `INSERT INTO todos (user_id, title) VALUES ('${ALICE}', 'the end of A'), ('${BOB}', 'the end of B')`,
  );
  await alice.rows.filter({ hasText: "the end of A" }).waitFor();
  await bob.rows.filter({ hasText: "the end of B" }).waitFor();
  const kinds = ["INSERT", "UPDATE", "DELETE", "INSERT"];
  await assertOwn(alice, kinds, ["bobs secret", "the end of B", BOB]);
  await assertOwn(bob, kinds, ["alices secret", "the end of A", ALICE]);
  const deleted = alice.rows.nth(1);
  await deleted.locator("summary").first().click();
  assert.match(await deleted.getByRole("table").textContent(), /alices secret/);
  await screenshot(page, "stack");
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test("a row handed over to another leaves the one and reaches the other", async () => {
  const page = await open(browser, address);
  const [alice, bob] = [session(page, 1), session(page, 2)];
  await subscribe(alice, "alice");
  await subscribe(bob, "bob");
  await sql(
    `INSERT INTO todos (user_id, title) VALUES ('${ALICE}', 'private note')`,
    `UPDATE todos SET user_id = '${BOB}', title = 'for bob' WHERE title = 'private note'`,
    `INSERT INTO todos (user_id, title) VALUES ('${ALICE}', 'the end of A'), ('${BOB}', 'the end of B')`,
  );
  await alice.rows.filter({ hasText: "the end of A" }).waitFor();
  await bob.rows.filter({ hasText: "the end of B" }).waitFor();
  assert.equal((await events(alice)).length, 3, "insert, the leaving, the sentinel");
  assert.ok(!(await alice.root.textContent()).includes("for bob"));
  assert.ok(!(await bob.root.textContent()).includes("private note"));
  assert.ok((await bob.root.textContent()).includes("for bob"));
  await page.context().close();
});

test("the page obeys a strict content security policy, and anonymous strangers see nothing", async () => {
  const response = await fetch(address);
  const policy = response.headers.get("content-security-policy") ?? "";
  assert.match(policy, /default-src 'none'/);
  assert.doesNotMatch(policy, /unsafe/);
  const page = await open(browser, address);
  const pane = session(page, 1);
  await pane.user.selectOption("anonymous");
  await pane.connect.click();
  await pane.state.filter({ hasText: /^Connected$/ }).waitFor();
  await pane.subscribe.click();
  await pane.subscriptions.getByText("refused").waitFor();
  assert.match(await pane.alert.textContent(), /UNAUTHORIZED/);
  await sql(`INSERT INTO todos (user_id, title) VALUES ('${ALICE}', 'not for strangers')`);
  await pane.state.filter({ hasText: "Not signed in" }).waitFor(); // no token in time
  assert.ok(!(await pane.root.textContent()).includes("not for strangers"));
  assert.deepEqual(page.faults, []);
  await page.context().close();
});
