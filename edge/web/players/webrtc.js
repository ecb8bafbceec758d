// Watches by WebRTC (WHEP).
import {play} from '/weir.js';
import {kilobits, meterOf, millis} from '/lib/ui.js';

/**
 * @param {string} name `app/stream`, or an address of SRS's or WHEP's
 * @param {HTMLVideoElement} picture
 * @param {(state: import('/weir.js').State, reason: string) => void} onState
 */
export function watch(name, picture, onState) {
  onState('connecting', '');
  const session = play(name, {onState});
  const meter = meterOf();
  picture.srcObject = session.stream;
  picture.play().catch(() => {});
  return {
    stop: () => {
      session.stop();
      picture.srcObject = null;
    },
    figures: async () => rows(await session.stats(), meter),
  };
}

function rows(stats, meter) {
  if (!stats) return [];
  const all = [...stats.values()];
  const [video, audio] = ['video', 'audio'].map((kind) => all.find((s) => s.type === 'inbound-rtp' && s.kind === kind));
  const pair = all.find((s) => s.type === 'candidate-pair' && s.nominated);
  const codec = (of) => (of ? stats.get(of.codecId)?.mimeType.split('/')[1] : null) ?? null;
  const waits = video?.jitterBufferEmittedCount ? video.jitterBufferDelay / video.jitterBufferEmittedCount : null;
  const lost = (video?.packetsLost ?? 0) + (audio?.packetsLost ?? 0);
  return [
    ['Size', video?.frameWidth ? `${video.frameWidth} x ${video.frameHeight}` : null],
    ['Pictures a second', video?.framesPerSecond ? String(Math.round(video.framesPerSecond)) : null],
    ['Dropped pictures', video ? String(video.framesDropped ?? 0) : null],
    ['Bit rate', kilobits(meter((video?.bytesReceived ?? 0) + (audio?.bytesReceived ?? 0), performance.now()))],
    ['Codecs', [codec(video), codec(audio)].filter(Boolean).join(', ') || null],
    ['Round trip', millis(pair?.currentRoundTripTime)],
    ['Waits in the buffer', millis(waits)],
    ['Lost packets', video || audio ? String(lost) : null],
  ];
}
