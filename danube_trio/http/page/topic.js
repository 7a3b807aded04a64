// One topic: its marks, its syncs, and every figure that `danube-trio top` has of it.

import { el, keyed, mark, put, say } from "./dom.js";
import { Histogram, MARKS, MarksBar, MarksPlot, SyncsPlot } from "./draw.js";
import { showPhase, topicLink } from "./topics.js";
import { follow } from "./wire.js";
import { amount, counted, duration, inUnit, perSecond, NONE } from "./words.js";

// Counters whose growth is shown, and where they are.
const COUNTERS = {
    records: ["appended_records"],
    bytes: ["appended_bytes"],
    writes: ["writes"],
    syncs: ["syncs"],
    rolls: ["rolls"],
    uploads: ["cloud", "uploads"],
    uploaded_bytes: ["cloud", "uploaded_bytes"],
    fetched_bytes: ["cloud", "fetched_bytes"],
};
const HELD = ["pending_", "waiting_", "cached_"];
const SHOWN = ["phase", ...MARKS, "appended_records", "appended_bytes", "writes", "syncs", "rolls", "readers", "tasks", "cloud", "notes"];
const TROUBLE = ["failures", "error", "failed", "held", "lost"];
const MOST_ROWS = 50;

const PARTS = [["", "State"], ["/messages", "Messages"], ["/subscriptions", "Subscriptions"]];

// The head of every view of a topic. `update(stream, phase)` when these are known.
export function topicHead(topic, part) {
    const name = el("h1", { tabIndex: -1, class: "topic-name" }, topic);
    const pill = el("span", { class: "pill" });
    const about = el("p", { class: "about" });
    const tabs = el("nav", { class: "parts", "aria-label": "Parts of this topic" },
        ...PARTS.map(([path, label]) => el("a", { href: topicLink(topic, path), "aria-current": path === part ? "page" : null }, label)));
    const node = el("div", { class: "head" }, el("div", { class: "title" }, name, pill), about, tabs);
    pill.hidden = true;
    return {
        node,
        update(stream, phase) {
            put(name, stream?.path ?? topic);
            if (stream) document.title = `${stream.path} - danube-trio`;
            put(about, stream ? ["stream", stream.content_type, stream.closed ? "closed" : "", stream.note, `data in ${topic}`].filter(Boolean).join(", ") : "");
            if (phase === undefined) return;
            pill.hidden = false;
            showPhase(pill, phase);
        },
    };
}

const numberIn = (found, path) => {
    for (const name of path) found = found?.[name];
    return typeof found === "number" ? found : null;
};
const words = (name) => name.replaceAll("_", " ");
const isHistogram = (value) => Boolean(value) && Array.isArray(value.bounds) && Array.isArray(value.counts);

// A small table: head, and rows of texts. Its cells are changed, not made anew.
class Grid {
    constructor(title, head, left = 1) {
        this.left = left;
        this.caption = el("caption", {}, title);
        this.body = el("tbody");
        const heads = head.map((text, i) => el("th", { scope: "col", class: i < left ? null : "number" }, text));
        this.node = el("section", { class: "panel", hidden: true }, el("table", { class: "grid" }, this.caption, el("thead", {}, el("tr", {}, ...heads)), this.body));
    }

    update(rows) {
        this.node.hidden = !rows.length;
        keyed(this.body, rows.slice(0, MOST_ROWS), (row) => row.key ?? row[0],
            (row) => el("tr", {}, ...row.map((_, i) => (i === 0 ? el("th", { scope: "row" }) : el("td", { class: i < this.left ? null : "number" })))),
            (node, row) => row.forEach((text, i) => {
                put(node.children[i], text);
                node.children[i].classList.toggle("none", text === NONE);
            }));
    }
}

// Names and values; those that tell of trouble stand out.
class Pairs {
    constructor(title) {
        this.list = el("dl", { class: "pairs" });
        this.node = el("section", { class: "panel", hidden: true }, el("h2", {}, title), this.list);
    }

    update(pairs) {
        const found = pairs.map(([name, value]) => [name, valueText(name, value), Boolean(value) && TROUBLE.some((word) => name.includes(word))]).filter(([, text]) => text !== null);
        this.node.hidden = !found.length;
        keyed(this.list, found, ([name]) => name, ([name]) => el("div", {}, el("dt", {}, words(name)), el("dd")), (node, [, text, bad]) => {
            put(node.lastElementChild, text);
            node.classList.toggle("bad", bad);
        });
    }
}

function valueText(name, value) {
    if (value === null || value === undefined || value === "" || isHistogram(value) || Array.isArray(value)) return null;
    if (typeof value === "boolean") return value ? "yes" : "no";
    return typeof value === "number" ? inUnit(name, value) : String(value);
}

export function topicView(about, root, topic) {
    const stop = new AbortController();
    const head = topicHead(topic, "");
    const marks = MARKS.map((name) => {
        const value = el("dd", {}, "-"), short = name.replace(/_(offset|end)$/, "");
        return { name, value, node: el("div", { class: `mark ${short}`, "data-mark": short }, el("dt", {}, short), value) };
    });
    const bar = new MarksBar(), missing = el("p", { class: "missing", hidden: true });
    const moving = new MarksPlot(), syncs = new SyncsPlot();
    const closed = el("p", { class: "note", hidden: true });
    const rates = new Grid("rates", ["", "now", "in all"]);
    const held = new Grid("held", ["", "now", "peak"]);
    const long = new Grid("how long, how much", ["", "p50 now", "p99 now", "p50", "p99", "mean", "events"]);
    const tasks = new Grid("tasks", ["", "state", "since"], 2);
    const readers = new Grid("readers", ["", "tier", "cursor", "lag"], 2);
    const cloud = new Pairs("object store"), rest = new Pairs("and");
    const notes = el("ul", { class: "notes", hidden: true });
    const pictures = el("div", { class: "pictures" },
        el("section", { class: "panel" }, el("h2", {}, "marks over time"), moving.node),
        el("section", { class: "panel" }, el("h2", {}, "syncs: how long they take (dashed: 99% within, over 5 s)"), syncs.node));
    let before = null, wasOpen = null;

    function show({ elapsed, stream, statistics: found, last }) {
        head.update(stream, found ? found.phase : null);
        const shown = found ?? last;
        closed.hidden = Boolean(found);
        put(closed, last && "next_offset" in last
            ? "Nobody uses this topic, so it is not open. These are its figures when it last was."
            : "Nobody uses this topic, so it is not open, and has no figures. Its messages can be read: that opens it.");
        if (wasOpen !== null && wasOpen !== Boolean(found)) say(found ? "The topic is open." : "The topic is not open any more.");
        wasOpen = Boolean(found);
        const hasStore = found ? found.cloud !== null : Boolean(last?.has_store);
        for (const { name, value, node } of marks) {
            put(value, amount(shown?.[name]));
            node.hidden = name === "uploaded_end" && !hasStore;
        }
        if (shown && "next_offset" in shown) bar.update(shown, hasStore);
        bar.node.hidden = !(shown && shown.next_offset > shown.start_offset);
        const behind = found ? found.next_offset - found.durable_end : 0;
        missing.hidden = !found; // it stays where it is otherwise, so that nothing below it jumps
        missing.classList.toggle("warn", behind > 0);
        put(missing, `not durable yet: ${counted(behind, "record")}`);
        pictures.hidden = !found;
        showNow(found, elapsed);
        before = found ? { elapsed, found } : null;
    }

    function showNow(found, elapsed) {
        const was = before?.found, seconds = before ? elapsed - before.elapsed : 0;
        if (found) {
            moving.add({ time: elapsed, ...Object.fromEntries(MARKS.map((name) => [name, found[name]])) });
            const whole = new Histogram(found.sync_seconds);
            const since = was && seconds > 0 ? whole.since(new Histogram(was.sync_seconds)) : whole.since(whole);
            syncs.add({ time: elapsed, syncs: since });
        }
        rates.update(found ? ratesOf(found, was, seconds) : []);
        held.update(found ? heldOf(found) : []);
        long.update(found ? histogramsOf(found, was) : []);
        tasks.update((found?.tasks ?? []).map((task) => [task.name, task.state, duration(task.seconds)]));
        const slow = [...(found?.readers ?? [])].sort((one, other) => other.lag - one.lag);
        readers.update(slow.map((reader, i) => [String(i + 1), reader.tier, amount(reader.cursor), amount(reader.lag)]));
        cloud.update(Object.entries(found?.cloud ?? {}).filter(([name]) => !["uploads", "uploaded_bytes", "fetched_bytes"].includes(name)));
        const others = Object.entries(found ?? {}).filter(([name, value]) => !SHOWN.includes(name) && !(HELD.some((start) => name.startsWith(start)) && typeof value === "number"));
        rest.update(others);
        notes.hidden = !found?.notes.length;
        keyed(notes, (found?.notes ?? []).slice(0, MOST_ROWS), (note) => note, () => el("li"), (node, note) => put(node, typeof note === "string" ? note : JSON.stringify(note)));
    }

    function gone() {
        stop.abort();
        root.replaceChildren(el("h1", { tabIndex: -1 }, topic), el("p", { class: "empty" }, "This topic is not there any more."));
    }

    root.append(
        head.node, closed,
        el("section", { class: "panel wide" }, el("h2", {}, "marks"), el("dl", { class: "marks" }, ...marks.map((each) => each.node)), bar.node, missing),
        pictures, notes, long.node,
        el("div", { class: "panels" }, rates.node, held.node, tasks.node, readers.node, cloud.node, rest.node),
    );
    follow("feed/topic", () => ({ topic }), { topic: show, gone, refused: (error) => refuse(root, topic, error) }, stop.signal);
    return {
        title: topic,
        hints: [["m", "messages"], ["u", "its subscriptions"], ["t", "all topics"]],
        keys: topicKeys(topic),
        close() {
            stop.abort();
            moving.close();
            syncs.close();
        },
    };
}

// What every view of a topic says instead of itself when it cannot be had.
export function refuse(root, topic, error) {
    root.replaceChildren(
        el("h1", { tabIndex: -1, class: "topic-name" }, topic),
        el("p", { class: "empty" }, error.message), el("p", {}, el("a", { href: "#/" }, "All topics")),
    );
}

export const topicKeys = (topic) => ({
    o: () => (location.hash = topicLink(topic)),
    m: () => (location.hash = topicLink(topic, "/messages")),
    u: () => (location.hash = topicLink(topic, "/subscriptions")),
});

function ratesOf(found, was, seconds) {
    const rows = [];
    for (const [name, path] of Object.entries(COUNTERS)) {
        const now = numberIn(found, path), old = was ? numberIn(was, path) : null;
        if (now === null) continue;
        const rate = old !== null && seconds > 0 && now >= old ? (now - old) / seconds : null;
        rows.push([words(name), perSecond(rate, name), inUnit(name, now)]);
    }
    return rows;
}

function heldOf(found) {
    return Object.entries(found)
        .filter(([name, value]) => HELD.some((start) => name.startsWith(start)) && !name.includes("_peak") && typeof value === "number")
        .map(([name, value]) => {
            const cut = name.lastIndexOf("_"), unit = name.slice(cut + 1);
            return [words(name), inUnit(unit, value), inUnit(unit, numberIn(found, [`${name.slice(0, cut)}_peak_${unit}`]))];
        });
}

function histogramsOf(found, was) {
    const all = [...Object.entries(found), ...Object.entries(found.cloud ?? {})];
    const old = { ...was, ...was?.cloud };
    return all
        .filter(([, value]) => isHistogram(value))
        .map(([name, value]) => {
            const whole = new Histogram(value), recent = isHistogram(old[name]) ? whole.since(new Histogram(old[name])) : null;
            const unit = name.endsWith("seconds") ? name : name.includes("bytes") ? "bytes" : "";
            const cells = [recent?.quantile(0.5), recent?.quantile(0.99), whole.quantile(0.5), whole.quantile(0.99), whole.total ? whole.sum / whole.total : null];
            return [words(name.replace(/_seconds$/, "")), ...cells.map((cell) => inUnit(unit, cell)), amount(whole.total)];
        });
}
