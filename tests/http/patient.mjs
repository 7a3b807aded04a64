// What an application adds to the official JavaScript client so that it outlives the server.
//
// Facts about @durable-streams/client 0.2.7:
// - Its `IdempotentProducer` sends a batch once. What a broken or refused connection does to it is
//   an error for `onError`, `flush()` returns all the same, and the batch is gone. It takes a `fetch`:
//   there a program may try again, and the headers of the producer make that safe.
// - The client's own `createFetchWithBackoff` is for reads: it tries again without end (100 ms, then
//   longer by 1.3 up to 60 s, a random part of it; 5xx, 429 and broken connections alike), but it
//   throws every other 4xx. A pipelining producer needs the answer 409, to wait for earlier batches.
// - A read that breaks in the middle is an error of `response.closed`, in SSE as in long-poll. The
//   application begins again at the offset of the last batch that it was given.
// - `response.closed` resolves when all has arrived, which is before the last of it was handed on: the
//   end is a batch with `streamClosed`. After an error one batch may still be handed on, too.
// - In SSE, data counts when the control event after it has come. If the body ends without it, and no
//   error, the data is handed on with the offset of before, and comes again after reconnecting. A
//   killed server does not do that: its chunked body breaks off, which is an error.

// How long a server may be away. It is away for less than a second; two busy cores are given time.
const AWAY_MS = 60_000
// How long a write may take.
const ANSWER_MS = 30_000
const PAUSE_MS = 30

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

// Whether the connection broke or was refused, and not: the server gave an answer that is none.
export const isAway = (error) => error instanceof TypeError && /fetch failed|terminated/.test(error.message)

// A fetch that waits for a server which is away. It resolves with any answer, be it an error. A server
// that is there, takes a write, and does not answer is not away: that is an error.
export async function patientFetch(input, init, fetch = globalThis.fetch) {
  const giveUp = Date.now() + AWAY_MS
  const writes = init?.method !== undefined && init.method !== "GET"
  for (;;) {
    const signals = [init?.signal, writes && AbortSignal.timeout(ANSWER_MS)].filter(Boolean)
    try {
      return await fetch(input, { ...init, signal: AbortSignal.any(signals) })
    } catch (error) {
      if (error?.name === "TimeoutError") {
        throw new Error(`no answer within ${ANSWER_MS} ms to ${init.method} ${input}`, { cause: error })
      }
      if (!isAway(error)) throw error
      if (Date.now() > giveUp) throw new Error(`the server is away for ${AWAY_MS} ms`, { cause: error })
      await pause(Math.random() * PAUSE_MS)
    }
  }
}

// Numbers from 0 up to 1 that follow from a text: mulberry32 over a hash of it (FNV-1a).
export function randomOf(text) {
  let state = 2166136261
  for (const letter of text) state = Math.imul(state ^ letter.codePointAt(0), 16777619)
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
}
