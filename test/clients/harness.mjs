// SPDX-License-Identifier: Apache-2.0

// Starts a real node without Tor, gives clients a fetch that notes what they ask for, and waits for things to come true.

import assert from "node:assert/strict";
import { spawn, execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

// matrix-js-sdk 43 wants Node.js 22; this is all that it misses on 20, which Debian and others have.
Promise.withResolvers ??= function () {
    let resolve, reject;
    const promise = new this((...both) => ([resolve, reject] = both));
    return { promise, resolve, reject };
};

/** say prints a line of ours. Libraries print a lot: VERBOSE=1 shows it. */
export const say = console.log.bind(console);
if (!process.env.VERBOSE) for (const m of ["log", "debug", "info", "trace", "warn", "error"]) console[m] = () => {};

/** How long anything may take before the test fails, in ms. */
const patience = 60_000;

/** until resolves with the first truthy value of look: asked again after each event of the sources, and now and then for
 *  what no event tells (the count of a backup on the server). */
export function until(what, look, ...sources) {
    return new Promise((resolve, reject) => {
        const end = (settle, value) => {
            clearTimeout(timer);
            clearInterval(tick);
            for (const [emitter, event] of sources) emitter.off(event, check);
            settle(value);
        };
        const check = async () => {
            try {
                const found = await look();
                if (found) end(resolve, found);
            } catch (err) {
                end(reject, err);
            }
        };
        const timer = setTimeout(() => end(reject, new Error(`did not come to pass in ${patience} ms: ${what}`)), patience);
        const tick = setInterval(check, 500);
        for (const [emitter, event] of sources) emitter.on(event, check);
        check();
    });
}

const freePort = () =>
    new Promise((resolve) => {
        const s = createServer();
        s.listen(0, "127.0.0.1", () => {
            const { port } = s.address();
            s.close(() => resolve(port));
        });
    });

/** startNode makes a node in a directory of its own and runs it until its stop() is called. */
export async function startNode(program) {
    const dir = mkdtempSync(join(tmpdir(), "tarn-clients-"));
    const port = await freePort();
    const config = join(dir, "node.toml");
    execFileSync(program, ["init", "--config", config, "--user", "-", "--tor", "off", "--open-registration", "--open-media", "--no-rate-limit",
        "--listen", `127.0.0.1:${port}`], { stdio: ["ignore", "ignore", "pipe"] });
    const url = `http://127.0.0.1:${port}`;
    let child, log;
    const run = async () => {
        log = "";
        child = spawn(program, ["run", "--config", config], { stdio: ["ignore", "ignore", "pipe"] });
        child.stderr.on("data", (b) => (log += b));
        const gone = new Promise((_, reject) => child.once("exit", () => reject(new Error(`the node ended:\n${log}`))));
        gone.catch(() => {});
        for (let i = 0; ; i++) {
            const up = await Promise.race([fetch(url + "/_matrix/client/versions").then((r) => r.ok, () => false), gone]);
            if (up) return;
            if (i === 600) throw new Error(`the node does not answer:\n${log}`);
            await new Promise((r) => setTimeout(r, 50));
        }
    };
    const ended = () => new Promise((resolve) => child.once("exit", resolve));
    await run();
    return {
        url,
        log: () => log,
        /** crash is kill -9 and a start. */
        crash: async () => {
            const e = ended();
            child.kill("SIGKILL");
            await e;
            await run();
        },
        stop: async () => {
            const e = ended();
            child.kill("SIGINT");
            await e;
            rmSync(dir, { recursive: true });
        },
    };
}

/** startPair runs two nodes that are contacts, alice's and bob's, with a mailbox between them: the program is the tests of internal/e2e. */
export async function startPair(program) {
    const child = spawn(program, ["-test.run", "^TestServePair$", "-test.timeout", "10m"], { env: { ...process.env, TARN_PAIR: "1" }, stdio: ["pipe", "pipe", "pipe"] });
    let log = "";
    const urls = await new Promise((resolve, reject) => {
        const more = (b) => {
            log += b;
            const line = /^PAIR (\S+) (\S+)$/m.exec(log);
            if (line) resolve({ alice: line[1], bob: line[2] });
        };
        child.stdout.on("data", more);
        child.stderr.on("data", more);
        child.once("exit", () => reject(new Error(`the two nodes ended:\n${log}`)));
    });
    return {
        urls,
        log: () => log,
        stop: () => new Promise((resolve) => (child.once("exit", resolve), child.stdin.end())),
    };
}

/** Trace counts requests by method, path (ids removed), status and errcode. */
export class Trace {
    seen = new Map();

    fetch = async (input, init) => {
        const url = new URL(typeof input === "string" || input instanceof URL ? input : input.url);
        const res = await fetch(input, init);
        let code = "";
        if (res.status >= 400) code = (await res.clone().json().catch(() => ({ errcode: "no JSON" }))).errcode ?? "";
        this.note(init?.method ?? "GET", url.pathname, res.status, code);
        return res;
    };

    /** note counts one answer. */
    note(method, path, status, code) {
        const line = `${method} ${template(path)} ${status} ${code}`.trim();
        this.seen.set(line, (this.seen.get(line) ?? 0) + 1);
    }

    print() {
        for (const [line, n] of [...this.seen].sort()) say(`  ${String(n).padStart(5)}  ${line}`);
    }

    /** faults are answers that say that an endpoint is missing or broken; optional ones may be missing. */
    faults(optional) {
        return [...this.seen.keys()].filter((line) => {
            const [, path, status, code] = line.split(" ");
            if (optional.some((o) => path.endsWith(o))) return false;
            return code === "M_UNRECOGNIZED" || code === "no" || Number(status) >= 500;
        });
    }
}

/** template removes ids and names from a path. */
function template(path) {
    return path
        .split("/")
        .map(decodeURIComponent)
        .map((p, i, all) => {
            const [two, one] = [all[i - 2], all[i - 1]];
            if (/^[!@$#]/.test(p) || ["send", "redact", "sendToDevice", "download", "thumbnail", "keys"].includes(two) || ["download", "thumbnail", "dehydrated_device", "devices", "filter", "version", "account_data"].includes(one)) return "{}";
            return p;
        })
        .join("/");
}

/** perform plays, says what was asked for, and ends the process. optional are endpoints that may be missing; tidy ends what the play
 *  used beside the node, and hears what went wrong, if anything. */
export async function perform(name, play, { node, trace, optional, tidy }) {
    let failure;
    try {
        await play();
        assert.deepEqual(trace.faults(optional), [], "no endpoint that is needed is missing, and none fails");
    } catch (err) {
        failure = err;
    }
    await tidy(failure);
    say("What was asked for, and answered:");
    trace.print();
    if (failure) say(failure, "\nThe node's log:\n" + node.log());
    await node.stop();
    say(failure ? `FAILED: ${name}` : `ok: ${name}`);
    process.exit(failure ? 1 : 0);
}
