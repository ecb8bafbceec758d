// Watches a stream by WebRTC.
import {play} from '/weir.js';
import {addressesOf, asked, kilobits, meterOf, millis, showAddresses, showFigures, showState} from '/lib/ui.js';

const element = (id) => document.getElementById(id);
const [form, input, picture, state, start, stop] =
  ['form', 'stream', 'picture', 'state', 'start', 'stop'].map(element);
let session = null;
let timer = 0;

function begin() {
  end();
  const name = input.value.trim();
  try {
    session = play(name, {onState: (now, reason) => showState(state, now, reason, 'Not watching')});
  } catch (error) {
    return showState(state, 'failed', error.message, '');
  }
  showState(state, session.state, '', '');
  picture.srcObject = session.stream;
  picture.play().catch(() => {});
  [start.disabled, stop.disabled] = [true, false];
  const meter = meterOf();
  timer = setInterval(() => figures(session, meter), 1000);
  if (!/^https?:/i.test(name)) showAddresses(element('addresses'), addressesOf(name.replace(/^webrtc:\/\/[^/]+\//i, '')));
}

function end() {
  clearInterval(timer);
  session?.stop();
  session = null;
  picture.srcObject = null;
  [start.disabled, stop.disabled] = [false, true];
}

async function figures(of, meter) {
  const stats = await of.stats();
  if (!stats || of !== session) return;
  const all = [...stats.values()];
  const [video, audio] = ['video', 'audio'].map((kind) => all.find((s) => s.type === 'inbound-rtp' && s.kind === kind));
  const pair = all.find((s) => s.type === 'candidate-pair' && s.nominated);
  const codec = (of) => (of ? stats.get(of.codecId)?.mimeType.split('/')[1] : null) ?? null;
  const waits = video?.jitterBufferEmittedCount ? video.jitterBufferDelay / video.jitterBufferEmittedCount : null;
  const lost = (video?.packetsLost ?? 0) + (audio?.packetsLost ?? 0);
  const rate = meter((video?.bytesReceived ?? 0) + (audio?.bytesReceived ?? 0), performance.now());
  showFigures(element('figures'), [
    ['Size', video?.frameWidth ? `${video.frameWidth} x ${video.frameHeight}` : null],
    ['Pictures a second', video?.framesPerSecond ? String(Math.round(video.framesPerSecond)) : null],
    ['Bit rate', kilobits(rate)],
    ['Codecs', [codec(video), codec(audio)].filter(Boolean).join(', ') || null],
    ['Round trip', millis(pair?.currentRoundTripTime)],
    ['Waits in the buffer', millis(waits)],
    ['Lost packets', video || audio ? String(lost) : null],
    ['Dropped pictures', video ? String(video.framesDropped ?? 0) : null],
  ]);
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  begin();
});
stop.addEventListener('click', () => {
  end();
  showState(state, 'stopped', '', 'Not watching');
});
if (asked.get('stream')) input.value = asked.get('stream');
if (asked.get('autostart') === 'true') begin();
