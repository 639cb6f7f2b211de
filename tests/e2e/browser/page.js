// A WebRTC peer made of what a browser has, and of docs/protocol.md: the tests call `offer`, `answer`, `accept`,
// `counts` and `split`.
"use strict";

const CHANNELS = [
  { label: "control", id: 0, protocol: "splitrtc.control.v1" },
  { label: "intermediate", id: 2, protocol: "splitrtc.intermediate.v1", ordered: false, maxRetransmits: 0 },
  { label: "result", id: 4, protocol: "splitrtc.result.v1", ordered: false, maxRetransmits: 0 },
];
const DCMAP = CHANNELS.map(({ label, id, protocol, ordered }) =>
  `a=dcmap:${id} subprotocol="${protocol}";label="${label}"` + (ordered === false ? ";ordered=false;max-retr=0" : ""));

const UNIT_HEADER = 20, RESULT_HEADER = 40;
const HEARTBEAT = 0x08, IS_RESULT = 0x80, OK = 0, INCOMPLETE = 1, DETECTIONS = 1;

const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)));

class Peer {
  constructor() {
    this.connection = new RTCPeerConnection();
    this.channels = CHANNELS.map(({ label, ...options }) => {
      const channel = this.connection.createDataChannel(label, { negotiated: true, ...options });
      channel.binaryType = "arraybuffer";
      return channel;
    });
    [this.control, this.intermediate, this.result] = this.channels;
    this.opened = Promise.all(this.channels.map((channel) => new Promise((open) => { channel.onopen = open; })));
  }

  // Gathers all candidates (SWAP knows no trickle), then adds our lines: a browser neither writes nor keeps them.
  async describe(description, attributes = []) {
    const gathered = new Promise((done) => {
      this.connection.onicegatheringstatechange = () => this.connection.iceGatheringState === "complete" && done();
    });
    await this.connection.setLocalDescription(description);
    await gathered;
    const dcsa = attributes.map(([name, value]) => `a=dcsa:${CHANNELS[1].id} ${name}:${value}`);
    return this.connection.localDescription.sdp + [...DCMAP, ...dcsa].map((line) => line + "\r\n").join("");
  }
}

// A peer that acknowledges frames as an edge does: when they are complete, or when a newer one has begun.

class Acknowledger extends Peer {
  constructor() {
    super();
    this.counts = { units: 0, bytes: 0, frames: 0, complete: 0, heartbeats: 0 };
    this.frame = null;
    this.intermediate.onmessage = ({ data }) => this.onUnit(new DataView(data));
  }

  onUnit(unit) {
    if (unit.getUint8(1) & HEARTBEAT) {
      this.counts.heartbeats += 1;
      return;
    }
    this.counts.units += 1;
    this.counts.bytes += unit.byteLength;
    const id = unit.getUint32(4), index = unit.getUint16(8), count = unit.getUint16(10);
    if (this.frame === null || id > this.frame.id) {
      this.finish(INCOMPLETE);
      this.frame = { id, count, captured: unit.getBigUint64(12), received: new Set() };
    } else if (id < this.frame.id) {
      return; // overtaken
    }
    this.frame.received.add(index);
    if (this.frame.received.size === count) this.finish(OK);
  }

  finish(status) {
    const frame = this.frame;
    if (frame === null || frame.done) return;
    frame.done = true;
    this.counts.frames += 1;
    this.counts.complete += status === OK;
    const bitmap = Math.ceil(frame.count / 8);
    const result = new DataView(new ArrayBuffer(RESULT_HEADER + bitmap + 1)); // and no detections
    result.setUint8(0, 1);
    result.setUint8(1, IS_RESULT);
    result.setUint8(2, status);
    result.setUint8(3, DETECTIONS);
    result.setUint32(4, frame.id);
    result.setBigUint64(8, frame.captured);
    result.setUint16(36, frame.count);
    for (const index of frame.received) {
      const at = RESULT_HEADER + (index >> 3);
      result.setUint8(at, result.getUint8(at) | (1 << (index & 7)));
    }
    this.result.send(result);
  }
}

let peer;

async function offer() {
  peer = new Acknowledger();
  return peer.describe(await peer.connection.createOffer());
}

async function accept(sdp) {
  await peer.connection.setRemoteDescription({ type: "answer", sdp });
  await peer.opened;
}

async function answer(sdp) {
  peer = new Acknowledger();
  await peer.connection.setRemoteDescription({ type: "offer", sdp });
  return peer.describe(await peer.connection.createAnswer());
}

const counts = () => peer.counts;

// A UE: from the first word of signalling to the goodbye.

const next = (target, wanted = () => true) => new Promise((found, fail) => {
  const take = (event) => {
    if (!wanted(event.data)) return;
    target.removeEventListener("message", take);
    found(event.data);
  };
  target.addEventListener("message", take);
  target.addEventListener("close", () => fail(new Error("closed")));
  target.addEventListener("error", () => fail(new Error("failed")));
});

class Swap {
  constructor(url, protocols) {
    this.socket = new WebSocket(url, protocols);
    this.source = crypto.randomUUID();
    this.messages = 0;
    this.opened = new Promise((open, fail) => {
      this.socket.onopen = open;
      this.socket.onclose = this.socket.onerror = () => fail(new Error("no socket"));
    });
  }

  say(type, members) {
    this.messages += 1;
    const common = { version: 1, source: this.source, message_id: this.messages, message_type: type };
    this.socket.send(JSON.stringify({ ...common, ...members }));
  }

  // The next message of one of these types; the responses between are confirmations.
  async hear(...types) {
    const data = await next(this.socket, (data) => types.includes(JSON.parse(data).message_type));
    return JSON.parse(data);
  }

  async connect(offer) {
    await this.opened;
    const answered = this.hear("accept", "reject");
    this.say("connect", { offer, matching_criteria: [] });
    const answer = await answered;
    if (answer.message_type === "reject") throw new Error(answer.error_id);
    this.target = answer.source;
    this.say("response", { type: "ack", request: answer.message_id, target: this.target });
    return answer.answer;
  }

  async close() {
    const confirmed = this.hear("accept");
    this.say("close", { target: this.target });
    await confirmed;
  }
}

// `frames` are lists of units, in base64 as all that is binary here. Returns the results.
async function split({ url, protocols, attributes, announced, frames }) {
  const ue = new Peer();
  const offer = await ue.describe(await ue.connection.createOffer(), attributes);
  const swap = new Swap(url, protocols);
  const sdp = await swap.connect(offer);
  await ue.connection.setRemoteDescription({ type: "answer", sdp });
  await ue.opened;
  const acknowledged = next(ue.control);
  ue.control.send(announced);
  const results = [];
  const reply = JSON.parse(await acknowledged);
  if (reply.type !== "aips-ack") throw new Error(JSON.stringify(reply));
  for (const units of frames) {
    const answered = next(ue.result, (data) => !(new DataView(data).getUint8(1) & HEARTBEAT));
    for (const unit of units) ue.intermediate.send(bytes(unit));
    results.push(text(await answered));
  }
  const goodbye = JSON.stringify({ type: "bye", reason: "the page has seen enough" });
  ue.control.send(goodbye);
  await swap.close();
  ue.connection.close();
  return { answer: sdp, results };
}
