// SPDX-License-Identifier: Apache-2.0

// matrix-js-sdk with the Rust crypto, as Element Web uses it: two people on one node, end-to-end encrypted.

import assert from "node:assert/strict";
import { perform, say, startNode, Trace, until } from "./harness.mjs"; // first: it quiets the SDK
import * as sdk from "matrix-js-sdk";
import { CryptoEvent } from "matrix-js-sdk/lib/crypto-api/index.js";

const { ClientEvent, RoomEvent, RoomMemberEvent, MatrixEventEvent } = sdk;
const password = "correct horse battery";
const messages = 20;

// What Element goes on without (facts: it was refused by another homeserver every time, too).
const optional = ["/rtc/transports", "/auth_metadata", "/auth_issuer"];

const trace = new Trace();
const node = await startNode(process.argv[2]);
const clients = [];
const step = (what) => say(`- ${what}`);

/** person logs a device in and starts it. secret: holds the key of the secret storage. */
async function person(name, secret) {
    const anon = sdk.createClient({ baseUrl: node.url, fetchFn: trace.fetch });
    const { user_id, device_id, access_token } = await anon.loginRequest({
        type: "m.login.password", identifier: { type: "m.id.user", user: name }, password, initial_device_display_name: "test",
    });
    const client = sdk.createClient({
        baseUrl: node.url, fetchFn: trace.fetch, userId: user_id, deviceId: device_id, accessToken: access_token, timelineSupport: true,
        cryptoCallbacks: {
            getSecretStorageKey: async ({ keys }) => [Object.keys(keys)[0], secret.key],
            cacheSecretStorageKey: (_id, _info, key) => (secret.key = key),
        },
    });
    await client.initRustCrypto({ useIndexedDB: false });
    clients.push(client);
    await client.startClient({ initialSyncLimit: 50, lazyLoadMembers: true, threadSupport: true });
    await until(`${name}'s first sync`, () => client.isInitialSyncComplete(), [client, ClientEvent.Sync]);
    return client;
}

async function register(name) {
    const anon = sdk.createClient({ baseUrl: node.url, fetchFn: trace.fetch });
    await anon.registerRequest({ username: name, password, inhibit_login: true, auth: { type: "m.login.dummy" } });
}

/** bootstrap does what Element does at the first login. */
async function bootstrap(client, secret) {
    const crypto = client.getCrypto();
    await crypto.bootstrapCrossSigning({
        authUploadDeviceSigningKeys: (request) => request(null),
    });
    await crypto.bootstrapSecretStorage({
        setupNewSecretStorage: true, setupNewKeyBackup: true,
        createSecretStorageKey: async () => {
            const made = await crypto.createRecoveryKeyFromPassphrase();
            secret.key = made.privateKey;
            return made;
        },
    });
    assert.ok(await crypto.isCrossSigningReady(), "cross-signing is ready");
    assert.ok(await crypto.isSecretStorageReady(), "secret storage is ready");
    assert.ok(await crypto.getActiveSessionBackupVersion(), "the key backup is on");
}

/** texts are the bodies that a client sees in a room, decrypted, in order. */
function texts(client, roomId) {
    const room = client.getRoom(roomId);
    return (room?.getLiveTimeline().getEvents() ?? [])
        .filter((e) => e.getType() === "m.room.message" && !e.isRelation("m.replace") && !e.isRedacted())
        .map((e) => e.replacingEvent()?.getContent()["m.new_content"]?.body ?? e.getContent().body);
}

const find = (client, roomId, eventId) => client.getRoom(roomId)?.findEventById(eventId);
const anything = (c) => [[c, RoomEvent.Timeline], [c, MatrixEventEvent.Decrypted], [c, ClientEvent.Sync], [c, RoomEvent.Redaction], [c, MatrixEventEvent.Replaced]];

async function play() {
    await register("alice");
    await register("bob");
    const secrets = { alice: {}, bob: {} };
    const alice = await person("alice", secrets.alice);
    const bob = await person("bob", secrets.bob);
    const [a, b] = [alice.getUserId(), bob.getUserId()];
    step("registered, logged in, synced");

    await bootstrap(alice, secrets.alice);
    await bootstrap(bob, secrets.bob);
    step("cross-signing, secret storage and key backup are set up");

    const found = await alice.searchUserDirectory({ term: "bob" });
    assert.deepEqual(found.results.map((r) => r.user_id), [b]);
    const { room_id: room } = await alice.createRoom({
        preset: "private_chat", visibility: "private", is_direct: true, invite: [b],
        initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
    });
    await until("bob's invite", () => bob.getRoom(room)?.getMyMembership() === "invite", [bob, RoomEvent.MyMembership], [bob, ClientEvent.Room]);
    await bob.joinRoom(room);
    await until("alice sees bob", () => alice.getRoom(room)?.getMember(b)?.membership === "join", ...anything(alice), [alice, RoomMemberEvent.Membership]);
    await until("bob sees the room", () => bob.getRoom(room)?.getMyMembership() === "join", ...anything(bob));
    await until("both know that the room is encrypted", () => alice.getRoom(room).hasEncryptionStateEvent() && bob.getRoom(room).hasEncryptionStateEvent(), ...anything(alice), ...anything(bob));
    step("an encrypted room with both");

    const said = [];
    const ids = [];
    for (let i = 0; i < messages; i++) {
        for (const [from, name] of [[alice, "alice"], [bob, "bob"]]) {
            said.push(`${name} ${i}`);
            ids.push((await from.sendTextMessage(room, said.at(-1))).event_id);
        }
    }
    for (const c of [alice, bob]) {
        await until(`${c.getUserId()} reads all`, () => texts(c, room).length >= said.length && ids.every((id) => find(c, room, id)), ...anything(c));
        await until(`${c.getUserId()} decrypts all`, () => ids.every((id) => !find(c, room, id).isBeingDecrypted() && find(c, room, id).getType() === "m.room.message"), ...anything(c));
        assert.deepEqual([...texts(c, room)].sort(), [...said].sort(), "each message exactly once");
        for (const name of ["alice", "bob"]) {
            const own = (l) => l.filter((t) => t.startsWith(name));
            assert.deepEqual(own(texts(c, room)), own(said), "in order");
        }
        for (const id of ids) {
            assert.ok(find(c, room, id).isEncrypted() && !find(c, room, id).isDecryptionFailure(), "was encrypted, is decrypted");
        }
    }
    step(`${messages} messages each way, encrypted, each once and in order`);

    const reaction = await bob.sendEvent(room, "m.reaction", { "m.relates_to": { rel_type: "m.annotation", event_id: ids[0], key: "👍" } });
    await until("the reaction", () => find(alice, room, reaction.event_id)?.getRelation()?.key === "👍", ...anything(alice));
    await alice.sendMessage(room, {
        msgtype: "m.text", body: "* edited", "m.new_content": { msgtype: "m.text", body: "edited" },
        "m.relates_to": { rel_type: "m.replace", event_id: ids[2] },
    });
    await until("the edit", () => find(bob, room, ids[2])?.replacingEvent()?.getContent()["m.new_content"]?.body === "edited", ...anything(bob), [find(bob, room, ids[2]), MatrixEventEvent.Replaced]);
    await alice.redactEvent(room, ids[4], undefined, { reason: "oops" });
    await until("the redaction", () => find(bob, room, ids[4])?.isRedacted(), ...anything(bob), [bob.getRoom(room), RoomEvent.Redaction]);
    const { event_id: last } = await alice.sendTextMessage(room, "did you read this?");
    said.push("did you read this?");
    await until("bob reads it", () => find(bob, room, last), ...anything(bob));
    await bob.sendReadReceipt(find(bob, room, last));
    await until("the receipt", () => alice.getRoom(room).getReceiptsForEvent(find(alice, room, last)).some((r) => r.userId === b), [alice, RoomEvent.Receipt]);
    await bob.sendTyping(room, true, 20_000);
    await until("typing", () => alice.getRoom(room).getMember(b).typing, [alice, RoomMemberEvent.Typing]);
    await bob.sendTyping(room, false, 0);
    await until("no typing", () => !alice.getRoom(room).getMember(b).typing, [alice, RoomMemberEvent.Typing]);
    step("reaction, edit, redaction, receipt, typing");

    // Bob sees that alice signed her device; alice signs bob's master key, which only she sees.
    const device = await until("bob sees alice's device signed", async () => {
        const s = await bob.getCrypto().getDeviceVerificationStatus(a, alice.getDeviceId());
        return s?.signedByOwner && s;
    }, [bob, CryptoEvent.DevicesUpdated], ...anything(bob));
    assert.ok(device.signedByOwner);
    await alice.getCrypto().userHasCrossSigningKeys(b, true);

    await until("all of alice's sessions are in the backup", async () => {
        const info = await alice.http.authedRequest("GET", "/room_keys/version"); // the SDK's own answer is an old one
        return info.count >= 2; // hers and bob's
    }, [alice, CryptoEvent.KeyBackupSessionsRemaining], ...anything(alice));
    step("the sessions are backed up");

    await node.crash();
    step("kill -9 of the node, and a start");

    const second = await person("alice", secrets.alice);
    const crypto = second.getCrypto();
    assert.ok(await crypto.userHasCrossSigningKeys(a, true), "the second device finds the keys"); // as Element asks first
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: async () => assert.fail("no new keys are due") });
    await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
    const restored = await crypto.restoreKeyBackup();
    assert.ok(restored.imported >= 2 && restored.imported === restored.total, `${restored.imported} of ${restored.total} sessions are restored`);
    assert.ok((await crypto.getDeviceVerificationStatus(a, second.getDeviceId())).isVerified(), "the second device is verified");
    const edited = said.map((t, i) => (i === 2 ? "edited" : t)).filter((_, i) => i !== 4);
    await until("the second device has the history", () => {
        const got = texts(second, room);
        return edited.every((t) => got.includes(t));
    }, ...anything(second));
    step("a second device restores the history from the backup");

    // Both of alice's devices read what bob says now; what the second one says is read by both.
    await until("bob knows the second device", async () => (await bob.getCrypto().getUserDeviceInfo([a])).get(a)?.size === 2, [bob, CryptoEvent.DevicesUpdated], ...anything(bob));
    await bob.sendTextMessage(room, "to both devices");
    await second.sendTextMessage(room, "from the second device");
    for (const c of [alice, second, bob]) {
        for (const text of ["to both devices", "from the second device"]) {
            await until(`${c.getUserId()} ${c.getDeviceId()} reads "${text}"`, () => texts(c, room).includes(text), ...anything(c));
        }
    }
    step("three devices talk");

    const fallback = await alice.getCrypto().getOwnDeviceKeys();
    assert.ok(fallback.ed25519);
    await second.logout(true);
    await until("bob sees the device gone", async () => (await bob.getCrypto().getUserDeviceInfo([a])).get(a)?.size === 1, [bob, CryptoEvent.DevicesUpdated], ...anything(bob));
    const third = await person("alice", secrets.alice);
    await assert.rejects(alice.deleteDevice(third.getDeviceId()), (err) => err.httpStatus === 401 && err.data.flows.length > 0);
    third.stopClient();
    await alice.deleteDevice(third.getDeviceId(), { type: "m.login.password", identifier: { type: "m.id.user", user: a }, password });
    assert.deepEqual((await alice.getDevices()).devices.map((d) => d.device_id), [alice.getDeviceId()]);
    step("devices are removed");

    // The rest of what Element asks for at its start and in its settings.
    await alice.getPushRules();
    await alice.setPushRuleEnabled("global", "override", ".m.rule.suppress_notices", false);
    await alice.addPushRule("global", "room", room, { actions: [] });
    await until("the rule", () => alice.getAccountData("m.push_rules")?.getContent().global.room.some((r) => r.rule_id === room), [alice, ClientEvent.AccountData]);
    assert.deepEqual((await alice.getPushers()).pushers, []);
    assert.deepEqual((await alice.getThreePids()).threepids, []);
    await alice.getThirdpartyProtocols();
    await alice.getCapabilities();
    assert.deepEqual((await alice.publicRooms({ limit: 20 })).chunk, []);
    await alice.setAccountData("im.vector.setting.breadcrumbs", { recent_rooms: [room] });
    step("settings");

    const body = new Uint8Array(200_000).map((_, i) => i * 7);
    const file = await alice.uploadContent(body, { name: "a.bin", type: "application/octet-stream" });
    const get = (url, from) => trace.fetch(url, { headers: { Authorization: `Bearer ${from.getAccessToken()}` } });
    const back = await get(bob.mxcUrlToHttp(file.content_uri, undefined, undefined, undefined, false, true, true), bob);
    assert.deepEqual(new Uint8Array(await back.arrayBuffer()), body, "a file comes back");
    // 1 by 1 pixel
    const png = Uint8Array.from(atob("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="), (c) => c.charCodeAt(0));
    const picture = await alice.uploadContent(png, { name: "a.png", type: "image/png" });
    const small = await get(bob.mxcUrlToHttp(picture.content_uri, 96, 96, "crop", false, true, true), bob);
    assert.match(small.headers.get("content-type"), /^image\//);
    assert.ok((await alice.getMediaConfig(true))["m.upload.size"] > 0);
    // An encrypted file (C-S API, "Sending encrypted attachments"): AES-CTR, its key in the encrypted event.
    const subtle = globalThis.crypto.subtle;
    const iv = new Uint8Array(16);
    globalThis.crypto.getRandomValues(iv.subarray(0, 8));
    const fileKey = await subtle.generateKey({ name: "AES-CTR", length: 256 }, true, ["encrypt", "decrypt"]);
    const sealed = new Uint8Array(await subtle.encrypt({ name: "AES-CTR", counter: iv, length: 64 }, fileKey, body));
    const unpadded = (b) => Buffer.from(b).toString("base64").replace(/=+$/, "");
    const { content_uri } = await alice.uploadContent(sealed, { includeFilename: false, type: "application/octet-stream" });
    const { event_id: attached } = await alice.sendMessage(room, {
        msgtype: "m.file", body: "secret.bin", info: { size: body.length, mimetype: "application/octet-stream" },
        file: { v: "v2", url: content_uri, key: await subtle.exportKey("jwk", fileKey), iv: unpadded(iv), hashes: { sha256: unpadded(await subtle.digest("SHA-256", sealed)) } },
    });
    const got = await until("the encrypted file", () => {
        const e = find(bob, room, attached);
        return e?.getContent().file && e.isEncrypted() && e.getContent().file;
    }, ...anything(bob));
    const fetched = await (await get(bob.mxcUrlToHttp(got.url, undefined, undefined, undefined, false, true, true), bob)).arrayBuffer();
    assert.equal(unpadded(await subtle.digest("SHA-256", fetched)), got.hashes.sha256);
    const opening = await subtle.importKey("jwk", got.key, "AES-CTR", false, ["decrypt"]);
    const plainFile = await subtle.decrypt({ name: "AES-CTR", counter: Buffer.from(got.iv, "base64"), length: 64 }, opening, fetched);
    assert.deepEqual(new Uint8Array(plainFile), body, "the encrypted file comes back");
    step("files, thumbnails, an encrypted file");

    const thread = (root, text) => alice.sendMessage(plain, root, { msgtype: "m.text", body: text });
    const plain = (await bob.createRoom({ preset: "private_chat", invite: [a], name: "Plain" })).room_id;
    await alice.joinRoom(plain);
    const { event_id: root } = await bob.sendTextMessage(plain, "the root of a thread");
    await thread(root, "first answer");
    const { event_id: lastAnswer } = await thread(root, "second answer");
    await until("the thread", () => bob.getRoom(plain)?.getThread(root)?.length === 2, ...anything(bob), [bob, sdk.ThreadEvent.Update]);
    const relations = await bob.relations(plain, root, "m.thread", "m.room.message");
    assert.equal(relations.events.length, 2);
    const threads = await bob.createThreadListMessagesRequest(plain, null, 20, sdk.Direction.Backward, sdk.ThreadFilterType.All);
    assert.deepEqual(threads.chunk.map((e) => e.event_id), [root]);
    await bob.sendReadReceipt(bob.getRoom(plain).findEventById(lastAnswer) ?? (await until("the answer", () => bob.getRoom(plain)?.findEventById(lastAnswer), ...anything(bob))));
    const hits = await bob.search({ body: { search_categories: { room_events: { search_term: "root thread" } } } });
    assert.equal(hits.search_categories.room_events.results[0].result.event_id, root);
    const summary = await bob.getRoomSummary(plain);
    assert.equal(summary.num_joined_members, 2);
    const when = await bob.timestampToEvent(plain, Date.now(), sdk.Direction.Backward);
    assert.equal(when.event_id, lastAnswer);
    const { replacement_room: newer } = await bob.upgradeRoom(plain, "12");
    await until("the tombstone", () => alice.getRoom(plain)?.currentState.getStateEvents("m.room.tombstone", "")?.getContent().replacement_room === newer, ...anything(alice));
    step("threads, relations, search, summary, upgrade");

    await alice.setPresence({ presence: "unavailable", status_msg: "at lunch" });
    assert.equal((await bob.getPresence(a)).status_msg, "at lunch");
    await until("bob sees alice's presence", () => bob.getUser(a)?.presenceStatusMsg === "at lunch", [bob, sdk.UserEvent.Presence], ...anything(bob));
    assert.ok(await alice.doesServerSupportExtendedProfiles());
    await alice.setExtendedProfileProperty("m.tz", "Europe/Berlin");
    assert.equal(await bob.getExtendedProfileProperty(a, "m.tz"), "Europe/Berlin");
    await bob.setIgnoredUsers([a]);
    await until("the ignored user", () => bob.isUserIgnored(a), [bob, ClientEvent.AccountData]);
    await bob.setIgnoredUsers([]);
    const loud = (await bob.createRoom({ preset: "private_chat", invite: [a] })).room_id;
    await alice.joinRoom(loud);
    await bob.sendMessage(loud, { msgtype: "m.text", body: "alice?", "m.mentions": { user_ids: [a] } });
    await until("the count of a mention", () => alice.getRoom(loud)?.getUnreadNotificationCount("highlight") === 1, ...anything(alice), [alice, RoomEvent.UnreadNotifications]);
    const { notifications } = await alice.http.authedRequest("GET", "/notifications", { only: "highlight" });
    assert.equal(notifications[0].event.content.body, "alice?");
    step("presence, profile fields, ignored users, unread counts");

    const { login_token } = await alice.requestLoginToken({ type: "m.login.password", identifier: { type: "m.id.user", user: a }, password });
    const handed = await sdk.createClient({ baseUrl: node.url, fetchFn: trace.fetch }).loginRequest({ type: "m.login.token", token: login_token });
    assert.equal(handed.user_id, a);
    step("a login by a token from another device");

    assert.ok(await alice.getCrypto().isDehydrationSupported());
    await alice.getCrypto().startDehydration({ createNewKey: true });
    await until("bob knows the dehydrated device", async () => [...((await bob.getCrypto().getUserDeviceInfo([a])).get(a)?.values() ?? [])].some((d) => d.dehydrated),
        [bob, CryptoEvent.DevicesUpdated], ...anything(bob));
    await bob.sendTextMessage(room, "for whoever comes later");
    const later = await person("alice", secrets.alice);
    assert.ok(await later.getCrypto().userHasCrossSigningKeys(a, true));
    await later.getCrypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys: async () => assert.fail("no new keys are due") });
    let opened;
    later.on(CryptoEvent.RehydrationCompleted, () => (opened = "ok"));
    later.on(CryptoEvent.RehydrationError, (why) => (opened = why));
    await later.getCrypto().startDehydration();
    await until("the dehydrated device is opened", () => opened, [later, CryptoEvent.RehydrationCompleted]);
    assert.equal(opened, "ok");
    await until("what came for the dehydrated device can be read", () => texts(later, room).includes("for whoever comes later"), ...anything(later));
    step("a dehydrated device takes keys for one that comes later");
}

await perform("matrix-js-sdk", play, { node, trace, optional, tidy: () => clients.forEach((c) => c.stopClient()) });
