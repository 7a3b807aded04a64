// Talking to the server: data, and feeds that go on.
//
// The token is kept in the session storage of this tab, and goes out in a header only. A feed is read
// with fetch, because an EventSource can send no header. It is opened again when the server ends it
// or the line breaks, and closed while nobody sees the page for a while.

import { put } from "./dom.js";

const TOKEN = "danube-trio token";
// Soon: over HTTP/1.1 a browser has six connections to a server, whatever tabs there are.
const HIDDEN_SECONDS = 10;
const PAUSES = [0.5, 1, 2, 4, 8];
// The longest event: rows or previews as many as the server's settings allow at most.
const MAX_EVENT = 64 << 20;

// What the server refuses, in its words.
export class Refused extends Error {
    constructor(status, text) {
        super(text);
        this.status = status;
    }
}

// ---- the token

export const token = () => sessionStorage.getItem(TOKEN) ?? "";

let asking = null;

export function forget() {
    sessionStorage.removeItem(TOKEN);
}

// Ask for a token; all who need one wait for the same answer.
function ask(rejected) {
    asking ??= new Promise((resolve) => {
        const dialog = document.getElementById("ask"), form = document.getElementById("ask-form");
        const input = document.getElementById("ask-token");
        put(
            document.getElementById("ask-text"),
            rejected ? "That token is not known here. Another one?" : "This server shows its topics to those who have a token.",
        );
        show("asks", "waits for a token");
        form.onsubmit = (event) => {
            event.preventDefault();
            sessionStorage.setItem(TOKEN, input.value.trim());
            input.value = "";
            asking = null;
            dialog.close();
            resolve();
        };
        // There is nothing behind it, whatever closes it.
        dialog.onclose = () => asking && dialog.showModal();
        dialog.showModal();
        input.focus();
    });
    return asking;
}

async function ask401(used) {
    if (token() === used) await ask(used !== "");
}

// ---- requests

async function request(path, options = {}) {
    for (;;) {
        const used = token();
        const headers = { ...options.headers };
        if (used) headers.Authorization = `Bearer ${used}`;
        const answer = await fetch(`_/${path}`, { ...options, headers, cache: "no-store", redirect: "error" });
        if (answer.status !== 401) return answer;
        await ask401(used);
    }
}

async function refusal(answer) {
    let text = `the server answers ${answer.status}`;
    try {
        text = (await answer.json()).error ?? text;
    } catch {
        // it is not from the page's own server, or cut: the status says what there is to say
    }
    return new Refused(answer.status, text);
}

export const query = (path, fields) => {
    const known = Object.entries(fields).filter(([, value]) => value !== undefined && value !== null && value !== "");
    return known.length ? `${path}?${new URLSearchParams(known)}` : path;
};

// Data. Raises Refused, or what fetch raises.
export async function get(path, fields = {}, signal = undefined) {
    const answer = await request(query(path, fields), { signal });
    if (!answer.ok) throw await refusal(answer);
    return answer.json();
}

export async function getBlob(path, fields) {
    const answer = await request(query(path, fields));
    if (!answer.ok) throw await refusal(answer);
    return answer.blob();
}

export async function post(path, body) {
    const headers = { "Content-Type": "application/json" };
    const answer = await request(path, { method: "POST", headers, body: JSON.stringify(body) });
    if (!answer.ok) throw await refusal(answer);
    return answer.json();
}

// ---- the state of the line, for people

export function show(state, text) {
    document.getElementById("link").dataset.state = state;
    put(document.getElementById("link-text"), text);
}

// ---- feeds

// Wait until `begin(done)` calls its argument, or the signal is aborted; nothing is left behind.
const waiting = (signal, begin) =>
    new Promise((resolve) => {
        const done = () => {
            signal.removeEventListener("abort", done);
            end();
            resolve();
        };
        const end = begin(done);
        signal.addEventListener("abort", done);
        if (signal.aborted) done();
    });

export const sleep = (seconds, signal) =>
    waiting(signal, (done) => {
        const timer = setTimeout(done, seconds * 1000);
        return () => clearTimeout(timer);
    });

const seen = (signal) =>
    waiting(signal, (done) => {
        document.addEventListener("visibilitychange", done);
        return () => document.removeEventListener("visibilitychange", done);
    });

// Events one after another: (name, data) of each block of lines.
async function* events(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        text += value;
        for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
            const block = text.slice(0, end);
            text = text.slice(end + 2);
            const name = /^event: (.*)$/m.exec(block), data = /^data: (.*)$/m.exec(block);
            if (name && data) yield [name[1], JSON.parse(data[1])];
        }
        if (text.length > MAX_EVENT) throw new Error("the server says too much at once");
    }
}

// Follow a feed until `signal` is aborted: `on[name](data)` for each event. `fields` gives the query,
// anew for each time that it is opened. Ends by itself only when `on` has no more use for it (an
// event's function returns false), or the server refuses: then `on.refused(error)` is called.
export async function follow(path, fields, on, signal) {
    let failures = 0;
    while (!signal.aborted) {
        if (document.hidden) {
            show("off", "rests while nobody looks");
            await seen(signal);
            continue;
        }
        const once = new AbortController();
        const abort = () => once.abort();
        signal.addEventListener("abort", abort, { once: true });
        const watch = watchHidden(once);
        try {
            const answer = await request(query(path, fields()), { signal: once.signal });
            if (!answer.ok) {
                const error = await refusal(answer);
                if (![408, 425, 429, 500, 502, 503, 504].includes(error.status)) {
                    show("off", "refused");
                    on.refused?.(error);
                    return;
                }
                throw error;
            }
            show("live", "live");
            for await (const [name, data] of events(answer.body)) {
                failures = 0;
                if (name === "end") break;
                if (name === "error") throw new Refused(500, data.error);
                if (on[name]?.(data) === false) return;
            }
        } catch (error) {
            if (signal.aborted) return;
            if (!once.signal.aborted) {
                const pause = PAUSES[Math.min(failures, PAUSES.length - 1)];
                failures += 1;
                show("lost", error instanceof Refused ? error.message : "no connection: trying again");
                await sleep(pause, signal);
            }
        } finally {
            watch();
            signal.removeEventListener("abort", abort);
            once.abort();
        }
    }
}

// Abort when the page was hidden for a while; returns what ends the watching.
function watchHidden(once) {
    let timer = 0;
    const changed = () => {
        clearTimeout(timer);
        if (document.hidden) timer = setTimeout(() => once.abort(), HIDDEN_SECONDS * 1000);
    };
    document.addEventListener("visibilitychange", changed);
    return () => {
        clearTimeout(timer);
        document.removeEventListener("visibilitychange", changed);
    };
}
