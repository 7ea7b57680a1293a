// What applications do besides: other endpoints, names and sizes, joins that wait, keys that are no JWT, limits.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { RealtimeClient, createClient } from "@supabase/supabase-js";
import WebSocket from "ws";

import { ALICE, BOB, Stack } from "./stack.mjs";
import { Clients, VERSIONS, joined, joining, live, systemOf } from "./supabase.mjs";
import { DEADLINE_MS, Inbox, until } from "./wait.mjs";

const PUBLISHABLE = "sb_publishable_0123456789abcdef";
const SECRET = "sb_secret_0123456789abcdef";

let stack, clients;

before(async () => {
  stack = await Stack.start({ WALCAST_API_KEYS: `${PUBLISHABLE}=anon,${SECRET}=service_role` });
  clients = new Clients(stack);
}, { timeout: 240_000 });
after(() => stack?.stop());
afterEach(() => clients.end());

const heard = (channel) => {
  const inbox = new Inbox();
  channel.on("broadcast", { event: "*" }, inbox.push);
  return inbox;
};
const send = (channel, event, payload) => channel.send({ type: "broadcast", event, payload });
const items = (channel, more) => {
  const inbox = new Inbox();
  channel.on("postgres_changes", { event: "*", schema: "public", table: "items", ...more }, inbox.push);
  return inbox;
};

test("at /socket, one batch over HTTP reaches both versions", async () => {
  const open = VERSIONS.map((vsn) => new RealtimeClient(`${stack.url.replace("http", "ws")}/socket`, {
    params: { apikey: stack.token("anon") }, transport: WebSocket, vsn, timeout: DEADLINE_MS,
  }));
  const inboxes = [];
  for (const client of open) {
    const [one, two] = [client.channel("one"), client.channel("two")];
    inboxes.push([heard(one), heard(two)]);
    await Promise.all([joined(one), joined(two)]);
  }
  const messages = ["one", "two", "one"].map((topic, n) => ({ topic, event: `e${n}`, payload: { n } }));
  const response = await fetch(`${stack.url}/api/broadcast`, {
    method: "POST",
    headers: { apikey: stack.token("anon"), "content-type": "application/json" },
    body: JSON.stringify({ messages }),
  });
  assert.equal(response.status, 202);
  for (const [one, two] of inboxes) {
    assert.deepEqual((await one.atLeast(2)).map(({ event, payload }) => [event, payload.n]), [["e0", 0], ["e2", 2]]);
    assert.deepEqual((await two.atLeast(1)).map(({ event }) => event), ["e1"]);
  }
  await Promise.all(open.map((client) => client.disconnect()));
});

for (const vsn of VERSIONS) {
  describe(`version ${vsn}`, () => {
    test("channels of any name, left and joined again, many at once", async () => {
      const names = ["ä ö", 'quo"te', "a:b:c", "日本語", "back\\slash", "with/slash?and=more", "x".repeat(200)];
      const client = await clients.make({ vsn });
      const channels = [...names, ...Array.from({ length: 60 }, (_, n) => `many ${n}`)].map((name) =>
        client.channel(name, { config: { broadcast: { self: true } } }));
      const inboxes = channels.map(heard);
      await Promise.all(channels.map(joined));
      for (const channel of channels) await send(channel, "e", { name: channel.subTopic });
      await Promise.all(inboxes.map((inbox) => inbox.first("its own")));
      assert.deepEqual(inboxes.map(({ items: [message] }) => message.payload.name), channels.map(({ subTopic }) => subTopic));
      assert.equal(await client.removeChannel(channels[0]), "ok");
      const again = client.channel(names[0], { config: { broadcast: { self: true } } });
      const inbox = heard(again);
      await joined(again);
      await send(again, "again", {});
      await inbox.first("its own");
      assert.equal(inboxes[0].items.length, 1);
    });

    test("large messages both ways, and one that is too large", async () => {
      const channel = (await clients.make({ vsn })).channel("large", { config: { broadcast: { self: true, ack: true } } });
      const inbox = heard(channel);
      await joined(channel);
      const text = "ä".repeat(300_000);
      assert.equal(await send(channel, "large", { text }), "ok");
      assert.equal((await inbox.first("it")).payload.text, text);
      assert.equal(await send(channel, "too large", { text: "x".repeat(3_100_000) }), "error");
      assert.equal(await send(channel, "end", {}), "ok");
      await inbox.first("the end", ({ event }) => event === "end");
      assert.deepEqual(inbox.items.map(({ event }) => event), ["large", "end"]);
    });

    test("a join that waits: every row after it is heard, and a wrong one is refused", async () => {
      const client = await clients.make({ vsn });
      const config = { postgres_changes_options: { wait: true } };
      const channel = client.channel("waits", { config });
      const inbox = items(channel, { filter: `run=eq.wait${vsn}` });
      await joined(channel);
      await stack.sql(`INSERT INTO items (run, name) SELECT 'wait${vsn}', n::text FROM generate_series(1, 100) AS n`);
      const rows = await inbox.atLeast(100);
      assert.deepEqual(rows.map((change) => Number(change.new.name)), Array.from({ length: 100 }, (_, n) => n + 1));
      const wrong = client.channel("wrong", { config });
      items(wrong, { table: "no_such_table" });
      const [status, error] = await joining(wrong).first("a refusal");
      assert.equal(status, "CHANNEL_ERROR");
      assert.match(error, /^RealtimeDisabledForConfiguration: /);
    });

    test("changes of many channels of one socket, while some are left", async () => {
      const client = await clients.make({ vsn });
      const run = `leave${vsn}`;
      const channels = Array.from({ length: 20 }, (_, n) => client.channel(`c${n}`));
      const systems = channels.map(systemOf);
      const inboxes = channels.map((channel) => items(channel, { filter: `run=eq.${run}` }));
      await Promise.all(channels.map((channel, n) => live(channel, systems[n])));
      const rows = stack.sql(...Array.from({ length: 50 }, (_, n) =>
        `INSERT INTO items (run, score) VALUES ('${run}', ${n})`));
      await inboxes[0].atLeast(5);
      await Promise.all(channels.slice(10).map((channel) => client.removeChannel(channel)));
      await rows;
      const expected = Array.from({ length: 50 }, (_, n) => n);
      for (const inbox of inboxes.slice(0, 10)) {
        assert.deepEqual((await inbox.atLeast(50)).map((change) => change.new.score), expected);
      }
      for (const inbox of inboxes.slice(10)) {
        const scores = inbox.items.map((change) => change.new.score);
        assert.deepEqual(scores, expected.slice(0, scores.length));
      }
    });

    test("keys that are no JWT stand for their roles", async () => {
      const make = (key) => createClient(stack.url, key, {
        auth: { persistSession: false, autoRefreshToken: false }, realtime: { transport: WebSocket, vsn, timeout: DEADLINE_MS },
      });
      const [anon, service] = [make(PUBLISHABLE), make(SECRET)];
      const rows = [];
      for (const client of [anon, service]) {
        const channel = client.channel("keys");
        const [system, notes] = [systemOf(channel), new Inbox()];
        channel.on("postgres_changes", { event: "INSERT", schema: "public", table: "notes" }, notes.push);
        rows.push([notes, items(channel, { filter: `run=eq.keys${vsn}` })]);
        await live(channel, system);
      }
      const [secret, open] = [new Inbox(), anon.channel("private", { config: { private: true } })];
      const all = service.channel("private", { config: { private: true, broadcast: { self: true } } });
      all.on("broadcast", { event: "*" }, secret.push);
      await joined(all);
      assert.equal((await joining(open).first("a refusal"))[0], "CHANNEL_ERROR");
      await send(all, "e", {});
      await secret.first("its own");
      await stack.sql(`INSERT INTO notes (user_id, text) VALUES ('${ALICE}', 'secret')`,
        `INSERT INTO items (run) VALUES ('keys${vsn}')`);
      await Promise.all(rows.map(([, inbox]) => inbox.first("the item")));
      assert.deepEqual(rows.map(([notes]) => notes.items.length), [0, 1]);
      for (const client of [anon, service]) {
        await client.removeAllChannels();
        await client.realtime.disconnect();
      }
    });

    // What the README tells to try.
    test("a user's token as the key is all that it takes", async () => {
      const realtime = { transport: WebSocket, vsn, timeout: DEADLINE_MS };
      const client = createClient(stack.url, stack.token("authenticated", ALICE), { realtime });
      const [channel, notes] = [client.channel("todos"), new Inbox()];
      const system = systemOf(channel);
      channel.on("postgres_changes", { event: "*", schema: "public", table: "notes" }, notes.push);
      await live(channel, system);
      await stack.sql(`INSERT INTO notes (user_id, text) VALUES ('${BOB}', 'bob'), ('${ALICE}', 'alice')`);
      await notes.first("the row");
      assert.deepEqual(notes.items.map((change) => change.new.text), ["alice"]);
      await client.removeAllChannels();
      await client.realtime.disconnect();
    });

    test("who changes its presence too often is told so, and comes back", async () => {
      const channel = (await clients.make({ vsn })).channel("often", { config: { presence: { key: "k" } } });
      const system = systemOf(channel);
      channel.on("presence", { event: "sync" }, () => {});
      const statuses = await joined(channel);
      for (let n = 0; n < 8 && system.items.length === 0; n += 1) channel.track({ n }).catch(() => {});
      const told = await system.first("a word");
      assert.deepEqual([told.status, told.message], ["error", "Client presence rate limit exceeded"]);
      await until("joined again", () => statuses.items.filter(([status]) => status === "SUBSCRIBED").length >= 2);
    });
  });
}
