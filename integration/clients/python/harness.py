"""What the tests ask the harness for, and how they wait."""

import asyncio
import os
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import jwt
from realtime import AsyncRealtimeChannel, AsyncRealtimeClient, RealtimeSubscribeStates

URL = os.environ["WALCAST_TEST_URL"]
ALICE = "a11ce000-0000-4000-8000-000000000001"
BOB = "b0b00000-0000-4000-8000-000000000002"
DEADLINE_S = 60.0
POLL_S = 0.02


def token(role: str, sub: str | None = None, seconds: int = 3600) -> str:
    claims = {"role": role, "iat": int(time.time()), "exp": int(time.time()) + seconds}
    if sub:
        claims["sub"] = sub
    return jwt.encode(claims, os.environ["WALCAST_TEST_SECRET"], algorithm="HS256")


async def sql(*statements: str) -> None:
    """As the owner, each in a transaction of its own."""
    commands = [part for statement in statements for part in ("-c", statement)]
    psql = await asyncio.create_subprocess_exec(
        "psql", "-Xqo", "/dev/null", "-v", "ON_ERROR_STOP=1", "-d", os.environ["WALCAST_TEST_DATABASE"], *commands
    )
    assert await psql.wait() == 0


async def restart_server() -> None:
    """Returns when the new one is ready."""
    request = urllib.request.Request(os.environ["WALCAST_TEST_CONTROL"] + "/restart", method="POST")
    await asyncio.to_thread(urllib.request.urlopen, request, timeout=300)


async def until(what: str, holds: Callable[[], Any]) -> Any:
    end = time.monotonic() + DEADLINE_S
    while not (value := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {DEADLINE_S} s: {what}")
        await asyncio.sleep(POLL_S)
    return value


def client(key: str | None = None, **options: Any) -> AsyncRealtimeClient:
    return AsyncRealtimeClient(URL + "/realtime/v1", key or token("anon"), timeout=int(DEADLINE_S), **options)


async def join(channel: AsyncRealtimeChannel) -> list[tuple[str, str | None]]:
    """Joins; what is returned grows with every status."""
    statuses: list[tuple[str, str | None]] = []
    await channel.subscribe(lambda status, error: statuses.append((status.value, error and str(error))))
    await until("an answer to the join", lambda: statuses)
    return statuses


async def joined(channel: AsyncRealtimeChannel) -> list[tuple[str, str | None]]:
    statuses = await join(channel)
    assert statuses[0][0] == RealtimeSubscribeStates.SUBSCRIBED.value, statuses
    return statuses


async def live(channel: AsyncRealtimeChannel) -> list[str]:
    """Joins, and waits until changes are live; the result grows with every `system` message."""
    told: list[str] = []
    channel.on_system(lambda payload: told.append(payload.message))
    await joined(channel)
    await until("Subscribed to PostgreSQL", lambda: "Subscribed to PostgreSQL" in told)
    return told


def heard(channel: AsyncRealtimeChannel, event: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    channel.on_broadcast(event, messages.append)
    return messages
