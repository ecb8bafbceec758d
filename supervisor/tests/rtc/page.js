// A publisher by WHIP (RFC 9725), a player by WHEP, or both ends of a loop, in a browser: `start` begins, `sample` tells
// how it goes, `stop` ends the session as a page that is left properly does.
'use strict';

const video = document.getElementById('video');
const canvas = document.getElementById('canvas').getContext('2d', {willReadFrequently: true});

// What the presented pictures tell; `longestGap` is in ms and counts from the first picture on.
const seen = {frames: 0, pictures: 0, longestGap: 0, lastAt: null, luma: null, spread: null, hash: null};
const state = {kind: null, connections: [], resource: null, startedAt: 0, connectedAt: null, firstFrameAt: null};

function presented(now) {
  seen.frames += 1;
  if (seen.lastAt === null) {
    state.firstFrameAt = now;
  } else {
    seen.longestGap = Math.max(seen.longestGap, now - seen.lastAt);
  }
  seen.lastAt = now;
  look();
  video.requestVideoFrameCallback(presented);
}

// Mean luma of the picture, how far its darkest and its brightest spot are apart, and whether it is a new one.
function look() {
  canvas.drawImage(video, 0, 0, 64, 48);
  const pixels = canvas.getImageData(0, 0, 64, 48).data;
  let sum = 0, low = 255, high = 0, hash = 0;
  for (let i = 0; i < pixels.length; i += 4) {
    const luma = (pixels[i] * 2 + pixels[i + 1] * 5 + pixels[i + 2]) / 8;
    sum += luma;
    low = Math.min(low, luma);
    high = Math.max(high, luma);
    hash = (hash * 31 + (luma | 0)) | 0;
  }
  seen.luma = sum / (pixels.length / 4);
  seen.spread = high - low;
  if (hash !== seen.hash) seen.pictures += 1;
  seen.hash = hash;
}

function connection() {
  const pc = new RTCPeerConnection({bundlePolicy: 'max-bundle'});
  pc.addEventListener('connectionstatechange', () => {
    if (pc.connectionState === 'connected' && state.connectedAt === null) state.connectedAt = performance.now();
  });
  state.connections.push(pc);
  return pc;
}

function show(pc) {
  const stream = new MediaStream();
  pc.addEventListener('track', (event) => {
    stream.addTrack(event.track);
    video.srcObject = stream;
  });
  video.requestVideoFrameCallback(presented);
}

async function camera(wish) {
  const size = {width: wish.width ?? 640, height: wish.height ?? 480, frameRate: wish.fps ?? 30};
  return navigator.mediaDevices.getUserMedia({
    video: wish.video === false ? false : size,
    audio: wish.audio === false ? false : {echoCancellation: false, noiseSuppression: false, autoGainControl: false},
  });
}

// Puts the codec of that name (`H264`) before the others of its kind, with what retransmits it.
function prefer(transceiver, kind, name) {
  if (!name) return;
  const all = RTCRtpReceiver.getCapabilities(kind).codecs;
  const is = (codec) => codec.mimeType.toLowerCase() === `${kind}/${name}`.toLowerCase();
  const helper = (codec) => /\/(rtx|red|ulpfec|flexfec-03)$/i.test(codec.mimeType);
  const wanted = all.filter(is);
  if (wanted.length === 0) throw new Error(`this browser has no ${name}`);
  transceiver.setCodecPreferences([...wanted, ...all.filter(helper)]);
}

const LAYERS = [
  {rid: 'q', scaleResolutionDownBy: 4, maxBitrate: 150_000},
  {rid: 'h', scaleResolutionDownBy: 2, maxBitrate: 500_000},
  {rid: 'f', maxBitrate: 1_500_000},
];

async function send(pc, wish) {
  const media = await camera(wish);
  for (const track of media.getTracks()) {
    const layers = wish.simulcast && track.kind === 'video' ? {sendEncodings: LAYERS} : {};
    const transceiver = pc.addTransceiver(track, {direction: 'sendonly', streams: [media], ...layers});
    if (track.kind === 'video') prefer(transceiver, 'video', wish.codec);
  }
}

function receive(pc, wish) {
  show(pc);
  if (wish.audio !== false) pc.addTransceiver('audio', {direction: 'recvonly'});
  if (wish.video !== false) prefer(pc.addTransceiver('video', {direction: 'recvonly'}), 'video', wish.codec);
}

async function gathered(pc) {
  if (pc.iceGatheringState === 'complete') return;
  await new Promise((done) => {
    pc.addEventListener('icegatheringstatechange', () => pc.iceGatheringState === 'complete' && done());
    setTimeout(done, 1000); // An ICE-lite server needs no candidates of ours.
  });
}

// The answer with this candidate (`127.0.0.1:9000`) in the place of its own: the way leads through a proxy.
function through(answer, candidate) {
  const [, ip, port] = candidate.match(/^(.*):(\d+)$/);
  const line = `a=candidate:1 1 udp 2130706431 ${ip} ${port} typ host\r\n`;
  return answer.replace(/^a=candidate:.*\r\n/gm, '').replace(/^a=mid:.*\r\n/gm, `$&${line}`);
}

// RFC 9725 4.2: the offer is posted, the answer comes with the resource that ends the session.
async function exchange(pc, {url, candidate, tcp}) {
  await pc.setLocalDescription();
  await gathered(pc);
  const offer = pc.localDescription.sdp;
  const answer = await fetch(url, {method: 'POST', headers: {'Content-Type': 'application/sdp'}, body: offer});
  const said = await answer.text();
  if (answer.status !== 201) throw new Error(`${url} answered ${answer.status}: ${said}\noffer:\n${offer}`);
  const location = answer.headers.get('Location');
  state.resource = location && new URL(location, url).href;
  let text = candidate ? through(said, candidate) : said;
  if (tcp) text = text.replace(/^a=candidate:\S+ \S+ udp .*\r\n/gm, '');
  try {
    await pc.setRemoteDescription({type: 'answer', sdp: text});
  } catch (error) {
    throw new Error(`the answer is not understood: ${error.message}\nanswer:\n${text}\noffer:\n${offer}`);
  }
}

async function loop(wish) {
  const [from, to] = [connection(), connection()];
  from.addEventListener('icecandidate', (event) => event.candidate && to.addIceCandidate(event.candidate));
  to.addEventListener('icecandidate', (event) => event.candidate && from.addIceCandidate(event.candidate));
  show(to);
  await send(from, wish);
  await from.setLocalDescription();
  await to.setRemoteDescription(from.localDescription);
  await to.setLocalDescription();
  await from.setRemoteDescription(to.localDescription);
}

// `wish`: {kind: 'publish'|'play'|'loop', url, candidate, tcp, codec, video, audio, width, height, fps, simulcast}.
async function start(wish) {
  state.kind = wish.kind;
  state.startedAt = performance.now();
  if (wish.kind === 'loop') return loop(wish);
  const pc = connection();
  if (wish.kind === 'publish') await send(pc, wish);
  else receive(pc, wish);
  return exchange(pc, wish);
}

const since = (at) => at === null ? null : Math.round(at - state.startedAt);

// The fields of a report that a test may ask for, under the names of the W3C's statistics.
const FIELDS = {
  'inbound-rtp': ['rid', 'packetsReceived', 'packetsLost', 'bytesReceived', 'jitter', 'nackCount', 'pliCount', 'firCount',
    'retransmittedPacketsReceived', 'framesReceived', 'framesDecoded', 'framesDropped', 'keyFramesDecoded', 'frameWidth',
    'frameHeight', 'freezeCount', 'totalFreezesDuration', 'totalAudioEnergy', 'totalSamplesReceived', 'concealedSamples',
    'silentConcealedSamples', 'estimatedPlayoutTimestamp', 'decoderImplementation'],
  'outbound-rtp': ['rid', 'active', 'packetsSent', 'bytesSent', 'retransmittedPacketsSent', 'nackCount', 'pliCount', 'firCount',
    'framesEncoded', 'keyFramesEncoded', 'frameWidth', 'frameHeight', 'targetBitrate', 'qualityLimitationReason',
    'encoderImplementation'],
  'remote-inbound-rtp': ['packetsLost', 'fractionLost', 'jitter', 'roundTripTime', 'roundTripTimeMeasurements'],
  'remote-outbound-rtp': ['packetsSent', 'bytesSent', 'remoteTimestamp', 'reportsSent'],
  'transport': ['dtlsState', 'tlsVersion', 'dtlsCipher', 'srtpCipher', 'packetsSent', 'packetsReceived'],
  'candidate-pair': ['state', 'currentRoundTripTime', 'availableOutgoingBitrate'],
};

async function reports(pc) {
  const stats = await pc.getStats();
  const out = {};
  for (const report of stats.values()) {
    const fields = FIELDS[report.type];
    if (!fields || (report.type === 'candidate-pair' && !report.nominated)) continue;
    const row = {};
    for (const field of ['kind', ...fields]) if (report[field] !== undefined) row[field] = report[field];
    if (report.codecId && stats.get(report.codecId)) row.codec = stats.get(report.codecId).mimeType;
    (out[report.type] ??= []).push(row);
  }
  return out;
}

// One line for the test. A page that plays tells of the pictures that were shown too.
async function sample() {
  const pc = state.connections.at(-1);
  const line = {
    kind: state.kind,
    state: pc?.connectionState ?? 'new',
    ice: pc?.iceConnectionState ?? 'new',
    connectedMs: since(state.connectedAt),
    resource: state.resource,
  };
  if (state.kind !== 'publish') {
    const gap = seen.lastAt === null ? null : performance.now() - seen.lastAt;
    line.shown = {
      frames: seen.frames, pictures: seen.pictures, luma: seen.luma, spread: seen.spread, firstFrameMs: since(state.firstFrameAt),
      longestGapMs: Math.round(seen.longestGap), sinceLastMs: gap === null ? null : Math.round(gap),
    };
  }
  return {...line, ...(pc ? await reports(pc) : {})};
}

// Ends the session at the server too (RFC 9725 4.2: DELETE of the resource); the status, or null where there was none.
async function stop() {
  for (const pc of state.connections) pc.close();
  if (!state.resource) return null;
  return (await fetch(state.resource, {method: 'DELETE'})).status;
}

// What this browser would encode and decode.
function capabilities() {
  const names = (side, kind) => side.getCapabilities(kind).codecs.map((codec) => `${codec.mimeType} ${codec.sdpFmtpLine ?? ''}`.trim());
  return {
    send: [...names(RTCRtpSender, 'video'), ...names(RTCRtpSender, 'audio')],
    receive: [...names(RTCRtpReceiver, 'video'), ...names(RTCRtpReceiver, 'audio')],
    extensions: RTCRtpSender.getCapabilities('video').headerExtensions.map((extension) => extension.uri),
  };
}
