// A headless Chromium for the page's tests, and how they find their way on the page.

import { mkdir } from "node:fs/promises";
import { chromium } from "playwright-core";

const SCREENSHOTS = new URL("../screenshots/", import.meta.url);
// Of what comes at once where nothing else runs.
export const DEADLINE_MS = 60_000;

export function launch() {
  return chromium.launch({
    timeout: 2 * DEADLINE_MS,
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: process.getuid() === 0 ? ["--no-sandbox"] : [], // Chromium's sandbox refuses root
  });
}

// A page in a context of its own. `faults` collects what must not happen: script errors, violations of
// the content security policy, requests to elsewhere.
export async function open(browser, address, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(DEADLINE_MS);
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(`error: ${error.message}`));
  page.on("console", (message) => {
    const expected = /WebSocket|Failed to load resource/.test(message.text());
    if (message.type() === "error" && !expected) page.faults.push(`console: ${message.text()}`);
  });
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(address) && !url.startsWith("data:")) page.faults.push(`request: ${url}`);
  });
  if (options.prepare) await options.prepare(page);
  await page.goto(address);
  return page;
}

export async function screenshot(page, name) {
  await mkdir(SCREENSHOTS, { recursive: true });
  await page.screenshot({ path: new URL(`${name}.png`, SCREENSHOTS).pathname });
}

// The parts of one of the two sessions, by what a reader of the page calls them.
export function session(page, number) {
  const root = page.getByRole("region", { name: `Session ${number}` });
  return {
    root,
    user: root.getByLabel("Sign in as"),
    token: root.getByLabel("Token"),
    connect: root.getByRole("button", { name: "Connect", exact: true }),
    disconnect: root.getByRole("button", { name: "Disconnect" }),
    state: root.getByRole("status").first(),
    channel: root.getByLabel("Channel"),
    events: root.getByRole("combobox", { name: "Events" }),
    filter: root.getByLabel("Filter"),
    subscribe: root.getByRole("button", { name: "Subscribe", exact: true }),
    subscriptions: root.getByRole("list", { name: "Subscriptions" }),
    alert: root.getByRole("alert"),
    rows: root.locator("details.event"),
    tab: (name) => root.getByRole("tab", { name }),
    button: (name) => root.getByRole("button", { name }),
    counter: (name) => root.locator(`[data-counter=${name}]`),
  };
}
