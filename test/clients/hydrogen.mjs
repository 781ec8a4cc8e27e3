// SPDX-License-Identifier: Apache-2.0

// Hydrogen, a whole web client, twice in a headless Chromium: two people click through a conversation on one node.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { perform, say, startNode, Trace } from "./harness.mjs";
import esbuild from "esbuild";
import { chromium } from "playwright-core";

const program = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
if (!program) {
    say("hydrogen is left out: apt-get install chromium");
    process.exit(0);
}

const password = "correct horse battery";
const messages = 5;
const patience = 60_000; // ms
// What Hydrogen goes on without: OAuth, and dehydrated devices in the form that MSC3814 replaced.
const optional = ["/auth_metadata", "/auth_issuer", "/org.matrix.msc2697.v2/dehydrated_device"];

/** site serves the bundle and Hydrogen's own files. */
async function site() {
    const built = await esbuild.build({
        entryPoints: ["hydrogen/page.mjs"], bundle: true, format: "esm", write: false, logLevel: "error",
        // Hydrogen loads olm by its path; the import is for other surroundings.
        alias: { "@matrix-org/olm/olm.js": "./hydrogen/nothing.mjs" },
    });
    const sdk = "node_modules/hydrogen-view-sdk";
    const files = {
        "/index.html": `<!doctype html><meta charset="utf-8"><title>Hydrogen</title><link rel="stylesheet" href="/assets/theme-element-light.css">
            <body class="hydrogen"><script type="module" src="/page.js"></script>`,
        "/page.js": built.outputFiles[0].text,
        "/sw.js": readFileSync(join(sdk, "lib-build/sw.js")),
    };
    const types = { ".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml", ".wasm": "application/wasm" };
    const server = createServer((q, r) => {
        const path = new URL(q.url, "http://x").pathname;
        let body = files[path === "/" ? "/index.html" : path]; // the service worker asks by its name
        const [, folder, name] = path.match(/^\/(assets|olm)\/([\w.-]+)$/) ?? [];
        const file = folder && join(folder === "olm" ? "node_modules/@matrix-org/olm" : join(sdk, "asset-build/assets"), name);
        if (file && existsSync(file)) body = readFileSync(file);
        r.writeHead(body ? 200 : 404, { "Content-Type": types[extname(path)] ?? "text/html" });
        r.end(body);
    });
    await new Promise((up) => server.listen(0, "127.0.0.1", up));
    return { url: `http://127.0.0.1:${server.address().port}`, stop: () => server.close() };
}

const trace = new Trace();
const node = await startNode(process.argv[2]);
const web = await site();
const browser = await chromium.launch({
    executablePath: program, headless: true,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const pages = [];
const step = (what) => say(`- ${what}`);

async function register(name) {
    const r = await fetch(`${node.url}/_matrix/client/v3/register`, {
        method: "POST", body: JSON.stringify({ username: name, password, inhibit_login: true, auth: { type: "m.login.dummy" } }),
    });
    assert.equal(r.status, 200, await r.text());
}

/** person opens a browser profile and logs in by the form. */
async function person(name) {
    const context = await browser.newContext();
    context.setDefaultTimeout(patience);
    context.on("response", async (r) => {
        const url = new URL(r.url());
        if (url.origin !== node.url || r.request().serviceWorker()) return; // what the worker asks, the page asked
        let code = "";
        if (r.status() >= 400) code = (await r.json().catch(() => ({ errcode: "no JSON" }))).errcode ?? "";
        trace.note(r.request().method(), url.pathname, r.status(), code);
    });
    const page = await context.newPage();
    page.faults = [];
    page.on("pageerror", (err) => page.faults.push(String(err)));
    page.on("console", (m) => m.type() === "error" && page.faults.push(m.text()));
    pages.push(page);
    await page.goto(`${web.url}/?home=${encodeURIComponent(node.url)}`);
    await page.fill("#username", name);
    await page.fill("#password", password);
    await page.click(".PasswordLoginView button[type=submit]");
    await page.locator(".AccountSetupView button, .LeftPanel").first().waitFor();
    if (await page.locator(".AccountSetupView").count()) await page.locator(".AccountSetupView button").last().click(); // no dehydrated device
    await page.locator(".LeftPanel").waitFor();
    return page;
}

/** bodies are the texts of the messages that a page shows, without their times and what they reply to. */
const bodies = (page) => page.locator(".Timeline_messageBody").evaluateAll((all) => all.map((m) =>
    [...m.childNodes].filter((n) => n.nodeType !== Node.COMMENT_NODE && n.nodeName !== "TIME" && !n.classList?.contains("ReplyPreviewView")).map((n) => n.textContent).join("").trim()));

/** until waits for what a page shows. */
async function until(page, what, look) {
    for (const end = Date.now() + patience; ; await page.waitForTimeout(100)) {
        if (await look()) return;
        if (Date.now() > end) throw new Error(`did not come to pass: ${what}; ${JSON.stringify(await bodies(page))}`);
    }
}

async function write(page, text) {
    await page.fill(".MessageComposer textarea", text);
    await page.press(".MessageComposer textarea", "Enter");
}

/** menu opens the options of the message that has text, and clicks one. */
async function menu(page, text, option) {
    const message = page.locator(".Timeline_message", { hasText: text }).last();
    await message.hover();
    await message.locator(".Timeline_messageOptions").click();
    await page.locator(".popupContainer, .menu").getByText(option, { exact: true }).first().click();
}

async function play() {
    await register("alice");
    await register("bob");
    const alice = await person("alice");
    const bob = await person("bob");
    step("two people log in");

    await alice.click(".LeftPanel .create");
    await alice.getByText("Create Room", { exact: true }).click();
    await alice.fill("#name", "Tea");
    await alice.fill("#topic", "all about cakes");
    await alice.check("#isEncrypted");
    await alice.click(".CreateRoomView button[type=submit]");
    await alice.locator(".RoomList").getByText("Tea").click();
    await alice.locator(".RoomView .MessageComposer").waitFor();
    await alice.click(".room-options");
    await alice.getByText("Room details", { exact: true }).click();
    await alice.locator(".RoomDetailsView").getByText("People").click();
    await alice.click(".MemberListView__invite-btn");
    const id = await alice.evaluate(() => JSON.parse(localStorage.getItem("hydrogen_sessions_v1"))[0].userId);
    await alice.fill(".InvitePanelView__input", id.replace("@alice:", "@bob:"));
    await alice.press(".InvitePanelView__input", "Enter");
    await bob.locator(".RoomList").getByText("Tea").click();
    await bob.click(".InviteView button.primary:not(.destructive)");
    await bob.locator(".RoomView .MessageComposer").waitFor();
    step("an encrypted room is made, an invite is accepted");

    const said = [];
    for (let i = 0; i < messages; i++) {
        for (const [page, name] of [[alice, "alice"], [bob, "bob"]]) {
            said.push(`${name} says ${i}`);
            await write(page, said.at(-1));
            for (const other of [alice, bob]) await until(other, said.at(-1), async () => (await bodies(other)).includes(said.at(-1)));
        }
    }
    for (const page of [alice, bob]) assert.deepEqual(await bodies(page), said, "each message once, in order, decrypted");
    step(`${messages} messages each way`);

    await menu(alice, said[1], "👍");
    await until(bob, "the reaction", async () => (await bob.locator(".Timeline_messageReactions button").count()) === 1);
    await menu(alice, said[1], "Reply");
    await write(alice, "well said");
    await until(bob, "the reply", () => bob.locator(".ReplyPreviewView", { hasText: said[1] }).count());
    await menu(bob, said[3], "Delete");
    await until(alice, "the redaction", async () => !(await bodies(alice)).includes(said[3]));
    step("a reaction, a reply, a redaction");

    const picture = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==", "base64");
    const chosen = alice.waitForEvent("filechooser");
    await alice.click(".sendFile");
    await alice.getByText("Send picture", { exact: true }).click();
    await (await chosen).setFiles({ name: "dot.png", mimeType: "image/png", buffer: picture });
    await until(bob, "the picture", () => bob.locator(".Timeline_message img[src^='blob:'], .Timeline_message .picture").count());
    await until(bob, "the picture's bytes", () => bob.evaluate(() => [...document.querySelectorAll(".Timeline_message img")].some((i) => i.complete && i.naturalWidth === 1)));
    step("an encrypted picture is shown");

    await node.crash();
    await write(alice, "still here?");
    await until(bob, "a message after a crash of the node", async () => (await bodies(bob)).includes("still here?"));
    step("kill -9 of the node, and a start");

    await bob.reload();
    await bob.locator(".RoomView .MessageComposer").waitFor();
    await until(bob, "the conversation after a reload", async () => (await bodies(bob)).includes("still here?"));
    step("a reload of the page");

    await alice.click(".LeftPanel .settings");
    await alice.getByText("Log out", { exact: true }).first().click();
    await alice.locator(".LogoutScreen button.primary").click();
    await until(alice, "the log-out", () => trace.seen.has("POST /_matrix/client/r0/logout 200"));
    step("a log-out");
}

await perform("hydrogen", play, {
    node, trace, optional,
    tidy: async (failure) => {
        for (const [i, p] of failure ? pages.entries() : []) {
            if (process.env.SHOTS) await p.screenshot({ path: join(process.env.SHOTS, `hydrogen-${i}.png`) });
            say(p.faults.slice(0, 20).join("\n"));
        }
        await browser.close();
        web.stop();
    },
});
