// Numbers beyond what a double holds, through the JSON.parse that every JavaScript client uses.

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, afterEach, before, test } from "node:test";
import WebSocket from "ws";

import { ALICE, Stack } from "./stack.mjs";
import { Inbox } from "./wait.mjs";

let stack;
const sockets = [];

// Two neighbours that are one number to JavaScript.
const [KEY, NEIGHBOUR] = ["9007199254740993", "9007199254740992"];
const PRICE = "0.1234567890123456789";

before(async () => {
  stack = await Stack.start();
  await stack.sql(
    "CREATE TABLE ledger (id bigint PRIMARY KEY, price numeric, parts numeric[], n integer, ratio float8)",
    "GRANT SELECT ON ledger TO authenticated",
    "SELECT enable_realtime('ledger')",
    `INSERT INTO ledger VALUES (${KEY}, ${PRICE}, '{${PRICE},NULL,NaN}', 7, 0.1), (${NEIGHBOUR}, 2.50, '{}', 8, 1e300)`,
  );
}, { timeout: 240_000 });
after(() => stack?.stop());
afterEach(() => { for (const socket of sockets.splice(0)) socket.terminate(); });

async function subscribed(fields, query = "") {
  const url = `${stack.url.replace("http", "ws")}/realtime?token=${stack.token("authenticated", ALICE)}${query}`;
  const socket = new WebSocket(url);
  sockets.push(socket);
  const inbox = new Inbox();
  socket.on("message", (data) => inbox.push(JSON.parse(data)));
  await once(socket, "open");
  socket.send(JSON.stringify({ type: "subscribe", channel: "table:ledger", ...fields }));
  inbox.ack = await inbox.first("an ack", ({ type }) => type === "ack");
  return inbox;
}

const change = (inbox, kind) =>
  inbox.first(kind, ({ payload }) => payload?.type === kind).then(({ payload }) => payload);
const caughtUp = (inbox) => inbox.first("caught up", ({ event }) => event === "caught_up");
const rowsOf = async (inbox) => {
  await inbox.first("all rows", ({ event }) => event === "snapshot_complete");
  return inbox.items.filter(({ type }) => type === "snapshot").flatMap(({ payload }) => payload.records);
};

const ROWS = [
  { id: NEIGHBOUR, price: "2.50", parts: [], n: 8, ratio: 1e300 },
  { id: KEY, price: PRICE, parts: [PRICE, null, "NaN"], n: 7, ratio: 0.1 },
];
const byKey = (one, other) => Number(BigInt(one.id) - BigInt(other.id));

test("as numbers two keys become one", async () => {
  const rows = await rowsOf(await subscribed({ snapshot: true }));
  assert.deepEqual(new Set(rows.map(({ id }) => id)), new Set([2 ** 53]));
});

test("as strings rows, changes and what was missed keep every digit", async () => {
  const inbox = await subscribed({ snapshot: true, numbers: "string" });
  assert.equal(inbox.ack.numbers, "string");
  assert.deepEqual((await rowsOf(inbox)).sort(byKey), ROWS);

  const since = inbox.items.at(-1).cursor;
  await stack.sql(`UPDATE ledger SET n = 9 WHERE id = ${KEY}`);
  const updated = await change(inbox, "UPDATE");
  assert.deepEqual(updated.record, { ...ROWS[1], n: 9 });
  assert.deepEqual(updated.old_record, ROWS[1]);

  // What came goes back as it is: into a filter, into SQL.
  const filtered = await subscribed({ filter: `id=eq.${updated.record.id}`, numbers: "string" });
  await stack.sql(`DELETE FROM ledger WHERE id = ${NEIGHBOUR}`, `DELETE FROM ledger WHERE id = ${updated.record.id}`);
  assert.equal((await change(filtered, "DELETE")).old_record.id, KEY);
  await stack.sql(`INSERT INTO ledger VALUES (${KEY}, ${PRICE})`);
  assert.equal((await change(filtered, "INSERT")).record.price, PRICE);
  assert.equal(filtered.items.length, 3, "nothing of its neighbour");

  const back = await subscribed({ since, numbers: "string" });
  await caughtUp(back);
  const told = back.items.filter(({ type }) => type === "broadcast").map(({ payload }) => [payload.type, (payload.record ?? payload.old_record).id]);
  assert.deepEqual(told, [["UPDATE", KEY], ["DELETE", NEIGHBOUR], ["DELETE", KEY], ["INSERT", KEY]]);
});

test("a connection asks once, in its URL", async () => {
  const inbox = await subscribed({}, "&numbers=string");
  await stack.sql(`INSERT INTO ledger VALUES (-${KEY}, -${PRICE})`);
  const { record } = await change(inbox, "INSERT");
  assert.deepEqual([record.id, record.price, record.parts, record.n], [`-${KEY}`, `-${PRICE}`, null, null]);
});
