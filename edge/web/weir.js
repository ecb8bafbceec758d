// Publishes (WHIP, RFC 9725) and plays (WHEP) streams of weir, and keeps doing so: a session that is lost is begun anew.
//
//   import {play, publish} from '/weir.js';
//   const session = play('live/river', {onState: console.log});
//   video.srcObject = session.stream;
//   session.stop();

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
  if (authority && !/:\d+$/.test(authority) && location.protocol === 'http:') url.port = '1985';
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
