// Publishes (WHIP, RFC 9725) and plays (WHEP) streams of weir, and meets others in rooms; and keeps doing so: what is lost
// is begun anew.
//
//   import {play, publish, Room} from '/weir.js';
//   const session = play('live/river', {onState: console.log});
//   video.srcObject = session.stream;
//   session.stop();
//   const room = new Room('live', 'alice', {onParticipants: console.log});
//   await room.control('alert', 'hello');

/** Waits before the first and every further attempt to begin anew, in milliseconds; the last one repeats. */
const PAUSES = [200, 800, 1500, 3000, 5000];

/** A connection that is called disconnected may come back by itself; after this long, in milliseconds, it is begun anew. */
const DISCONNECTED_FOR = 1200;

/** How long a server may take to answer an offer, in milliseconds. */
const ANSWER_WITHIN = 8000;

/**
 * Where a stream is published and played. Takes `app/stream`, SRS's `webrtc://host[:port]/app/stream?query`, and the
 * address of WHIP or WHEP itself; without a host it is that of this page.
 *
 * @param {string} text what a person wrote
 * @param {'whip' | 'whep'} kind
 * @returns {URL}
 */
export function endpoint(text, kind) {
  const trimmed = text.trim();
  if (/^https?:/i.test(trimmed)) return new URL(trimmed);
  const named = trimmed.match(/^webrtc:\/\/([^/?]+)(\/[^?]*)(\?.*)?$/i);
  const [authority, path, query] = named ? [named[1], named[2], named[3] ?? ''] : [null, ...split(trimmed)];
  const parts = path.split('/').filter(Boolean).map(decoded);
  const stream = parts.pop();
  if (!stream) throw new Failed('Name a stream, such as live/river.', true);
  const origin = authority ? `${location.protocol}//${authority}` : location.origin;
  const url = new URL(`/rtc/v1/${kind}/${query}`, origin);
  // SRS's API has a port of its own; a webrtc: URL without one means that.
  const schema = url.searchParams.get('schema');
  if (authority && (schema === 'http' || schema === 'https')) url.protocol = `${schema}:`;
  if (authority && !/:\d+$/.test(authority)) url.port = url.searchParams.get('api') ?? (url.protocol === 'http:' ? '1985' : '');
  url.searchParams.set('app', parts.join('/') || 'live');
  url.searchParams.set('stream', stream);
  return url;
}

function split(text) {
  const at = text.indexOf('?');
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at)];
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** What went wrong, in words for a person. `final`: trying again does not help. */
export class Failed extends Error {
  /**
   * @param {string} message
   * @param {boolean} final
   */
  constructor(message, final = false) {
    super(message);
    this.name = 'Failed';
    this.final = final;
  }
}

/**
 * @typedef {'connecting' | 'live' | 'reconnecting' | 'stopped' | 'failed'} State
 * @typedef {object} Options
 * @property {(state: State, reason: string) => void} [onState] told at each change
 * @property {string} [token] sent as `Authorization: Bearer`
 * @property {string} [codec] of the picture a publisher prefers, such as `H264`
 * @property {number} [bitrate] the most that a publisher sends of the picture, in bits a second
 */

/** One stream that is published or played, over as many connections as it takes. */
export class Session {
  /**
   * @param {URL} url
   * @param {(pc: RTCPeerConnection) => void} prepare adds what is sent or received
   * @param {Options} options
   */
  constructor(url, prepare, options) {
    /** @type {MediaStream} what is played, or sent */
    this.stream = new MediaStream();
    /** @type {State} */
    this.state = 'connecting';
    /** @type {RTCPeerConnection | null} */
    this.connection = null;
    this.url = url;
    this.prepare = prepare;
    this.options = options;
    this.attempt = 0;
    this.resource = null;
    this.timer = 0;
    this.leave = () => this.end(true);
    addEventListener('pagehide', this.leave);
    this.begin();
  }

  /** Ends it; the server is told. */
  stop() {
    removeEventListener('pagehide', this.leave);
    this.end(false);
    this.become('stopped', '');
  }

  /**
   * Sends another track in the place of the one of its kind, over this connection and every later one.
   *
   * @param {MediaStreamTrack} track
   */
  async replace(track) {
    this.stream.getTracks().filter((old) => old.kind === track.kind).forEach((old) => this.stream.removeTrack(old));
    this.stream.addTrack(track);
    await this.connection?.getSenders().find((sender) => sender.track?.kind === track.kind)?.replaceTrack(track);
  }

  /**
   * How loud it is, 0 to 1; 0 as long as nothing is known.
   *
   * @returns {Promise<number>}
   */
  async level() {
    const ends = this.connection ? [...this.connection.getSenders(), ...this.connection.getReceivers()] : [];
    const end = ends.find(({track}) => track?.kind === 'audio');
    const stats = end ? [...(await end.getStats()).values()] : [];
    return stats.find((s) => s.type === 'inbound-rtp' || s.type === 'media-source')?.audioLevel ?? 0;
  }

  /** @returns {Promise<RTCStatsReport | null>} */
  async stats() {
    return this.connection ? this.connection.getStats() : null;
  }

  become(state, reason) {
    if (this.state === 'stopped') return;
    this.state = state;
    this.options.onState?.(state, reason);
  }

  async begin() {
    const pc = new RTCPeerConnection({bundlePolicy: 'max-bundle'});
    this.connection = pc;
    pc.addEventListener('connectionstatechange', () => this.changed(pc));
    pc.addEventListener('track', ({track}) => {
      this.stream.getTracks().filter((old) => old.kind === track.kind).forEach((old) => this.stream.removeTrack(old));
      this.stream.addTrack(track);
    });
    try {
      this.prepare(pc);
      await this.exchange(pc);
    } catch (error) {
      if (this.connection !== pc) return;
      if (error instanceof Failed && error.final) {
        this.end(false);
        this.become('failed', error.message);
      } else {
        this.again(error instanceof Failed ? error.message : 'The server is not reached.', error.retryAfter);
      }
    }
  }

  async exchange(pc) {
    await pc.setLocalDescription();
    const headers = {'Content-Type': 'application/sdp'};
    if (this.options.token) headers.Authorization = `Bearer ${this.options.token}`;
    const answer = await fetch(this.url, {
      method: 'POST', headers, body: pc.localDescription.sdp, signal: AbortSignal.timeout(ANSWER_WITHIN),
    });
    const text = await answer.text();
    if (answer.status !== 201) throw refusal(answer, text);
    const resource = new URL(answer.headers.get('Location') ?? '', this.url);
    if (this.connection !== pc) return close(resource, false);
    this.resource = resource;
    await pc.setRemoteDescription({type: 'answer', sdp: text});
    // A server that goes says so to DTLS; ICE would notice its silence after some seconds only.
    const transports = new Set([...pc.getSenders(), ...pc.getReceivers()].map(({transport}) => transport));
    for (const transport of transports) {
      transport?.addEventListener('statechange', () => {
        const over = transport.state === 'closed' || transport.state === 'failed';
        if (over && this.connection === pc) this.again('The connection was lost.');
      });
    }
  }

  changed(pc) {
    if (this.connection !== pc) return;
    clearTimeout(this.timer);
    switch (pc.connectionState) {
      case 'connected':
        this.attempt = 0;
        this.become('live', '');
        break;
      case 'disconnected':
        this.timer = setTimeout(() => this.again('The connection was lost.'), DISCONNECTED_FOR);
        break;
      case 'failed':
      case 'closed':
        this.again('The connection was lost.');
        break;
      default:
    }
  }

  again(reason, wait) {
    this.end(false);
    const pause = wait ?? PAUSES[Math.min(this.attempt, PAUSES.length - 1)];
    this.attempt += 1;
    this.become('reconnecting', reason);
    if (this.state === 'reconnecting') this.timer = setTimeout(() => this.begin(), pause);
  }

  end(leaving) {
    clearTimeout(this.timer);
    const {connection, resource} = this;
    this.connection = null;
    this.resource = null;
    connection?.close();
    if (resource) close(resource, leaving);
  }
}

// Tells the server that a session is over. It may know, or be gone.
function close(resource, leaving) {
  fetch(resource, {method: 'DELETE', keepalive: leaving}).then((answer) => answer.text()).catch(() => {});
}

function refusal(answer, text) {
  const said = text.trim().slice(0, 200);
  const reasons = {
    401: 'This needs a token.',
    403: 'You may not do this.',
    404: said || 'There is no such stream here.',
    409: 'Somebody else publishes this stream.',
  };
  const failed = new Failed(reasons[answer.status] ?? (said || `The server answered ${answer.status}.`));
  failed.final = answer.status >= 400 && answer.status < 500 && ![408, 409, 425, 429].includes(answer.status);
  const wait = Number(answer.headers.get('Retry-After'));
  if (wait > 0) failed.retryAfter = Math.min(wait, 30) * 1000;
  return failed;
}

/**
 * Plays a stream, from the moment on at which it has a publisher. The session's `stream` is for a video element.
 *
 * @param {string} name see {@link endpoint}
 * @param {Options} options
 * @returns {Session}
 */
export function play(name, options = {}) {
  const prepare = (pc) => {
    pc.addTransceiver('audio', {direction: 'recvonly'});
    pc.addTransceiver('video', {direction: 'recvonly'});
  };
  return new Session(endpoint(name, 'whep'), prepare, options);
}

/**
 * Publishes what is in a media stream.
 *
 * @param {string} name see {@link endpoint}
 * @param {MediaStream} media
 * @param {Options} options
 * @returns {Session}
 */
export function publish(name, media, options = {}) {
  const prepare = (pc) => {
    for (const track of media.getTracks()) {
      const limits = track.kind === 'video' && options.bitrate ? {sendEncodings: [{maxBitrate: options.bitrate}]} : {};
      const transceiver = pc.addTransceiver(track, {direction: 'sendonly', streams: [media], ...limits});
      if (track.kind === 'video' && options.codec) prefer(transceiver, options.codec);
    }
  };
  const session = new Session(endpoint(name, 'whip'), prepare, options);
  session.stream = media;
  return session;
}

// Puts the codec before the others; a browser that has not got it sends what it has.
function prefer(transceiver, name) {
  const all = RTCRtpSender.getCapabilities('video')?.codecs ?? [];
  const is = (codec) => codec.mimeType.toLowerCase() === `video/${name}`.toLowerCase();
  transceiver.setCodecPreferences?.([...all.filter(is), ...all.filter((codec) => !is(codec))]);
}

/** Refusals of a room that another attempt does not change. */
const FINAL = ['room_full', 'bad_name', 'bad_field', 'display_taken'];

/** The close code for a connection in whose place the same client has another. */
const REPLACED = 4000;

/**
 * @typedef {{display: string, publishing: boolean}} Participant
 * @typedef {object} RoomOptions
 * @property {string} [url] of the signaling, `wss://host/sig/v1/rtc`; without it that of this page's host
 * @property {(state: State, reason: string) => void} [onState] told at each change; `live` is joined
 * @property {(participants: Participant[], event: 'joined' | 'join' | 'publish' | 'leave', peer: Participant) => void}
 *   [onParticipants] who is in the room, oneself too, and what changed; `joined` is told again after each loss
 * @property {(call: string, data: string, peer: Participant) => void} [onControl] what somebody tells the others
 */

/** A place in a room, over as many connections as it takes. */
export class Room {
  /**
   * @param {string} name
   * @param {string} display what the others see; nobody else in the room may have it
   * @param {RoomOptions} options
   */
  constructor(name, display, options = {}) {
    this.name = name;
    this.display = display;
    this.options = options;
    /** @type {State} */
    this.state = 'connecting';
    /** @type {Participant[]} */
    this.participants = [];
    this.socket = null;
    this.waiting = new Map();
    this.attempt = 0;
    this.timer = 0;
    this.joinedOnce = false;
    // By it the server knows that it is us who come again, also while it holds the lost connection for alive.
    this.key = hex(16);
    this.gone = () => this.leave();
    this.online = () => this.lost(this.socket, 'The network has changed.');
    addEventListener('pagehide', this.gone);
    addEventListener('online', this.online);
    this.connect();
  }

  /** Tells the others that one publishes, from now on or anew. */
  publish() {
    return this.ask({action: 'publish', room: this.name, display: this.display});
  }

  /**
   * Tells the others something.
   *
   * @param {string} call such as `refresh` and `alert`
   * @param {string} data
   */
  control(call, data = '') {
    return this.ask({action: 'control', room: this.name, display: this.display, call, data});
  }

  /** Ends it. */
  leave() {
    this.become('stopped', '');
    this.close();
  }

  connect() {
    const page = location.protocol === 'https:' ? 'wss' : 'ws';
    const url = new URL(this.options.url ?? `${page}://${location.host}/sig/v1/rtc`);
    url.searchParams.set('room', this.name);
    url.searchParams.set('display', this.display);
    const socket = new WebSocket(url);
    this.socket = socket;
    this.timer = setTimeout(() => this.lost(socket, 'The server does not answer.'), ANSWER_WITHIN);
    socket.addEventListener('open', () => this.join(socket));
    socket.addEventListener('message', ({data}) => this.socket === socket && this.heard(JSON.parse(data)));
    socket.addEventListener('close', ({code, reason}) => {
      if (code === REPLACED && this.socket === socket) this.fail('You are here in another window.');
      this.lost(socket, reason || 'The connection was lost.');
    });
  }

  async join(socket) {
    try {
      const joined = await this.ask({action: 'join', room: this.name, display: this.display, key: this.key});
      clearTimeout(this.timer);
      this.attempt = 0;
      this.joinedOnce = true;
      this.become('live', '');
      this.changed(joined.participants, 'joined', joined.self);
    } catch (error) {
      if (error.final && this.socket === socket) this.fail(error.message);
      this.lost(socket, error.message);
    }
  }

  ask(msg) {
    if (this.socket?.readyState !== WebSocket.OPEN) return Promise.reject(new Failed('There is no connection to the room.'));
    const tid = hex(4).slice(0, 7);
    this.socket.send(JSON.stringify({tid, msg}));
    return new Promise((resolve, reject) => {
      this.waiting.set(tid, {resolve, reject});
    });
  }

  heard({tid, msg}) {
    const asker = this.waiting.get(tid);
    if (asker) {
      this.waiting.delete(tid);
      if (!msg?.error) return asker.resolve(msg);
      const taken = msg.error.code === 'display_taken';
      return asker.reject(new Failed(taken ? 'Somebody else in this room has this name.' : msg.error.message,
        FINAL.includes(msg.error.code) && !(taken && this.joinedOnce)));
    }
    if (msg?.action !== 'notify') return;
    if (msg.event === 'control') this.options.onControl?.(msg.param ?? '', msg.data ?? '', msg.peer);
    else this.changed(msg.participants, msg.event, msg.peer);
  }

  changed(participants, event, peer) {
    this.participants = participants;
    this.options.onParticipants?.(participants, event, peer);
  }

  become(state, reason) {
    if (this.state === 'stopped' || this.state === 'failed') return;
    this.state = state;
    this.options.onState?.(state, reason);
  }

  fail(reason) {
    this.become('failed', reason);
    this.close();
  }

  lost(socket, reason) {
    if (!socket || this.socket !== socket) return;
    this.drop(reason);
    const pause = PAUSES[Math.min(this.attempt, PAUSES.length - 1)];
    this.attempt += 1;
    this.become('reconnecting', reason);
    this.timer = setTimeout(() => this.connect(), pause);
  }

  close() {
    removeEventListener('pagehide', this.gone);
    removeEventListener('online', this.online);
    this.drop('You have left the room.');
  }

  drop(reason) {
    clearTimeout(this.timer);
    const {socket, waiting} = this;
    this.socket = null;
    this.waiting = new Map();
    socket?.close();
    for (const {reject} of waiting.values()) reject(new Failed(reason));
  }
}

function hex(bytes) {
  return [...crypto.getRandomValues(new Uint8Array(bytes))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}
