// werift, a WebRTC written in TypeScript, as a WHEP player: `werift.mjs URL`, with WERIFT naming the folder that the
// package is in. Prints a JSON line a second with what came, and {"ended": STATUS OF DELETE} at SIGTERM.
import {createRequire} from 'node:module';
import {join} from 'node:path';

const {RTCPeerConnection, useH264, useOPUS} = createRequire(join(process.env.WERIFT, 'node_modules/'))('werift');
const url = process.argv[2];
const came = {audio: 0, video: 0, bytes: 0, keyframes: 0};
const say = (line) => console.log(JSON.stringify(line));

// SPS or an IDR slice: alone, in an aggregate, or at the start of a fragmented unit (RFC 6184 5.4).
function isKeyframe(payload) {
  const kind = payload[0] & 31;
  const inner = kind === 24 ? payload[3] & 31 : kind === 28 ? payload[1] & 31 : kind;
  return inner === 7 || inner === 5;
}

const pc = new RTCPeerConnection({codecs: {audio: [useOPUS()], video: [useH264()]}});
for (const kind of ['audio', 'video']) {
  pc.addTransceiver(kind, {direction: 'recvonly'}).onTrack.subscribe((track) => {
    track.onReceiveRtp.subscribe((packet) => {
      came[kind] += 1;
      came.bytes += packet.payload.length;
      if (kind === 'video' && packet.payload.length > 3 && isKeyframe(packet.payload)) came.keyframes += 1;
    });
  });
}
await pc.setLocalDescription(await pc.createOffer());
const headers = {'Content-Type': 'application/sdp'};
const answer = await fetch(url, {method: 'POST', headers, body: pc.localDescription.sdp});
const text = await answer.text();
if (answer.status !== 201) {
  say({error: `${answer.status}: ${text}`});
  process.exit(1);
}
const resource = new URL(answer.headers.get('Location'), url);
await pc.setRemoteDescription({type: 'answer', sdp: text});
const timer = setInterval(() => say({...came, state: pc.connectionState}), 200);
process.on('SIGTERM', async () => {
  clearInterval(timer);
  const end = await fetch(resource, {method: 'DELETE'});
  await pc.close();
  say({ended: end.status});
  process.exit(0);
});
