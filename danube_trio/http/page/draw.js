// Pictures on canvas: small lines, the marks of a log, and how long its syncs take.
//
// A picture is drawn anew from its samples whenever they, its size or the colors change. Colors are
// those of the style sheet. What a picture shows is said in text beside it, and for the moment under
// the pointer, or the one chosen with the arrow keys, in the line below it.

import { el, mark, put } from "./dom.js";
import { amount, duration } from "./words.js";

// How much a picture shows: the first of these that holds all samples, so that it is soon full.
const WINDOWS = [20, 40, 60, 120];
const MOST_SECONDS = WINDOWS.at(-1);

const style = getComputedStyle(document.documentElement);
const color = (name) => style.getPropertyValue(`--${name}`).trim();

const pictures = new Set();
const redraw = () => pictures.forEach((picture) => picture.draw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
const sizes = new ResizeObserver((entries) => entries.forEach((entry) => entry.target.picture?.draw()));

// A canvas in the page, and how it is drawn. `close` it when it leaves the page.
class Picture {
    constructor(canvas, paint) {
        this.canvas = canvas;
        this.paint = paint;
        canvas.picture = this;
        pictures.add(this);
        sizes.observe(canvas);
    }

    draw() {
        const { canvas } = this, scale = window.devicePixelRatio || 1;
        const width = canvas.clientWidth, height = canvas.clientHeight;
        if (!width || !height) return;
        if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
            canvas.width = Math.round(width * scale);
            canvas.height = Math.round(height * scale);
        }
        const pen = canvas.getContext("2d");
        pen.setTransform(scale, 0, 0, scale, 0, 0);
        pen.clearRect(0, 0, width, height);
        this.paint(pen, width, height);
    }

    close() {
        pictures.delete(this);
        sizes.unobserve(this.canvas);
    }
}

// ---- a small line

// The last values of one figure, as a line without axes.
export class Spark {
    constructor(length = 60) {
        this.length = length;
        this.values = [];
        this.node = el("canvas", { class: "spark", "aria-hidden": "true" });
        this.picture = new Picture(this.node, (pen, width, height) => this.paint(pen, width, height));
    }

    add(value) {
        this.values.push(value ?? 0);
        if (this.values.length > this.length) this.values.shift();
        this.picture.draw();
    }

    paint(pen, width, height) {
        const { values, length } = this, most = Math.max(...values, 1e-9);
        if (values.length < 2 || !values.some(Boolean)) return;
        const x = (i) => ((i + length - values.length) / (length - 1)) * (width - 3) + 1;
        const y = (value) => height - 1.5 - (value / most) * (height - 4);
        pen.beginPath();
        values.forEach((value, i) => pen.lineTo(x(i), y(value)));
        pen.strokeStyle = color("line-strong");
        pen.lineWidth = 1.25;
        pen.lineJoin = "round";
        pen.stroke();
        pen.lineTo(x(values.length - 1), height);
        pen.lineTo(x(0), height);
        pen.closePath();
        pen.fillStyle = color("wash");
        pen.fill();
        pen.beginPath();
        pen.arc(x(values.length - 1), y(values.at(-1)), 1.75, 0, 2 * Math.PI);
        pen.fillStyle = color("accent");
        pen.fill();
    }

    close() {
        this.picture.close();
    }
}

// ---- pictures over time

const LEFT = 64, BOTTOM = 20, TOP = 8, RIGHT = 8;

// A picture of the last two minutes or less, with a line of text for one moment. Samples have a `time`, in
// seconds of the server's clock.
class Timeline {
    constructor(label, height, tell) {
        this.samples = [];
        this.chosen = null; // the time under the pointer
        this.tell = tell;
        this.canvas = el("canvas", {
            class: `plot ${height}`, role: "img", tabIndex: 0, "aria-label": label,
            onpointermove: (event) => this.choose(this.timeAt(event.offsetX)),
            onpointerleave: () => this.choose(null),
            onblur: () => this.choose(null),
            onkeydown: (event) => this.key(event),
        });
        this.line = el("p", { class: "reading", "aria-live": "off" });
        this.node = el("figure", { class: "picture" }, this.canvas, this.line);
        this.picture = new Picture(this.canvas, (pen, width, height_) => this.paint(pen, width, height_));
    }

    add(sample) {
        const last = this.samples.at(-1);
        if (last && sample.time <= last.time) this.samples = []; // another server, or clock
        this.samples.push(sample);
        while (this.samples.length > 2 && this.samples[1].time < sample.time - MOST_SECONDS) this.samples.shift();
        this.picture.draw();
        this.read();
    }

    get seconds() {
        const age = this.now - (this.samples[0]?.time ?? this.now);
        return WINDOWS.find((seconds) => seconds >= age) ?? MOST_SECONDS;
    }

    get now() {
        return this.samples.at(-1)?.time ?? 0;
    }

    x(time, width) {
        return LEFT + (1 - (this.now - time) / this.seconds) * (width - LEFT - RIGHT);
    }

    timeAt(x) {
        const width = this.canvas.clientWidth - LEFT - RIGHT;
        return this.now - (1 - (x - LEFT) / width) * this.seconds;
    }

    choose(time) {
        this.chosen = time === null ? null : Math.min(this.now, Math.max(this.now - this.seconds, time));
        this.picture.draw();
        this.read();
    }

    key(event) {
        const step = { ArrowLeft: -1, ArrowRight: 1, Home: -MOST_SECONDS, End: MOST_SECONDS }[event.key];
        if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        this.choose((this.chosen ?? this.now) + step);
        this.line.setAttribute("aria-live", "polite");
    }

    // The sample of the chosen moment, or the last one.
    get sample() {
        if (this.chosen === null) return this.samples.at(-1);
        return this.samples.findLast((sample) => sample.time <= this.chosen) ?? this.samples[0];
    }

    read() {
        const sample = this.sample;
        if (!sample) return;
        const ago = this.now - sample.time;
        put(this.line, `${this.chosen === null || ago < 0.05 ? "now" : `${duration(ago)} ago`}: ${this.tell(sample)}`);
    }

    axes(pen, width, height, ticks) {
        pen.font = `11px ${color("sans")}`;
        pen.fillStyle = color("quiet");
        pen.strokeStyle = color("line");
        pen.lineWidth = 1;
        pen.textBaseline = "middle";
        pen.textAlign = "right";
        for (const [y, text] of ticks) {
            pen.beginPath();
            pen.moveTo(LEFT, Math.round(y) + 0.5);
            pen.lineTo(width - RIGHT, Math.round(y) + 0.5);
            pen.stroke();
            pen.fillText(text, LEFT - 7, y);
        }
        pen.textBaseline = "alphabetic";
        for (const part of [1, 0.75, 0.5, 0.25, 0]) {
            const seconds = part * this.seconds, x = this.x(this.now - seconds, width);
            pen.textAlign = part === 0 ? "right" : part === 1 ? "left" : "center";
            pen.fillText(seconds === 0 ? "now" : `${seconds} s`, x, height - 5);
        }
    }

    hairline(pen, width, height) {
        if (this.chosen === null || !this.samples.length) return;
        const x = Math.round(this.x(this.chosen, width)) + 0.5;
        pen.beginPath();
        pen.moveTo(x, TOP);
        pen.lineTo(x, height - BOTTOM);
        pen.strokeStyle = color("text");
        pen.setLineDash([2, 3]);
        pen.lineWidth = 1;
        pen.stroke();
        pen.setLineDash([]);
    }

    close() {
        this.picture.close();
    }
}

// ---- the marks

export const MARKS = ["start_offset", "uploaded_end", "sealed_end", "durable_end", "written_end", "next_offset"];
// What the records between a mark and the one before it are.
export const BANDS = [
    ["uploaded_end", "uploaded"],
    ["sealed_end", "sealed"],
    ["durable_end", "durable"],
    ["written_end", "written"],
    ["next_offset", "accepted"],
];

// A step up to a number that is easy to read: 1, 2 or 5 and zeros.
function roundStep(span) {
    const power = 10 ** Math.floor(Math.log10(Math.max(span, 1)));
    return [1, 2, 5, 10].map((part) => part * power).find((step) => step >= span) ?? 10 * power;
}

// The marks over time, as on docs/journey.md. The offsets shown begin at the lowest mark that moved
// meanwhile, so that a long log does not hide what happens at its end.
export class MarksPlot extends Timeline {
    constructor() {
        super("The marks of the log, lately.", "tall", (sample) =>
            MARKS.filter((name) => sample[name] !== undefined)
                .map((name) => `${name.replace(/_(offset|end)$/, "")} ${amount(sample[name])}`)
                .join(", "),
        );
    }

    paint(pen, width, height) {
        const { samples } = this, first = samples[0], last = samples.at(-1);
        if (!last) return;
        const moved = MARKS.filter((name) => last[name] !== first[name]);
        const low = moved.length ? Math.min(...moved.map((name) => first[name])) : last.start_offset;
        const high = Math.max(last.next_offset, low + 1);
        const bottom = height - BOTTOM, y = (offset) => bottom - (Math.max(0, offset - low) / (high - low)) * (bottom - TOP);
        const step = roundStep((high - low) / 4), ticks = [];
        for (let at = Math.ceil(low / step) * step; at <= high; at += step) ticks.push([y(at), amount(at)]);
        this.axes(pen, width, height, ticks);
        pen.save();
        pen.beginPath();
        pen.rect(LEFT, 0, width - LEFT - RIGHT, bottom);
        pen.clip();
        let below = "start_offset";
        for (const [name, word] of BANDS) {
            this.band(pen, width, y, below, name, color(word));
            below = name;
        }
        pen.strokeStyle = color("text");
        pen.lineWidth = 0.9;
        for (const name of MARKS) {
            if (last[name] < low && first[name] < low) continue;
            pen.beginPath();
            this.steps(pen, width, y, name, false);
            pen.stroke();
        }
        pen.restore();
        this.hairline(pen, width, height);
    }

    // A line of steps: each value holds until the next sample.
    steps(pen, width, y, name, back) {
        const { samples } = this, end = this.x(this.now, width);
        const points = [];
        samples.forEach((sample, i) => {
            const x = this.x(sample.time, width), next = i + 1 < samples.length ? this.x(samples[i + 1].time, width) : end;
            points.push([x, y(sample[name])], [next, y(sample[name])]);
        });
        if (back) points.reverse();
        points.forEach(([x, at]) => pen.lineTo(x, at));
    }

    band(pen, width, y, low, high, fill) {
        pen.beginPath();
        this.steps(pen, width, y, low, false);
        this.steps(pen, width, y, high, true);
        pen.closePath();
        pen.globalAlpha = 0.6;
        pen.fillStyle = fill;
        pen.fill();
        pen.globalAlpha = 1;
    }
}

// The whole log from start to end, each part as safe as it is.
export class MarksBar {
    constructor() {
        this.parts = new Map(BANDS.map(([name, word]) => [name, el("span", { class: `part ${word}` })]));
        this.node = el("div", { class: "marks-bar", role: "img" }, ...this.parts.values());
    }

    update(found, hasStore) {
        const start = found.start_offset, total = found.next_offset - start;
        let below = start;
        const told = [];
        for (const [name, word] of BANDS) {
            const end = name === "uploaded_end" && !hasStore ? below : Math.max(below, found[name]);
            const part = total > 0 ? (end - below) / total : 0, node = this.parts.get(name);
            node.style.flexGrow = String(part);
            // Even one record that is not durable can be seen.
            node.style.minWidth = part > 0 ? "3px" : "0";
            if (part > 0) told.push(`${word} ${amount(end - below)}`);
            below = end;
        }
        mark(this.node, "aria-label", total > 0 ? `Of ${amount(total)} records: ${told.join(", ")}.` : "There are no records.");
    }
}

// ---- how long it takes

export class Histogram {
    constructor(found) {
        this.bounds = found.bounds;
        this.counts = found.counts;
        this.sum = found.sum;
        this.total = found.total;
    }

    // What came after another one; all of it if they do not fit together.
    since(before) {
        if (!before || before.counts.length !== this.counts.length) return this;
        const counts = this.counts.map((count, i) => count - before.counts[i]);
        if (counts.some((count) => count < 0)) return this;
        const total = counts.reduce((sum, count) => sum + count, 0);
        return new Histogram({ bounds: this.bounds, counts, total, sum: this.sum - before.sum });
    }

    // The upper bound of the bucket that holds this quantile; null if it is empty.
    quantile(part) {
        if (!this.total) return null;
        const rank = part * this.total;
        let seen = 0;
        for (let i = 0; i < this.counts.length; i += 1) {
            seen += this.counts[i];
            if (this.counts[i] && seen >= rank) return this.bounds[i] ?? Infinity;
        }
        return null;
    }
}

// Syncs over time: how many took how long. A darker place had more of them.
export class SyncsPlot extends Timeline {
    constructor() {
        super("How long syncs took, lately.", "tall", (sample) => {
            const { syncs } = sample;
            if (!syncs.total) return "no syncs";
            const [half, most] = [0.5, 0.99].map((part) => duration(syncs.quantile(part)));
            return `${amount(syncs.total)} sync${syncs.total === 1 ? "" : "s"}, half within ${half}, 99% within ${most}`;
        });
    }

    paint(pen, width, height) {
        const { samples } = this, bottom = height - BOTTOM;
        if (!samples.length) return;
        const used = new Set();
        for (const { syncs } of samples) syncs.counts.forEach((count, i) => count && used.add(i));
        const bounds = samples.at(-1).syncs.bounds;
        // Room around what there is: from half a millisecond to ten at least.
        const low = Math.min(5, ...used), high = Math.max(10, ...used) + 1, rows = high - low;
        const y = (row) => bottom - ((row - low) / rows) * (bottom - TOP), tall = (bottom - TOP) / rows;
        const every = Math.max(1, Math.ceil(rows / 5)), ticks = [];
        for (let row = low; row < high; row += every) ticks.push([y(row + 1), row < bounds.length ? duration(bounds[row]) : "longer"]);
        this.axes(pen, width, height, ticks);
        const most = Math.max(1, ...samples.flatMap(({ syncs }) => syncs.counts));
        pen.fillStyle = color("durable");
        samples.forEach((sample, i) => {
            if (i === 0) return; // it ends where the picture begins
            const from = Math.max(LEFT, this.x(samples[i - 1].time, width)), to = this.x(sample.time, width);
            sample.syncs.counts.forEach((count, row) => {
                if (!count) return;
                pen.globalAlpha = 0.18 + 0.82 * (Math.log1p(count) / Math.log1p(most));
                pen.fillRect(from, y(row + 1) + 0.5, Math.max(1, to - from - 0.5), tall - 1);
            });
        });
        pen.globalAlpha = 1;
        this.quantile(pen, width, y, low, 0.99, [5, 3]);
        this.hairline(pen, width, height);
    }

    // The line below which this part of the syncs was, over the five seconds before each moment.
    quantile(pen, width, y, low, part, dash) {
        const { samples } = this;
        pen.beginPath();
        let drawn = false;
        for (let i = 1; i < samples.length; i += 1) {
            const counts = new Array(samples[i].syncs.counts.length).fill(0);
            for (let j = i; j > 0 && samples[i].time - samples[j].time < 5; j -= 1) {
                samples[j].syncs.counts.forEach((count, row) => (counts[row] += count));
            }
            const total = counts.reduce((sum, count) => sum + count, 0);
            if (!total) {
                drawn = false;
                continue;
            }
            let seen = 0;
            const row = counts.findIndex((count) => (seen += count) >= part * total);
            const at = y(row + 1), from = Math.max(LEFT, this.x(samples[i - 1].time, width)), to = this.x(samples[i].time, width);
            if (drawn) pen.lineTo(from, at);
            else pen.moveTo(from, at);
            pen.lineTo(to, at);
            drawn = true;
        }
        pen.strokeStyle = color("text");
        pen.lineWidth = 1.25;
        pen.setLineDash(dash);
        pen.stroke();
        pen.setLineDash([]);
    }
}
