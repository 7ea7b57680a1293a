// Supabase's client as an application makes it, and what the tests listen to.

import { createClient } from "@supabase/supabase-js";
import WebSocket from "ws";

import { DEADLINE_MS, Inbox } from "./wait.mjs";

export const VERSIONS = ["1.0.0", "2.0.0"];

// Clients of one test; `end` closes them all.
export class Clients {
  #open = [];

  constructor(stack) {
    this.stack = stack;
  }

  // token: a text, or a function that gets one, which the client calls when it wants to.
  async make({ vsn = "2.0.0", token, realtime = {} } = {}) {
    const accessToken = typeof token === "function" ? token : token && (async () => token);
    const client = createClient(this.stack.url, this.stack.token("anon"), {
      ...(accessToken ? { accessToken } : { auth: { persistSession: false, autoRefreshToken: false } }),
      realtime: { transport: WebSocket, vsn, timeout: DEADLINE_MS, ...realtime },
    });
    this.#open.push(client);
    // Who joins before the callback was called joins with the API key alone, and the client never corrects that.
    if (accessToken) await client.realtime.setAuth();
    return client;
  }

  async end() {
    for (const client of this.#open.splice(0)) {
      await client.removeAllChannels();
      await client.realtime.disconnect();
    }
  }
}

// Joins; `statuses` has what the callback was told, as [status, error's text].
export async function joined(channel) {
  const statuses = joining(channel);
  const [status, error] = await statuses.first("an answer to the join");
  if (status !== "SUBSCRIBED") throw new Error(`${status}: ${error}`);
  return statuses;
}

export function joining(channel) {
  const statuses = new Inbox();
  channel.subscribe((status, error) => statuses.push([status, error?.message]));
  return statuses;
}

// The `system` messages of a channel; to be called before it is joined.
export function systemOf(channel) {
  const inbox = new Inbox();
  channel.on("system", {}, inbox.push);
  return inbox;
}

// Changes are live when the server says so; on a busy machine it says first that it takes a while.
export async function live(channel, system) {
  const statuses = await joined(channel);
  const told = await system.first("Subscribed to PostgreSQL", (one) =>
    one.extension === "postgres_changes" && !one.message.endsWith("; trying again"));
  if (told.status !== "ok") throw new Error(told.message);
  return statuses;
}
