// What happens to supabase-js's channels when tokens change or expire, and when the server goes and comes back.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, afterEach, before, describe, test } from "node:test";

import { ALICE, BOB, Stack } from "./stack.mjs";
import { Clients, VERSIONS, joined, live, systemOf } from "./supabase.mjs";
import { Inbox, until } from "./wait.mjs";

// A token that is soon over, and not before what has to be done on a busy machine.
const SHORT_S = 20;

let stack, clients, rooms = 0;

before(async () => {
  stack = await Stack.start();
  clients = new Clients(stack);
}, { timeout: 240_000 });
after(() => stack?.stop());
afterEach(() => clients.end());

const member = (user, seconds) => stack.token("authenticated", user, seconds);
const insert = (user, text) => stack.sql(`INSERT INTO notes (user_id, text) VALUES ('${user}', '${text}')`);
const texts = (inbox) => inbox.items.map((change) => change.new.text);
const subscribed = (statuses) => statuses.items.filter(([status]) => status === "SUBSCRIBED").length;
const lives = (system) => system.items.filter(({ message }) => message === "Subscribed to PostgreSQL").length;

function notes(channel) {
  const inbox = new Inbox();
  channel.on("postgres_changes", { event: "INSERT", schema: "public", table: "notes" }, inbox.push);
  return inbox;
}

// They wait for the same time at the same time, each as a user of its own.
describe("tokens that expire", { concurrency: true }, () => {
  for (const vsn of VERSIONS) {
    test(`version ${vsn}: one that was replaced in time may`, () => alone(async (own, user, room) => {
      let token = member(user, SHORT_S);
      const over = Date.now() + SHORT_S * 1000;
      const client = await own.make({ vsn, token: async () => token });
      const channel = client.channel(room);
      const [system, inbox] = [systemOf(channel), notes(channel)];
      const statuses = await live(channel, system);
      token = member(user);
      await client.realtime.setAuth();
      await until("subscribed again", () => lives(system) >= 2);
      await until("the first token's time is over", () => Date.now() > over + 500);
      await insert(user, "after");
      await inbox.first("the row");
      assert.deepEqual(statuses.items, [["SUBSCRIBED", undefined]]);
      assert.deepEqual(texts(inbox), ["after"]);
    }));

    test(`version ${vsn}: its channel ends, and the next token brings it back`, () => alone(async (own, user, room) => {
      let token = member(user, SHORT_S);
      const client = await own.make({ vsn, token: async () => token });
      const channel = client.channel(room);
      const [system, inbox] = [systemOf(channel), notes(channel)];
      const statuses = await live(channel, system);
      const told = await system.first("expiry", ({ extension }) => extension === "system");
      assert.equal(told.status, "error");
      assert.match(told.message, /^Token has expired \d+ seconds ago$/);
      assert.equal(told.channel, room);
      await statuses.first("an error", ([status]) => status === "CHANNEL_ERROR");
      token = member(user);
      await client.realtime.setAuth(); // as the client does by itself with its next heartbeat
      await until("joined again", () => subscribed(statuses) >= 2);
      await until("live again", () => lives(system) >= 2);
      await insert(user, "again");
      await inbox.first("the row");
      assert.deepEqual(texts(inbox), ["again"]);
    }));
  }

  async function alone(body) {
    const own = new Clients(stack);
    try {
      await body(own, randomUUID(), `room ${rooms += 1}`);
    } finally {
      await own.end();
    }
  }
});

for (const vsn of VERSIONS) {
  describe(`version ${vsn}`, () => {
    let room;
    test.beforeEach(() => { room = `room ${rooms += 1}`; });

    test("a new token changes whose rows are heard, and the channel stays", async () => {
      let token = member(ALICE);
      const client = await clients.make({ vsn, token: async () => token });
      const channel = client.channel(room);
      const [system, inbox] = [systemOf(channel), notes(channel)];
      const statuses = await live(channel, system);
      await insert(ALICE, "alice 1");
      await inbox.first("alice's");
      token = member(BOB);
      await client.realtime.setAuth();
      await until("subscribed again, as bob", () => lives(system) >= 2);
      await stack.sql(`INSERT INTO notes (user_id, text) VALUES ('${ALICE}', 'alice 2'), ('${BOB}', 'bob 1')`);
      await inbox.first("bob's", ({ new: row }) => row.text === "bob 1");
      assert.deepEqual(texts(inbox), ["alice 1", "bob 1"]);
      assert.deepEqual(statuses.items, [["SUBSCRIBED", undefined]]);
    });

    test("who is no member any more is put out of a private channel for good", async () => {
      await stack.sql(`INSERT INTO members VALUES ('${ALICE}', '${room}', true)`);
      let token = member(ALICE);
      const client = await clients.make({ vsn, token: async () => token });
      const channel = client.channel(room, { config: { private: true } });
      const system = systemOf(channel);
      const statuses = await joined(channel);
      token = member(BOB);
      await client.realtime.setAuth();
      const told = await system.first("the reason");
      assert.equal(told.message, `You no longer have permission to read from this Channel topic: ${room}`);
      await statuses.first("closed", ([status]) => status === "CLOSED");
    });

    test("while Postgres restarts channels stay, and no row is missed", async () => {
      await stack.sql(`INSERT INTO members VALUES ('${ALICE}', '${room}', true)`);
      const client = await clients.make({ vsn, token: member(ALICE) });
      const channel = client.channel(room, { config: { private: true, broadcast: { ack: true, self: true } } });
      const [system, inbox, heard] = [systemOf(channel), notes(channel), new Inbox()];
      channel.on("broadcast", { event: "*" }, heard.push);
      const statuses = await live(channel, system);
      await insert(ALICE, "before");
      await stack.restartPostgres();
      await insert(ALICE, "after");
      await stack.sql(`SELECT realtime.send('{}', 'from SQL', '${room}')`);
      await inbox.first("the row", ({ new: row }) => row.text === "after");
      await heard.first("the message of SQL");
      assert.equal(await channel.send({ type: "broadcast", event: "e", payload: {} }), "ok");
      assert.deepEqual(texts(inbox), ["before", "after"]);
      assert.deepEqual(statuses.items, [["SUBSCRIBED", undefined]]);
    });

    for (const signal of ["SIGTERM", "SIGKILL"]) {
      test(`after ${signal} and a new start everything works as before`, async () => {
        await stack.sql(`INSERT INTO members VALUES ('${ALICE}', '${room}', true)`);
        const make = async () => {
          const client = await clients.make({ vsn, token: member(ALICE), realtime: { reconnectAfterMs: () => 200 } });
          const channel = client.channel(room, { config: { private: true, broadcast: { ack: true } } });
          const [system, inbox, heard, bare] = [systemOf(channel), notes(channel), new Inbox(), client.channel("bare")];
          channel.on("broadcast", { event: "*" }, heard.push);
          const here = new Inbox();
          channel.on("presence", { event: "sync" }, () => here.push(Object.keys(channel.presenceState()).length));
          const statuses = await live(channel, system);
          return { channel, system, inbox, heard, statuses, here, bare, bares: await joined(bare) };
        };
        const [one, two] = [await make(), await make()];
        await stack.stopServer(signal);
        await Promise.all([one, two].map(({ statuses }) =>
          statuses.first("an error", ([status]) => status !== "SUBSCRIBED")));
        await stack.serve();
        for (const { statuses, bares, system } of [one, two]) {
          await until("joined again", () => subscribed(statuses) >= 2 && subscribed(bares) >= 2);
          await until("live again", () => lives(system) >= 2);
        }
        await insert(ALICE, signal);
        await Promise.all([one, two].map(({ inbox }) => inbox.first("the row")));
        assert.equal(await one.channel.send({ type: "broadcast", event: "a", payload: { n: 1 } }), "ok");
        assert.equal(await two.channel.send({ type: "broadcast", event: "b", payload: { n: 2 } }), "ok");
        await Promise.all([one.heard.first("b"), two.heard.first("a")]);
        assert.equal(await one.channel.track({ n: 1 }), "ok");
        await until("present", () => two.here.items.at(-1) === 1);
        assert.deepEqual([texts(one.inbox), texts(two.inbox)], [[signal], [signal]]);
        assert.deepEqual([one.heard.items.length, two.heard.items.length], [1, 1]);
      });
    }
  });
}
