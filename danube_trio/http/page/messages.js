// What is in a topic: a list that follows its end, or begins where somebody wants it to; a filter over
// what is loaded, and a search of all of it; and one message with its fields.
//
// At most MOST messages are held. What comes at one end of the list pushes out the other.

import { el, keyed, mark, marked, put, say } from "./dom.js";
import { refuse, topicHead, topicKeys } from "./topic.js";
import { topicLink } from "./topics.js";
import { follow, get, getBlob } from "./wire.js";
import { amount, bytesOf, counted, hexLine, hexOf, indented, moment, place, size, someTextOf, textOf, visible } from "./words.js";

const MOST = 500;
const CHUNK = 100;
// Payload that is shown at most; the whole of it can be saved.
const MOST_SHOWN = 1 << 20;
// A list is at its end if no more than this is below, in pixels.
const NEAR = 48;
const SAY_SECONDS = 5;
// Bytes of a payload that is no text, in a list.
const MOST_BYTES = 48;

const HELP = "an offset, @12:30, @2026-01-31T12:00, @-10m, earliest or latest; times are UTC";

export function messagesView(about, root, topic, wanted) {
    const stop = new AbortController();
    const head = topicHead(topic, "/messages");
    let tail = null; // the live feed, while there is one
    let items = [], span = { first: 0, next: 0, start: 0, end: 0 };
    let matches = null; // what a search of the whole topic has found: {text, items, next, start, scanned}
    let loading = null; // what is asked for now
    let needle = "", chosen = null, unsaid = 0, silence = 0;

    // ---- the parts

    const live = el("button", { type: "button", class: "live", "aria-pressed": "false", onclick: () => (tail ? pause() : toEnd()) }, el("span", { class: "lamp", "aria-hidden": "true" }), "Live");
    const from = el("input", { type: "text", id: "from", placeholder: "offset or @time", autocomplete: "off", autocapitalize: "off", spellcheck: "false", title: HELP, "aria-describedby": "from-help" });
    const search = el("input", { type: "search", id: "search", placeholder: "payload, key, attributes", autocomplete: "off", autocapitalize: "off", spellcheck: "false", maxlength: 256, oninput: () => filter() });
    const whole = el("button", { type: "submit", disabled: true }, "Search all");
    const status = el("p", { class: "status" });
    const fault = el("p", { class: "trouble", role: "alert", hidden: true });
    const older = el("button", { type: "button", class: "more", hidden: true, onclick: () => more(-1) }, "Older");
    const newer = el("button", { type: "button", class: "more", hidden: true, onclick: () => more(1) }, "Newer");
    const list = el("div", { class: "rows", role: "grid", "aria-label": "Messages", "aria-rowcount": -1, onkeydown: listKey, onclick: listClick });
    const empty = el("p", { class: "empty", hidden: true });
    const box = el("div", { class: "list", onscroll: scrolled }, older, list, empty, newer);
    const detail = new Detail(topic, { closed: () => closeDetail(), around: (offset) => around(offset), step: (by) => stepRow(by) });

    root.append(
        head.node,
        el("div", { class: "tools messages-tools" },
            live,
            el("form", { class: "field", onsubmit: (event) => (event.preventDefault(), seek(from.value)) },
                el("label", { for: "from" }, "from"), from, el("button", { type: "submit" }, "Go"), el("span", { class: "unseen", id: "from-help" }, HELP)),
            el("form", { class: "field grow", role: "search", onsubmit: (event) => (event.preventDefault(), searchAll()) },
                el("label", { for: "search" }, "find"), search, whole)),
        status, fault,
        el("div", { class: "split" }, box, detail.node),
    );
    root.classList.add("fills");

    // ---- loading

    // Ask for messages; null if that failed, or something else was asked for meanwhile. `keep`: for the
    // list that there is, so not while something is under way.
    async function load(fields, { keep = false } = {}) {
        if (keep && loading) return null;
        loading?.abort();
        const mine = (loading = new AbortController());
        fault.hidden = true;
        mark(box, "aria-busy", "true");
        try {
            const signal = AbortSignal.any([stop.signal, mine.signal]);
            const found = await get("messages", { topic, count: CHUNK, ...fields }, signal);
            if (loading !== mine) return null;
            if (!keep) {
                items = found.items;
                span = found;
            }
            return found;
        } catch (error) {
            if (loading === mine && !stop.signal.aborted) failed(error);
            return null;
        } finally {
            done(mine);
        }
    }

    function done(mine) {
        if (loading !== mine) return;
        loading = null;
        mark(box, "aria-busy", null);
    }

    function failed(error) {
        fault.hidden = false;
        put(fault, error.message);
    }

    // The end of the topic, and what comes there from now on.
    async function toEnd() {
        leaveMatches();
        if ((await load({})) === null) return;
        startTail();
        render();
        box.scrollTop = box.scrollHeight;
    }

    function startTail() {
        tail?.abort();
        tail = new AbortController();
        const { signal } = tail;
        stop.signal.addEventListener("abort", () => tail?.abort(), { once: true, signal });
        mark(live, "aria-pressed", "true");
        follow("feed/messages", () => ({ topic, start: span.next }), {
            messages: (data) => !signal.aborted && came(data),
            passed: (data) => !signal.aborted && passed(data),
            gone: () => (refuse(root, topic, new Error("This topic is not there any more.")), stop.abort()),
            refused: failed,
        }, signal);
    }

    function pause() {
        if (!tail) return;
        tail.abort();
        tail = null;
        mark(live, "aria-pressed", "false");
        render();
    }

    function passed({ from: first, to }) {
        items.push({ offset: first, next: to, passed: true });
        span.next = to;
        return undefined;
    }

    function came(data) {
        items.push(...data.items);
        span = { ...data, first: span.first };
        trim(-1);
        unsaid += data.items.length;
        render();
        if (!silence) tell();
        return undefined;
    }

    // Say how many came; then not again for a while.
    function tell() {
        silence = 0;
        if (!unsaid || stop.signal.aborted) return;
        say(counted(unsaid, "new message"));
        unsaid = 0;
        silence = setTimeout(tell, SAY_SECONDS * 1000);
    }

    // Drop what is too much at the front (-1), or at the end (1).
    function trim(side) {
        if (items.length <= MOST) return;
        if (side < 0) {
            items = items.slice(-MOST);
            span.first = items[0].offset;
        } else {
            items = items.slice(0, MOST);
            span.next = endOf(items.at(-1));
        }
    }

    // Load what is before the list (-1) or after it (1); whether there is more now.
    async function more(side) {
        if (matches) return side > 0 && searchOn();
        const before = side < 0;
        if (before) {
            if (span.first <= span.start) return false;
            pause();
        }
        const { scrollTop, scrollHeight } = box;
        const found = await load(before ? { before: span.first } : { start: span.next }, { keep: true });
        if (!found?.items.length) return false;
        items = before ? [...found.items, ...items] : [...items, ...found.items];
        const end = before ? { first: found.first } : { next: found.next };
        span = { ...span, ...end, start: found.start, end: found.end };
        const first = items[0], held = before ? 0 : list.offsetHeight;
        trim(-side);
        render();
        // What was seen stays where it was.
        if (before) box.scrollTop = scrollTop + box.scrollHeight - scrollHeight;
        else if (items[0] !== first) box.scrollTop = scrollTop - Math.max(0, held - list.offsetHeight);
        say(`${counted(items.length, "message")} loaded`);
        return true;
    }

    async function seek(typed) {
        const found = place(typed);
        if (found.fault) return failed(new Error(found.fault));
        if (found.last) return toEnd();
        pause();
        leaveMatches();
        const loaded = await load(found.time !== undefined ? { time: found.time } : { start: found.start });
        if (!loaded) return;
        history.replaceState(null, "", topicLink(topic, `/messages?from=${encodeURIComponent(typed.trim())}`));
        render();
        box.scrollTop = 0;
        focusRow(items[0]?.offset);
        if (found.start !== undefined && found.start < loaded.start) say(`The topic begins at ${amount(loaded.start)}.`);
        else say(items.length ? `From offset ${amount(items[0].offset)}` : "There is nothing from there on.");
    }

    async function around(offset) {
        pause();
        leaveMatches();
        if (!(await load({ start: Math.max(0, offset - 20) }))) return;
        render();
        focusRow(offset);
    }

    // ---- searching

    function filter() {
        needle = search.value.toLowerCase();
        whole.disabled = !needle;
        leaveMatches();
        render();
    }

    async function searchAll() {
        if (!search.value) return;
        pause();
        loading?.abort();
        loading = null;
        matches = { text: search.value, items: [], next: null, start: 0, scanned: 0, faults: [] };
        await searchOn();
        if (matches?.items.length) focusRow(matches.items[0].offset);
    }

    async function searchOn() {
        if (loading || !matches || matches.next === matches.start) return false;
        const mine = matches, asked = (loading = new AbortController());
        fault.hidden = true;
        mark(box, "aria-busy", "true");
        render();
        try {
            const signal = AbortSignal.any([stop.signal, asked.signal]);
            const found = await get("search", { topic, text: mine.text, before: mine.next }, signal);
            if (matches !== mine) return false;
            mine.items.push(...found.items);
            mine.scanned += found.scanned;
            mine.faults.push(...found.faults);
            [mine.next, mine.start] = [found.next, found.start];
            span = { ...span, start: found.start, end: found.end };
            if (mine.items.length > MOST) mine.items = mine.items.slice(-MOST);
        } catch (error) {
            if (loading === asked && !stop.signal.aborted) failed(error);
            return false;
        } finally {
            done(asked);
        }
        render();
        say(statusText());
        return true;
    }

    function leaveMatches() {
        matches = null;
        fault.hidden = true;
    }

    // ---- showing

    function shown() {
        if (matches) return matches.items;
        return needle ? items.filter((item) => hasNeedle(item, needle)) : items;
    }

    function statusText() {
        const { start, end } = span;
        if (matches) {
            const where = `${counted(matches.scanned, "record")} searched, back from the end`;
            const lost = matches.faults.length ? `; ${amount(matches.faults.reduce((sum, each) => sum + each.next - each.offset, 0))} could not be read` : "";
            return `${counted(matches.items.length, "match").replace("matchs", "matches")} in ${where}${lost}${matches.next === matches.start ? "; that is all of it" : ""}`;
        }
        const loaded = items.length ? `offsets ${amount(span.first)} to ${amount(span.next)}` : "nothing";
        const all = `of ${amount(start)} to ${amount(end)}`;
        const filtered = needle ? `${amount(shown().length)} of ${amount(items.length)} loaded match; ` : "";
        return `${filtered}${loaded} ${all}${tail ? ", live" : ""}`;
    }

    function render() {
        const rows = shown(), atEnd = tail !== null;
        const texts = needle || matches?.text.toLowerCase() || "";
        keyed(list, rows, (item) => `${item.offset}${item.append_time === undefined ? "!" : ""}`, makeRow, (node, item) => updateRow(node, item, texts));
        list.style.setProperty("--digits", `${amount(span.end).length + 0.5}ch`);
        list.classList.toggle("bare", !rows.some((item) => item.key || item.attributes?.length));
        older.hidden = Boolean(matches) || span.first <= span.start;
        newer.hidden = matches ? matches.next === matches.start : tail !== null || span.next >= span.end;
        put(newer, matches ? "Search on" : "Newer");
        empty.hidden = rows.length > 0 || loading !== null;
        put(empty, matches ? "Nothing was found." : needle ? "Nothing that is loaded has that. Enter searches all of the topic." : "There are no messages here.");
        put(status, statusText());
        if (atEnd) box.scrollTop = box.scrollHeight;
        const focusable = list.querySelector('[tabindex="0"]');
        if (!focusable && list.lastElementChild) list.lastElementChild.tabIndex = 0;
    }

    function makeRow(item) {
        if (item.append_time === undefined) return el("div", { class: "row-note", role: "row" }, el("span", { role: "gridcell" }));
        const time = moment(item.append_time);
        return el("div", { class: "message", role: "row", tabIndex: -1, "data-offset": item.offset },
            el("span", { class: "offset", role: "gridcell" }, amount(item.offset)),
            el("span", { class: "time", role: "gridcell", title: time.whole }, time.time || "-"),
            el("span", { class: "labels", role: "gridcell" }),
            el("span", { class: "payload", role: "gridcell" }),
            el("span", { class: "bytes", role: "gridcell" }, size(item.size)));
    }

    function updateRow(node, item, text) {
        if (item.passed) return put(node.firstElementChild, `${counted(item.next - item.offset, "message")} passed over: they came faster than they can be shown`);
        if (item.append_time === undefined) {
            node.classList.add("bad");
            return put(node.firstElementChild, `offset ${amount(item.offset)}${item.next > item.offset + 1 ? ` to ${amount(item.next)}` : ""} cannot be read: ${item.fault}`);
        }
        mark(node, "aria-selected", String(chosen === item.offset));
        if (node.dataset.text === text) return undefined;
        node.dataset.text = text;
        const [, , labels, payload] = node.children;
        const keys = item.key ? [el("span", { class: "key" }, ...marked(visible(item.key), text))] : [];
        const attributes = item.attributes.map(([name, value]) => el("span", { class: "attribute" }, ...marked(`${visible(name)}=${visible(value)}`, text)));
        labels.replaceChildren(...keys, ...attributes);
        const { line, more: cut, isText, bad } = previewOf(item);
        payload.classList.toggle("bytes-only", !isText);
        payload.replaceChildren(...(bad ? [el("span", { class: "bad" }, "not decoded ")] : []), ...marked(line, isText ? text : ""), cut ? " …" : "");
        return undefined;
    }

    // ---- rows and keys

    const rowOf = (offset) => list.querySelector(`[data-offset="${offset}"]`);

    function focusRow(offset) {
        const row = offset === undefined ? null : rowOf(offset);
        if (!row) return;
        for (const other of list.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
        row.tabIndex = 0;
        row.focus({ preventScroll: true });
        row.scrollIntoView({ block: "nearest" });
        if (chosen !== null) choose(offset);
    }

    // To the row after or before; at the end of the list, to what is loaded then.
    async function stepRow(by) {
        const here = () => {
            const rows = [...list.querySelectorAll(".message")];
            const focused = rows.indexOf(document.activeElement);
            return [rows, focused >= 0 ? focused : rows.findIndex((row) => Number(row.dataset.offset) === chosen)];
        };
        if (tail && by < 0) pause();
        let [rows, at] = here();
        const isLast = at === (by < 0 ? 0 : rows.length - 1) && rows.length;
        if (isLast && !(by < 0 ? older : newer).hidden && (await more(by))) [rows, at] = here();
        const next = at < 0 ? (by < 0 ? rows.length - 1 : 0) : at + by;
        const row = rows[Math.min(rows.length - 1, Math.max(0, next))];
        if (row) focusRow(Number(row.dataset.offset));
    }

    function listKey(event) {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const row = event.target.closest(".message");
        const keys = {
            ArrowDown: () => stepRow(1), ArrowUp: () => stepRow(-1),
            Home: () => focusRow(Number(list.querySelector(".message")?.dataset.offset)),
            End: () => focusRow(Number([...list.querySelectorAll(".message")].at(-1)?.dataset.offset)),
            Enter: () => row && openDetail(Number(row.dataset.offset)), " ": () => row && openDetail(Number(row.dataset.offset)),
        };
        if (!keys[event.key]) return;
        event.preventDefault();
        keys[event.key]();
    }

    function listClick(event) {
        const row = event.target.closest(".message");
        if (!row || String(getSelection())) return;
        focusRow(Number(row.dataset.offset));
        openDetail(Number(row.dataset.offset));
    }

    function choose(offset) {
        chosen = offset;
        for (const row of list.children) if (row.dataset.offset) mark(row, "aria-selected", String(Number(row.dataset.offset) === offset));
        if (offset !== null) detail.show(offset, needle || matches?.text.toLowerCase() || "");
    }

    function openDetail(offset) {
        choose(offset);
        if (matchMedia("(max-width: 60rem)").matches) detail.focus();
    }

    function closeDetail() {
        const row = chosen === null ? null : rowOf(chosen);
        choose(null);
        detail.hide();
        (row ?? list.querySelector('[tabindex="0"]'))?.focus();
    }

    function scrolled() {
        if (tail && box.scrollHeight - box.scrollTop - box.clientHeight > NEAR) pause();
    }

    function escape() {
        if (document.activeElement === search && search.value) {
            search.value = "";
            filter();
        } else if (matches) {
            leaveMatches();
            render();
        } else if (detail.isOpen) closeDetail();
        else document.activeElement?.blur();
    }

    // ---- beginning

    follow("feed/topic", () => ({ topic }), {
        topic({ stream, statistics }) {
            head.update(stream, statistics ? statistics.phase : null);
            if (!statistics || tail) return;
            [span.start, span.end] = [statistics.start_offset, statistics.durable_end];
            put(status, statusText());
        },
        refused: (error) => (stop.abort(), refuse(root, topic, error)),
    }, stop.signal);
    if (wanted) {
        from.value = wanted;
        seek(wanted);
    } else toEnd();
    return {
        title: `Messages of ${topic}`,
        hints: [["j k", "down, up"], ["Enter", "fields"], ["/", "find"], ["g", "go to"], ["l", "live"], ["o", "state"]],
        keys: {
            ...topicKeys(topic),
            "/": () => (search.focus(), search.select()),
            g: () => (from.focus(), from.select()),
            l: () => live.click(),
            j: () => stepRow(1),
            k: () => stepRow(-1),
            Escape: escape,
        },
        close() {
            stop.abort();
            root.classList.remove("fills");
        },
    };
}

const endOf = (item) => item.next ?? item.offset + 1;

// The beginning of a payload as one line, made once: its text, or the first bytes of what is none.
function previewOf(item) {
    if (!item.preview) {
        const bytes = bytesOf(item.head), text = textOf(bytes, item.size > bytes.length);
        const line = text !== null ? visible(text) : hexLine(bytes.subarray(0, MOST_BYTES));
        const more = item.size > (text !== null ? bytes.length : Math.min(bytes.length, MOST_BYTES));
        item.preview = { line, more, isText: text !== null, bad: Boolean(item.fault) };
    }
    return item.preview;
}

function hasNeedle(item, needle) {
    if (item.passed || item.append_time === undefined) return false;
    item.searched ??= [visible(someTextOf(bytesOf(item.head))), item.key ?? "", ...item.attributes.flat()].join("\n").toLowerCase();
    return item.searched.includes(needle);
}

// ---- one message

// What is a time by its size is shown as one, too: Danube's producers choose its unit.
function withTime([name, value]) {
    if (name !== "publish_time") return [name, value];
    const number = Number(value), unit = [[1e11, 1e6], [1e14, 1e3], [1e17, 1], [Infinity, 1e-3]].find(([limit]) => number < limit)[1];
    return [name, `${value} (${moment(number * unit).whole})`];
}

const FORMS = ["text", "JSON", "hex"];
let preferred = null; // the form that somebody chose last

class Detail {
    constructor(topic, on) {
        this.topic = topic;
        this.on = on;
        this.offset = null;
        this.asked = 0;
        this.title = el("h2", { tabIndex: -1 });
        this.fields = el("dl", { class: "fields" });
        this.attributes = el("table", { class: "grid attributes" });
        this.forms = FORMS.map((form) => el("button", { type: "button", "aria-pressed": "false", onclick: () => this.form(form, true) }, form));
        this.note = el("p", { class: "hint" });
        this.text = el("pre", { class: "content", tabIndex: 0, "aria-label": "Payload" });
        this.next = el("button", { type: "button", hidden: true, onclick: () => this.more() }, "Show more");
        this.copy = el("button", { type: "button", onclick: () => this.copyText() }, "Copy");
        const save = el("button", { type: "button", onclick: () => this.save() }, "Save");
        this.node = el("aside", { class: "detail", hidden: true, "aria-label": "Message", onkeydown: (event) => this.key(event) },
            el("div", { class: "detail-head" },
                this.title,
                el("button", { type: "button", class: "plain", "aria-label": "Message before", title: "before (k)", onclick: () => on.step(-1) }, "↑"),
                el("button", { type: "button", class: "plain", "aria-label": "Message after", title: "after (j)", onclick: () => on.step(1) }, "↓"),
                el("button", { type: "button", class: "plain", "aria-label": "Close", title: "close (Esc)", onclick: () => on.closed() }, "×")),
            this.fields, this.attributes,
            el("div", { class: "tools" }, el("div", { class: "choice", role: "group", "aria-label": "Payload as" }, ...this.forms), this.copy, save,
                el("button", { type: "button", onclick: () => on.around(this.offset) }, "Neighbours")),
            this.note, this.text, this.next);
    }

    get isOpen() {
        return !this.node.hidden;
    }

    focus() {
        this.title.focus();
    }

    hide() {
        this.node.hidden = true;
        this.offset = null;
    }

    key(event) {
        if (event.key !== "Escape") return;
        event.stopPropagation();
        this.on.closed();
    }

    async show(offset, needle) {
        this.node.hidden = false;
        if (offset === this.offset) return;
        this.offset = offset;
        this.needle = needle;
        put(this.title, `offset ${amount(offset)}`);
        const asked = (this.asked += 1);
        try {
            const found = await get("message", { topic: this.topic, offset });
            if (asked === this.asked) this.found(found);
        } catch (error) {
            if (asked === this.asked) this.failed(error);
        }
    }

    failed(error) {
        this.fields.replaceChildren();
        this.attributes.replaceChildren();
        this.bytes = new Uint8Array();
        this.size = 0;
        put(this.note, error.message);
        put(this.text, "");
    }

    found(found) {
        this.bytes = bytesOf(found.part);
        this.size = found.size;
        const rows = [["append_time", moment(found.append_time).whole], ...(found.fields ?? []).map(withTime), ["codec", found.codec], ["payload", `${size(found.size)}${found.size >= 1024 ? ` (${amount(found.size)} bytes)` : ""}`]];
        if (found.fault) rows.push(["fault", found.fault]);
        this.fields.replaceChildren(...rows.map(([name, value]) => el("div", { class: name === "fault" ? "bad" : null }, el("dt", {}, name.replaceAll("_", " ")), el("dd", {}, ...marked(visible(value), this.needle)))));
        this.attributes.hidden = !found.attributes.length;
        this.attributes.replaceChildren(
            el("caption", {}, `attributes${found.attributes_cut ? ": the first of them" : ""}`),
            el("tbody", {}, ...found.attributes.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, ...marked(visible(name), this.needle)), el("td", {}, ...marked(visible(value), this.needle))))));
        this.form(preferred, false);
    }

    // Show the payload in a form: the one that is wanted, if it can be, else the best one.
    form(wanted, chosen) {
        if (chosen) preferred = wanted;
        const cut = this.size > this.bytes.length, text = textOf(this.bytes, cut);
        const json = text !== null && !cut && /^\s*[{[]/.test(text) ? indented(text) : null;
        let form = wanted ?? (json !== null ? "JSON" : text !== null ? "text" : "hex");
        let note = cut ? `the first ${amount(this.bytes.length)} of ${amount(this.size)} bytes` : "";
        if (form === "JSON" && json === null) {
            note = [cut ? "JSON can be shown of a whole payload only" : "it is no JSON object or array", note].filter(Boolean).join("; ");
            form = text !== null ? "text" : "hex";
        }
        if (form === "text" && text === null) note = ["it is not all UTF-8", note].filter(Boolean).join("; ");
        const shown = form === "JSON" ? visible(json, true) : form === "hex" ? hexOf(this.bytes, 0, this.text.clientWidth && this.node.clientWidth < 560 ? 8 : 16) : visible(text ?? someTextOf(this.bytes), true);
        this.forms.forEach((button, i) => mark(button, "aria-pressed", String(FORMS[i] === form)));
        this.text.classList.toggle("hex", form === "hex");
        this.text.replaceChildren(...(form === "hex" ? [shown] : marked(shown, this.needle)));
        put(this.note, note);
        this.note.hidden = !note;
        this.next.hidden = !cut || this.bytes.length >= MOST_SHOWN;
    }

    async more() {
        const { offset } = this;
        try {
            const found = await get("message", { topic: this.topic, offset, at: this.bytes.length });
            if (offset !== this.offset) return;
            const more = bytesOf(found.part), all = new Uint8Array(this.bytes.length + more.length);
            all.set(this.bytes);
            all.set(more, this.bytes.length);
            this.bytes = all;
            this.form(preferred, false);
        } catch (error) {
            put(this.note, error.message);
        }
    }

    async copyText() {
        try {
            await navigator.clipboard.writeText(this.text.textContent);
            say("copied");
        } catch {
            getSelection().selectAllChildren(this.text); // then the person can
        }
    }

    async save() {
        try {
            const blob = await getBlob("payload", { topic: this.topic, offset: this.offset });
            const link = el("a", { href: URL.createObjectURL(blob), download: `${this.topic.slice(1).replaceAll("/", "-")}-${this.offset}.bin` });
            link.click();
            setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
        } catch (error) {
            put(this.note, error.message);
            this.note.hidden = false;
        }
    }
}
