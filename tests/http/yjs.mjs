// Two Yjs documents that two people edit at the same time, until a line comes on stdin; then they
// have to become the same, and a third one that joins late has to be like them.
//
//     node yjs.mjs '{"url": ..., "seed": ..., "through": "streams" or "yjs-server"}'
//
// Says `ready` when both are connected, `edited COUNT` now and then, and `same COUNT` at the end.
//
// Facts about @durable-streams/y-durable-streams 0.2.7:
// - `YjsProvider` speaks to a Yjs server, which keeps its documents as streams, and is in the package.
//   It is content with a server of streams itself: one that has no snapshots is read from the start.
// - An edit that could not be sent is lost: the provider disconnects, connects, and does not send what
//   the server lacks. It comes again with the same producer's name and epoch 0, which a server that
//   knows epoch 0 answers as repeated. So here every `fetch` waits for a server which is away.
// - The Yjs server passes an answer on as it comes, and when that breaks off it neither ends nor breaks
//   its own: whoever reads it waits for ever. So it is given whole answers here, and documents are read
//   through it by long-polls, not as streams of events.
// - To read on after a snapshot, the Yjs server adds 1 to the second half of the offset at which it
//   took it, as if that were a number of bytes. An offset that has been added to like this must still
//   give everything from the next message on.

import { createInterface } from "node:readline"
import { YjsProvider } from "@durable-streams/y-durable-streams"
import { YjsServer } from "@durable-streams/y-durable-streams/server"
import * as Y from "yjs"
import { patientFetch, pause, randomOf } from "./patient.mjs"

const CONVERGE_MS = 60_000
// Small enough for several snapshots.
const COMPACT_BYTES = 3000

const { url, seed, through } = JSON.parse(process.argv[2])
const random = randomOf(seed)
let stopping = false
createInterface({ input: process.stdin })
  .on("line", () => (stopping = true))
  .on("close", () => stopping || process.exit(1)) // whoever started this is gone

const fetch = globalThis.fetch
const wholeFetch = async (input, init) => {
  const answer = await fetch(input, init)
  if (!String(input).startsWith(url)) return answer // it is the Yjs server's own
  const body = await answer.arrayBuffer()
  return new Response(answer.status === 204 ? null : body, answer)
}
const given = through === "yjs-server" ? wholeFetch : fetch
globalThis.fetch = (input, init) => patientFetch(input, init, given)

function fail(what) {
  console.error(what)
  process.exit(1)
}

async function until(what, condition) {
  const giveUp = Date.now() + CONVERGE_MS
  while (!condition()) {
    if (Date.now() > giveUp) fail(`not within ${CONVERGE_MS} ms: ${what()}`)
    await pause(10)
  }
}

async function connected(name, liveMode) {
  const doc = new Y.Doc()
  const provider = new YjsProvider({ doc, baseUrl, docId: "notes", liveMode, connect: false })
  provider.on("error", (error) => fail(`${name}: ${error.stack}`))
  provider.connect()
  await until(() => `${name} is connected`, () => provider.synced)
  return { name, doc, provider, text: doc.getText("text"), map: doc.getMap("map"), count: 0 }
}

let baseUrl = `${url}/v1/stream/yjs`
let modes = ["sse", "long-poll", "sse"]
if (through === "yjs-server") {
  const server = new YjsServer({ dsServerUrl: url, compactionThreshold: COMPACT_BYTES })
  baseUrl = `${await server.start()}/v1/yjs/tests`
  modes = ["long-poll", "long-poll", "long-poll"]
}

const people = [await connected("ann", modes[0]), await connected("bob", modes[1])]
console.log("ready")
for (let rounds = 0; !stopping; rounds++) {
  for (const person of people) {
    const { doc, text, map, name } = person
    doc.transact(() => {
      text.insert(Math.floor(random() * text.length), `<${name} ${person.count}>`)
      map.set(name, person.count++)
      map.set("last", name)
    })
  }
  await pause(random() * 10)
  if (rounds % 10 === 0) console.log(`edited ${rounds}`)
}
for (const { provider } of people) await provider.flush()

const content = ({ doc, text, map }) =>
  JSON.stringify([
    text.toString(),
    [...map.entries()].sort(),
    [...Y.decodeStateVector(Y.encodeStateVector(doc))].sort(),
  ])
const alike = (one, other) => content(one) === content(other)
const lengths = (...all) => all.map(({ name, text }) => `${name} has ${text.length}`).join(", ")

await until(() => `the same: ${lengths(...people)}`, () => alike(...people))
const late = await connected("carol", modes[2])
await until(() => `the same: ${lengths(people[0], late)}`, () => alike(people[0], late))

// An insertion may stand inside another one, but no letter is lost or there twice.
const wanted = people.flatMap(({ name, count }) => Array.from({ length: count }, (_, n) => `<${name} ${n}>`))
const sorted = (letters) => [...letters].sort().join("")
if (sorted(late.text.toString()) !== sorted(wanted.join(""))) fail(`the text has other letters than were typed`)
for (const { name, count } of people) if (late.map.get(name) !== count - 1) fail(`an edit of ${name} is lost`)
console.log(`same ${wanted.length}`)
process.exit(0)
