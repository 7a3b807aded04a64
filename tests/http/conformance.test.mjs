// The conformance suite of the protocol, as it is. DS_CONTROL is an address that answers when the
// server was killed and is back: it is asked for whenever the next case belongs to another group.

import { runConformanceTests } from "@durable-streams/server-conformance-tests"
import { beforeEach } from "vitest"

const { DS_URL, DS_CONTROL } = process.env

// A report has an error's message, and not its cause.
const fetch = globalThis.fetch
globalThis.fetch = (...request) =>
  fetch(...request).catch((error) => {
    if (error.cause) error.message += ` (${error.cause.code ?? error.cause})`
    throw error
  })

if (DS_CONTROL) {
  let group
  let back
  const restarted = async () => {
    const answer = await fetch(DS_CONTROL, { method: "POST" })
    if (!answer.ok) throw new Error(`the server is not back: ${await answer.text()}`)
  }
  // Some groups run their cases concurrently: all of them wait for one restart.
  beforeEach(async ({ task }) => {
    if (group !== task.suite.id) {
      back = group === undefined ? undefined : restarted()
      group = task.suite.id
    }
    await back
  }, 120_000)
}

// The time for a long-poll bounds some cases; the server's own is set to the same.
runConformanceTests({ baseUrl: DS_URL, longPollTimeoutMs: 500, subscriptions: true })
