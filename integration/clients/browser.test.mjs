// An application on supabase-js, bundled as applications are, in headless Chromium: two pages.

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { build } from "esbuild";

import { DEADLINE_MS, launch } from "../page/browser.mjs";
import { ALICE, BOB, Stack } from "./stack.mjs";

const PAGE = new URL("browser/page.html", import.meta.url);
const SCRIPT = new URL("browser/page.js", import.meta.url).pathname;

let stack, browser, server, address;

before(async () => {
  const bundled = await build({
    entryPoints: [SCRIPT], bundle: true, format: "esm", platform: "browser", write: false, logLevel: "error",
  });
  const files = {
    "/": ["text/html", await readFile(PAGE)],
    "/page.bundle.js": ["text/javascript", bundled.outputFiles[0].contents],
  };
  server = createServer((request, response) => {
    const [type, body] = files[request.url] ?? [];
    response.writeHead(body ? 200 : 404, { "content-type": type ?? "text/plain" }).end(body);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  address = `http://127.0.0.1:${server.address().port}/`;
  [stack, browser] = await Promise.all([Stack.start(), launch()]);
}, { timeout: 240_000 });

after(async () => {
  await browser?.close();
  server?.close();
  await stack?.stop();
});

async function open(name, user) {
  const page = await (await browser.newContext()).newPage();
  page.setDefaultTimeout(DEADLINE_MS);
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(error.message));
  page.on("console", (message) => message.type() === "error" && page.faults.push(message.text()));
  const parameters = { url: stack.url, key: stack.token("anon"), token: stack.token("authenticated", user), name };
  await page.goto(`${address}#${new URLSearchParams(parameters)}`);
  await page.locator("#status", { hasText: /^SUBSCRIBED$/ }).waitFor();
  await page.locator("#system li", { hasText: "Subscribed to PostgreSQL" }).waitFor();
  return page;
}

test("two pages: changes of their own rows, presence, broadcast, and one that is closed", async () => {
  const [alice, bob] = [await open("alice", ALICE), await open("bob", BOB)];
  for (const page of [alice, bob]) await page.locator("#here", { hasText: "alice bob" }).waitFor();

  await stack.sql(
    `INSERT INTO notes (user_id, text) VALUES ('${ALICE}', 'for alice'), ('${BOB}', 'for bob')`,
    "UPDATE notes SET text = text || '!'",
    "DELETE FROM notes",
  );
  for (const [page, name] of [[alice, "alice"], [bob, "bob"]]) {
    await page.locator("#notes li").nth(2).waitFor();
    const notes = await page.locator("#notes li").allTextContents();
    assert.deepEqual(notes, [`INSERT for ${name}`, `UPDATE for ${name}!`, `DELETE for ${name}!`]);
  }

  await alice.locator("#say").click();
  await bob.locator("#said li", { hasText: "alice says hello" }).waitFor();
  await bob.locator("#bytes").click();
  await alice.locator("#said li", { hasText: "bytes 0,1,254" }).waitFor();
  assert.equal(await alice.locator("#said li").count(), 1, "nobody hears itself");

  await bob.context().close(); // as if its tab had been closed
  await alice.locator("#here", { hasText: /^alice$/ }).waitFor();
  assert.deepEqual([alice.faults, bob.faults], [[], []]);
});
