// The frame: which view is shown, the keys, and who the page is for.

import { el, mark, put, say } from "./dom.js";
import { messagesView } from "./messages.js";
import { subscriptionsView, topicSubscriptionsView } from "./subscriptions.js";
import { topicView } from "./topic.js";
import { topicsView } from "./topics.js";
import { forget, get, show, token } from "./wire.js";

const SINGLE = "danube-trio keys";
const root = document.getElementById("main");
const KEYS = [
    ["?", "these keys"],
    ["t", "topics"],
    ["s", "subscriptions"],
    ["j  k, or arrows", "down and up in a list"],
    ["Enter", "open what is chosen"],
    ["/", "filter, find"],
    ["g", "go to an offset or a time"],
    ["l", "live, on and off"],
    ["o  m  u", "a topic's state, messages, subscriptions"],
    ["n  p", "next and previous part of a table"],
    ["Esc", "back, close, clear"],
];

let about = null, view = null;

// ---- views

function route() {
    const [path, query] = location.hash.replace(/^#/, "").split("?");
    const parts = path.split("/").slice(1);
    if (parts[0] === "topic" && parts[1]) {
        let topic = parts[1];
        try {
            topic = decodeURIComponent(parts[1]);
        } catch {
            // as it stands: the server says what is wrong with it
        }
        if (parts[2] === "messages") return (node) => messagesView(about, node, topic, new URLSearchParams(query).get("from"));
        if (parts[2] === "subscriptions") return (node) => topicSubscriptionsView(about, node, topic);
        return (node) => topicView(about, node, topic);
    }
    if (parts[0] === "subscriptions") return (node) => subscriptionsView(about, node);
    return (node) => topicsView(about, node);
}

function showView(first) {
    view?.close();
    root.replaceChildren();
    const body = el("div", { class: "view" });
    root.append(body);
    view = route()(body);
    document.title = `${view.title} - danube-trio`;
    const page = location.hash.startsWith("#/subscriptions") ? "subscriptions" : "topics";
    for (const link of document.querySelectorAll("nav [data-page]")) mark(link, "aria-current", link.dataset.page === page ? "page" : null);
    const hints = view.hints.flatMap(([key, what]) => [el("kbd", {}, key), ` ${what}  `]);
    document.getElementById("hints").replaceChildren(...hints, el("kbd", {}, "?"), " keys");
    if (first) return;
    window.scrollTo(0, 0);
    root.querySelector("h1")?.focus();
    say(view.title);
}

// ---- keys

const keysDialog = document.getElementById("keys"), single = document.getElementById("single");

function showKeys() {
    document.getElementById("forget").hidden = !token();
    keysDialog.showModal();
}

const everywhere = {
    "?": showKeys,
    t: () => (location.hash = "#/"),
    s: () => (location.hash = "#/subscriptions"),
};

function pressed(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || !view) return;
    if (document.querySelector("dialog[open]")) return;
    const typing = event.target.closest?.("input, textarea, select");
    if (typing && event.key !== "Escape") return;
    if (event.key !== "Escape" && !single.checked) return;
    const action = view.keys[event.key] ?? everywhere[event.key];
    if (!action) return;
    event.preventDefault();
    action();
}

document.getElementById("shortcuts").append(...KEYS.map(([key, what]) => el("div", {}, el("dt", {}, ...key.split("  ").map((each) => el("kbd", {}, each))), el("dd", {}, what))));
single.checked = localStorage.getItem(SINGLE) !== "off";
single.addEventListener("change", () => localStorage.setItem(SINGLE, single.checked ? "on" : "off"));
document.addEventListener("keydown", pressed);
document.getElementById("help").addEventListener("click", showKeys);
document.getElementById("keys-close").addEventListener("click", () => keysDialog.close());
document.getElementById("forget").addEventListener("click", () => {
    forget();
    location.reload();
});
document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    root.focus();
});
window.addEventListener("hashchange", () => about && showView(false));

// ---- beginning

async function begin() {
    try {
        about = await get("about");
    } catch (error) {
        show("off", "refused");
        root.replaceChildren(el("h1", { tabIndex: -1 }, "danube-trio"), el("p", { class: "empty", role: "alert" }, error.message), el("p", {}, el("button", { type: "button", onclick: begin }, "Try again")));
        return;
    }
    put(document.getElementById("place"), [about.directory, `danube-trio ${about.version}`].filter(Boolean).join("  ·  "));
    showView(true);
}

begin();
