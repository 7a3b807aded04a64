// Numbers, sizes, durations and times as text: the same words as those of `danube-trio top`.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en-US", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

export const NONE = "-";

const isNone = (value) => value === null || value === undefined;

// A count, with commas.
export function amount(value) {
    if (isNone(value)) return NONE;
    return Number.isFinite(value) ? whole.format(value) : "more";
}

// Bytes, in the unit that fits.
export function size(value) {
    if (isNone(value)) return NONE;
    if (!Number.isFinite(value)) return "more";
    let unit = 0;
    while (Math.abs(value) >= 1024 && unit + 1 < UNITS.length) {
        value /= 1024;
        unit += 1;
    }
    return `${unit === 0 ? whole.format(value) : tenths.format(value)} ${UNITS[unit]}`;
}

// Seconds, in the unit that fits.
export function duration(value) {
    if (isNone(value)) return NONE;
    if (!Number.isFinite(value)) return "longer";
    if (value < 1e-3) return `${(value * 1e6).toFixed(0)} us`;
    if (value < 1) return `${(value * 1e3).toFixed(1)} ms`;
    if (value < 120) return `${value.toFixed(1)} s`;
    const seconds = Math.floor(value);
    const two = (number) => String(number).padStart(2, "0");
    return `${Math.floor(seconds / 3600)}:${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
}

// A rate; `name` is of what, which says the unit.
export function perSecond(value, name = "") {
    if (isNone(value)) return NONE;
    if (name.endsWith("bytes")) return `${size(value)}/s`;
    return `${value > 0 && value < 100 ? tenths.format(value) : whole.format(value)}/s`;
}

// A value, in the unit that its name says.
export function inUnit(name, value) {
    if (name.endsWith("bytes")) return size(value);
    return name.endsWith("seconds") ? duration(value) : amount(value);
}

// A number and what it counts: 1 record, 2 records.
export function counted(number, thing) {
    return `${amount(number)} ${thing}${number === 1 ? "" : "s"}`;
}

// A time in microseconds since 1970: day and time of day, both UTC; empty if it is not known.
export function moment(microseconds) {
    if (!microseconds) return { day: "", time: "", whole: "unknown" };
    const date = new Date(microseconds / 1000);
    if (Number.isNaN(date.getTime())) {
        return { day: "", time: "", whole: `${microseconds} us after 1970` };
    }
    const text = date.toISOString(), rest = String(Math.floor(microseconds % 1000)).padStart(3, "0");
    const cut = text.indexOf("T");
    return {
        day: text.slice(0, cut),
        time: text.slice(cut + 1, -1),
        whole: `${text.slice(0, -1)}${rest}Z`,
    };
}

// What was typed to go somewhere: {start}, {time} or {last}, or {fault} in words. Times are UTC
// unless they name a zone, as in the options of the command line; a time of day is today's.
export function place(typed, now = Date.now()) {
    const text = typed.trim();
    if (text === "" || text === "latest") return { last: true };
    if (text === "earliest") return { start: 0 };
    if (/^[0-9][0-9,_ ]*$/.test(text)) {
        const offset = Number(text.replace(/[,_ ]/g, ""));
        if (Number.isSafeInteger(offset)) return { start: offset };
        return { fault: `${text} is more than any offset` };
    }
    if (!text.startsWith("@")) return { fault: `${text} is neither earliest, latest, an offset nor @TIME` };
    const time = text.slice(1).trim();
    const ago = /^-\s*([0-9]+(?:\.[0-9]+)?)\s*(s|m|h|d)$/.exec(time);
    if (ago) {
        const seconds = Number(ago[1]) * { s: 1, m: 60, h: 3600, d: 86400 }[ago[2]];
        return { time: Math.max(0, now / 1000 - seconds) };
    }
    if (/^[0-9]+(\.[0-9]+)?$/.test(time)) return { time: Number(time) };
    let iso = time;
    const day = new Date(now).toISOString().slice(0, 10);
    if (/^[0-9]{1,2}:[0-9]{2}/.test(time)) iso = `${day}T${time.padStart(time.indexOf(":") === 1 ? time.length + 1 : 0, "0")}`;
    iso = iso.replace(" ", "T");
    if (/^[0-9]{4}-[0-9]{2}-[0-9]{2}$/.test(iso)) iso += "T00:00";
    if (!/(Z|[+-][0-9]{2}:?[0-9]{2})$/i.test(iso)) iso += "Z";
    const found = Date.parse(iso);
    if (Number.isNaN(found)) {
        return { fault: `${time} is no time: seconds since 1970, 12:30, 2026-01-31T12:00, or -10m` };
    }
    return found < 0 ? { fault: `${time} is before 1970` } : { time: found / 1000 };
}

// Bytes of a text in base64.
export function bytesOf(base64) {
    return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lenient = new TextDecoder("utf-8", { ignoreBOM: true });

// The text of bytes, or null if they are none. `cut`: there were more, so the end may be half a
// character.
export function textOf(bytes, cut) {
    for (let less = 0; less <= (cut ? 3 : 0); less += 1) {
        try {
            return strict.decode(bytes.subarray(0, Math.max(0, bytes.length - less)));
        } catch (error) {
            if (!(error instanceof TypeError)) throw error;
        }
    }
    return null;
}

// The same, with what is no text as a replacement character.
export const someTextOf = (bytes) => lenient.decode(bytes);

// Text as it can be shown: what a screen would obey, or hide, is made visible. `lines`: line ends and
// tabs stay.
export function visible(text, lines = false) {
    return text.replace(/[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, (found) => {
        const code = found.charCodeAt(0);
        if (lines && (found === "\n" || found === "\t")) return found;
        if (code < 0x20) return String.fromCharCode(0x2400 + code);
        if (code === 0x7f) return "\u2421";
        return `\u27e8${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
    });
}

// JSON, indented, every number and text as it stands there. null if it is none.
export function indented(text) {
    try {
        JSON.parse(text);
    } catch {
        return null;
    }
    let out = "", depth = 0;
    const line = () => `\n${"  ".repeat(depth)}`;
    const tokens = text.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g) ?? [];
    tokens.forEach((token, i) => {
        const next = tokens[i + 1];
        if (token === "{" || token === "[") {
            depth += 1;
            const empty = next === "}" || next === "]";
            out += empty ? token : token + line();
        } else if (token === "}" || token === "]") {
            const empty = tokens[i - 1] === "{" || tokens[i - 1] === "[";
            depth -= 1;
            out += empty ? token : line() + token;
        } else if (token === ",") {
            out += token + line();
        } else {
            out += token === ":" ? ": " : token;
        }
    });
    return out;
}

const hex = (byte) => byte.toString(16).padStart(2, "0");

// Bytes in hexadecimal, in one line.
export const hexLine = (bytes) => Array.from(bytes, hex).join(" ");

// Bytes in hexadecimal, with what is printable beside it; `at` is the place of the first one.
export function hexOf(bytes, at = 0, width = 16) {
    const lines = [];
    for (let i = 0; i < bytes.length; i += width) {
        const part = [...bytes.subarray(i, i + width)];
        const left = hexLine(part.slice(0, width / 2)), right = hexLine(part.slice(width / 2));
        const shown = part.map((byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : "."));
        lines.push(`${(at + i).toString(16).padStart(8, "0")}  ${`${left}  ${right}`.padEnd(3 * width + 1)}  ${shown.join("")}`);
    }
    return lines.join("\n");
}
