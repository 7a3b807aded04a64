// The protocol's own reference server, started and stopped as `serve.py` is: what is said of a server
// of ours can be asked of this one, and benchmarks can run beside it.
//
//     node reference.mjs --dir DIR [--port PORT] [--hold]

import { createInterface } from "node:readline"
import { parseArgs } from "node:util"
import { DurableStreamTestServer } from "@durable-streams/server"

const { values } = parseArgs({
  options: {
    dir: { type: "string" },
    port: { type: "string", default: "0" },
    "long-poll-seconds": { type: "string", default: "30" },
    hold: { type: "boolean", default: false },
  },
})

let port = Number(values.port)
if (values.hold) {
  const lines = createInterface({ input: process.stdin })
  console.log("loaded")
  port = Number(await new Promise((resolve) => lines.once("line", resolve)))
  lines.once("close", () => process.exit(0))
}
const server = new DurableStreamTestServer({
  port,
  dataDir: values.dir,
  longPollTimeout: Number(values["long-poll-seconds"]) * 1000,
  webhooks: true,
})
console.log(`listening ${new URL(await server.start()).port}`)
