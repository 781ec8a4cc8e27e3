// SPDX-License-Identifier: Apache-2.0

// Simplified sliding sync (MSC4186): matrix-js-sdk's own client of it, end-to-end encrypted, and beside it the two connections
// that the Rust SDK of Element X keeps, asked as it was seen to ask (facts/client-endpoints.txt §5).

import assert from "node:assert/strict";
import { perform, say, startNode, Trace, until } from "./harness.mjs"; // first: it quiets the SDK
import * as sdk from "matrix-js-sdk";
import { SlidingSync, SlidingSyncEvent } from "matrix-js-sdk/lib/sliding-sync.js";

const { ClientEvent, RoomEvent, RoomMemberEvent, MatrixEventEvent } = sdk;
const password = "correct horse battery";
const messages = 10;
const optional = ["/rtc/transports", "/auth_metadata", "/auth_issuer"];

const trace = new Trace();
const node = await startNode(process.argv[2]);
const clients = [];
const step = (what) => say(`- ${what}`);

async function person(name) {
    const anon = sdk.createClient({ baseUrl: node.url, fetchFn: trace.fetch });
    await anon.registerRequest({ username: name, password, inhibit_login: true, auth: { type: "m.login.dummy" } });
    const { user_id, device_id, access_token } = await anon.loginRequest({ type: "m.login.password", identifier: { type: "m.id.user", user: name }, password });
    const client = sdk.createClient({ baseUrl: node.url, fetchFn: trace.fetch, userId: user_id, deviceId: device_id, accessToken: access_token });
    await client.initRustCrypto({ useIndexedDB: false });
    const lists = new Map([["all", { ranges: [[0, 20]], timeline_limit: 20, required_state: [["*", "*"]], filters: {} }]]);
    client.sliding = new SlidingSync(node.url, lists, { timeline_limit: 50, required_state: [["*", "*"]] }, client, 10_000);
    clients.push(client);
    let ready = false;
    client.sliding.on(SlidingSyncEvent.Lifecycle, (state) => (ready ||= state === "COMPLETE"));
    await client.startClient({ slidingSync: client.sliding, threadSupport: true });
    await until(`${name}'s first answer`, () => ready, [client.sliding, SlidingSyncEvent.Lifecycle]);
    return client;
}

const texts = (c, room) => (c.getRoom(room)?.getLiveTimeline().getEvents() ?? []).filter((e) => e.getType() === "m.room.message").map((e) => e.getContent().body);
const anything = (c) => [[c, RoomEvent.Timeline], [c, MatrixEventEvent.Decrypted], [c, ClientEvent.Sync], [c, ClientEvent.Room], [c, RoomEvent.MyMembership]];

const required = [["m.room.name", ""], ["m.room.encryption", ""], ["m.room.member", "$LAZY"], ["m.room.member", "$ME"], ["m.room.topic", ""], ["m.room.avatar", ""],
    ["m.room.canonical_alias", ""], ["m.room.power_levels", ""], ["org.matrix.msc3401.call.member", "*"], ["m.room.join_rules", ""], ["m.room.tombstone", ""],
    ["m.room.create", ""], ["m.room.history_visibility", ""], ["io.element.functional_members", ""], ["m.space.parent", "*"], ["m.space.child", "*"],
    ["org.matrix.msc3672.beacon_info", "*"]];

/** rust is one connection of the Rust SDK. */
function rust(token, conn_id, body) {
    let pos;
    return async (timeout, more = {}, status = 200) => {
        const query = new URLSearchParams(pos ? { pos, timeout } : {});
        const r = await trace.fetch(`${node.url}/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?${query}`, {
            method: "POST", headers: { Authorization: `Bearer ${token}` }, body: JSON.stringify({ conn_id, txn_id: "t" + Math.random(), ...body, ...more }),
        });
        const answer = await r.json();
        assert.equal(r.status, status, JSON.stringify(answer));
        pos = answer.pos;
        return answer;
    };
}

async function play() {
    const alice = await person("alice");
    const bob = await person("bob");
    const [a, b] = [alice.getUserId(), bob.getUserId()];
    step("registered, logged in, first answers");

    const { room_id: room } = await alice.createRoom({
        preset: "private_chat", is_direct: true, invite: [b], name: "Tea",
        initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
    });
    await until("bob's invite", () => bob.getRoom(room)?.getMyMembership() === "invite", ...anything(bob));
    await bob.joinRoom(room);
    for (const c of [alice, bob]) {
        await until("both are in", () => [a, b].every((u) => c.getRoom(room)?.getMember(u)?.membership === "join") && c.getRoom(room).hasEncryptionStateEvent(),
            ...anything(c), [c, RoomMemberEvent.Membership]);
    }
    step("an encrypted room with both");

    const said = [];
    for (let i = 0; i < messages; i++) {
        for (const [from, name] of [[alice, "alice"], [bob, "bob"]]) {
            said.push(`${name} ${i}`);
            await from.sendTextMessage(room, said.at(-1));
        }
    }
    for (const c of [alice, bob]) {
        await until("all can be read", () => texts(c, room).length >= said.length, ...anything(c));
        assert.deepEqual([...texts(c, room)].sort(), [...said].sort(), "each message exactly once");
    }
    step(`${messages} messages each way, encrypted, each once`);

    await bob.sendTyping(room, true, 20_000);
    await until("typing", () => alice.getRoom(room).getMember(b).typing, [alice, RoomMemberEvent.Typing]);
    const { event_id } = await alice.sendTextMessage(room, "did you read this?");
    const last = await until("bob reads it", () => bob.getRoom(room).findEventById(event_id), ...anything(bob));
    await bob.sendReadReceipt(last);
    await until("the receipt", () => alice.getRoom(room).getReceiptsForEvent(last).some((r) => r.userId === b), [alice, RoomEvent.Receipt]);
    await alice.setAccountData("org.kit", { a: 1 });
    await until("account data", () => alice.getAccountData("org.kit"), [alice, ClientEvent.AccountData]);
    step("typing, a receipt, account data");

    const list = { ranges: [[0, 19]], required_state: required, timeline_limit: 1, filters: {} };
    const extensions = { account_data: { enabled: true }, receipts: { enabled: true, rooms: ["*"] }, typing: { enabled: true } };
    const rooms = rust(alice.getAccessToken(), "room-list", { lists: { all_rooms: list }, extensions });
    const keys = rust(alice.getAccessToken(), "encryption", { extensions: { to_device: { enabled: true }, e2ee: { enabled: true } } });
    const first = await rooms(0);
    assert.equal(first.lists.all_rooms.count, 1);
    const shown = first.rooms[room];
    assert.equal(shown.initial, true);
    assert.equal(shown.name, "Tea");
    assert.equal(shown.timeline.length, 1);
    assert.ok(["m.room.create", "m.room.encryption", "m.room.name"].every((t) => shown.required_state.some((e) => e.type === t)));
    assert.ok(first.extensions.account_data.global.some((e) => e.type === "m.push_rules"));
    const second = await keys(0);
    assert.ok(second.extensions.e2ee.device_one_time_keys_count.signed_curve25519 > 0);
    const grown = await rooms(0, { lists: { all_rooms: { ...list, ranges: [[0, 99]] } }, room_subscriptions: { [room]: { required_state: required, timeline_limit: 20 } } });
    assert.equal(grown.rooms[room].unstable_expanded_timeline, true, "a longer timeline was asked for");
    assert.equal(grown.rooms[room].timeline.length, 20);
    const waiting = rooms(30_000);
    await bob.sendTextMessage(room, "wake up");
    const woken = await waiting;
    assert.equal(woken.rooms[room].timeline.at(-1).type, "m.room.encrypted");
    assert.equal(woken.rooms[room].num_live, 1);
    step("the Rust SDK's two connections");

    await node.crash();
    assert.equal((await rooms(0, {}, 400)).errcode, "M_UNKNOWN_POS", "connections live in memory");
    assert.equal((await rooms(0)).rooms[room].initial, true, "and begin anew");
    await bob.sendTextMessage(room, "after the crash");
    await until("alice reads on", () => texts(alice, room).includes("after the crash"), ...anything(alice));
    step("kill -9 of the node: connections begin anew");
}

await perform("sliding sync", play, { node, trace, optional, tidy: () => clients.forEach((c) => c.stopClient()) });
