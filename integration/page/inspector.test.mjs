// The page alone, in front of a server that the tests play: what is hard to cause with a real one.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { after, afterEach, before, test } from "node:test";

import { DEADLINE_MS, launch, open, screenshot, session } from "./browser.mjs";

const HTML = await readFile(new URL("../../crates/server/src/page/index.html", import.meta.url), "utf8");
const USERS = [{ name: "alice", token: jwt({ sub: "a11ce", role: "authenticated" }) }, { name: "<b>bob</b>", token: "x" }];
const HOSTILE = "<img src=x onerror=\"window.pwned=1\"><script>window.pwned=1</script>";

let browser, server, address, page, sockets;
let beforePong; // what is waited for before a heartbeat is answered
let users = USERS;

before(async () => {
  browser = await launch();
  server = createServer(serve).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  address = `http://127.0.0.1:${server.address().port}/`;
});

after(async () => {
  await browser.close();
  server.close();
});

afterEach(async () => {
  users = USERS;
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

function jwt(claims) {
  return ["{}", JSON.stringify(claims), "signature"].map((part) => Buffer.from(part).toString("base64url")).join(".");
}

// The same content security policy as the real server's: nothing but the page's own two blocks.
function serve(request, response) {
  if (request.url === "/page.json") {
    response.writeHead(users ? 200 : 404, { "content-type": "application/json" });
    response.end(users ? JSON.stringify({ users }) : "{}");
    return;
  }
  const hash = (tag) => {
    const blocks = [...HTML.matchAll(new RegExp(`<${tag}>(.*?)</${tag}>`, "gs"))];
    assert.equal(blocks.length, 1, `one <${tag}>`);
    return `'sha256-${createHash("sha256").update(blocks[0][1]).digest("base64")}'`;
  };
  response.writeHead(200, {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": `default-src 'none'; script-src ${hash("script")}; style-src ${hash("style")}; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`,
  });
  response.end(HTML);
}

// Opens the page; `answer(message, socket)` plays the server's side of every connection.
async function visit(answer = ackAll, options = {}) {
  sockets = [];
  beforePong = async () => {};
  const play = (socket) => {
    socket.received = [];
    sockets.push(socket);
    socket.onMessage((text) => {
      const message = JSON.parse(text);
      if (message.type === "ping") return beforePong().then(() => say(socket, { type: "pong" }));
      socket.received.push(message);
      answer(message, socket);
    });
  };
  page = await open(browser, address, { ...options, prepare: (page) => page.routeWebSocket(/\/realtime/, play) });
  return session(page, 1);
}

function say(socket, message) {
  socket.send(typeof message === "string" ? message : JSON.stringify(message));
}

function ackAll({ type, channel }, socket) {
  say(socket, { type: "ack", channel, status: `${type}d` });
}

function change(payload) {
  return { type: "broadcast", channel: "table:public.todos", payload: { schema: "public", table: "todos", cursor: "0/1A2B3C:0", commit_timestamp: new Date().toISOString(), ...payload } };
}

async function subscribed(answer, options) {
  const pane = await visit(answer, options);
  await pane.connect.click();
  await pane.state.filter({ hasText: /^Connected$/ }).waitFor();
  await pane.subscribe.click();
  await pane.subscriptions.getByText("live").waitFor();
  return pane;
}

async function eventually(look, expected) {
  const end = Date.now() + DEADLINE_MS;
  for (;;) {
    const seen = await look();
    if (JSON.stringify(seen) === JSON.stringify(expected) || Date.now() > end) return assert.deepEqual(seen, expected);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test("a session signs in, subscribes with event and filter, and unsubscribes", async () => {
  const pane = await visit();
  await pane.connect.click();
  await pane.events.selectOption("UPDATE");
  await pane.filter.fill("id=gt.3");
  await pane.subscribe.click();
  await pane.subscriptions.getByText("table:public.todos UPDATE id=gt.3").waitFor();
  await pane.subscriptions.getByText("live").waitFor();
  assert.equal(new URL(sockets[0].url()).searchParams.get("token"), USERS[0].token);
  await pane.button("Unsubscribe from table:public.todos").click();
  await eventually(() => sockets[0].received, [
    { type: "subscribe", channel: "table:public.todos", event: "UPDATE", filter: "id=gt.3" },
    { type: "unsubscribe", channel: "table:public.todos" },
  ]);
});

test("an event shows old and new record, every digit, and what changed", async () => {
  const pane = await subscribed();
  say(sockets[0], `{"type":"broadcast","channel":"table:public.todos","payload":{"type":"UPDATE","schema":"public","table":"todos","cursor":"0/2:7","record":{"id":9007199254740993,"price":1.10,"note":null},"old_record":{"id":9007199254740993,"price":1.00,"gone":true},"unchanged":["body"]}}`);
  await pane.rows.first().click();
  await pane.rows.first().getByRole("table").waitFor(); // is made when the row says that it was opened
  const cells = await pane.rows.first().locator("table tr").allTextContents();
  assert.deepEqual(cells, ["ColumnOldNew", "id90071992547409939007199254740993", "price1.001.10", "gonetruenot given", "notenot givennull"]);
  assert.deepEqual(await pane.rows.first().locator("tr.changed th").allTextContents(), ["price"]);
  const text = await pane.rows.first().textContent();
  for (const part of ["0/2:7", "public.todos", "body (unchanged)"]) assert.ok(text.includes(part), part);
});

test("text from outside stays text", async () => {
  const pane = await subscribed();
  say(sockets[0], change({ type: "DELETE", old_record: { [HOSTILE]: HOSTILE }, reason: HOSTILE }));
  say(sockets[0], { type: "error", code: HOSTILE, message: HOSTILE });
  say(sockets[0], { type: HOSTILE, channel: HOSTILE, payload: { a: HOSTILE } });
  say(sockets[0], HOSTILE);
  await eventually(() => pane.rows.count(), 4);
  for (const row of await pane.rows.all()) {
    await row.locator("summary").first().click();
    await row.locator(".raw").waitFor();
  }
  await pane.tab("Wire").click();
  assert.equal(await page.locator("img, main script, main b").count(), 0);
  assert.equal(await page.evaluate(() => window.pwned), undefined);
});

test("an error is shown with its code and message, and the subscription as refused", async () => {
  const pane = await visit((_, socket) => say(socket, { type: "error", code: "FORBIDDEN", message: "no SELECT on public.secrets" }));
  await pane.connect.click();
  await pane.channel.fill("table:public.secrets");
  await pane.subscribe.click();
  await pane.subscriptions.getByText("refused").waitFor();
  assert.match(await pane.alert.textContent(), /FORBIDDEN.*no SELECT on public\.secrets/);
  assert.equal(await pane.counter("Errors").textContent(), "1");
});

test("a lost connection is told, made again, and its subscriptions too", async () => {
  const pane = await subscribed();
  // What is told is there until the next connection has answered, which it does when that was read.
  let read;
  const told = new Promise((resolve) => { read = resolve; });
  beforePong = () => told;
  await sockets[0].close({ code: 4008, reason: "too slow" });
  await pane.alert.getByText("too slow").waitFor();
  read();
  await eventually(() => sockets[1]?.received, [{ type: "subscribe", channel: "table:public.todos", event: "*" }]);
  await pane.subscriptions.getByText("live").waitFor();
  await pane.alert.waitFor({ state: "hidden" });
});

test("a refused token is told, and not tried again and again", async () => {
  const pane = await subscribed();
  await sockets[0].close({ code: 4001, reason: "token expired" });
  await pane.state.filter({ hasText: "Not signed in" }).waitFor();
  assert.match(await pane.alert.textContent(), /4001.*token expired/);
  await pane.subscriptions.getByText("not connected").waitFor();
  await pane.connect.click();
  await pane.subscriptions.getByText("live").waitFor();
  assert.equal(sockets.length, 2);
});

test("pausing holds events back, clearing removes them, and there is a bound", async () => {
  const pane = await subscribed();
  await pane.button("Pause").click();
  for (let id = 1; id <= 600; id += 1) say(sockets[0], change({ type: "INSERT", record: { id } }));
  await eventually(() => pane.counter("Inserts").textContent(), "600");
  assert.equal(await pane.rows.count(), 0);
  await pane.button("Resume").click();
  assert.equal(await pane.rows.count(), 500);
  assert.match(await pane.rows.first().textContent(), /id=600/);
  await pane.button("Clear").click();
  assert.equal(await pane.rows.count(), 0);
  assert.equal(await pane.counter("Inserts").textContent(), "0");
});

test("everything works from the keyboard", async () => {
  const pane = await visit();
  await pane.connect.focus();
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => !document.querySelector("[data-part=subscribeButton]").disabled);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter"); // in the channel's field
  await pane.subscriptions.getByText("live").waitFor();
  say(sockets[0], change({ type: "INSERT", record: { id: 1 } }));
  await pane.rows.first().waitFor();
  await pane.tab("Events").focus();
  await page.keyboard.press("ArrowRight");
  assert.equal(await pane.tab("Presence").getAttribute("aria-selected"), "true");
  await pane.root.getByText("Nobody is here").waitFor();
  await page.keyboard.press("ArrowLeft");
  for (let tabs = 0; tabs < 3; tabs += 1) await page.keyboard.press("Tab"); // pause, clear, the row
  await page.keyboard.press("Enter");
  await pane.rows.first().getByRole("table").waitFor();
});

test("without sample users one pastes a token, and it never shows", async () => {
  users = null;
  const pane = await visit();
  await pane.user.waitFor(); // the page asks for the users first
  assert.deepEqual(await pane.user.locator("option").allTextContents(), ["Token…", "Anonymous"]);
  await pane.token.fill(jwt({ sub: "someone", role: "authenticated" }));
  await pane.root.getByText("role authenticated · sub someone").waitFor();
  await pane.connect.click();
  await pane.disconnect.waitFor();
  await eventually(() => sockets.length, 1);
  assert.ok(!(await page.evaluate(() => document.body.textContent)).includes("signature"));
});

for (const colorScheme of ["light", "dark"]) {
  test(`two sessions side by side (${colorScheme})`, async () => {
    const pane = await subscribed(ackAll, { colorScheme });
    say(sockets[0], change({ type: "INSERT", record: { id: 6, user_id: "a11ce000", title: "Buy milk", done: false } }));
    say(sockets[0], change({ type: "UPDATE", old_record: { id: 6, title: "Buy milk", done: false }, record: { id: 6, title: "Buy milk", done: true } }));
    say(sockets[0], change({ type: "DELETE", old_record: { id: 2 } }));
    await eventually(() => pane.rows.count(), 3);
    await pane.rows.nth(1).locator("summary").first().click();
    await pane.rows.nth(1).getByRole("table").waitFor();
    await screenshot(page, `page-${colorScheme}`);
  });
}
