// All topics: the sums above, and a table that the server has put in order, a part at a time.

import { el, keyed, mark, put, say } from "./dom.js";
import { Spark } from "./draw.js";
import { follow } from "./wire.js";
import { amount, counted, inUnit, perSecond, size } from "./words.js";

const SUMS = [
    ["records", "records", (data) => perSecond(data.rates.records), (data) => data.rates.records],
    ["bytes", "bytes", (data) => perSecond(data.rates.bytes, "bytes"), (data) => data.rates.bytes],
    ["syncs", "syncs", (data) => perSecond(data.rates.syncs), (data) => data.rates.syncs],
    ["topics", "topics open", (data) => `${amount(data.open)} of ${amount(data.total)}`, null],
    ["size", "size", (data) => size(data.size_bytes), null],
];

// Of the storage: what is only told of when it is not 0, because it is trouble or wants room.
const TROUBLE = ["waiting", "failed_opens", "not_uploaded"];

const COLUMNS = [
    { sort: "name", head: "topic", down: false },
    { sort: "phase", head: "phase", down: true },
    { sort: "start", head: "start", number: true, text: (row) => amount(row.start_offset) },
    { sort: "uploaded", head: "uploaded", number: true, store: true, text: (row) => amount(row.uploaded_end) },
    { sort: "durable", head: "durable", number: true, text: (row) => amount(row.durable_end) },
    { sort: "next", head: "next", number: true, text: (row) => amount(row.next_offset) },
    { sort: "records", head: "records", number: true, text: (row) => perSecond(row.rates.records) },
    { sort: "bytes", head: "bytes", number: true, text: (row) => perSecond(row.rates.bytes, "bytes") },
    { sort: "size", head: "size", number: true, text: (row) => size(row.size_bytes) },
    { sort: "readers", head: "readers", number: true, text: (row) => (row.open ? amount(row.readers) : "-") },
    { sort: "waiting", head: "waiting", number: true, store: true, text: (row) => size(row.waiting_bytes) },
];
const KINDS = [["all", "All"], ["open", "Open"], ["topics", "Topics"], ["streams", "Streams"]];

export const topicLink = (topic, part = "") => `#/topic/${encodeURIComponent(topic)}${part}`;

// What is remembered of the view while the page is open.
const state = { sort: "records", order: "down", text: "", kind: "all", first: 0 };

export function topicsView(about, root) {
    let feed = new AbortController();
    const sums = SUMS.map(([key, label, text, value]) => {
        const spark = value && new Spark();
        const shown = el("dd", {}, "-");
        const node = el("div", { class: "sum", "data-sum": key }, el("dt", {}, label), shown, spark && el("dd", { class: "drawn" }, spark.node));
        return { node, shown, spark, text, value };
    });
    const storage = el("p", { class: "storage" });
    const trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    const filter = el("input", {
        type: "search", id: "filter", placeholder: "filter by name", value: state.text, "aria-label": "Filter by name",
        autocomplete: "off", spellcheck: "false", maxlength: 256,
        oninput: () => ask({ text: filter.value.trim(), first: 0 }),
    });
    const kinds = KINDS.filter(([kind]) => about.streams || kind === "all" || kind === "open").map(([kind, label]) =>
        el("button", { type: "button", "data-kind": kind, "aria-pressed": String(kind === state.kind), onclick: () => ask({ kind, first: 0 }) }, label),
    );
    const heads = COLUMNS.map((column) => {
        const button = el("button", { type: "button", class: "sort", onclick: () => sortBy(column) }, column.head, el("span", { class: "arrow", "aria-hidden": "true" }));
        return el("th", { scope: "col", role: "columnheader", class: column.number ? "number" : null, "data-column": column.sort }, button);
    });
    const body = el("tbody", { role: "rowgroup" });
    const table = el(
        "table", { class: "topics", role: "table", "aria-label": "Topics" },
        el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)), body,
    );
    const empty = el("p", { class: "empty", hidden: true });
    const range = el("span", { class: "range" });
    const back = el("button", { type: "button", onclick: () => turn(-1) }, "Previous");
    const on = el("button", { type: "button", onclick: () => turn(1) }, "Next");
    const pager = el("nav", { class: "pager", "aria-label": "Parts of the table" }, back, range, on);
    const sparks = new Map();
    let last = null, told = "", held = false, fresh = true;

    body.addEventListener("pointerenter", () => (held = true));
    body.addEventListener("pointerleave", () => (held = false));

    const count = Math.min(about.rows, matchMedia("(max-width: 40rem)").matches ? 25 : 50);

    function ask(change) {
        Object.assign(state, change);
        for (const button of kinds) mark(button, "aria-pressed", String(button.dataset.kind === state.kind));
        start();
    }

    function sortBy(column) {
        const down = state.sort === column.sort ? state.order === "up" : column.number || column.down;
        ask({ sort: column.sort, order: down ? "down" : "up", first: 0 });
        say(`by ${column.head}, ${down ? "largest first" : "smallest first"}`);
    }

    function turn(step) {
        if (last) ask({ first: Math.max(0, last.first + step * count) });
    }

    function start() {
        feed.abort();
        feed = new AbortController();
        fresh = true;
        const { signal } = feed;
        const fields = () => ({ ...state, count });
        follow("feed/topics", fields, { topics: (data) => signal.aborted || show(data), refused }, signal);
    }

    function refused(error) {
        trouble.hidden = false;
        put(trouble, error.message);
    }

    function show(data) {
        last = data;
        for (const { shown, spark, text, value } of sums) {
            put(shown, text(data));
            spark?.add(value(data));
        }
        showStorage(data);
        heads.forEach((head, i) => {
            const column = COLUMNS[i], sorted = column.sort === state.sort;
            head.hidden = Boolean(column.store) && !data.has_store;
            mark(head, "aria-sort", sorted ? (state.order === "down" ? "descending" : "ascending") : null);
        });
        const rows = inPlace(data.rows);
        fresh = false;
        keyed(body, rows, (row) => row.topic, makeRow, (node, row) => updateRow(node, row, data.has_store));
        for (const [topic, spark] of sparks) {
            if (rows.some((row) => row.topic === topic)) continue;
            spark.close();
            sparks.delete(topic);
        }
        empty.hidden = data.matching > 0;
        put(empty, data.total ? "No name has that." : "There are no topics yet.");
        const end = data.first + data.rows.length;
        put(range, data.matching ? `${amount(data.first + 1)} to ${amount(end)} of ${amount(data.matching)}` : "");
        back.disabled = data.first === 0;
        on.disabled = end >= data.matching;
        pager.hidden = data.matching <= data.rows.length && data.first === 0;
        const words = counted(data.matching, "topic");
        if (words !== told) say(words);
        told = words;
    }

    // While somebody points at a row, or is in the table with the keyboard, no row moves.
    function inPlace(rows) {
        if (fresh || !(held || body.contains(document.activeElement))) return rows;
        const places = new Map([...body.children].map((node, i) => [node.dataset.key, i]));
        if (rows.some((row) => !places.has(row.topic)) || rows.length !== places.size) return rows;
        return [...rows].sort((one, other) => places.get(one.topic) - places.get(other.topic));
    }

    function showStorage(data) {
        const found = Object.entries(data.storage ?? {}).filter(([name]) => name !== "open_topics");
        const parts = found.filter(([name]) => !TROUBLE.includes(name)).map(([name, value]) => `${name.replaceAll("_", " ")} ${inUnit(name, value)}`);
        if (!data.listed) parts.push("asking which other topics there are");
        put(storage, parts.join("  ·  "));
        const bad = found.filter(([name, value]) => TROUBLE.includes(name) && value).map(([name, value]) => `${name.replaceAll("_", " ")} ${amount(value)}`);
        if (data.listing_error) bad.push(`which topics there are cannot be asked now: ${data.listing_error}`);
        trouble.hidden = !bad.length;
        put(trouble, bad.join("  ·  "));
    }

    function makeRow(row) {
        const spark = new Spark();
        sparks.set(row.topic, spark);
        const name = el("th", { scope: "row", role: "rowheader", class: "name" }, el("a", { href: topicLink(row.topic) }), el("span", { class: "kind" }));
        const phase = el("td", { role: "cell", class: "phase", "data-head": "phase" }, el("span", { class: "pill" }));
        const cells = COLUMNS.slice(2).map((column) =>
            el("td", { role: "cell", class: "number", "data-head": column.head, "data-column": column.sort }, column.sort === "records" ? spark.node : null, el("span", { class: "value" })),
        );
        return el("tr", { role: "row" }, name, phase, ...cells);
    }

    function updateRow(node, row, hasStore) {
        const [name, phase, ...cells] = node.children;
        put(name.firstElementChild, row.stream?.path ?? row.topic);
        mark(name, "title", row.stream ? `${row.stream.path} (${row.topic})` : row.topic);
        put(name.lastElementChild, row.stream ? ["stream", row.stream.content_type, row.stream.closed ? "closed" : "", row.stream.note].filter(Boolean).join(", ") : "");
        showPhase(phase.firstElementChild, row.open ? row.phase : null);
        node.classList.toggle("resting", !row.open);
        cells.forEach((cell, i) => {
            const column = COLUMNS[i + 2];
            cell.hidden = Boolean(column.store) && !hasStore;
            const text = column.text(row);
            put(cell.lastElementChild, text);
            cell.classList.toggle("none", text === "-" || text === "0/s" || text === "0 B/s");
        });
        if (row.open) sparks.get(row.topic).add(row.rates.records);
    }

    root.append(
        el("h1", { class: "unseen", tabIndex: -1 }, "Topics"),
        el("dl", { class: "sums" }, ...sums.map((sum) => sum.node)),
        storage, trouble,
        el("div", { class: "tools" }, filter, el("div", { class: "choice", role: "group", "aria-label": "Which" }, ...kinds)),
        el("div", { class: "scroller" }, table), empty, pager,
    );
    start();
    return {
        title: "Topics",
        hints: [["/", "filter"], ["j k", "down, up"], ["Enter", "open"], ["s", "subscriptions"]],
        keys: {
            "/": () => filter.focus(),
            j: () => step(body, 1),
            k: () => step(body, -1),
            n: () => !on.disabled && !pager.hidden && turn(1),
            p: () => !back.disabled && !pager.hidden && turn(-1),
            Escape: () => (document.activeElement === filter && filter.value ? ((filter.value = ""), ask({ text: "", first: 0 })) : document.activeElement?.blur()),
        },
        close() {
            feed.abort();
            sums.forEach((sum) => sum.spark?.close());
            sparks.forEach((spark) => spark.close());
        },
    };
}

// Move the focus among the links of a table.
export function step(body, by) {
    const links = [...body.querySelectorAll("tr a")], at = links.indexOf(document.activeElement);
    const next = at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, at + by));
    links[next]?.focus();
    links[next]?.scrollIntoView({ block: "nearest" });
}

const GOOD = ["open"], BAD = ["broken", "fenced", "failed"];

// A phase, in its color; null: it is not open.
export function showPhase(node, phase) {
    put(node, phase ?? "not open");
    mark(node, "data-tone", phase === null ? "none" : GOOD.includes(phase) ? "good" : BAD.includes(phase) ? "bad" : "warn");
}
