// Ports for servers that have to find them free again after a restart.

import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { createServer } from "node:net";
import { randomInt } from "node:crypto";

const [FIRST, END] = share();
const given = new Set();

export async function freePort() {
  for (;;) {
    const port = randomInt(FIRST, END);
    if (given.has(port)) continue;
    const server = createServer().listen(port, "127.0.0.1");
    const free = await once(server, "listening").then(() => true, () => false);
    if (!free) continue;
    given.add(port);
    server.close();
    await once(server, "close");
    return port;
  }
}

// What this file of tests has for itself: the files of a folder run at the same time.
function share() {
  const file = process.argv[1] ?? "";
  const files = readdirSync(dirname(file)).filter((name) => name.endsWith(".test.mjs")).sort();
  const [first, end] = unasked();
  const width = Math.floor((end - first) / Math.max(1, files.length));
  const begin = first + Math.max(0, files.indexOf(basename(file))) * width;
  return [begin, begin + width];
}

// Outside the range from which outgoing connections get theirs.
function unasked() {
  const [first, last] = outgoing();
  return first >= 16_000 ? [10_000, Math.min(first, 32_000)] : [Math.min(last + 1, 64_000), 65_536];
}

function outgoing() {
  try {
    return readFileSync("/proc/sys/net/ipv4/ip_local_port_range", "utf8").trim().split(/\s+/).map(Number);
  } catch {
    return [32_768, 60_999];
  }
}
