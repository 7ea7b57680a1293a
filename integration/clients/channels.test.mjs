// Broadcast, presence and private channels as supabase-js speaks them, in both versions of the protocol.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";

import { ALICE, BOB, Stack } from "./stack.mjs";
import { Clients, VERSIONS, joined, joining } from "./supabase.mjs";
import { Inbox, until } from "./wait.mjs";

let stack, clients, rooms = 0;

before(async () => {
  stack = await Stack.start();
  clients = new Clients(stack);
}, { timeout: 240_000 });
after(() => stack?.stop());
afterEach(() => clients.end());

const bytes = (...values) => new Uint8Array(values).buffer;
const heard = (channel, event = "*") => {
  const inbox = new Inbox();
  channel.on("broadcast", { event }, inbox.push);
  return inbox;
};
const presence = (channel) => {
  const [sync, join, leave] = [new Inbox(), new Inbox(), new Inbox()];
  channel.on("presence", { event: "sync" }, () => sync.push(structuredClone(channel.presenceState())));
  channel.on("presence", { event: "join" }, join.push);
  channel.on("presence", { event: "leave" }, leave.push);
  return { sync, join, leave };
};
const send = (channel, event, payload) => channel.send({ type: "broadcast", event, payload });
const member = (user) => stack.token("authenticated", user);

for (const vsn of VERSIONS) {
  describe(`version ${vsn}`, () => {
    let room;
    test.beforeEach(() => { room = `room ${rooms += 1}`; });

    test("a broadcast reaches the others, and the sender where it wants so", async () => {
      const [one, two] = [(await clients.make({ vsn })).channel(room), (await clients.make({ vsn })).channel(room)];
      const own = (await clients.make({ vsn })).channel(room, { config: { broadcast: { self: true, ack: true } } });
      const [ones, twos, owns] = [one, two, own].map((channel) => heard(channel));
      await Promise.all([one, two, own].map(joined));
      const payload = { text: 'ä "quoted" \n', nested: { list: [1, null, 1.5] } };
      assert.equal(await send(one, "a", payload), "ok");
      assert.deepEqual((await twos.first("a")).payload, payload);
      await owns.first("a");
      assert.equal(await send(own, "b", { n: 1 }), "ok"); // with a word from the server
      const events = async (inbox, count) => (await inbox.atLeast(count)).map((message) => message.event);
      assert.deepEqual(await events(twos, 2), ["a", "b"]);
      assert.deepEqual(await events(owns, 2), ["a", "b"]);
      assert.deepEqual(await events(ones, 1), ["b"]);
    });

    test("broadcasts of one sender come in order, by their event", async () => {
      const [one, two] = [(await clients.make({ vsn })).channel(room), (await clients.make({ vsn })).channel(room)];
      const [odd, all] = [heard(two, "odd"), heard(two)];
      await Promise.all([joined(one), joined(two)]);
      for (let n = 0; n < 60; n += 1) await send(one, n % 2 ? "odd" : "even", { n });
      const messages = await all.atLeast(60);
      assert.deepEqual(messages.map((message) => message.payload.n), Array.from({ length: 60 }, (_, n) => n));
      assert.deepEqual(odd.items.map((message) => message.payload.n % 2), Array(30).fill(1));
    });

    test("presence of several clients: state, join, update, leave, and leave by a lost connection", async () => {
      const make = async (key) => (await clients.make({ vsn })).channel(room, { config: { presence: { key } } });
      const [one, two, again] = [await make("one"), await make("two"), await make("two")];
      const seen = presence(one);
      [two, again].forEach(presence);
      await joined(one);
      assert.deepEqual(await seen.sync.first("the state"), {});
      assert.equal(await one.track({ mood: "good" }), "ok");
      await joined(two);
      await until("two sees one", () => two.presenceState().one?.[0].mood === "good");
      await two.track({ n: 1 });
      const { newPresences } = await seen.join.first("two joins", ({ key }) => key === "two");
      assert.equal(newPresences[0].n, 1);
      assert.match(newPresences[0].presence_ref, /^.{8,}$/);
      await two.track({ n: 2 }); // an update
      await until("one sees the update", () => one.presenceState().two?.map(({ n }) => n).join() === "2");
      await joined(again);
      await again.track({ n: 3 }); // a second connection of the same key
      await until("two connections", () => one.presenceState().two?.map(({ n }) => n).sort().join() === "2,3");
      again.socket.socketAdapter.getSocket().conn.terminate(); // as if the machine had gone
      again.socket.disconnect();
      await until("one connection", () => one.presenceState().two?.map(({ n }) => n).join() === "2");
      seen.leave.clear();
      assert.equal(await two.untrack(), "ok");
      const left = await seen.leave.first("two leaves", ({ key }) => key === "two");
      assert.deepEqual(left.leftPresences.map(({ n }) => n), [2]);
      await until("one is alone", () => Object.keys(one.presenceState()).join() === "one");
    });

    test("a private channel lets in, and lets speak, whom the policies name", async () => {
      await stack.sql(`INSERT INTO members VALUES ('${ALICE}', '${room}', true), ('${BOB}', '${room}', false)`);
      const open = async (token) => (await clients.make({ vsn, token }))
        .channel(room, { config: { private: true, broadcast: { self: true }, presence: { key: "k" } } });
      const [alice, bob] = [await open(member(ALICE)), await open(member(BOB))];
      const [alices, bobs] = [heard(alice), heard(bob)];
      [alice, bob].forEach(presence);
      await Promise.all([joined(alice), joined(bob)]);
      await send(bob, "no", {}); // goes nowhere
      assert.notEqual(await bob.track({ who: "bob" }), "ok");
      await send(alice, "yes", { a: 1 });
      assert.deepEqual((await bobs.first("alice's")).payload, { a: 1 });
      await alices.first("alice's");
      assert.deepEqual([...alices.items, ...bobs.items].map(({ event }) => event), ["yes", "yes"]);
      assert.equal(await alice.track({ who: "alice" }), "ok");
      await until("bob sees alice", () => bob.presenceState().k?.[0].who === "alice");

      const outside = (await clients.make({ vsn })).channel(room, { config: { private: true } });
      const [status, error] = await joining(outside).first("a refusal");
      assert.equal(status, "CHANNEL_ERROR");
      assert.match(error, new RegExp(`Unauthorized: You do not have permissions to read from this Channel topic: ${room}$`));
    });

    test("the public channel of the same name is another one", async () => {
      await stack.sql(`INSERT INTO members VALUES ('${ALICE}', '${room}', true)`);
      const secret = (await clients.make({ vsn, token: member(ALICE) })).channel(room, { config: { private: true } });
      const [stranger, friend] = [(await clients.make({ vsn })).channel(room), (await clients.make({ vsn })).channel(room)];
      const [secrets, strangers] = [heard(secret), heard(stranger)];
      await Promise.all([secret, stranger, friend].map(joined));
      await send(secret, "secret", {});
      await send(friend, "public", {});
      await strangers.first("the public one");
      await stack.sql(`SELECT realtime.send('{}', 'end', '${room}', true)`);
      await secrets.first("the end");
      assert.deepEqual(strangers.items.map(({ event }) => event), ["public"]);
      assert.deepEqual(secrets.items.map(({ event }) => event), ["end"]);
    });

    test("over HTTP: before joining, and by httpSend", async () => {
      const listener = (await clients.make({ vsn })).channel(room);
      const inbox = heard(listener);
      await joined(listener);
      const sender = (await clients.make({ vsn })).channel(room);
      assert.equal(await send(sender, "rest", { a: 1 }), "ok"); // not joined
      assert.deepEqual((await inbox.first("rest", ({ event }) => event === "rest")).payload, { a: 1 });
      assert.equal((await sender.httpSend("by http", { b: [2] })).success, true);
      assert.deepEqual((await inbox.first("by http", ({ event }) => event === "by http")).payload, { b: [2] });
      assert.equal((await sender.httpSend("bytes", bytes(1, 0, 255))).success, true);
      if (vsn === "1.0.0") return; // has no frame for bytes
      const { payload } = await inbox.first("bytes", ({ event }) => event === "bytes");
      assert.deepEqual([...new Uint8Array(payload)], [1, 0, 255]);
    });

    test("over HTTP into a private channel, as the policies let", async () => {
      await stack.sql(`INSERT INTO members VALUES ('${ALICE}', '${room}', true), ('${BOB}', '${room}', false)`);
      const open = async (user) => (await clients.make({ vsn, token: member(user) })).channel(room, { config: { private: true } });
      const [alice, bob] = [await open(ALICE), await open(BOB)];
      const listener = await open(BOB);
      const inbox = heard(listener);
      await joined(listener);
      const refused = await bob.httpSend("no", { a: 1 }).catch((error) => error);
      assert.ok(refused instanceof Error || refused.success === false, JSON.stringify(refused));
      assert.equal((await alice.httpSend("yes", { a: 2 })).success, true);
      await inbox.first("alice's");
      assert.deepEqual(inbox.items.map(({ event }) => event), ["yes"]);
    });

    test("from SQL: send, send_binary, broadcast_changes, in order", async () => {
      await stack.sql(`INSERT INTO members VALUES ('${ALICE}', '${room}', true), ('${ALICE}', 'orders', true)`);
      const client = await clients.make({ vsn, token: member(ALICE) });
      const [channel, orders] = [room, "orders"].map((topic) => client.channel(topic, { config: { private: true } }));
      const [inbox, changes] = [heard(channel), heard(orders)];
      await Promise.all([joined(channel), joined(orders)]);
      await stack.sql(
        `SELECT realtime.send('{"n":1}', 'first', '${room}')`,
        `SELECT realtime.send_binary('\\x01ff', 'bytes', '${room}')`,
        `BEGIN; SELECT realtime.send('{"n":0}', 'never', '${room}'); ROLLBACK`,
        `SELECT realtime.send(jsonb_build_object('n', n), 'many', '${room}') FROM generate_series(1, 20) AS n`,
      );
      await inbox.first("the last", ({ payload }) => payload.n === 20);
      const events = inbox.items.map(({ event }) => event);
      assert.deepEqual(events, ["first", ...(vsn === "2.0.0" ? ["bytes"] : []), ...Array(20).fill("many")]);
      const many = inbox.items.filter(({ event }) => event === "many");
      assert.deepEqual(many.map(({ payload }) => payload.n), Array.from({ length: 20 }, (_, n) => n + 1));
      assert.match(inbox.items[0].payload.id, /^[0-9a-f-]{36}$/);

      await stack.sql("INSERT INTO orders VALUES (1, 'new')", "UPDATE orders SET state = 'sent'", "DELETE FROM orders");
      await changes.first("the delete", ({ event }) => event === "DELETE");
      const told = changes.items.map(({ payload }) => [payload.operation, payload.record?.state, payload.old_record?.state]);
      assert.deepEqual(told, [["INSERT", "new", undefined], ["UPDATE", "sent", "new"], ["DELETE", undefined, "sent"]]);
    });

    test("replay of a private channel, oldest first, then what is live", async () => {
      await stack.sql(`INSERT INTO members VALUES ('${ALICE}', '${room}', true)`);
      const before = (await clients.make({ vsn, token: member(ALICE) })).channel(room, { config: { private: true } });
      const live = heard(before);
      await joined(before);
      await stack.sql(`SELECT realtime.send(jsonb_build_object('n', n), 'old', '${room}') FROM generate_series(1, 5) AS n`);
      await live.atLeast(5); // who joins now hears them no more but as old ones
      const replay = { since: Date.now() - 60_000, limit: 3 };
      const channel = (await clients.make({ vsn, token: member(ALICE) }))
        .channel(room, { config: { private: true, broadcast: { replay } } });
      const inbox = heard(channel);
      await joined(channel);
      await stack.sql(`SELECT realtime.send('{"n":6}', 'new', '${room}')`);
      await inbox.first("the new one", ({ event }) => event === "new");
      const told = inbox.items.map(({ payload, meta }) => [payload.n, meta?.replayed ?? false]);
      assert.deepEqual(told, [[3, true], [4, true], [5, true], [6, false]]);
    });
  });
}

test("versions hear each other; bytes reach version 2 alone", async () => {
  const room = "versions";
  const [one, two, other] = await Promise.all(["1.0.0", "2.0.0", "2.0.0"].map(async (vsn) =>
    (await clients.make({ vsn })).channel(room, { config: { broadcast: { ack: true, self: true } } })));
  const inboxes = [one, two, other].map((channel) => heard(channel));
  await Promise.all([one, two, other].map(joined));
  assert.equal(await send(one, "from 1", { a: 1 }), "ok");
  assert.equal(await send(two, "from 2", { a: 2 }), "ok");
  assert.equal(await send(two, "bytes", bytes(0, 1, 254)), "ok");
  assert.equal(await send(one, "end", {}), "ok");
  await Promise.all(inboxes.map((inbox) => inbox.first("the end", ({ event }) => event === "end")));
  const events = inboxes.map((inbox) => inbox.items.map(({ event }) => event));
  assert.deepEqual(events, [["from 1", "from 2", "end"], ["from 1", "from 2", "bytes", "end"], ["from 1", "from 2", "bytes", "end"]]);
  const { payload } = inboxes[2].items[2];
  assert.deepEqual([...new Uint8Array(payload)], [0, 1, 254]);
});
