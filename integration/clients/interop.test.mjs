// Clients of the native protocol and of Supabase's, on the same table and the same topic.

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, afterEach, before, test } from "node:test";
import WebSocket from "ws";

import { ALICE, Stack } from "./stack.mjs";
import { Clients, VERSIONS, joined, live, systemOf } from "./supabase.mjs";
import { Inbox, until } from "./wait.mjs";

let stack, clients;
const sockets = [];

before(async () => {
  stack = await Stack.start();
  clients = new Clients(stack);
}, { timeout: 240_000 });
after(() => stack?.stop());
afterEach(async () => {
  await clients.end();
  for (const socket of sockets.splice(0)) socket.terminate();
});

async function native() {
  const socket = new WebSocket(`${stack.url.replace("http", "ws")}/realtime?token=${stack.token("authenticated", ALICE)}`);
  sockets.push(socket);
  const inbox = new Inbox();
  socket.on("message", (data) => inbox.push(JSON.parse(data)));
  await once(socket, "open");
  return { inbox, say: (message) => socket.send(JSON.stringify(message)) };
}

async function subscribed({ inbox, say }, channel, more) {
  say({ type: "subscribe", channel, ...more });
  await inbox.first(`an ack of ${channel}`, (one) => one.type === "ack" && one.channel === channel);
}

for (const vsn of VERSIONS) {
  test(`version ${vsn}: the same change`, async () => {
    const one = await native();
    await subscribed(one, "table:public.notes");
    const channel = (await clients.make({ vsn, token: stack.token("authenticated", ALICE) })).channel("room");
    const [system, inbox] = [systemOf(channel), new Inbox()];
    channel.on("postgres_changes", { event: "*", schema: "public", table: "notes" }, inbox.push);
    await live(channel, system);
    await stack.sql(`INSERT INTO notes (user_id, text) VALUES ('${ALICE}', 'x')`, "UPDATE notes SET text = 'y'", "DELETE FROM notes");
    await inbox.atLeast(3);
    const isChange = ({ type, payload }) => type === "broadcast" && payload.table === "notes";
    await until("three changes", () => one.inbox.items.filter(isChange).length === 3);
    const natives = one.inbox.items.filter(isChange).map(({ payload }) => payload);
    const told = (kind, row, old) => [kind, row ?? {}, old ?? {}];
    assert.deepEqual(
      inbox.items.map((change) => told(change.eventType, change.new, change.old)),
      natives.map(({ type, record, old_record }) => told(type, record, old_record)),
    );
  });

  test(`version ${vsn}: broadcasts of the same topic, JSON and bytes`, async () => {
    const one = await native();
    const topic = `talk ${vsn}`;
    await subscribed(one, `broadcast:${topic}`, { config: {} });
    const channel = (await clients.make({ vsn })).channel(topic);
    const heard = new Inbox();
    channel.on("broadcast", { event: "*" }, heard.push);
    await joined(channel);
    const payload = { text: 'ä "x" \n', n: [1, null] };
    await channel.send({ type: "broadcast", event: "from phoenix", payload });
    const told = await one.inbox.first("phoenix's", ({ event }) => event === "from phoenix");
    assert.deepEqual([told.type, told.channel, told.payload], ["broadcast", `broadcast:${topic}`, payload]);
    one.say({ type: "broadcast", channel: `broadcast:${topic}`, event: "from native", payload });
    assert.deepEqual((await heard.first("native's")).payload, payload);
    if (vsn === "1.0.0") return;
    await channel.send({ type: "broadcast", event: "bytes", payload: new Uint8Array([0, 1, 254]).buffer });
    const bytes = await one.inbox.first("bytes", ({ event }) => event === "bytes");
    assert.deepEqual([bytes.encoding, bytes.payload], ["base64", "AAH+"]);
  });

  test(`version ${vsn}: presence of the same topic`, async () => {
    const one = await native();
    const topic = `who ${vsn}`;
    await subscribed(one, `presence:${topic}`, { config: { key: "native" } });
    const channel = (await clients.make({ vsn })).channel(topic, { config: { presence: { key: "phoenix" } } });
    channel.on("presence", { event: "sync" }, () => {});
    await joined(channel);
    assert.equal(await channel.track({ n: 1 }), "ok");
    const diff = await one.inbox.first("a diff", ({ event, payload }) => event === "diff" && payload.joins.phoenix);
    assert.deepEqual(diff.payload.joins.phoenix.map(({ state }) => state), [{ n: 1 }]);
    one.say({ type: "presence", channel: `presence:${topic}`, event: "track", state: { m: 2 } });
    await until("phoenix sees native", () => channel.presenceState().native?.[0].m === 2);
    one.say({ type: "unsubscribe", channel: `presence:${topic}` });
    await until("native has left", () => !channel.presenceState().native);
  });
}
