// Streams that are published (WHIP, RFC 9725) and played (WHEP), and begun anew when they are lost; see /weir.js.
import {endpoint, Failed, pauseBefore} from '/lib/endpoint.js';

/** A connection that is called disconnected may come back by itself; after this long, in milliseconds, it is begun anew. */
const DISCONNECTED_FOR = 1200;

/** How long a server may take to answer an offer, in milliseconds. */
const ANSWER_WITHIN = 8000;

/** How long a way for pictures and sound is looked for, in milliseconds; networks that let no UDP pass take some time. */
const CONNECTED_WITHIN = 10_000;

/** How often it is looked whether anything comes, in milliseconds. */
const LOOK_EVERY = 500;

/** After so long without a packet the server is asked whether it has the session, and how long it has for that; both in ms. */
const SILENT_FOR = 1500;
const PROBED_WITHIN = 1500;

/** After so long a player says that nothing comes yet, or no more, in milliseconds. */
const NOTHING_FOR = {yet: 1500, more: 3000};

/** How long a new session waits for the end of an old one of the same name, in milliseconds. */
const ENDED_WITHIN = 2000;

/** After so long servers have forgotten a session by themselves, in milliseconds. */
const FORGOTTEN_AFTER = 60_000;

const LOST = 'The connection was lost.';

/**
 * @typedef {'connecting' | 'live' | 'reconnecting' | 'stopped' | 'failed'} State
 * @typedef {object} Options
 * @property {(state: State, reason: string) => void} [onState] told at each change; a player is `live` once something comes
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
    this.looks = 0;
    this.reason = '';
    // A page that was left may be kept and shown again.
    this.leave = () => this.end(true);
    this.restored = ({persisted}) => persisted && this.again('This page was away.', 0);
    this.wake = () => document.visibilityState === 'visible' && this.state === 'reconnecting' && !this.connection && this.renew();
    this.listen(addEventListener);
    this.begin();
  }

  /** Ends it; the server is told. */
  stop() {
    this.end(false);
    this.become('stopped', '');
  }

  /** Begins it anew, with what is in its stream now. */
  renew() {
    if (this.over()) return;
    this.end(false);
    this.begin();
  }

  /**
   * Sends another track in the place of the one of its kind, over this connection and every later one. One of a kind that was
   * not sent so far needs a new connection.
   *
   * @param {MediaStreamTrack} track
   */
  async replace(track) {
    const sender = this.connection?.getSenders().find((sender) => sender.track?.kind === track.kind);
    this.stream.getTracks().filter((old) => old.kind === track.kind).forEach((old) => this.stream.removeTrack(old));
    this.stream.addTrack(track);
    if (sender) await sender.replaceTrack(track);
    else if (this.connection) this.renew();
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

  listen(change) {
    change('pagehide', this.leave);
    change('pageshow', this.restored);
    change('online', this.wake);
    // It bubbles up to the window.
    change('visibilitychange', this.wake);
  }

  over() {
    return this.state === 'stopped' || this.state === 'failed';
  }

  become(state, reason) {
    if (this.state === 'stopped') return;
    this.state = state;
    this.reason = reason;
    if (this.over()) this.listen(removeEventListener);
    this.options.onState?.(state, reason);
  }

  async begin() {
    let pc = null;
    try {
      pc = opened();
      this.connection = pc;
      pc.addEventListener('connectionstatechange', () => this.changed(pc));
      pc.addEventListener('track', ({track}) => this.received(pc, track));
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

  received(pc, track) {
    this.stream.getTracks().filter((old) => old.kind === track.kind).forEach((old) => this.stream.removeTrack(old));
    this.stream.addTrack(track);
    // With its first packet.
    track.addEventListener('unmute', () => this.look(pc));
  }

  async exchange(pc) {
    await pc.setLocalDescription();
    await settled(this.url);
    if (this.connection !== pc) return;
    const headers = {'Content-Type': 'application/sdp'};
    if (this.options.token) headers.Authorization = `Bearer ${this.options.token}`;
    const answer = await fetch(this.url, {
      method: 'POST', headers, body: pc.localDescription.sdp, signal: AbortSignal.timeout(ANSWER_WITHIN),
    });
    const text = await answer.text();
    if (answer.status !== 201) throw refusal(answer, text);
    // It may have come from another host than was asked.
    const resource = new URL(answer.headers.get('Location') ?? '', answer.url || this.url);
    if (this.connection !== pc) return release(this.url, resource, false);
    this.resource = resource;
    await pc.setRemoteDescription({type: 'answer', sdp: text});
    if (this.connection !== pc) return;
    if (pc.connectionState !== 'connected') this.timer = setTimeout(() => this.lost(pc), CONNECTED_WITHIN);
    // A server that goes says so to DTLS; ICE would notice its silence after some seconds only.
    const transports = new Set([...pc.getSenders(), ...pc.getReceivers()].map(({transport}) => transport));
    for (const transport of transports) {
      transport?.addEventListener('statechange', () => {
        if (transport.state === 'closed' || transport.state === 'failed') this.lost(pc);
      });
    }
  }

  changed(pc) {
    if (this.connection !== pc) return;
    switch (pc.connectionState) {
      case 'connected':
        clearTimeout(this.timer);
        this.attempt = 0;
        this.watch(pc);
        break;
      case 'disconnected':
        // One that never was connected has longer.
        if (!this.looks) break;
        clearTimeout(this.timer);
        this.timer = setTimeout(() => this.lost(pc), DISCONNECTED_FOR);
        break;
      case 'failed':
      case 'closed':
        this.lost(pc);
        break;
      default:
    }
  }

  // From the first moment on at which there is a way to the server.
  watch(pc) {
    if (!this.looks) {
      const now = performance.now();
      this.plays = pc.getTransceivers().every(({direction}) => direction === 'recvonly');
      Object.assign(this, {packets: 0, mediaAt: now, bytes: 0, heardAt: now, probed: false});
      this.looks = setInterval(() => this.look(pc), LOOK_EVERY);
    }
    if (this.plays) this.look(pc);
    else this.become('live', '');
  }

  // Whether anything comes. To players that is the stream; to publishers it is what the server tells of what it got.
  async look(pc) {
    const stats = await pc.getStats().catch(() => null);
    if (!stats || this.connection !== pc || !this.looks) return;
    const now = performance.now();
    const {bytes, packets} = counted([...stats.values()]);
    if (bytes !== this.bytes) Object.assign(this, {bytes, heardAt: now, probed: false});
    if (this.plays) this.judge(packets, now);
    if (bytes > 0 && !this.probed && now - this.heardAt > SILENT_FOR) {
      this.probed = true;
      this.probe(pc);
    }
  }

  judge(packets, now) {
    const came = packets > this.packets;
    if (came) Object.assign(this, {packets, mediaAt: now});
    const [word, patience] = this.packets
      ? ['Nothing comes at the moment.', NOTHING_FOR.more] : ['Nothing comes yet under this name.', NOTHING_FOR.yet];
    if (came && this.state !== 'live') this.become('live', '');
    if (now - this.mediaAt > patience && this.reason !== word) this.become('connecting', word);
  }

  // Silence may be a publisher's pause or a server that is gone. Asking the server tells which; a candidate less or more means
  // nothing to it (RFC 8840), but it knows its sessions. Whoever answers otherwise may not know the question.
  async probe(pc) {
    const answer = await fetch(this.resource, {
      method: 'PATCH', headers: {'Content-Type': 'application/trickle-ice-sdpfrag'}, body: 'a=end-of-candidates\r\n',
      signal: AbortSignal.timeout(PROBED_WITHIN),
    }).catch(() => null);
    const gone = !answer || [404, 410, 500, 502, 503, 504].includes(answer.status);
    // What came meanwhile is the better answer.
    if (gone && this.probed) this.lost(pc);
  }

  lost(pc) {
    if (this.connection !== pc) return;
    this.again(this.looks ? LOST : 'There is no way for pictures and sound to the server: see rtc.candidate and UDP 8000.');
  }

  again(reason, wait) {
    if (this.over()) return;
    this.end(false);
    const pause = wait ?? pauseBefore(this.attempt);
    this.attempt += 1;
    this.become('reconnecting', reason);
    if (this.state === 'reconnecting' && !this.connection) this.timer = setTimeout(() => this.begin(), pause);
  }

  end(leaving) {
    clearTimeout(this.timer);
    clearInterval(this.looks);
    const {connection, resource} = this;
    this.connection = null;
    this.resource = null;
    this.looks = 0;
    connection?.close();
    if (resource) release(this.url, resource, leaving);
  }
}

function opened() {
  if (typeof RTCPeerConnection === 'undefined') throw new Failed('This browser has no WebRTC, or it is switched off.', true);
  return new RTCPeerConnection({bundlePolicy: 'max-bundle'});
}

// What came over the connection: bytes of all kinds, and packets of pictures and sound.
function counted(stats) {
  const sum = (type, field) => stats.filter((s) => s.type === type).reduce((total, s) => total + (s[field] ?? 0), 0);
  return {bytes: sum('candidate-pair', 'bytesReceived'), packets: sum('inbound-rtp', 'packetsReceived')};
}

/** Sessions that are over and of whose end the server has perhaps not heard, by their resource. */
const left = new Map();

// Tells the server that a session is over. It may know, or be gone, or out of reach: then it is told before the next session.
function release(url, resource, leaving) {
  const heard = fetch(resource, {method: 'DELETE', keepalive: leaving, signal: AbortSignal.timeout(ANSWER_WITHIN)})
    .then((answer) => answer.text().then(() => answer.status < 500), () => false);
  left.set(resource.href, {url: url.href, resource, heard, since: left.get(resource.href)?.since ?? Date.now()});
  heard.then((done) => done && left.delete(resource.href));
  return heard;
}

// Waits until what was left behind is ended: its name is taken as long as it is not.
async function settled(url) {
  for (const [name, {since}] of left) if (Date.now() - since > FORGOTTEN_AFTER) left.delete(name);
  const old = [...left.values()].filter((one) => one.url === url.href);
  const ended = old.map(async ({resource, heard}) => await heard || release(url, resource, false));
  if (old.length) await Promise.race([Promise.all(ended), new Promise((resolve) => setTimeout(resolve, ENDED_WITHIN))]);
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
