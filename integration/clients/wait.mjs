// Waiting for what must come, with a deadline.

// Of what comes at once where nothing else runs.
export const DEADLINE_MS = 60_000;
const POLL_MS = 20;

// Asks again and again until it is so.
export async function until(what, holds, deadline_ms = DEADLINE_MS) {
  const end = performance.now() + deadline_ms;
  for (;;) {
    const value = await holds();
    if (value) return value;
    if (performance.now() > end) throw new Error(`not within ${deadline_ms} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

// What arrives, and who waits for it.
export class Inbox {
  items = [];
  #waiting = new Set();

  push = (item) => {
    this.items.push(item);
    for (const look of this.#waiting) look();
  };

  // The first item that fits, from those that are there or still come.
  async first(what, fits = () => true, deadline_ms = DEADLINE_MS) {
    const found = () => this.items.find((item) => fits(item));
    return await this.#when(what, () => found() !== undefined, deadline_ms).then(found);
  }

  // All, as soon as there are so many.
  async atLeast(count, deadline_ms = DEADLINE_MS) {
    await this.#when(`${count} items`, () => this.items.length >= count, deadline_ms);
    return this.items;
  }

  clear() {
    this.items = [];
  }

  #when(what, holds, deadline_ms) {
    return new Promise((resolve, reject) => {
      const end = () => {
        clearTimeout(timer);
        this.#waiting.delete(look);
      };
      const look = () => {
        if (!holds()) return;
        end();
        resolve();
      };
      const timer = setTimeout(() => {
        end();
        reject(new Error(`not within ${deadline_ms} ms: ${what}; there is ${JSON.stringify(this.items)}`));
      }, deadline_ms);
      this.#waiting.add(look);
      look();
    });
  }
}
