// Producers of the official JavaScript client: each appends what it is named, numbered, until a line
// comes on stdin, and then waits until all of it is acknowledged.
//
//     node producers.mjs '{"url": ..., "seed": ..., "producers": [{"id": ..., "stream": ..., "json": ...}]}'
//
// Says `acked ID STATUS` for each answer that is one of success, `sent ID COUNT` at the end, and nothing else. Any error ends
// it: a producer that has a broken connection behind it must get along with the server's state.

import { createInterface } from "node:readline"
import { DurableStream, IdempotentProducer } from "@durable-streams/client"
import { patientFetch, pause, randomOf } from "./patient.mjs"

const { url, seed, producers } = JSON.parse(process.argv[2])
let stopping = false
createInterface({ input: process.stdin })
  .on("line", () => (stopping = true))
  .on("close", () => stopping || process.exit(1)) // whoever started this is gone

// A message says whose it is and its number, and is as long as chance will have it.
function message(id, number, json, random) {
  const padding = "x".repeat(random() * (random() < 0.05 ? 20_000 : 100))
  return json ? JSON.stringify({ id, number, padding }) : `${id} ${number} ${padding}\n`
}

async function produce({ id, stream, json }) {
  const random = randomOf(`${seed}/${id}`)
  const handle = new DurableStream({
    url: `${url}/v1/stream/${stream}`,
    contentType: json ? "application/json" : "application/octet-stream",
  })
  let failure
  const begin = (epoch) =>
    new IdempotentProducer(handle, id, {
      epoch,
      autoClaim: epoch === 0, // asks which epoch is next, as a process does that remembers nothing
      lingerMs: Math.floor(random() * 4),
      maxBatchBytes: 200 + Math.floor(random() * 4000),
      maxInFlight: 1 + Math.floor(random() * 8),
      onError: (error) => (failure ??= error),
      fetch: async (input, init) => {
        const answer = await patientFetch(input, init)
        if (answer.ok) console.log(`acked ${id} ${answer.status}`)
        return answer
      },
    })
  let producer = begin(0)
  let count = 0
  while (!stopping && !failure) {
    for (let more = 1 + random() * 20; more > 0; more--) producer.append(message(id, count++, json, random))
    do await pause(random() * 5)
    while (producer.inFlightCount > 20 && !failure)
    const what = random()
    if (what < 0.04) {
      if (what < 0.02) await producer.restart() // flushes
      else {
        await producer.detach() // so does this
        // Coming again with epoch 0 finds out the next one, but only if the server knows a later one.
        // If it knows 0 itself, the first batches are answered as repeated, and never were in the log.
        producer = begin(producer.epoch > 0 && random() < 0.5 ? 0 : producer.epoch + 1)
      }
      // One batch alone: a second one may come first, and a new epoch that begins at 1 is a 400, which
      // the client takes for final. (With `autoClaim` it waits by itself.)
      producer.append(message(id, count++, json, random))
      await producer.flush()
    }
  }
  await producer.flush()
  if (failure) throw failure
  console.log(`sent ${id} ${count}`)
}

await Promise.all(producers.map(produce))
process.exit(0)
