"""The client `realtime`, which speaks version 1.0.0 and is strict about what it is told."""

import logging
import unittest

import harness
from harness import ALICE, BOB, client, heard, join, joined, live, sql, token, until


class Broadcasts(unittest.IsolatedAsyncioTestCase):
    async def test_reach_others_and_the_sender_where_it_wants_so(self) -> None:
        one, two = client(), client()
        config = {"config": {"broadcast": {"ack": True, "self": True}, "presence": None, "private": False}}
        sender, other = one.channel("talk", config), two.channel("talk")
        own, others = heard(sender, "said"), heard(other, "said")
        await joined(sender)
        await joined(other)
        for number in range(20):
            await sender.send_broadcast("said", {"number": number, "text": "ä"})
        await until("all of them", lambda: len(own) == 20 and len(others) == 20)
        self.assertEqual([message["payload"]["number"] for message in others], list(range(20)))
        await sender.http_send("said", {"number": 20})
        await until("the one over HTTP", lambda: len(others) == 21)
        self.assertEqual(others[-1]["payload"], {"number": 20})
        await one.close()
        await two.close()

    async def test_of_a_private_channel_are_for_its_members(self) -> None:
        await sql(f"INSERT INTO members VALUES ('{ALICE}', 'python', true), ('{BOB}', 'python', false)")
        private = {"config": {"broadcast": None, "presence": None, "private": True}}
        alice, bob, stranger = client(token("authenticated", ALICE)), client(token("authenticated", BOB)), client()
        alices, bobs = alice.channel("python", private), bob.channel("python", private)
        to_alice, to_bob = heard(alices, "said"), heard(bobs, "said")
        await joined(alices)
        await joined(bobs)
        await bobs.send_broadcast("said", {"by": "bob"})  # goes nowhere
        await alices.send_broadcast("said", {"by": "alice"})
        await until("alice's", lambda: to_bob)
        await sql("""SELECT realtime.send('{"by": "sql"}', 'said', 'python')""")
        await until("that of SQL", lambda: to_alice and len(to_bob) == 2)
        self.assertEqual([message["payload"]["by"] for message in to_bob], ["alice", "sql"])
        self.assertEqual([message["payload"]["by"] for message in to_alice], ["sql"])
        statuses = await join(stranger.channel("python", private))
        self.assertEqual(statuses[0][0], "CHANNEL_ERROR")
        self.assertIn("You do not have permissions to read from this Channel topic: python", statuses[0][1] or "")
        for one in (alice, bob, stranger):
            await one.close()


class Changes(unittest.IsolatedAsyncioTestCase):
    async def test_of_each_kind_and_filtered(self) -> None:
        one = client()
        channel = one.channel("changes")
        changes, filtered, inserts = [], [], []
        options = {"table": "items", "schema": "public"}
        channel.on_postgres_changes("*", changes.append, filter="run=eq.python", **options)
        channel.on_postgres_changes("*", filtered.append, filter="run=eq.python,score=not.in.(1,2)", **options)
        channel.on_postgres_changes("INSERT", inserts.append, select=["name"], **options)
        await live(channel)
        await sql(
            "INSERT INTO items (run, name, score, tags) VALUES ('python', 'a', 1, '{x,y}')",
            "UPDATE items SET score = 7 WHERE run = 'python'",
            "DELETE FROM items WHERE run = 'python'",
        )
        await until("three changes", lambda: len(changes) == 3 and len(filtered) == 2 and len(inserts) == 1)
        data = [change["data"] for change in changes]
        self.assertEqual([one["type"] for one in data], ["INSERT", "UPDATE", "DELETE"])
        self.assertEqual((data[0]["record"]["name"], data[0]["record"]["tags"]), ("a", ["x", "y"]))
        self.assertEqual((data[1]["record"]["score"], data[1]["old_record"]["score"]), (7, 1))
        self.assertEqual(data[2]["old_record"]["score"], 7)
        self.assertIn({"name": "tags", "type": "_text"}, data[0]["columns"])
        # It came into the filter's sight, and was deleted.
        self.assertEqual([one["data"]["type"] for one in filtered], ["INSERT", "DELETE"])
        self.assertEqual(sorted(inserts[0]["data"]["record"]), ["id", "name"])
        await one.close()

    async def test_of_ones_own_rows_until_a_new_token(self) -> None:
        one = client(token("authenticated", ALICE))
        channel = one.channel("rows")
        changes: list[str] = []
        keep = lambda change: changes.append(change["data"]["record"]["text"])  # noqa: E731
        channel.on_postgres_changes("INSERT", keep, table="notes", schema="public")
        told = await live(channel)
        both = "INSERT INTO notes (user_id, text) VALUES ('{}', 'alice {}'), ('{}', 'bob {}')"
        await sql(both.format(ALICE, 1, BOB, 1))
        await until("the first", lambda: changes)
        await one.set_auth(token("authenticated", BOB))
        await until("subscribed again", lambda: told.count("Subscribed to PostgreSQL") == 2)
        await sql(both.format(ALICE, 2, BOB, 2))
        await until("the second", lambda: len(changes) == 2)
        self.assertEqual(changes, ["alice 1", "bob 2"])
        await one.close()


class Presence(unittest.IsolatedAsyncioTestCase):
    async def test_of_two_clients(self) -> None:
        one, two = client(), client()
        config = lambda key: {"config": {"broadcast": None, "presence": {"key": key, "enabled": True}, "private": False}}  # noqa: E731
        ones, twos = one.channel("room", config("one")), two.channel("room", config("two"))
        joins, leaves = [], []
        ones.on_presence_join(lambda key, _before, new: joins.append((key, [meta.get("n") for meta in new])))
        ones.on_presence_leave(lambda key, _before, gone: leaves.append((key, [meta.get("n") for meta in gone])))
        await joined(ones)
        await ones.track({"n": 1})
        await until("one is here", lambda: "one" in ones.presence_state())
        await joined(twos)
        await until("two sees one", lambda: "one" in twos.presence_state())
        await twos.track({"n": 2})
        await until("one sees two", lambda: "two" in ones.presence_state())
        await two.close()  # without a word
        await until("two is gone", lambda: "two" not in ones.presence_state())
        self.assertEqual(joins, [("one", [1]), ("two", [2])])
        self.assertEqual(leaves, [("two", [2])])
        await one.close()


class Lifecycle(unittest.IsolatedAsyncioTestCase):
    async def test_heartbeats_are_answered(self) -> None:
        one = client(hb_interval=1)
        channel = one.channel("alive")
        with self.assertLogs("realtime", logging.DEBUG) as logs:
            await joined(channel)
            answered = lambda: [line for line in logs.output if "phoenix" in line and "phx_reply" in line]  # noqa: E731
            await until("an answer", answered)
        await one.close()

    async def test_everything_is_back_after_a_restart_of_the_server(self) -> None:
        one = client(token("authenticated", ALICE), initial_backoff=0.2, max_retries=60)
        channel = one.channel("restart")
        changes: list[str] = []
        keep = lambda change: changes.append(change["data"]["record"]["text"])  # noqa: E731
        channel.on_postgres_changes("INSERT", keep, table="notes", schema="public")
        messages = heard(channel, "said")
        told = await live(channel)
        await harness.restart_server()
        await until("live again", lambda: told.count("Subscribed to PostgreSQL") == 2)
        await sql(
            f"INSERT INTO notes (user_id, text) VALUES ('{ALICE}', 'after')",
            "SELECT realtime.send('{}', 'said', 'restart', false)",
        )
        await until("the row and the message", lambda: changes and messages)
        self.assertEqual((changes, len(messages)), (["after"], 1))
        await one.close()


if __name__ == "__main__":
    unittest.main()
