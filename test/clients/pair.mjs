// SPDX-License-Identifier: Apache-2.0

// matrix-js-sdk with the Rust crypto, as Element Web uses it: two people on two nodes, with a mailbox between them. Each verifies the other, and reads what
// the other says, encrypted.

import assert from "node:assert/strict";
import { perform, say, startPair, Trace, until } from "./harness.mjs"; // first: it quiets the SDK
import * as sdk from "matrix-js-sdk";
import { CryptoEvent, VerificationPhase, VerificationRequestEvent, VerifierEvent } from "matrix-js-sdk/lib/crypto-api/index.js";

const { ClientEvent, RoomEvent, RoomMemberEvent, MatrixEventEvent } = sdk;
const password = "correct horse battery";
const messages = 5;

const trace = new Trace();
const pair = await startPair(process.argv[2]);
const clients = [];
const step = (what) => say(`- ${what}`);

/** person logs a device in at its node, starts it, and makes the keys by which its devices are told to be one person's. */
async function person(name) {
    const baseUrl = pair.urls[name];
    const anon = sdk.createClient({ baseUrl, fetchFn: trace.fetch });
    const { user_id, device_id, access_token } = await anon.loginRequest({ type: "m.login.password", identifier: { type: "m.id.user", user: name }, password });
    const client = sdk.createClient({ baseUrl, fetchFn: trace.fetch, userId: user_id, deviceId: device_id, accessToken: access_token });
    await client.initRustCrypto({ useIndexedDB: false });
    clients.push(client);
    await client.startClient({ initialSyncLimit: 50, lazyLoadMembers: true });
    await until(`${name}'s first sync`, () => client.isInitialSyncComplete(), [client, ClientEvent.Sync]);
    await client.getCrypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys: (request) => request(null) });
    return client;
}

const anything = (c) => [[c, RoomEvent.Timeline], [c, MatrixEventEvent.Decrypted], [c, ClientEvent.Sync], [c, RoomMemberEvent.Membership]];
const texts = (client, room) => (client.getRoom(room)?.getLiveTimeline().getEvents() ?? []).filter((e) => e.getContent().msgtype === "m.text").map((e) => e.getContent().body);

/** shown compares by short codes on one side, and gives what is shown there. */
async function shown(client, request) {
    const verifier = await until("a verifier", () => request.verifier, [request, VerificationRequestEvent.Change]);
    const done = verifier.verify();
    done.catch(() => {}); // its caller hears
    const sas = await until("the short codes", () => verifier.getShowSasCallbacks(), [verifier, VerifierEvent.ShowSas]);
    return { sas, done };
}

async function play() {
    const [alice, bob] = [await person("alice"), await person("bob")];
    const [a, b] = [alice.getUserId(), bob.getUserId()];
    assert.notEqual(a.split(":")[1], b.split(":")[1]);
    const { room_id: room } = await alice.createRoom({
        preset: "private_chat", is_direct: true, invite: [b],
        initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
    });
    await until("bob's invite", () => bob.getRoom(room)?.getMyMembership() === "invite", [bob, RoomEvent.MyMembership], [bob, ClientEvent.Room]);
    await bob.joinRoom(room);
    await until("alice sees bob", () => alice.getRoom(room)?.getMember(b)?.membership === "join", ...anything(alice));
    for (const [c, other] of [[alice, b], [bob, a]]) {
        await until("the other's keys", async () => c.getRoom(room)?.hasEncryptionStateEvent() && (await c.getCrypto().userHasCrossSigningKeys(other, true)),
            [c, CryptoEvent.DevicesUpdated], ...anything(c));
    }
    step("an encrypted room over two nodes; each has the other's keys");

    let asked;
    bob.on(CryptoEvent.VerificationRequestReceived, (r) => (asked = r));
    const request = await alice.getCrypto().requestVerificationDM(b, room);
    const received = await until("alice's request", () => asked, [bob, CryptoEvent.VerificationRequestReceived]);
    await received.accept();
    await until("that bob accepts", () => request.phase === VerificationPhase.Ready, [request, VerificationRequestEvent.Change]);
    await request.startVerification("m.sas.v1");
    const both = await Promise.all([shown(alice, request), shown(bob, received)]);
    assert.ok(both[0].sas.sas.decimal.length === 3);
    assert.deepEqual(both[0].sas.sas.decimal, both[1].sas.sas.decimal, "both see one number");
    await Promise.all(both.map(({ sas }) => sas.confirm()));
    await Promise.all(both.map(({ done }) => done));
    for (const [c, other] of [[alice, b], [bob, a]]) {
        await until("the other verified", async () => (await c.getCrypto().getUserVerificationStatus(other)).isCrossSigningVerified(), ...anything(c));
    }
    step("they verified each other");

    for (let i = 0; i < messages; i++) {
        await alice.sendTextMessage(room, `alice ${i}`);
        await bob.sendTextMessage(room, `bob ${i}`);
    }
    for (const c of [alice, bob]) {
        await until(`${c.getUserId()} reads all`, () => texts(c, room).length >= 2 * messages, ...anything(c));
        for (const name of ["alice", "bob"]) {
            assert.deepEqual(texts(c, room).filter((t) => t.startsWith(name)), Array.from({ length: messages }, (_, i) => `${name} ${i}`), "once and in order");
        }
    }
    step(`${messages} messages each way, encrypted, each once and in order`);

    const { event_id: last } = await bob.sendTextMessage(room, "did you read this?");
    const read = await until("alice reads it", () => alice.getRoom(room).findEventById(last), ...anything(alice));
    await alice.sendReadReceipt(read);
    await until("the receipt", () => bob.getRoom(room).getReceiptsForEvent(bob.getRoom(room).findEventById(last)).some((r) => r.userId === a), [bob, RoomEvent.Receipt]);
    await alice.sendTyping(room, true, 30_000);
    await until("typing", () => bob.getRoom(room).getMember(a).typing, [bob, RoomMemberEvent.Typing]);
    await alice.sendTyping(room, false, 0);
    await until("no typing", () => !bob.getRoom(room).getMember(a).typing, [bob, RoomMemberEvent.Typing]);
    await until("presence", () => bob.getUser(a)?.presence === "online", [bob, sdk.UserEvent.Presence]);
    step("receipt, typing, presence");
}

await perform("matrix-js-sdk over two nodes", play, { node: pair, trace, optional: ["/rtc/transports", "/auth_metadata", "/auth_issuer"], tidy: () => clients.forEach((c) => c.stopClient()) });
