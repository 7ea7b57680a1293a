// A small application on supabase-js: what happened to notes, who is here, what was said.

import { createClient } from "@supabase/supabase-js";

const { url, key, token, name } = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
const client = createClient(url, key, { accessToken: async () => token });
const list = (id) => document.getElementById(id);
const add = (id, text) => {
  const item = document.createElement("li");
  item.textContent = text;
  list(id).append(item);
};

await client.realtime.setAuth();
const room = client.channel("room", { config: { presence: { key: name } } });
room
  .on("postgres_changes", { event: "*", schema: "public", table: "notes" }, (change) =>
    add("notes", `${change.eventType} ${change.new.text ?? change.old.text}`))
  .on("broadcast", { event: "said" }, ({ payload }) => add("said", payload.text))
  .on("broadcast", { event: "bytes" }, ({ payload }) => add("said", `bytes ${[...new Uint8Array(payload)]}`))
  .on("presence", { event: "sync" }, () => { list("here").textContent = Object.keys(room.presenceState()).sort().join(" "); })
  .on("system", {}, ({ message }) => add("system", message))
  .subscribe(async (status) => {
    list("status").textContent = status;
    if (status === "SUBSCRIBED") await room.track({ since: 1 });
  });

document.getElementById("say").addEventListener("click", () =>
  room.send({ type: "broadcast", event: "said", payload: { text: `${name} says hello` } }));
document.getElementById("bytes").addEventListener("click", () =>
  room.send({ type: "broadcast", event: "bytes", payload: new Uint8Array([0, 1, 254]).buffer }));
