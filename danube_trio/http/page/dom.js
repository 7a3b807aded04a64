// Elements. What comes from a log, a name or an answer becomes text, never markup: there is no other
// way to make an element here than `el`, and it sets text and known attributes only.

const PROPERTIES = new Set(["hidden", "disabled", "checked", "value", "tabIndex", "open", "indeterminate"]);

// An element: `el("td", {class: "number", title: "..."}, "text", child)`. A name that begins with
// "on" is a listener. null, undefined and false are left out.
export function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
        if (value === null || value === undefined || value === false) continue;
        if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
        else if (PROPERTIES.has(name)) node[name] = value;
        else node.setAttribute(name, value === true ? "" : String(value));
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
    return node;
}

// Text of an element, changed only if it is another one: what is the same is not laid out again.
export function put(node, text) {
    const wanted = text === null || text === undefined ? "" : String(text);
    if (node.textContent !== wanted) node.textContent = wanted;
}

// An attribute, or none.
export function mark(node, name, value) {
    if (value === null || value === undefined || value === false) {
        if (node.hasAttribute(name)) node.removeAttribute(name);
    } else if (node.getAttribute(name) !== String(value)) {
        node.setAttribute(name, String(value));
    }
}

// The children of `parent`, one for each item and in their order. Those of a key that was there are
// kept, so that focus, selection and pictures stay.
export function keyed(parent, items, keyOf, make, update) {
    const old = new Map();
    for (const child of [...parent.children]) old.set(child.dataset.key, child);
    let at = parent.firstElementChild;
    for (const item of items) {
        const key = String(keyOf(item));
        let node = old.get(key);
        if (node === undefined) {
            node = make(item);
            node.dataset.key = key;
        }
        old.delete(key);
        if (node === at) at = at.nextElementSibling;
        else parent.insertBefore(node, at);
        update(node, item);
    }
    for (const node of old.values()) node.remove();
}

// Places that are marked in one text; more are not told apart.
const MOST_MARKS = 1000;

// Text with the places marked where a needle is, in any case.
export function marked(text, needle) {
    if (!needle) return [text];
    const lower = text.toLowerCase(), parts = [];
    if (lower.length !== text.length) return [text]; // its places are not those of the text
    let at = 0;
    for (let found = lower.indexOf(needle); found >= 0 && parts.length < 2 * MOST_MARKS; found = lower.indexOf(needle, at)) {
        parts.push(text.slice(at, found), el("mark", {}, text.slice(found, found + needle.length)));
        at = found + needle.length;
    }
    parts.push(text.slice(at));
    return parts;
}

let saying = 0;

// Tell those who do not see the screen, at most once in a while: the last word counts.
export function say(text) {
    clearTimeout(saying);
    saying = setTimeout(() => put(document.getElementById("said"), text), 150);
}
