// Places in rooms, by the signaling of the server; see /weir.js.
import {Failed, pauseBefore} from '/lib/endpoint.js';

/** How long a server may take to let one in, and to answer anything else, in milliseconds. */
const JOINED_WITHIN = 8000;
const ANSWER_WITHIN = 5000;

/** How often the server is asked whether it is there, and how long it has for that, in milliseconds. */
const PING_EVERY = 2000;
const PONG_WITHIN = 1500;

/** A page that was busy hears what came meanwhile before it calls a server silent; so long it has, in milliseconds. */
const CATCH_UP = 250;

/** Refusals of a room that another attempt does not change. */
const FINAL = ['room_full', 'bad_name', 'bad_field', 'display_taken'];

/** The close code for a connection in whose place the same client has another. */
const REPLACED = 4000;

/** Keys that rooms of this page have now. */
const keys = new Set();

/**
 * @typedef {import('/lib/session.js').State} State
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
    this.pings = 0;
    this.joinedOnce = false;
    // By it the server knows that it is us who come again, also while it holds the lost connection for alive.
    this.key = keyOf(name, display);
    this.gone = () => this.drop('This page was left.');
    this.restored = ({persisted}) => persisted && this.again('This page was away.', 0);
    this.wake = () => document.visibilityState === 'visible' && this.hurry();
    this.connect();
    this.listen(addEventListener);
    keys.add(this.key);
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

  listen(change) {
    change('pagehide', this.gone);
    change('pageshow', this.restored);
    change('online', this.wake);
    // It bubbles up to the window.
    change('visibilitychange', this.wake);
  }

  connect() {
    const page = location.protocol === 'https:' ? 'wss' : 'ws';
    const url = new URL(this.options.url ?? `${page}://${location.host}/sig/v1/rtc`);
    url.searchParams.set('room', this.name);
    url.searchParams.set('display', this.display);
    const socket = new WebSocket(url);
    this.socket = socket;
    this.timer = setTimeout(() => this.lost(socket, 'The server does not answer.'), JOINED_WITHIN);
    socket.addEventListener('open', () => this.join(socket));
    socket.addEventListener('message', ({data}) => this.socket === socket && this.heard(JSON.parse(data)));
    socket.addEventListener('close', ({code, reason}) => {
      if (code === REPLACED && this.socket === socket) this.fail('You are here in another window.');
      this.lost(socket, reason || 'The connection was lost.');
    });
  }

  async join(socket) {
    try {
      const joined = await this.ask({action: 'join', room: this.name, display: this.display, key: this.key}, JOINED_WITHIN);
      if (this.socket !== socket) return;
      clearTimeout(this.timer);
      this.attempt = 0;
      this.joinedOnce = true;
      this.pings = setInterval(() => this.ping(socket), PING_EVERY);
      this.become('live', '');
      this.changed(joined.participants, 'joined', joined.self);
    } catch (error) {
      if (error.final && this.socket === socket) this.fail(error.message);
      this.lost(socket, error.message);
    }
  }

  // The server's own pings are not shown to scripts: only by asking a page learns that it is gone. A server that knows no such
  // action says so, which tells as much.
  async ping(socket) {
    try {
      await this.ask({action: 'ping'}, PONG_WITHIN);
    } catch (error) {
      if (error.silent) this.lost(socket, error.message);
    }
  }

  // The network or the page is back.
  hurry() {
    if (this.state === 'live') this.ping(this.socket);
    if (this.state !== 'reconnecting' || this.socket) return;
    clearTimeout(this.timer);
    this.connect();
  }

  ask(msg, within = ANSWER_WITHIN) {
    if (this.socket?.readyState !== WebSocket.OPEN) return Promise.reject(new Failed('There is no connection to the room.'));
    const [tid, waiting] = [hex(4).slice(0, 7), this.waiting];
    this.socket.send(JSON.stringify({tid, msg}));
    return new Promise((resolve, reject) => {
      const silent = () => {
        if (waiting.delete(tid)) reject(Object.assign(new Failed('The server does not answer.'), {silent: true}));
      };
      setTimeout(() => waiting.has(tid) && setTimeout(silent, CATCH_UP), within);
      waiting.set(tid, {resolve, reject});
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

  over() {
    return this.state === 'stopped' || this.state === 'failed';
  }

  become(state, reason) {
    if (this.over()) return;
    this.state = state;
    this.options.onState?.(state, reason);
  }

  fail(reason) {
    this.become('failed', reason);
    this.close();
  }

  lost(socket, reason) {
    if (socket && this.socket === socket) this.again(reason);
  }

  again(reason, wait) {
    if (this.over()) return;
    this.drop(reason);
    const pause = wait ?? pauseBefore(this.attempt);
    this.attempt += 1;
    this.become('reconnecting', reason);
    if (this.state === 'reconnecting' && !this.socket) this.timer = setTimeout(() => this.connect(), pause);
  }

  close() {
    this.listen(removeEventListener);
    keys.delete(this.key);
    this.drop('You have left the room.');
  }

  drop(reason) {
    clearTimeout(this.timer);
    clearInterval(this.pings);
    const {socket, waiting} = this;
    this.socket = null;
    this.waiting = new Map();
    socket?.close();
    for (const [tid, {reject}] of [...waiting]) {
      waiting.delete(tid);
      reject(new Failed(reason));
    }
  }
}

// The same again for a page that is loaded anew, as the server may still hold its old connection for alive.
function keyOf(name, display) {
  const [place, made] = [`weir.room ${JSON.stringify([name, display])}`, hex(16)];
  try {
    const known = sessionStorage.getItem(place);
    if (known && !keys.has(known)) return known;
    sessionStorage.setItem(place, made);
  } catch {
    // Where nothing may be stored, each page is somebody new.
  }
  return made;
}

function hex(bytes) {
  return [...crypto.getRandomValues(new Uint8Array(bytes))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}
