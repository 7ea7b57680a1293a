// A private Postgres and the real binary in front of it, for one file of tests.

import { execFile, spawn } from "node:child_process";
import { createHmac, randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

import { freePort } from "./port.mjs";
import { until } from "./wait.mjs";

export const ALICE = "a11ce000-0000-4000-8000-000000000001";
export const BOB = "b0b00000-0000-4000-8000-000000000002";

const STACK = new URL("stack.sh", import.meta.url).pathname;
const START_MS_MAX = 180_000;
const run = promisify(execFile);

export class Stack {
  static async start(settings = {}) {
    const stack = new Stack();
    stack.settings = settings;
    stack.secret = randomBytes(48).toString("base64");
    stack.folder = await mkdtemp(join(tmpdir(), "walcast-clients-"));
    stack.postgresPort = await freePort();
    stack.port = await freePort();
    stack.url = `http://127.0.0.1:${stack.port}`;
    stack.output = "";
    try {
      await stack.#control("up");
      await stack.serve();
    } catch (error) {
      await stack.stop(); // nobody else will
      throw error;
    }
    return stack;
  }

  // Starts the server, at the same address each time.
  async serve() {
    const login = (name) => `postgres://${name}@127.0.0.1:${this.postgresPort}/walcast`;
    this.server = spawn(process.env.WALCAST, ["serve"], {
      env: {
        ...process.env,
        WALCAST_DATABASE_URL: login("walcast_replication"),
        WALCAST_RLS_DATABASE_URL: login("walcast_rls"),
        WALCAST_LISTEN: `127.0.0.1:${this.port}`,
        WALCAST_JWT_SECRET: this.secret,
        WALCAST_JWT_LEEWAY: "1ms",
        WALCAST_LOG_DIR: join(this.folder, "log"),
        WALCAST_RLS_STATEMENT_TIMEOUT: "20s", // a loaded machine is no reason to deny
        ...this.settings,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    for (const stream of [this.server.stdout, this.server.stderr]) {
      stream.on("data", (data) => { this.output += data; });
    }
    await until("the server is ready", async () => {
      if (this.server.exitCode !== null) throw new Error(`walcast ended:\n${this.output}`);
      return (await fetch(`${this.url}/ready`).catch(() => null))?.ok;
    }, START_MS_MAX);
  }

  async stopServer(signal = "SIGTERM") {
    if (!this.server || this.server.exitCode !== null || this.server.signalCode !== null) return;
    const ended = once(this.server, "exit");
    this.server.kill(signal);
    await ended;
  }

  restartPostgres() {
    return this.#control("restart");
  }

  async stop() {
    await this.stopServer("SIGKILL");
    await this.#control("down");
    await run("rm", ["-rf", this.folder]);
  }

  // Each stack has a port of its own: they run at the same time.
  #control(command) {
    const env = { ...process.env, POSTGRES_PORT: String(this.postgresPort), POSTGRES_FSYNC: "off" };
    return run(STACK, [command, join(this.folder, "run")], { env });
  }

  // Statements as the owner, each in a transaction of its own.
  async sql(...statements) {
    const url = `postgres://walcast_owner@127.0.0.1:${this.postgresPort}/walcast`;
    const commands = statements.flatMap((statement) => ["-c", statement]);
    const { stdout } = await run("psql", ["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url, ...commands]);
    return stdout.trim();
  }

  token(role, sub, seconds = 3600) {
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const now = Math.floor(Date.now() / 1000);
    const claims = { role, iat: now, exp: now + seconds, ...(sub && { sub }) };
    const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
    return `${signed}.${createHmac("sha256", this.secret).update(signed).digest("base64url")}`;
  }
}
