// Subscriptions: of all topics, or of one, with the dead letters and the way back for them.

import { el, keyed, mark, put, say } from "./dom.js";
import { refuse, topicHead, topicKeys } from "./topic.js";
import { showPhase, step, topicLink } from "./topics.js";
import { get, post, show, sleep } from "./wire.js";
import { amount, counted } from "./words.js";

const EVERY_SECONDS = 2;
const MOVES = "It is saved where older versions did that, and moves when its program opens it.";
const SAVED = "As saved. What is in flight only its program could tell, and none has it open here.";

const COLUMNS = [
    ["lag", (row) => row.lag],
    ["in flight", (row) => row.in_flight],
    ["retrying", (row) => row.retrying],
    ["blocked", (row) => row.blocked],
    ["settled to", (row) => row.end],
];

const OF_STREAMS = [["subscription"], ["pattern"], ["streams", true], ["kind"], ["phase"], ["lag", true], ["failures", true], ["last error"]];

function phaseOf(row) {
    return row.fault ? "failed" : row.phase;
}

// Ask again and again while somebody looks; ends with the signal.
async function poll(signal, ask, failed) {
    while (!signal.aborted) {
        if (!document.hidden) {
            try {
                await ask();
                show("live", "live");
            } catch (error) {
                if (signal.aborted) return;
                if (error.status >= 400 && error.status < 500) return void failed(error);
                show("lost", error.status ? error.message : "no connection: trying again");
            }
        }
        await sleep(EVERY_SECONDS, signal);
    }
}

function tableOf(label, heads) {
    const body = el("tbody", { role: "rowgroup" });
    const cells = heads.map(([text, number]) => el("th", { scope: "col", role: "columnheader", class: number ? "number" : null }, text));
    const node = el("table", { class: "topics subscriptions", role: "table", "aria-label": label }, el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...cells)), body);
    return { node, body };
}

// ---- of all topics

const state = { text: "", first: 0 };

export function subscriptionsView(about, root) {
    const stop = new AbortController();
    const filter = el("input", { type: "search", id: "filter", placeholder: "filter by topic or name", value: state.text, "aria-label": "Filter by topic or name", autocomplete: "off", spellcheck: "false", maxlength: 256, oninput: () => ask({ text: filter.value.trim(), first: 0 }) });
    const table = tableOf("Subscriptions of topics", [["subscription"], ["topic"], ["phase"], ...COLUMNS.map(([text]) => [text, true])]);
    const empty = el("p", { class: "empty", hidden: true });
    const range = el("span", { class: "range" });
    const back = el("button", { type: "button", onclick: () => ask({ first: Math.max(0, state.first - count) }) }, "Previous");
    const on = el("button", { type: "button", onclick: () => ask({ first: state.first + count }) }, "Next");
    const pager = el("nav", { class: "pager", "aria-label": "Parts of the table", hidden: true }, back, range, on);
    const fault = el("p", { class: "trouble", role: "alert", hidden: true });
    const streams = tableOf("Subscriptions to streams over HTTP", OF_STREAMS);
    const others = el("section", { hidden: !about.stream_subscriptions }, el("h2", { class: "section" }, "to streams, over HTTP"), el("div", { class: "scroller" }, streams.node), el("p", { class: "empty" }, "There are none."));
    const count = Math.min(about.rows, 50);

    async function ask(change = {}) {
        Object.assign(state, change);
        const wanted = { ...state };
        const found = await get("subscriptions", { ...wanted, count }, stop.signal);
        if (wanted.text === state.text && wanted.first === state.first) update(found);
    }

    function update(found) {
        fault.hidden = true;
        keyed(table.body, found.rows, (row) => `${row.topic}\n${row.name}`, makeRow, updateRow);
        table.node.hidden = !found.rows.length;
        empty.hidden = found.rows.length > 0;
        put(empty, state.text ? "No topic or name has that." : "No topic has a subscription.");
        const end = found.first + found.rows.length;
        put(range, found.matching ? `${amount(found.first + 1)} to ${amount(end)} of ${amount(found.matching)}` : "");
        back.disabled = found.first === 0;
        on.disabled = end >= found.matching;
        pager.hidden = found.matching <= found.rows.length;
        if (!found.streams) return;
        streams.node.hidden = !found.streams.length;
        others.lastElementChild.hidden = found.streams.length > 0;
        keyed(streams.body, found.streams, (row) => row.name, () => el("tr", { role: "row" }, el("th", { scope: "row", role: "rowheader", class: "name" }), ...OF_STREAMS.slice(1).map(([head, number]) => el("td", { role: "cell", "data-head": head, class: number ? "number" : null }))),
            (node, row) => {
                const texts = [row.name, row.pattern, amount(row.streams), row.kind, row.phase, amount(row.lag), amount(row.failures), row.last_error];
                texts.forEach((text, i) => put(node.children[i], text));
                node.classList.toggle("bad", row.phase === "failed" || row.failures > 0);
            });
    }

    function makeRow() {
        return el("tr", { role: "row" },
            el("th", { scope: "row", role: "rowheader", class: "name" }, el("a", {})),
            el("td", { role: "cell", "data-head": "topic", class: "topic" }), el("td", { role: "cell", class: "phase", "data-head": "phase" }, el("span", { class: "pill" })),
            ...COLUMNS.map(([head]) => el("td", { role: "cell", class: "number", "data-head": head })));
    }

    function updateRow(node, row) {
        const [name, topic, phase, ...cells] = node.children;
        put(name.firstElementChild, row.name);
        mark(name.firstElementChild, "href", topicLink(row.topic, "/subscriptions"));
        put(topic, row.stream ?? row.topic);
        showState(phase.firstElementChild, row);
        COLUMNS.forEach(([, value], i) => put(cells[i], amount(value(row))));
    }

    function failed(error) {
        fault.hidden = false;
        put(fault, error.message);
    }

    root.append(
        el("h1", { class: "unseen", tabIndex: -1 }, "Subscriptions"),
        el("div", { class: "tools" }, filter), fault,
        el("h2", { class: "section" }, "of topics"), el("div", { class: "scroller" }, table.node), empty, pager, others);
    poll(stop.signal, () => ask(), failed);
    return {
        title: "Subscriptions",
        hints: [["/", "filter"], ["j k", "down, up"], ["Enter", "open"], ["t", "topics"]],
        keys: {
            "/": () => filter.focus(),
            j: () => step(table.body, 1),
            k: () => step(table.body, -1),
            Escape: () => (document.activeElement === filter && filter.value ? ((filter.value = ""), ask({ text: "", first: 0 })) : document.activeElement?.blur()),
        },
        close: () => stop.abort(),
    };
}

function showState(node, row) {
    showPhase(node, phaseOf(row));
    if (row.phase === "saved" && !row.fault) {
        mark(node, "data-tone", "none");
        mark(node, "title", SAVED);
    } else mark(node, "title", null);
}

// ---- of one topic

export function topicSubscriptionsView(about, root, topic) {
    const stop = new AbortController();
    const head = topicHead(topic, "/subscriptions");
    const cards = el("div", { class: "cards" });
    const empty = el("p", { class: "empty", hidden: true }, "This topic has no subscription.");
    let mayRedrive = false;

    async function ask() {
        const found = await get("subscriptions", { topic }, stop.signal);
        mayRedrive = found.may_redrive;
        empty.hidden = found.rows.length > 0;
        head.update(found.rows[0]?.stream ? { path: found.rows[0].stream } : null, undefined);
        keyed(cards, found.rows, (row) => row.name, (row) => new Card(topic, row, ask).node, (node, row) => node.card.update(row, mayRedrive));
    }

    root.append(head.node, cards, empty);
    poll(stop.signal, ask, (error) => (stop.abort(), refuse(root, topic, error)));
    return {
        title: `Subscriptions of ${topic}`,
        hints: [["o", "state"], ["m", "messages"], ["t", "all topics"]],
        keys: topicKeys(topic),
        close: () => stop.abort(),
    };
}

// What is shown of a subscription, in this order, where it is known.
const FACTS = ["lag", "in_flight", "retrying", "blocked", "consumers", "end", "saved_end", "delivered", "acked", "failed", "dropped", "dead_lettered", "lost"];
const WORDS = { end: "settled to", saved_end: "saved to" };
const BAD = ["blocked", "dropped", "lost"];

class Card {
    constructor(topic, row, again) {
        this.topic = topic;
        this.name = row.name;
        this.again = again;
        this.pill = el("span", { class: "pill" });
        this.facts = el("dl", { class: "pairs wide" });
        this.note = el("p", { class: "hint" });
        this.error = el("p", { class: "trouble", hidden: true });
        this.letters = el("p", { class: "letters" });
        this.button = el("button", { type: "button", hidden: true, onclick: () => this.ask() }, "Redrive");
        this.sure = el("button", { type: "button", class: "main", hidden: true, onclick: () => this.redrive() });
        this.no = el("button", { type: "button", hidden: true, onclick: () => this.calm() }, "No");
        this.result = el("span", { role: "status" });
        const other = el("input", { type: "text", placeholder: "/namespace/topic", "aria-label": "Topic of the dead letters", autocomplete: "off", autocapitalize: "off", spellcheck: "false", required: true });
        this.elsewhere = el("details", { class: "elsewhere" }, el("summary", {}, "dead letters in another topic"),
            el("form", { class: "row", onsubmit: (event) => (event.preventDefault(), this.redrive(other.value.trim())) }, other, el("button", { type: "submit" }, "Redrive from there")));
        this.node = el("section", { class: "panel card", "aria-label": `Subscription ${row.name}` },
            el("h2", {}, row.name, " ", this.pill), this.facts, this.error, this.note,
            el("div", { class: "row" }, this.letters, this.button, this.sure, this.no, this.result), this.elsewhere);
        this.node.card = this;
    }

    update(row, mayRedrive) {
        this.row = row;
        showState(this.pill, row);
        const facts = FACTS.filter((name) => typeof row[name] === "number");
        keyed(this.facts, facts, (name) => name, (name) => el("div", {}, el("dt", {}, WORDS[name] ?? name.replaceAll("_", " ")), el("dd")), (node, name) => {
            put(node.lastElementChild, amount(row[name]));
            node.classList.toggle("bad", BAD.includes(name) && row[name] > 0);
        });
        const trouble = row.fault || row.last_error || "";
        this.error.hidden = !trouble;
        put(this.error, trouble);
        put(this.note, row.phase !== "saved" || row.fault ? "" : row.moves ? `${SAVED} ${MOVES}` : SAVED);
        this.note.hidden = !this.note.textContent;
        const waiting = row.dead_letters;
        this.letters.replaceChildren();
        if (waiting === undefined) put(this.letters, row.letters ? "no dead letters" : "");
        else this.letters.append(`${counted(waiting, "dead letter")} in `, el("a", { href: topicLink(row.letters, "/messages") }, row.letters));
        const may = mayRedrive && !row.moves && !row.fault;
        this.may = may && waiting > 0;
        this.elsewhere.hidden = !may || row.phase !== "saved";
        if (this.sure.hidden) this.button.hidden = !this.may;
        else put(this.sure, this.question());
    }

    question() {
        return `Append ${counted(this.row.dead_letters, "dead letter")} to ${this.topic} again`;
    }

    ask() {
        put(this.sure, this.question());
        [this.button.hidden, this.sure.hidden, this.no.hidden] = [true, false, false];
        put(this.result, "");
        this.sure.focus();
    }

    calm() {
        [this.button.hidden, this.sure.hidden, this.no.hidden] = [!this.may, true, true];
        this.button.focus();
    }

    async redrive(letters = undefined) {
        this.sure.disabled = true;
        try {
            const { redriven, more } = await post("redrive", { topic: this.topic, subscription: this.name, letters });
            put(this.result, `${counted(redriven, "dead letter")} brought back${more ? "; there are more" : ""}`);
        } catch (error) {
            put(this.result, error.message);
        } finally {
            this.sure.disabled = false;
            if (!this.sure.hidden) this.calm();
        }
        await this.again().catch(() => undefined); // the next look says what is wrong
        say(this.result.textContent);
    }
}
