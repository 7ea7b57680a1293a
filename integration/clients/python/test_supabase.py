"""The client `supabase`, as an application makes it."""

import unittest

from harness import ALICE, DEADLINE_S, URL, heard, joined, live, sql, token, until
from supabase import AsyncClientOptions, acreate_client


class Application(unittest.IsolatedAsyncioTestCase):
    async def test_changes_and_broadcasts_of_a_signed_in_user(self) -> None:
        patient = lambda: AsyncClientOptions(realtime={"timeout": int(DEADLINE_S)})  # noqa: E731
        client = await acreate_client(URL, token("anon"), patient())
        await client.realtime.set_auth(token("authenticated", ALICE))
        channel = client.channel("application")
        changes: list[dict] = []
        channel.on_postgres_changes("*", changes.append, table="notes", schema="public")
        messages = heard(channel, "said")
        await live(channel)
        await sql(f"INSERT INTO notes (user_id, text) VALUES ('{ALICE}', 'x')", "DELETE FROM notes WHERE text = 'x'")
        await until("two changes", lambda: len(changes) == 2)
        self.assertEqual(changes[0]["data"]["record"]["text"], "x")
        self.assertEqual(changes[1]["data"]["old_record"]["text"], "x")

        other = await acreate_client(URL, token("anon"), patient())
        speaker = other.channel("application")
        await joined(speaker)
        await speaker.send_broadcast("said", {"a": 1})
        await until("a message", lambda: messages)
        self.assertEqual(messages[0]["payload"], {"a": 1})
        await client.remove_all_channels()
        await other.remove_all_channels()


if __name__ == "__main__":
    unittest.main()
