// Readers of the official JavaScript client that follow streams until they are closed, through any
// number of broken connections, and then write what they were given to files.
//
//     node readers.mjs '{"url": ..., "readers": [{"stream": ..., "json": ..., "live": ..., "file": ...}]}'
//
// Says `reading FILE` when a reader is under way and `closed FILE BREAKS` when it is through.

import { writeFileSync } from "node:fs"
import { stream } from "@durable-streams/client"
import { isAway } from "./patient.mjs"

const { url, readers } = JSON.parse(process.argv[2])
process.stdin.on("end", () => process.exit(1)).resume()

async function follow({ stream: path, json, live, file }) {
  const given = []
  let offset = "-1"
  let breaks = 0
  for (let closed = false; !closed; ) {
    let current = true
    try {
      const response = await stream({ url: `${url}/v1/stream/${path}`, offset, live, warnOnHttp: false })
      if (breaks === 0) console.log(`reading ${file}`)
      await new Promise((resolve, reject) => {
        const take = async (batch) => {
          if (!current) return // of a response that broke: it comes again
          given.push(...(json ? batch.items : [Buffer.from(batch.data)]))
          offset = batch.offset
          if (batch.streamClosed) resolve()
        }
        if (json) response.subscribeJson(take)
        else response.subscribeBytes(take)
        response.closed.catch(reject)
      })
      closed = true
    } catch (error) {
      if (!isAway(error)) throw error
      breaks++
    } finally {
      current = false
    }
  }
  writeFileSync(file, json ? JSON.stringify(given) : Buffer.concat(given))
  console.log(`closed ${file} ${breaks}`)
}

await Promise.all(readers.map(follow))
process.exit(0)
