// postgres_changes as supabase-js hears them, in both versions of the protocol.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";

import { ALICE, BOB, Stack } from "./stack.mjs";
import { Clients, VERSIONS, joined, live, systemOf } from "./supabase.mjs";
import { Inbox } from "./wait.mjs";

let stack, clients, runs = 0;

before(async () => {
  stack = await Stack.start();
  clients = new Clients(stack);
}, { timeout: 240_000 });
after(() => stack?.stop());
afterEach(() => clients.end());

// [filter, the names of the rows that it lets through]
const ROWS = `
  ('ann', 1, true), ('bob', 2, false), ('cleo, the cat', 3, NULL), ('d"quote', 4, true), (NULL, NULL, NULL)`;
const NAMES = ["ann", "bob", "cleo, the cat", 'd"quote', null];
const FILTERS = [
  ["score=eq.2", ["bob"]],
  ["score=neq.2", ["ann", "cleo, the cat", 'd"quote']],
  ["score=lt.2", ["ann"]],
  ["score=lte.2", ["ann", "bob"]],
  ["score=gt.3", ['d"quote']],
  ["score=gte.3", ["cleo, the cat", 'd"quote']],
  ["score=in.(1,4)", ["ann", 'd"quote']],
  ["name=like.%o%", ["bob", "cleo, the cat", 'd"quote']],
  ["name=ilike.A%", ["ann"]],
  ["ready=is.null", ["cleo, the cat", null]],
  ["ready=is.true", ["ann", 'd"quote']],
  ["name=match.^[ab]", ["ann", "bob"]],
  ["name=imatch.^[AB]", ["ann", "bob"]],
  ["score=isdistinct.1", ["bob", "cleo, the cat", 'd"quote', null]],
  ["score=not.eq.2", ["ann", "cleo, the cat", 'd"quote']],
  ["ready=not.is.null", ["ann", "bob", 'd"quote']],
  ["score=not.in.(1,4)", ["bob", "cleo, the cat"]],
  ["score=gt.1,score=lt.4", ["bob", "cleo, the cat"]],
  ['name=eq."cleo, the cat"', ["cleo, the cat"]],
  ['name=eq."d\\"quote"', ['d"quote']],
  ['name=in.("cleo, the cat",bob)', ["bob", "cleo, the cat"]],
  ["or=(score.eq.1,name.like.cleo%)", ["ann", "cleo, the cat"]],
  [undefined, NAMES],
];

const table = (filter, more) => ({ event: "*", schema: "public", table: "items", ...(filter && { filter }), ...more });

for (const vsn of VERSIONS) {
  describe(`version ${vsn}`, () => {
    let run;
    const insert = (values) => stack.sql(
      `INSERT INTO items (run, name, score, ready) SELECT '${run}', * FROM (VALUES ${values}) AS v (name, score, ready)`);
    // Nothing comes after it.
    const end = () => stack.sql(`INSERT INTO items (run, name) VALUES ('${run}', 'END')`);
    const isEnd = (change) => change.new?.name === "END";
    const listen = (channel, options) => {
      const inbox = new Inbox();
      channel.on("postgres_changes", options, inbox.push);
      return inbox;
    };
    test.beforeEach(() => { run = `run${runs += 1}`; });

    test("insert, update and delete, with all their parts", async () => {
      const channel = (await clients.make({ vsn })).channel("room");
      const system = systemOf(channel);
      const inbox = listen(channel, table(`run=eq.${run}`));
      await live(channel, system);
      await stack.sql(
        `INSERT INTO items (run, name, score, ready, tags, info, at)
         VALUES ('${run}', 'ä\n"x"', 7, true, '{a,"b c"}', '{"k":[1,null]}', '2026-01-02 03:04:05.678901+01')`,
        `UPDATE items SET score = 8 WHERE run = '${run}'`,
        `DELETE FROM items WHERE run = '${run}'`,
      );
      const [inserted, updated, deleted] = await inbox.atLeast(3);
      assert.equal(inserted.eventType, "INSERT");
      assert.deepEqual([inserted.schema, inserted.table, inserted.errors], ["public", "items", null]);
      assert.match(inserted.commit_timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
      const { id, at, ...values } = inserted.new;
      assert.deepEqual(values, { run, name: 'ä\n"x"', score: 7, ready: true, tags: ["a", "b c"], info: { k: [1, null] } });
      assert.equal(typeof id, "number");
      assert.equal(new Date(at).toISOString(), "2026-01-02T02:04:05.678Z");
      assert.deepEqual(inserted.old, {});
      assert.equal(updated.eventType, "UPDATE");
      assert.equal(updated.new.score, 8);
      assert.equal(updated.old.score, 7);
      assert.equal(deleted.eventType, "DELETE");
      assert.deepEqual(deleted.new, {});
      assert.deepEqual(deleted.old, updated.new);
    });

    // All on one socket, each filter on a channel of its own.
    test("every operator, not, and, or, quoting", async () => {
      const client = await clients.make({ vsn });
      const listening = FILTERS.map(([filter, names], number) => {
        const channel = client.channel(`filter ${number}`);
        const [system, inbox, ends] = [systemOf(channel), listen(channel, table(filter)), listen(channel, table("name=eq.END"))];
        return { filter, names, channel, system, inbox, ends };
      });
      await Promise.all(listening.map(({ channel, system }) => live(channel, system)));
      await insert(ROWS);
      await end();
      for (const { filter, names, inbox, ends } of listening) {
        await ends.first("the end");
        const heard = inbox.items.map((change) => change.new).filter((row) => row.name !== "END" && row.run === run);
        assert.deepEqual(heard.map((row) => row.name), names, `${filter}`);
      }
    });

    test("bindings of one channel hear their own events, and the mapping holds", async () => {
      const channel = (await clients.make({ vsn })).channel("room");
      const system = systemOf(channel);
      const filter = `run=eq.${run}`;
      const inboxes = ["INSERT", "UPDATE", "DELETE", "*"].map((event) => listen(channel, table(filter, { event })));
      const notes = listen(channel, { event: "*", schema: "public", table: "notes" });
      const all = listen(channel, { event: "*", schema: "public" });
      await live(channel, system);
      await insert("('a', 1, true)");
      await stack.sql(`UPDATE items SET score = 2 WHERE run = '${run}'`, `DELETE FROM items WHERE run = '${run}'`);
      await end();
      await inboxes[3].first("the end", isEnd);
      await inboxes[0].first("the end", isEnd);
      await all.first("the end", isEnd);
      const kinds = (inbox) => inbox.items.map((change) => change.eventType);
      assert.deepEqual(kinds(inboxes[0]), ["INSERT", "INSERT"]);
      assert.deepEqual(kinds(inboxes[1]), ["UPDATE"]);
      assert.deepEqual(kinds(inboxes[2]), ["DELETE"]);
      assert.deepEqual(kinds(inboxes[3]), ["INSERT", "UPDATE", "DELETE", "INSERT"]);
      assert.deepEqual(kinds(all), ["INSERT", "UPDATE", "DELETE", "INSERT"]);
      assert.deepEqual(notes.items, []);
    });

    test("select gives its columns and the key", async () => {
      const channel = (await clients.make({ vsn })).channel("room");
      const system = systemOf(channel);
      const inbox = listen(channel, table(`run=eq.${run}`, { select: ["name"] }));
      await live(channel, system);
      await insert("('a', 1, true)");
      const { new: row } = await inbox.first("the row");
      assert.deepEqual(Object.keys(row).sort(), ["id", "name"]);
    });

    test("each user hears of their own rows only, deletes too", async () => {
      const users = await Promise.all([ALICE, BOB].map(async (user) => {
        const client = await clients.make({ vsn, token: stack.token("authenticated", user) });
        const channel = client.channel("room");
        const [system, inbox] = [systemOf(channel), listen(channel, { event: "*", schema: "public", table: "notes" })];
        return { user, channel, system, inbox };
      }));
      await Promise.all(users.map(({ channel, system }) => live(channel, system)));
      const both = (text) => `INSERT INTO notes (user_id, text) VALUES ('${ALICE}', '${text}'), ('${BOB}', '${text}')`;
      await stack.sql(both("x"), "UPDATE notes SET text = 'y'", "DELETE FROM notes", both("END"), "DELETE FROM notes");
      for (const { user, inbox } of users) {
        await inbox.atLeast(5);
        assert.deepEqual(inbox.items.map((change) => change.eventType), ["INSERT", "UPDATE", "DELETE", "INSERT", "DELETE"]);
        for (const change of inbox.items) {
          for (const row of [change.new, change.old]) {
            if (row.user_id !== undefined) assert.equal(row.user_id, user);
          }
        }
        assert.equal(inbox.items[2].old.text, "y");
      }
    });

    test("what can't be subscribed to says why, and the channel works", async () => {
      const channel = (await clients.make({ vsn })).channel("room", { config: { broadcast: { self: true } } });
      const [system, inbox] = [systemOf(channel), new Inbox()];
      channel.on("postgres_changes", table("no_such_column=eq.1"), () => {});
      channel.on("broadcast", { event: "e" }, inbox.push);
      await joined(channel);
      const told = await system.first("an error", (one) => one.status === "error");
      assert.equal(told.extension, "postgres_changes");
      assert.match(told.message, /^Unable to subscribe to changes with given parameters\./);
      await channel.send({ type: "broadcast", event: "e", payload: { a: 1 } });
      assert.deepEqual((await inbox.first("the broadcast")).payload, { a: 1 });
    });
  });
}
